//! One link, from hello to its end.

use super::backoff::Backoff;
use super::certificate::RENEW_AGAIN;
use super::{ExecutorState, Uplink, UplinkError};
use crate::executor::Handle;
use crate::message::{Linked, Ticket, ToExecutor, ToUplink};
use fernwart_protocol::code::{Denial, Goodbye};
use fernwart_protocol::id::{Digest, RunId};
use fernwart_protocol::limits::{FIRST_FRAME_TIMEOUT, OFFER_FILES};
use fernwart_protocol::link::{FrameError, Link, LinkError, Receiver, RestartHint, Sender};
use fernwart_protocol::to_agent::{Control, Deliver, Fetched, Stored};
use fernwart_protocol::to_hub::{self, Ask, Delivered, GivenBack, SignedOutcome};
use fernwart_protocol::version::{Hello, tag};
use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::sync::{Mutex, mpsc};
use tokio::task::JoinSet;
use tracing::{debug, info, warn};

/// How long the hub may take to store an outcome; after that it is kept and offered later.
const STORE_WAIT: Duration = Duration::from_secs(60);

/// How long the hub may take to store that this machine's owner has taken it out.
const LEAVES_WITHIN: Duration = Duration::from_secs(8);

/// How often outcomes that no hub has acknowledged are offered again.
const OFFER_AGAIN: Duration = Duration::from_secs(300);

/// A frame for an order's stream.
#[derive(Debug)]
enum Frame {
    /// An intermediate state or note.
    Delivered(Delivered),
    /// The outcome; ends the stream.
    Outcome(RunId, Box<SignedOutcome>),
    /// The data that a restored hub has asked for; ends the stream.
    GivenBack(Vec<GivenBack>),
}

/// Queue length of one order's stream.
const STREAM_QUEUE: usize = 8;

/// Places of the queue that notes may not use: three states and an outcome.
const STREAM_ROOM: usize = 4;

impl Uplink {
    /// Serves one link until it ends. `Ok` means that no wait is needed before the next.
    pub(super) async fn session(
        &mut self,
        state: &mut ExecutorState,
        link: Link,
        hint: RestartHint,
        backoff: &mut Backoff,
    ) -> Result<(), UplinkError> {
        // Messages since the last link. Answers to its streams are dropped; outcomes are sent
        // again later.
        while let Ok(news) = self.from_executor.try_recv() {
            drop(state.update(news));
        }
        let (mut control, receive) = link.open().await.map_err(UplinkError::Link)?;
        let asked_at = self.clock.now();
        let hello = Hello::new(&[
            (tag::TARGETS, state.dial.versions.targets),
            (tag::TIMESTAMP, state.dial.versions.timestamp),
            (tag::READS, u64::from(state.dial.reads)),
        ]);
        control.send(&Ask::Control(hello, state.about.clone())).await.map_err(UplinkError::Frame)?;
        let (first, receive) = first_word(&link, receive).await?;
        let hello = match first {
            Control::Hello(hello) => hello,
            Control::Denied(denial) => return Err(UplinkError::Denied(denial)),
            _ => return Err(UplinkError::Frame(FrameError::Cut)),
        };
        link.settle(&hello).map_err(|_| UplinkError::Denied(Denial::Incompatible))?;
        control.send(&to_hub::Control::SealedTo(state.dial.sealed_to.clone())).await.map_err(UplinkError::Frame)?;
        backoff.rest();
        backoff.spread(Duration::from_millis(hello.number(tag::RETURN_SPREAD).unwrap_or_default()));
        let halfway = (asked_at + self.clock.now()) / 2;
        let hub_clock = hello.number(tag::CLOCK).and_then(|ms| i64::try_from(ms).ok());
        let rtt_us = u32::try_from(link.rtt().as_micros()).unwrap_or(u32::MAX);
        let hub_chain = hello.number(tag::CHAIN_SEQ).zip(hello.digest(tag::CHAIN_HEAD));
        let hub_journal = hello.number(tag::JOURNAL_SEQ);
        let hub_ahead_ms = hub_clock.map_or(0, |hub| hub.saturating_sub(halfway));
        let linked = Linked { hub_ahead_ms, rtt_us, hub_chain, hub_journal };
        info!(address = %link.remote_address(), rtt_us, "linked");
        self.executor.send(ToExecutor::Linked(linked)).await;

        let mut tasks = JoinSet::new();
        if hello.number(tag::TIMESTAMP).is_some_and(|newest| newest != state.dial.versions.timestamp) {
            tasks.spawn(fetch(link.clone(), state.dial.versions, self.executor.clone()));
        }
        let result = self.serve(state, &link, hint, control, receive, &mut tasks, backoff, linked.hub_ahead_ms).await;
        self.part(state).await;
        result
    }

