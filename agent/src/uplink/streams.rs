//! Streams that the hub opens: an order until its outcome, an echo, a request for lost data.

use crate::channel::{Piece, Reader};
use crate::executor::Handle;
use crate::message::{Ticket, ToExecutor};
use fernwart_protocol::id::RunId;
use fernwart_protocol::limits::FIRST_FRAME_TIMEOUT;
use fernwart_protocol::link::{FrameError, Link, Receiver, Sender};
use fernwart_protocol::text::Blob;
use fernwart_protocol::to_agent::{Deliver, Stored};
use fernwart_protocol::to_hub::{Delivered, GivenBack, Note, SignedOutcome};
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::sync::mpsc;
use tracing::{debug, warn};

/// How long the hub may take to store an outcome; after that it is kept and offered later.
const STORE_WAIT: Duration = Duration::from_secs(60);

/// A frame for an order's stream.
#[derive(Debug)]
pub(super) enum Frame {
    /// An intermediate state or note.
    Delivered(Delivered),
    /// The outcome; ends the stream.
    Outcome(RunId, Box<SignedOutcome>),
    /// The byte channel of its run.
    Channel(Reader),
    /// The data that a restored hub has asked for; ends the stream.
    GivenBack(Vec<GivenBack>),
}

/// Queue length of one order's stream.
const STREAM_QUEUE: usize = 8;

/// Places of the queue that notes may not use: three states, the channel and an outcome.
const STREAM_ROOM: usize = 5;

/// Warns once per link that the hub speaks a newer version.
#[derive(Debug, Default)]
pub(super) struct NewerHub(AtomicBool);

impl NewerHub {
    pub(super) fn warn(&self) {
        if !self.0.swap(true, Ordering::Relaxed) {
            warn!("the hub speaks a newer version than this agent: update the agent");
        }
    }
}

/// Orders' streams by ticket.
#[derive(Debug)]
pub(super) struct OrderStreams {
    streams: HashMap<Ticket, mpsc::Sender<Frame>>,
    opened: mpsc::Receiver<(Ticket, mpsc::Sender<Frame>)>,
    /// Where a stream's task registers it.
    pub(super) register: mpsc::Sender<(Ticket, mpsc::Sender<Frame>)>,
}

impl Default for OrderStreams {
    fn default() -> Self {
        let (register, opened) = mpsc::channel(STREAM_QUEUE);
        Self { streams: HashMap::new(), opened, register }
    }
}

impl OrderStreams {
    /// Takes in a stream that registers. Cancel safe.
    pub(super) async fn registered(&mut self) {
        if let Some((ticket, sender)) = self.opened.recv().await {
            self.streams.retain(|_, sender| !sender.is_closed());
            self.streams.insert(ticket, sender);
        }
    }

    /// Sends a frame to the stream of an order. A blocked stream holds up nobody: what it missed
    /// is in the state store and is offered again.
    pub(super) fn send(&mut self, ticket: Ticket, frame: Frame) -> bool {
        // The stream's registration may still be queued.
        while !self.streams.contains_key(&ticket) {
            let Ok((ticket, sender)) = self.opened.try_recv() else { break };
            self.streams.insert(ticket, sender);
        }
        let handed = self.streams.get(&ticket).is_some_and(|stream| hand_over(stream, frame));
        if !handed {
            self.streams.remove(&ticket);
        }
        handed
    }
}

/// Queues a frame for an order's stream without blocking. Returns false if the stream accepts
/// nothing more. Notes are dropped when only the places for states and the outcome are left.
fn hand_over(stream: &mpsc::Sender<Frame>, frame: Frame) -> bool {
    if matches!(frame, Frame::Delivered(Delivered::Note(_))) && stream.capacity() <= STREAM_ROOM {
        return !stream.is_closed();
    }
    stream.try_send(frame).is_ok()
}

/// Serves a stream that the hub has opened: an echo, an order until its outcome, or a request for
/// lost data.
pub(super) async fn serve_stream(
    ticket: Ticket,
    (link, newer): (Link, Arc<NewerHub>),
    (mut send, mut receive): (Sender, Receiver),
    (executor, opened): (Handle, mpsc::Sender<(Ticket, mpsc::Sender<Frame>)>),
) {
    let Some(message) = first_message(ticket, (&link, &newer), (&mut send, &mut receive), &executor).await else {
        return;
    };
    let (answers, mut answered) = mpsc::channel(STREAM_QUEUE);
    if opened.send((ticket, answers)).await.is_err() {
        return;
    }
    executor.send(message).await;
    let mut channel: Option<Reader> = None;
    loop {
        let frame = tokio::select! {
            biased;
            frame = answered.recv() => frame,
            piece = next_piece(&mut channel) => {
                let Some(piece) = piece else {
                    channel = None;
                    continue;
                };
                match send_piece(&mut send, piece).await {
                    Ok(()) => {}
                    Err(error @ FrameError::PeerIsOlder(_)) => debug!(%error, "output is left out: the hub is too old"),
                    Err(_) => break,
                }
                continue;
            }
        };
        let sent = match frame {
            None => break,
            Some(Frame::Channel(reader)) => {
                channel = Some(reader);
                continue;
            }
            Some(Frame::Outcome(run, outcome)) => {
                while let Some(piece) = channel.as_mut().and_then(Reader::ready) {
                    if send_piece(&mut send, piece).await.is_err() {
                        break;
                    }
                }
                if send.send(&Delivered::Outcome(outcome)).await.is_err() {
                    break;
                }
                send.finish();
                return await_stored(&mut receive, run, &executor).await;
            }
            Some(Frame::GivenBack(all)) => {
                for one in all {
                    if send.send(&one).await.is_err() {
                        return;
                    }
                }
                return send.finish();
            }
            Some(Frame::Delivered(delivered)) => {
                let sent = send.send(&delivered).await;
                if let (Ok(()), Delivered::Refused(_)) = (&sent, delivered) {
                    return send.finish();
                }
                sent
            }
        };
        match sent {
            Ok(()) => {}
            // The hub works without messages it does not know.
            Err(error @ FrameError::PeerIsOlder(_)) => debug!(%error, "a message is left out: the hub is too old"),
            Err(_) => break,
        }
    }
    executor.send(ToExecutor::Gone(ticket)).await;
}

