//! What machines have told last, ready to be asked in SQL.
//!
//! A file of its own beside the store: it holds nothing that the store does not
//! hold, and is made anew when it is lost or of another shape. The hub writes it
//! ([`Index`]); questions are answered by a process of their own ([`ask`]), which
//! can only read, and has bounds of time and memory. It imports the protocol's
//! plain types, and knows no link, no key and no store.

mod ask;
mod keep;
mod tables;

pub use ask::{AskError, Question, Scope, answer};
pub use keep::{About, Index, IndexError, Reported};
pub use tables::{Column, TABLES, Table};