    /// Tells the executor that the link is gone, and waits for the current data for the next
    /// hello. Outdated data would look as if this machine had lost records.
    async fn part(&mut self, state: &mut ExecutorState) {
        let executor = self.executor.clone();
        let informing = executor.send(ToExecutor::Unlinked);
        tokio::pin!(informing);
        let mut informed = false;
        loop {
            tokio::select! {
                biased;
                () = &mut informing, if !informed => informed = true,
                () = self.stop.cancelled() => return,
                message = self.from_executor.recv() => match message {
                    Some(ToUplink::About(about)) => {
                        state.about = about;
                        return;
                    }
                    Some(other) => drop(state.update(other)),
                    None => return,
                },
            }
        }
    }

    #[expect(clippy::too_many_arguments, reason = "the parts of one link, made and used once")]
    async fn serve(
        &mut self,
        state: &mut ExecutorState,
        link: &Link,
        mut hint: RestartHint,
        mut control: Sender,
        receive: Receiver,
        tasks: &mut JoinSet<()>,
        backoff: &mut Backoff,
        hub_ahead_ms: i64,
    ) -> Result<(), UplinkError> {
        let (words, mut hub_words) = mpsc::channel(STREAM_QUEUE);
        tasks.spawn(listen(receive, words, self.executor.clone()));
        let mut streams: HashMap<Ticket, mpsc::Sender<Frame>> = HashMap::new();
        let (opened, mut orders) = mpsc::channel::<(Ticket, mpsc::Sender<Frame>)>(STREAM_QUEUE);
        let offering = Arc::new(Offering::default());
        let newer = Arc::new(NewerHub::default());
        let renewal = tokio::time::sleep(self.renewal_in(state, link, hub_ahead_ms));
        tokio::pin!(renewal);
        let mut again = tokio::time::interval_at(tokio::time::Instant::now() + OFFER_AGAIN, OFFER_AGAIN);
        loop {
            tokio::select! {
                biased;
                () = self.stop.cancelled() => {
                    // The hub may be gone already.
                    let _ = control.send(&to_hub::Control::Goodbye).await;
                    link.close(Goodbye::Done);
                    return Ok(());
                }
                error = link.closed() => return Err(UplinkError::Link(error)),
                word = hub_words.recv() => match word {
                    Some(Err(FrameError::Newer)) => {
                        newer.warn();
                        let denied = to_hub::Control::Denied(Denial::Incompatible);
                        control.send(&denied).await.map_err(UplinkError::Frame)?;
                    }
                    Some(Err(error)) => {
                        if let Some(why) = error.reproach() {
                            link.close(why);
                        }
                        return Err(UplinkError::Frame(error));
                    }
                    Some(Ok(Control::CatalogueChanged { timestamp })) => {
                        if timestamp != state.dial.versions.timestamp {
                            tasks.spawn(fetch(link.clone(), state.dial.versions, self.executor.clone()));
                        }
                    }
                    Some(Ok(Control::Goodbye { retry_after_ms })) => {
                        backoff.wait_as_asked(Duration::from_millis(u64::from(retry_after_ms)));
                        return Err(UplinkError::Link(LinkError::Closed(Goodbye::Done)));
                    }
                    Some(Ok(Control::Denied(denial))) => {
                        debug!(code = %denial.code(), "the hub does not know a message it was sent");
                    }
                    Some(Ok(Control::Hello(_) | Control::Lock(_) | Control::Cancel(_) | Control::Retired(_))) | None => {
                        return Err(UplinkError::Frame(FrameError::Cut));
                    }
                },
                stream = link.accept() => {
                    let (send, receive) = stream.map_err(UplinkError::Link)?;
                    self.last_ticket += 1;
                    let (stream, to) = ((send, receive), (self.executor.clone(), opened.clone()));
                    tasks.spawn(serve_stream(self.last_ticket, (link.clone(), newer.clone()), stream, to));
                }
                Some((ticket, sender)) = orders.recv() => {
                    streams.retain(|_, sender| !sender.is_closed());
                    streams.insert(ticket, sender);
                }
                message = self.from_executor.recv() => match message {
                    Some(ToUplink::Delivered(ticket, delivered)) => {
                        let _ = to_stream(&mut streams, &mut orders, ticket, Frame::Delivered(delivered));
                    }
                    Some(ToUplink::Outcome(Some(ticket), run, outcome)) => {
                        if !to_stream(&mut streams, &mut orders, ticket, Frame::Outcome(run, outcome)) {
                            self.executor.hint(ToExecutor::OfferOutcomes);
                        }
                    }
                    Some(ToUplink::Outcome(None, run, outcome)) => {
                        tasks.spawn(offer(link.clone(), (run, *outcome), self.executor.clone(), offering.clone()));
                    }
                    Some(ToUplink::GivenBack(ticket, all)) => {
                        let _ = to_stream(&mut streams, &mut orders, ticket, Frame::GivenBack(all));
                    }
                    Some(ToUplink::CatalogueRefused(reason)) => {
                        match control.send(&to_hub::Control::CatalogueRefused(reason)).await {
                            Ok(()) | Err(FrameError::PeerIsOlder(_)) => {}
                            Err(error) => return Err(UplinkError::Frame(error)),
                        }
                    }
                    Some(ToUplink::Want(hash)) => {
                        tasks.spawn(fetch_blob(link.clone(), hash, self.executor.clone()));
                    }
                    Some(ToUplink::Dial(dial)) => {
                        let following = to_hub::Control::Following(dial.versions);
                        state.dial = dial;
                        control.send(&following).await.map_err(UplinkError::Frame)?;
                    }
                    Some(ToUplink::About(about)) => state.about = about,
                    Some(ToUplink::Journal(seq, hash)) => {
                        control.send(&to_hub::Control::Journal(seq, hash)).await.map_err(UplinkError::Frame)?;
                    }
                    Some(ToUplink::Leave) => {
                        state.parted = true;
                        // The hub closes the link once it has stored that; else it is closed
                        // here.
                        let link = link.clone();
                        tasks.spawn(async move {
                            tokio::time::sleep(LEAVES_WITHIN).await;
                            link.close(Goodbye::Done);
                        });
                        match control.send(&to_hub::Control::Leaving).await {
                            Ok(()) => {}
                            Err(error @ FrameError::PeerIsOlder(_)) => warn!(%error, "the hub cannot be informed"),
                            Err(error) => return Err(UplinkError::Frame(error)),
                        }
                    }
                    Some(ToUplink::Parted) => {
                        state.parted = true;
                        link.close(Goodbye::Done);
                        return Ok(());
                    }
                    Some(ToUplink::Claim(_)) => {}
                    Some(ToUplink::Stopped) | None => return Err(UplinkError::NoExecutor),
                },
                () = hint.rung() => {
                    debug!("restart hint received");
                    let following = to_hub::Control::Following(state.dial.versions);
                    control.send(&following).await.map_err(UplinkError::Frame)?;
                }
                () = &mut renewal => match tokio::time::timeout(FIRST_FRAME_TIMEOUT, self.renew(state, link)).await.unwrap_or(Err(UplinkError::Link(LinkError::Silent))) {
                    Ok(()) => {
                        link.close(Goodbye::Done);
                        return Ok(());
                    }
                    Err(error) => {
                        warn!(reason = fernwart_protocol::text::chain(&error), "the certificate was not renewed");
                        renewal.as_mut().reset(tokio::time::Instant::now() + RENEW_AGAIN);
                    }
                },
                _ = again.tick() => {
                    // Must not block: a full queue means that the executor is busy.
                    self.executor.hint(ToExecutor::OfferOutcomes);
                }
                Some(_) = tasks.join_next() => {}
            }
        }
    }
}

