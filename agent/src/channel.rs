//! Byte channels beside orders: what a permitted act writes while it runs goes to the uplink
//! without passing through the executor, which opens the channel. It or the uplink ends it.
//!
//! ```text
//! permit ─▶ executor: open(run) ─▶ Writer (the act) ══ window ══▶ Reader (the order's stream) ─▶ QUIC
//!                    revoke(run) ends both
//! ```
//! The reader takes pieces at the pace that QUIC's flow control allows, and a window of them
//! waits for it. A slow watcher must not slow a script, so what finds no room is
//! left out: its report has it, and the technician's program says how much was not shown. In
//! two processes a channel would be a socket pair, named by its run as here.

use fernwart_protocol::id::RunId;
use fernwart_protocol::limits::{OUTPUT_BYTES, STREAM_WINDOW_BYTES};
use fernwart_protocol::to_hub::Stream;
use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard};
use tokio::sync::Notify;

/// Bytes that may wait for the reader: what one stream of the link may have in flight, twice.
const WINDOW_BYTES: usize = 2 * STREAM_WINDOW_BYTES as usize;

/// What one piece costs beside its bytes; bounds the number of short ones.
const PIECE_BYTES: usize = 64;

/// A piece of output, at most [`OUTPUT_BYTES`] long.
pub type Piece = (Stream, Vec<u8>);

#[derive(Debug, Default)]
struct Waiting {
    pieces: VecDeque<Piece>,
    bytes: usize,
    /// Whether anybody reads, or will.
    is_wanted: bool,
    /// No piece comes any more.
    has_ended: bool,
    /// Tells the reader that counts from those it has replaced.
    readers: u64,
}

#[derive(Debug, Default)]
struct Channel {
    waiting: Mutex<Waiting>,
    changed: Notify,
}

impl Channel {
    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    fn end(&self) {
        self.waiting().has_ended = true;
        self.changed.notify_waiters();
    }
}

/// All open channels, by run. Clones are the same.
#[derive(Debug, Clone, Default)]
pub struct Channels(Arc<Mutex<HashMap<RunId, Arc<Channel>>>>);

impl Channels {
    fn all(&self) -> MutexGuard<'_, HashMap<RunId, Arc<Channel>>> {
        self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// Opens the channel of a run that a permit has begun. `is_watched`: whether the stream of
    /// its order is there.
    pub(crate) fn open(&self, run: RunId, is_watched: bool) -> Writer {
        let channel = Arc::new(Channel::default());
        channel.waiting().is_wanted = is_watched;
        self.all().insert(run, channel.clone());
        Writer(channel)
    }

    /// The reading end of a run's channel; a former one ends. None once it was revoked.
    pub(crate) fn read(&self, run: &RunId) -> Option<Reader> {
        let channel = self.all().get(run)?.clone();
        let number = {
            let mut waiting = channel.waiting();
            waiting.is_wanted = true;
            waiting.readers += 1;
            waiting.readers
        };
        channel.changed.notify_waiters();
        Some(Reader { channel, number })
    }

    /// Ends a run's channel. A reader still gets what waits for it.
    pub(crate) fn revoke(&self, run: &RunId) {
        if let Some(channel) = self.all().remove(run) {
            channel.end();
        }
    }
}

/// The act's end. Dropping it ends the channel.
#[derive(Debug)]
pub struct Writer(Arc<Channel>);

impl Writer {
    /// Writes bytes, as far as there is room for them; never blocks.
    pub fn write(&self, stream: Stream, bytes: &[u8]) {
        let mut waiting = self.0.waiting();
        if !waiting.is_wanted || waiting.has_ended {
            return;
        }
        for piece in bytes.chunks(OUTPUT_BYTES) {
            let cost = piece.len() + PIECE_BYTES;
            if waiting.bytes + cost > WINDOW_BYTES {
                break;
            }
            waiting.bytes += cost;
            waiting.pieces.push_back((stream, piece.to_vec()));
        }
        drop(waiting);
        self.0.changed.notify_waiters();
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.0.end();
    }
}

/// The uplink's end.
#[derive(Debug)]
pub struct Reader {
    channel: Arc<Channel>,
    number: u64,
}

impl Reader {
    /// The next piece; none once the channel has ended, or somebody else reads it. Cancel safe.
    pub async fn next(&mut self) -> Option<Piece> {
        loop {
            // Listening before looking: a piece in between is not missed.
            let changed = self.channel.changed.notified();
            {
                let mut waiting = self.channel.waiting();
                if waiting.readers != self.number {
                    return None;
                }
                if let Some(piece) = take(&mut waiting) {
                    return Some(piece);
                }
                if waiting.has_ended {
                    return None;
                }
            }
            changed.await;
        }
    }

