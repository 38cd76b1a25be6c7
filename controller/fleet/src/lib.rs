//! The fleet as pure types and decisions: machines, customers, tokens, jobs, runs. No socket, no
//! clock, no database; `now` is a parameter.

mod machine;
mod run;
mod token;

pub use machine::{Diagnosed, Health, Machine, Standing, free_name};
pub use run::{Job, Run, RunEvent, RunState, Speaker};
pub use token::{Newcomer, StoredToken, judge_token};