/// Warns once per link that the hub speaks a newer version.
#[derive(Debug, Default)]
struct NewerHub(AtomicBool);

impl NewerHub {
    fn warn(&self) {
        if !self.0.swap(true, Ordering::Relaxed) {
            warn!("the hub speaks a newer version than this agent: update the agent");
        }
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

/// Sends a frame to the stream of an order. A blocked stream holds up nobody: what it missed is
/// in the state store and is offered again.
fn to_stream(
    streams: &mut HashMap<Ticket, mpsc::Sender<Frame>>,
    opened: &mut mpsc::Receiver<(Ticket, mpsc::Sender<Frame>)>,
    ticket: Ticket,
    frame: Frame,
) -> bool {
    // The stream's registration may still be queued.
    while !streams.contains_key(&ticket) {
        let Ok((ticket, sender)) = opened.try_recv() else { break };
        streams.insert(ticket, sender);
    }
    let handed = streams.get(&ticket).is_some_and(|stream| hand_over(stream, frame));
    if !handed {
        streams.remove(&ticket);
    }
    handed
}

async fn first_word(link: &Link, mut receive: Receiver) -> Result<(Control, Receiver), UplinkError> {
    tokio::select! {
        biased;
        error = link.closed() => Err(UplinkError::Link(error)),
        word = tokio::time::timeout(FIRST_FRAME_TIMEOUT, receive.expect::<Control>()) => {
            let word = word.map_err(|_| UplinkError::Link(LinkError::Silent))?.map_err(UplinkError::Frame)?;
            Ok((word, receive))
        }
    }
}

/// Reads the control stream; the channel closes when it ends. Messages for the executor are sent
/// to it directly, since the link's main loop must never wait for it. Frames of a newer version
/// are skipped; any other error ends the reading.
async fn listen(mut receive: Receiver, words: mpsc::Sender<Result<Control, FrameError>>, executor: Handle) {
    loop {
        let word = match receive.next::<Control>().await {
            Ok(Some(Control::Lock(envelope))) => {
                executor.send(ToExecutor::Lock(envelope)).await;
                continue;
            }
            Ok(Some(Control::Cancel(envelope))) => {
                executor.send(ToExecutor::Cancel(envelope)).await;
                continue;
            }
            Ok(Some(Control::Retired(envelope))) => {
                executor.send(ToExecutor::Retirement(envelope)).await;
                continue;
            }
            Ok(Some(word)) => Ok(word),
            Ok(None) => return,
            Err(error) => Err(error),
        };
        let goes_on = matches!(word, Ok(_) | Err(FrameError::Newer));
        if words.send(word).await.is_err() || !goes_on {
            return;
        }
    }
}

/// Serves a stream that the hub has opened: an echo, an order until its outcome, or a request for
/// lost data.
async fn serve_stream(
    ticket: Ticket,
    (link, newer): (Link, Arc<NewerHub>),
    (mut send, mut receive): (Sender, Receiver),
    (executor, opened): (Handle, mpsc::Sender<(Ticket, mpsc::Sender<Frame>)>),
) {
    let first = tokio::time::timeout(FIRST_FRAME_TIMEOUT, receive.expect::<Deliver>()).await;
    let word = match first {
        Ok(Ok(Deliver::Echo(number))) => {
            if send.send(&Deliver::Echo(number)).await.is_ok() {
                send.finish();
            }
            return;
        }
        Ok(Ok(Deliver::Order(order))) => ToExecutor::Order(ticket, order),
        Ok(Ok(Deliver::TakenBack(order, cancel))) => {
            // The cancel is sent first on the same channel, so the order finds itself cancelled.
            executor.send(ToExecutor::Cancel(cancel)).await;
            ToExecutor::Order(ticket, order)
        }
        Ok(Ok(Deliver::Begun(order, cancel))) => {
            if let Some(cancel) = cancel {
                executor.send(ToExecutor::Cancel(cancel)).await;
            }
            ToExecutor::Begun(ticket, order)
        }
        Ok(Ok(Deliver::GiveBack(hubs))) => ToExecutor::GiveBack(ticket, hubs),
        Ok(Err(FrameError::Newer)) => {
            newer.warn();
            receive.reject();
            return send.reject();
        }
        Ok(Err(error)) => {
            if let Some(why) = error.reproach() {
                warn!(%error, "the hub misbehaved");
                link.close(why);
            }
            return debug!(%error, "a stream did not begin with an order");
        }
        Err(_) => return debug!("a stream stayed silent"),
    };
    let (answers, mut answered) = mpsc::channel(STREAM_QUEUE);
    if opened.send((ticket, answers)).await.is_err() {
        return;
    }
    executor.send(word).await;
    while let Some(frame) = answered.recv().await {
        let sent = match frame {
            Frame::Outcome(run, outcome) => {
                if send.send(&Delivered::Outcome(outcome)).await.is_err() {
                    break;
                }
                send.finish();
                return await_stored(&mut receive, run, &executor).await;
            }
            Frame::GivenBack(all) => {
                for one in all {
                    if send.send(&one).await.is_err() {
                        return;
                    }
                }
                return send.finish();
            }
            Frame::Delivered(delivered) => {
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

async fn await_stored(receive: &mut Receiver, run: RunId, executor: &Handle) {
    match tokio::time::timeout(STORE_WAIT, receive.expect::<Stored>()).await {
        Ok(Ok(Stored::Countersigned(envelope))) => executor.send(ToExecutor::Stored(run, envelope)).await,
        Ok(Ok(Stored::NotNow(denial))) => warn!(%run, code = %denial.code(), "the hub cannot store an outcome now"),
        Ok(Err(_)) | Err(_) => debug!(%run, "an outcome was not acknowledged; it will be offered again"),
    }
}

/// Outcomes being sent on a link.
#[derive(Debug, Default)]
struct Offering {
    runs: std::sync::Mutex<HashSet<RunId>>,
    turn: Mutex<()>,
}

impl Offering {
    fn runs(&self) -> std::sync::MutexGuard<'_, HashSet<RunId>> {
        self.runs.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

/// Offers an outcome that no hub has acknowledged. One at a time, since several at once would all
/// be too slow on a slow line.
async fn offer(link: Link, (run, outcome): (RunId, SignedOutcome), executor: Handle, offering: Arc<Offering>) {
    if !offering.runs().insert(run) {
        // It is queued already.
        return;
    }
    let turn = offering.turn.lock().await;
    let Ok((mut send, mut receive)) = link.open().await else { return };
    if send.send(&Ask::Outcome(outcome)).await.is_ok() {
        send.finish();
        await_stored(&mut receive, run, &executor).await;
    }
    drop(turn);
    offering.runs().remove(&run);
}

/// Fetches the catalogue files that are newer than these versions.
async fn fetch(link: Link, known: fernwart_protocol::document::Versions, executor: Handle) {
    let Ok((mut send, mut receive)) = link.open().await else { return };
    if send.send(&Ask::Fetch(known)).await.is_err() {
        return;
    }
    send.finish();
    let mut files = Vec::new();
    loop {
        match receive.next::<Fetched>().await {
            Ok(Some(Fetched::File(file))) if files.len() < OFFER_FILES => files.push(file),
            Ok(Some(Fetched::Blob(_))) => return warn!("the hub sent a blob instead of catalogue files"),
            Ok(Some(Fetched::File(_))) => return warn!("the hub offers too many files"),
            Ok(Some(Fetched::Denied(denial))) => return debug!(code = %denial.code(), "no catalogue to fetch"),
            Ok(None) => break,
            Err(error) => return debug!(%error, "fetching the catalogue was cut"),
        }
    }
    if !files.is_empty() {
        executor.send(ToExecutor::Catalogue(files)).await;
    }
}

/// Fetches a script's file. If the link breaks, nothing is reported: the file is requested again
/// on the next one.
async fn fetch_blob(link: Link, hash: Digest, executor: Handle) {
    let fetched = async {
        let (mut send, mut receive) = link.open().await.ok()?;
        send.send(&Ask::Blob(hash)).await.ok()?;
        send.finish();
        match receive.next::<Fetched>().await {
            Ok(Some(Fetched::Blob(bytes))) => Some(Some(bytes.into_bytes())),
            Ok(Some(Fetched::Denied(denial))) => {
                warn!(%hash, code = %denial.code(), "the hub denied a script's file");
                Some(None)
            }
            Ok(Some(Fetched::File(_)) | None) | Err(FrameError::Newer | FrameError::Rejected) => Some(None),
            Err(error) => {
                let why = error.reproach()?;
                warn!(%hash, %error, "a script's file cannot be read");
                link.close(why);
                Some(None)
            }
        }
    };
    if let Some(bytes) = fetched.await {
        executor.send(ToExecutor::Blob(hash, bytes)).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use fernwart_protocol::to_hub::{Note, RunState};

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