    /// A piece that waits already.
    pub fn ready(&mut self) -> Option<Piece> {
        let mut waiting = self.channel.waiting();
        if waiting.readers == self.number { take(&mut waiting) } else { None }
    }
}

/// The next piece, with those after it that fit: a reader that has fallen behind gets few large
/// ones, and an outcome does not wait behind thousands of short ones.
fn take(waiting: &mut Waiting) -> Option<Piece> {
    let (stream, mut bytes) = waiting.pieces.pop_front()?;
    waiting.bytes = waiting.bytes.saturating_sub(bytes.len() + PIECE_BYTES);
    while let Some((_, more)) =
        waiting.pieces.pop_front_if(|(other, more)| *other == stream && bytes.len() + more.len() <= OUTPUT_BYTES)
    {
        waiting.bytes = waiting.bytes.saturating_sub(more.len() + PIECE_BYTES);
        bytes.extend(more);
    }
    Some((stream, bytes))
}

impl Drop for Reader {
    fn drop(&mut self) {
        let mut waiting = self.channel.waiting();
        if waiting.readers == self.number {
            // Nobody watches any more; the report has it.
            *waiting = Waiting { has_ended: waiting.has_ended, readers: waiting.readers, ..Waiting::default() };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RUN: RunId = RunId::from_bytes([1; 16]);

    fn text(piece: Option<Piece>) -> Option<String> {
        piece.map(|(_, bytes)| String::from_utf8_lossy(&bytes).into_owned())
    }

    #[tokio::test]
    async fn pieces_arrive_in_order_also_those_from_before_the_reader_and_after_the_end() {
        let channels = Channels::default();
        let writer = channels.open(RUN, true);
        writer.write(Stream::Out, b"one");
        let mut reader = channels.read(&RUN).expect("open");
        writer.write(Stream::Err, b"two");
        assert_eq!(text(reader.next().await).as_deref(), Some("one"));
        drop(writer);
        channels.revoke(&RUN);
        assert_eq!(reader.next().await, Some((Stream::Err, b"two".to_vec())));
        assert_eq!(reader.next().await, None);
        assert!(channels.read(&RUN).is_none(), "it was revoked");
    }

    #[tokio::test]
    async fn a_slow_reader_costs_one_window_and_never_slows_the_writer() {
        let channels = Channels::default();
        let writer = channels.open(RUN, true);
        for _ in 0..1000 {
            writer.write(Stream::Out, &[b'x'; OUTPUT_BYTES]);
        }
        (0..100_000).for_each(|_| writer.write(Stream::Out, b"y"));
        let mut reader = channels.read(&RUN).expect("open");
        let mut bytes = 0;
        while let Some((_, piece)) = reader.ready() {
            bytes += piece.len() + PIECE_BYTES;
        }
        assert!(bytes <= WINDOW_BYTES && bytes > WINDOW_BYTES / 2, "{bytes}");
        // What it has taken makes room.
        writer.write(Stream::Out, b"z");
        assert_eq!(text(reader.next().await).as_deref(), Some("z"));
    }

    #[tokio::test]
    async fn short_pieces_of_one_stream_are_read_as_one() {
        let channels = Channels::default();
        let writer = channels.open(RUN, true);
        let mut reader = channels.read(&RUN).expect("open");
        (0..1500).for_each(|_| writer.write(Stream::Out, b"y"));
        writer.write(Stream::Err, b"no");
        writer.write(Stream::Out, &[b'x'; OUTPUT_BYTES]);
        writer.write(Stream::Out, b"z");
        let lengths = [1500, 2, OUTPUT_BYTES, 1];
        for length in lengths {
            assert_eq!(reader.next().await.map(|(_, bytes)| bytes.len()), Some(length));
        }
        assert_eq!(reader.channel.waiting().bytes, 0);
    }

    #[tokio::test]
    async fn a_new_reader_replaces_the_former_one_and_nothing_is_kept_for_nobody() {
        let channels = Channels::default();
        let writer = channels.open(RUN, false);
        writer.write(Stream::Out, b"unwatched");
        let mut first = channels.read(&RUN).expect("open");
        let mut second = channels.read(&RUN).expect("open");
        writer.write(Stream::Out, b"new");
        assert_eq!((first.next().await, first.ready()), (None, None));
        drop(first);
        assert_eq!(text(second.next().await).as_deref(), Some("new"));
        drop(second);
        writer.write(Stream::Out, b"lost");
        let mut third = channels.read(&RUN).expect("open");
        assert_eq!(third.ready(), None);
        writer.write(Stream::Out, b"last");
        let revoked = tokio::spawn(async move { (text(third.next().await), third.next().await) });
        tokio::task::yield_now().await;
        channels.revoke(&RUN);
        writer.write(Stream::Out, b"too late");
        assert_eq!(revoked.await.expect("ended"), (Some("last".to_owned()), None));
    }
}
