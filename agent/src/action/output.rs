//! What is kept of an output stream: its beginning, its end, its length and
//! its hash, all after redaction.

use super::redact::{Patterns, Redactor};
use fernwart_certs::Sha256;
use fernwart_protocol::script::Kept;
use std::collections::VecDeque;

/// Kept of the beginning, bytes.
pub(super) const HEAD: usize = 128 * 1024;

/// Kept of the end, bytes. Two streams' heads and tails are 1 MiB, as much as a
/// frame takes; on its way to the state store and the hub it is held several times,
/// and still the agent grows by less than 8 MiB, whatever a script writes.
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

    /// How much has come, bytes.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Takes a chunk in; what may be told live comes back.
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
        // Of a piece longer than all that is kept, only the end matters.
        let rest = rest.get(rest.len().saturating_sub(TAIL)..).unwrap_or_default();
        let over = (self.tail.len() + rest.len()).saturating_sub(TAIL);
        self.tail.drain(..over.min(self.tail.len()));
        self.tail.extend(rest);
    }

    /// The end of the stream: what was held back, what is kept, how many
    /// secrets were taken out.
    pub(super) fn finish(mut self) -> (Vec<u8>, Kept, u64) {
        let mut out = Vec::new();
        self.redactor.finish(&mut out);
        self.keep(&out);
        let whole = self.bytes == (self.head.len() + self.tail.len()) as u64;
        let mut head = self.head;
        let mut tail: Vec<u8> = self.tail.into();
        if whole {
            head.append(&mut tail);
        }
        let sha256 = (self.bytes > 0).then(|| self.hash.finish());
        (out, Kept { head: as_text(head), tail: as_text(tail), bytes: self.bytes, sha256 }, self.redactor.count)
    }
}

/// Control characters that are kept of one piece of output, without those of lines. In
/// JSON each of them takes six bytes.
const CONTROLS: usize = 4096;

/// Bytes as text; what is no UTF-8 is replaced. Control characters stay, for a line of
/// progress can only be shown by whoever knows where it went back, and whoever shows them
/// escapes them; past some thousand they are replaced.
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
    use super::super::redact::Own;
    use super::*;

    #[test]
    fn a_short_output_is_kept_whole() {
        let mut keeper = Keeper::new(Patterns::new(Own::new(&[]).expect("none")));
        keeper.feed(b"one\ntw");
        keeper.feed(b"o\n");
        let (_, kept, _) = keeper.finish();
        assert_eq!((kept.head.as_str(), kept.tail.as_str(), kept.bytes), ("one\ntwo\n", "", 8));
        assert_eq!(kept.sha256, Some(fernwart_certs::sha256(b"one\ntwo\n")));
    }

    #[test]
    fn of_a_long_output_the_beginning_and_the_end_are_kept() {
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
    fn bytes_that_are_no_text_are_replaced_and_nothing_else() {
        let mut keeper = Keeper::new(Patterns::new(Own::new(&[]).expect("none")));
        keeper.feed(b"\xff\x00\x1b[2J");
        let (_, kept, _) = keeper.finish();
        assert_eq!((kept.head.as_str(), kept.bytes), ("\u{fffd}\0\u{1b}[2J", 6));
        let flood = as_text(vec![0x1b; CONTROLS + 2]);
        assert!(flood.starts_with("\u{1b}\u{1b}") && flood.ends_with("\u{1b}??"), "{}", flood.len());
    }
}
