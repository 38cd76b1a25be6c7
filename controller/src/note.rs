//! Writes to standard error without panicking when it is closed.
//!
//! The standard library's macros panic then. With `2>&1 | head` the rest of a command must still
//! run.

/// Writes a line.
macro_rules! note {
    ($($text:tt)*) => {{
        use std::io::Write as _;
        let _ = writeln!(std::io::stderr(), $($text)*);
    }};
}

/// Writes a text without a line end.
macro_rules! note_text {
    ($($text:tt)*) => {{
        use std::io::Write as _;
        let _ = write!(std::io::stderr(), $($text)*);
    }};
}
