//! An index of machines' newest reports, for SQL queries.
//!
//! It is a separate file beside the store. It holds only data that the store has, and is created
//! again when it is lost or of another schema version. The hub writes it ([`Index`]). Each query
//! runs in a separate process ([`ask`]) that can only read and has limits of time and memory. It
//! imports the protocol's plain types, and has no access to links, keys or the store.

mod ask;
mod keep;
mod tables;

pub use ask::{AskError, Question, Scope, answer};
pub use keep::{About, Index, IndexError, Reported};
pub use tables::{Column, TABLES, Table};
