//! Lines on standard error, where perhaps nobody reads any more.
//!
//! The standard library's macros panic there. Whoever has typed `2>&1 | head` wants the
//! rest of a command done, not told.

/// Writes a line.
macro_rules! note {
    ($($text:tt)*) => {{
        use std::io::Write as _;
        let _ = writeln!(std::io::stderr(), $($text)*);
    }};
}

/// Writes a text that ends as it is.
macro_rules! note_text {
    ($($text:tt)*) => {{
        use std::io::Write as _;
        let _ = write!(std::io::stderr(), $($text)*);
    }};
}