/// What the hub wants on a stream; nothing where that is done already, or the stream begins
/// wrongly.
async fn first_message(
    ticket: Ticket,
    (link, newer): (&Link, &NewerHub),
    (send, receive): (&mut Sender, &mut Receiver),
    executor: &Handle,
) -> Option<ToExecutor> {
    match tokio::time::timeout(FIRST_FRAME_TIMEOUT, receive.expect::<Deliver>()).await {
        Ok(Ok(Deliver::Echo(number))) => {
            if send.send(&Deliver::Echo(number)).await.is_ok() {
                send.finish();
            }
        }
        Ok(Ok(Deliver::Order(order))) => return Some(ToExecutor::Order(ticket, order)),
        Ok(Ok(Deliver::TakenBack(order, cancel))) => {
            // The cancel is sent first on the same channel, so the order finds itself cancelled.
            executor.send(ToExecutor::Cancel(cancel)).await;
            return Some(ToExecutor::Order(ticket, order));
        }
        Ok(Ok(Deliver::Begun(order, cancel))) => {
            if let Some(cancel) = cancel {
                executor.send(ToExecutor::Cancel(cancel)).await;
            }
            return Some(ToExecutor::Begun(ticket, order));
        }
        Ok(Ok(Deliver::GiveBack(hubs))) => return Some(ToExecutor::GiveBack(ticket, hubs)),
        Ok(Err(FrameError::Newer)) => {
            newer.warn();
            receive.reject();
            send.reject();
        }
        Ok(Err(error)) => {
            if let Some(why) = error.reproach() {
                warn!(%error, "the hub misbehaved");
                link.close(why);
            }
            debug!(%error, "a stream did not begin with an order");
        }
        Err(_) => debug!("a stream stayed silent"),
    }
    None
}

/// The next piece of a run's output; waits for ever where there is no channel.
async fn next_piece(channel: &mut Option<Reader>) -> Option<Piece> {
    match channel {
        Some(reader) => reader.next().await,
        None => std::future::pending().await,
    }
}

/// Sends output to those who watch; waits while the hub takes no more.
async fn send_piece(send: &mut Sender, (stream, bytes): Piece) -> Result<(), FrameError> {
    let Ok(bytes) = Blob::try_from(bytes) else { return Ok(()) };
    send.send(&Delivered::Note(Note::Output(stream, bytes))).await
}

pub(super) async fn await_stored(receive: &mut Receiver, run: RunId, executor: &Handle) {
    match tokio::time::timeout(STORE_WAIT, receive.expect::<Stored>()).await {
        Ok(Ok(Stored::Countersigned(envelope))) => executor.send(ToExecutor::Stored(run, envelope)).await,
        Ok(Ok(Stored::NotNow(denial))) => warn!(%run, code = %denial.code(), "the hub cannot store an outcome now"),
        Ok(Err(_)) | Err(_) => debug!(%run, "an outcome was not acknowledged; it will be offered again"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use fernwart_protocol::to_hub::RunState;

    #[test]
    fn notes_never_displace_states_and_the_outcome_of_a_stream() {
        let (stream, mut received) = mpsc::channel(STREAM_QUEUE);
        for _ in 0..100 {
            assert!(hand_over(&stream, Frame::Delivered(Delivered::Note(Note::Turn))));
        }
        for state in [RunState::Waiting, RunState::Started] {
            assert!(hand_over(&stream, Frame::Delivered(Delivered::State(state))));
        }
        // As important as an outcome: it must be delivered.
        assert!(hand_over(&stream, Frame::Delivered(Delivered::Refused(fernwart_protocol::code::Refusal::Paused))));
        let mut last = None;
        while let Ok(delivered) = received.try_recv() {
            last = Some(delivered);
        }
        assert!(matches!(last, Some(Frame::Delivered(Delivered::Refused(_)))));
        drop(received);
        assert!(!hand_over(&stream, Frame::Delivered(Delivered::Note(Note::Turn))), "nobody hears it");
    }
}
