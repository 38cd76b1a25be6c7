//! What is kept of an output stream: its beginning, its end, its length and
//! its hash, all after redaction.

use crate::redact::{Patterns, Redactor};
use fernwart_certs::Sha256;
use fernwart_protocol::script::Kept;
use std::collections::VecDeque;

/// Bytes kept of the beginning.
pub(super) const HEAD: usize = 128 * 1024;

/// Bytes kept of the end. The heads and tails of two streams are 1 MiB, the limit of a frame.
/// Several copies exist on the way to the state store and the hub, yet the agent grows by less
/// than 8 MiB, whatever a script writes.
pub(super) const TAIL: usize = 384 * 1024;

/// Keeps one stream.
pub(super) struct Keeper {
    redactor: Redactor,
    head: Vec<u8>,
    tail: VecDeque<u8>,
    bytes: u64,
    hash: Sha256,
}

impl Keeper {
    pub(super) fn new(patterns: Patterns) -> Self {
        Self {
            redactor: Redactor::new(patterns),
            head: Vec::new(),
            tail: VecDeque::new(),
            bytes: 0,
            hash: Sha256::new(),
        }
    }

    /// Number of bytes received, after redaction.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Takes in a chunk and returns what may be sent live.
    pub(super) fn feed(&mut self, chunk: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        self.redactor.feed(chunk, &mut out);
        self.keep(&out);
        out
    }

    fn keep(&mut self, bytes: &[u8]) {
        self.bytes += bytes.len() as u64;
        self.hash.update(bytes);
        let room = HEAD.saturating_sub(self.head.len()).min(bytes.len());
        let (first, rest) = bytes.split_at(room);
        self.head.extend_from_slice(first);
        // Only the end of a piece matters if it is longer than the tail.
        let rest = rest.get(rest.len().saturating_sub(TAIL)..).unwrap_or_default();
        let over = (self.tail.len() + rest.len()).saturating_sub(TAIL);
        self.tail.drain(..over.min(self.tail.len()));
        self.tail.extend(rest);
    }

    /// Ends the stream. Returns the bytes held back until now, what is kept, and the number of
    /// redacted secrets.
    pub(super) fn finish(mut self) -> (Vec<u8>, Kept, u64) {
        let mut out = Vec::new();
        self.redactor.finish(&mut out);
        self.keep(&out);
        let is_complete = self.bytes == (self.head.len() + self.tail.len()) as u64;
        let mut head = self.head;
        let mut tail: Vec<u8> = self.tail.into();
        if is_complete {
            head.append(&mut tail);
        }
        let sha256 = (self.bytes > 0).then(|| self.hash.finish());
        (out, Kept { head: as_text(head), tail: as_text(tail), bytes: self.bytes, sha256 }, self.redactor.count)
    }
}

/// Maximum number of control characters kept in one piece of output, besides line breaks and
/// tabs. In JSON each takes six bytes.
const CONTROLS: usize = 4096;

/// Converts bytes to text; invalid UTF-8 is replaced. Control characters are kept, since a
/// progress line can only be shown correctly with them, and every viewer escapes them; beyond
/// [`CONTROLS`] they are replaced.
fn as_text(bytes: Vec<u8>) -> String {
    let text = match String::from_utf8(bytes) {
        Ok(text) => text,
        Err(error) => String::from_utf8_lossy(error.as_bytes()).into_owned(),
    };
    let strange = |c: char| c.is_control() && !matches!(c, '\n' | '\t' | '\r' | '\u{8}');
    if text.chars().filter(|c| strange(*c)).count() <= CONTROLS {
        return text;
    }
    let mut left = CONTROLS;
    let mut kept = |c: char| match (strange(c), left) {
        (true, 0) => '?',
        (is_strange, _) => {
            left -= usize::from(is_strange);
            c
        }
    };
    text.chars().map(&mut kept).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::redact::Own;

    #[test]
    fn a_short_output_is_kept_completely() {
        let mut keeper = Keeper::new(Patterns::new(Own::new(&[]).expect("none")));
        keeper.feed(b"one\ntw");
        keeper.feed(b"o\n");
        let (_, kept, _) = keeper.finish();
        assert_eq!((kept.head.as_str(), kept.tail.as_str(), kept.bytes), ("one\ntwo\n", "", 8));
        assert_eq!(kept.sha256, Some(fernwart_certs::sha256(b"one\ntwo\n")));
    }

    #[test]
    fn the_beginning_and_the_end_of_a_long_output_are_kept() {
        let mut keeper = Keeper::new(Patterns::new(Own::new(&[]).expect("none")));
        for number in 0..400_000 {
            keeper.feed(format!("line {number}\n").as_bytes());
        }
        let (_, kept, _) = keeper.finish();
        assert!(kept.head.starts_with("line 0\n") && kept.tail.ends_with("line 399999\n"));
        assert_eq!((kept.head.len(), kept.tail.len()), (HEAD, TAIL));
        assert!(kept.bytes > (HEAD + TAIL) as u64);
    }

    #[test]
    fn only_invalid_utf8_and_excess_control_characters_are_replaced() {
        let mut keeper = Keeper::new(Patterns::new(Own::new(&[]).expect("none")));
        keeper.feed(b"\xff\x00\x1b[2J");
        let (_, kept, _) = keeper.finish();
        assert_eq!((kept.head.as_str(), kept.bytes), ("\u{fffd}\0\u{1b}[2J", 6));
        let flood = as_text(vec![0x1b; CONTROLS + 2]);
        assert!(flood.starts_with("\u{1b}\u{1b}") && flood.ends_with("\u{1b}??"), "{}", flood.len());
    }
}
