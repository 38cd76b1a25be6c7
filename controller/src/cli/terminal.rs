//! Renders a script's output as a terminal would show it in the end.
//!
//! Line ends and tabs are kept. A carriage return goes back to the beginning of the line, as
//! progress lines do, and later text overwrites earlier text. Every other control character is
//! escaped, so a script cannot control the terminal.

use fernwart_protocol::text::escaped;
use std::iter::repeat_n;

/// Columns from one tab stop to the next.
const TAB: usize = 8;

/// An unfinished line longer than this is shown, bytes.
const LINE: usize = 64 * 1024;

/// A stream that arrives in pieces.
#[derive(Debug, Default)]
pub(crate) struct Screen {
    /// The unfinished line.
    begun: Vec<u8>,
}

impl Screen {
    /// Adds bytes. Returns the completed lines, rendered.
    pub(crate) fn take(&mut self, bytes: &[u8]) -> String {
        self.begun.extend_from_slice(bytes);
        let complete = match self.begun.iter().rposition(|byte| *byte == b'\n') {
            Some(last) => last + 1,
            None if self.begun.len() > LINE => self.begun.len(),
            None => return String::new(),
        };
        let rest = self.begun.split_off(complete);
        let complete = std::mem::replace(&mut self.begun, rest);
        shown(&String::from_utf8_lossy(&complete))
    }

    /// Returns the unfinished line.
    pub(crate) fn end(&mut self) -> String {
        shown(&String::from_utf8_lossy(&std::mem::take(&mut self.begun)))
    }
}

/// A stream written live to a terminal, which handles carriage returns itself.
#[derive(Debug, Default)]
pub(crate) struct Live {
    /// The first bytes of an incomplete character.
    cut: Vec<u8>,
}

impl Live {
    /// Adds bytes. Returns the text that can be shown.
    pub(crate) fn take(&mut self, bytes: &[u8]) -> String {
        let mut all = std::mem::take(&mut self.cut);
        all.extend_from_slice(bytes);
        if let Err(error) = std::str::from_utf8(&all)
            && error.error_len().is_none()
        {
            self.cut = all.split_off(error.valid_up_to());
        }
        Self::harmless(&String::from_utf8_lossy(&all))
    }

    /// Returns the bytes of a character that was never completed.
    pub(crate) fn end(&mut self) -> String {
        Self::harmless(&String::from_utf8_lossy(&std::mem::take(&mut self.cut)))
    }

    fn harmless(text: &str) -> String {
        let moves = |c: char| matches!(c, '\n' | '\r' | '\t' | '\u{8}');
        text.split_inclusive(moves)
            .map(|piece| match piece.strip_suffix(moves) {
                Some(rest) => escaped(rest) + piece.get(rest.len()..).unwrap_or_default(),
                None => escaped(piece),
            })
            .collect()
    }
}

/// A complete text, rendered.
pub(crate) fn shown(text: &str) -> String {
    text.split_inclusive('\n')
        .map(|piece| match piece.strip_suffix('\n') {
            Some(line) => shown_line(line) + "\n",
            None => shown_line(piece),
        })
        .collect()
}

fn shown_line(line: &str) -> String {
    // Trailing carriage returns have no effect, as in Windows line ends.
    let line = line.trim_end_matches('\r');
    if !line.contains(['\r', '\u{8}']) {
        return line.split('\t').map(escaped).collect::<Vec<_>>().join("\t");
    }
    let (mut cells, mut column): (Vec<char>, usize) = (Vec::new(), 0);
    for c in line.chars() {
        match c {
            '\r' => column = 0,
            '\u{8}' => column = column.saturating_sub(1),
            '\t' => column = (column / TAB + 1) * TAB,
            c => {
                cells.extend(repeat_n(' ', (column + 1).saturating_sub(cells.len())));
                if let Some(cell) = cells.get_mut(column) {
                    *cell = c;
                }
                column += 1;
            }
        }
    }
    escaped(String::from_iter(cells).trim_end())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_rendered_as_a_terminal_would_show_it() {
        for (written, seen) in [
            ("a\tb\n", "a\tb\n"),
            ("one\r\ntwo\r\n", "one\ntwo\n"),
            ("  1 %\r 50 %\r100 %\n", "100 %\n"),
            ("downloading\rdone\n", "doneloading\n"),
            ("downloading\rdone       \n", "done\n"),
            ("waiting |\u{8}/\u{8}-\u{8}ok\n", "waiting ok\n"),
            ("a\tb\rx\n", "x       b\n"),
            ("\u{1b}[31mred\u{7}\u{9b}2J\n", "\\u{1b}[31mred\\u{7}\\u{9b}2J\n"),
            ("no end", "no end"),
            ("", ""),
        ] {
            assert_eq!(shown(written), seen, "{written:?}");
        }
    }

    #[test]
    fn lines_are_shown_complete_however_the_stream_is_split() {
        let written = "größe 1\r größe 2\nLatin: \u{fffd}\nand".as_bytes();
        for piece in 1..written.len() {
            let mut screen = Screen::default();
            let mut seen: String = written.chunks(piece).map(|bytes| screen.take(bytes)).collect();
            seen += &screen.end();
            assert_eq!(seen, " größe 2\nLatin: \u{fffd}\nand", "{piece}");
        }
    }

    #[test]
    fn an_overlong_unfinished_line_is_shown() {
        let mut screen = Screen::default();
        assert_eq!(screen.take(&vec![b'x'; LINE]), "");
        assert_eq!(screen.take(b"y").len(), LINE + 1);
    }

    #[test]
    fn live_output_keeps_carriage_returns_and_escapes_other_controls() {
        let written = "1 %\r2 %\u{8}\t\u{1b}]0;ü\n".as_bytes();
        for piece in 1..written.len() {
            let mut live = Live::default();
            let mut seen: String = written.chunks(piece).map(|bytes| live.take(bytes)).collect();
            seen += &live.end();
            assert_eq!(seen, "1 %\r2 %\u{8}\t\\u{1b}]0;ü\n", "{piece}");
        }
        let mut live = Live::default();
        assert_eq!(live.take(b"M\xfcller") + &live.end(), "M\u{fffd}ller");
    }
}
