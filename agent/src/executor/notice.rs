//! What the people at this computer are shown: questions, and what was done.

use crate::local::Asked;
use fernwart_protocol::diagnosis::Both;
use fernwart_protocol::document::{Action, Outcome};
use fernwart_protocol::text::Text;

/// The content of a notice.
#[derive(Debug, Clone)]
pub(crate) enum Notice {
    /// A question.
    Asks(Asked),
    /// Something was done.
    Did(Done),
}

/// A finished run.
#[derive(Debug, Clone)]
pub(crate) struct Done {
    /// The action.
    pub action: Action,
    /// Its title, from its manifest.
    pub title: Option<Both>,
    /// Who ordered it.
    pub staff: Text<64>,
    /// The technician's reason.
    pub reason: Text<500>,
    /// How it ended.
    pub outcome: Outcome,
}
