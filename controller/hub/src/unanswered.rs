//! Why a technician's request got no answer.

use fernwart_protocol::code::Denial;
use fernwart_protocol::link::FrameError;

/// Why a request got no answer.
#[derive(Debug)]
pub(crate) enum Unanswered {
    /// It was denied; the technician gets the reason.
    Denied(Denial),
    /// The link failed.
    Link(FrameError),
}

impl From<Denial> for Unanswered {
    fn from(denial: Denial) -> Self {
        Self::Denied(denial)
    }
}

impl From<FrameError> for Unanswered {
    fn from(error: FrameError) -> Self {
        Self::Link(error)
    }
}
