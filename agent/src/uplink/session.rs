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

/// How long the hub may take to store an outcome before it is kept for later.
const STORE_WAIT: Duration = Duration::from_secs(60);

/// How long the hub may take to store that the owner takes this machine out.
const LEAVES_WITHIN: Duration = Duration::from_secs(8);

/// How often outcomes that no hub has acknowledged are offered again.
const OFFER_AGAIN: Duration = Duration::from_secs(300);

/// What goes up an order's stream.
#[derive(Debug)]
enum Frame {
    /// Something on the way.
    Delivered(Delivered),
    /// The end.
    Outcome(RunId, Box<SignedOutcome>),
    /// What a restored hub has asked for; the end, too.
    GivenBack(Vec<GivenBack>),
}

/// Frames of one order's stream that may wait to be sent.
const STREAM_QUEUE: usize = 8;

/// Of these, kept free of what is only told: three states and an outcome.
const STREAM_ROOM: usize = 4;

impl Uplink {
    /// Serves one link until it ends. `Ok` is an end that calls for no wait.
    pub(super) async fn session(
        &mut self,
        state: &mut ExecutorState,
        link: Link,
        hint: RestartHint,
        backoff: &mut Backoff,
    ) -> Result<(), UplinkError> {
        // News since the last link; answers to its streams are sent again later.
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

    /// Tells the executor that the link is gone, and hears what to say at the
    /// next hello: an older word would sound as if this machine had lost records.
    async fn part(&mut self, state: &mut ExecutorState) {
        let executor = self.executor.clone();
        let tell = executor.send(ToExecutor::Unlinked);
        tokio::pin!(tell);
        let mut said = false;
        loop {
            tokio::select! {
                biased;
                () = &mut tell, if !said => said = true,
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
                        backoff.wait_as_told(Duration::from_millis(u64::from(retry_after_ms)));
                        return Err(UplinkError::Link(LinkError::Closed(Goodbye::Done)));
                    }
                    Some(Ok(Control::Denied(denial))) => {
                        debug!(code = %denial.code(), "the hub does not know what it was told");
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
                        // The hub ends the link once it has stored that, or it is ended here.
                        let link = link.clone();
                        tasks.spawn(async move {
                            tokio::time::sleep(LEAVES_WITHIN).await;
                            link.close(Goodbye::Done);
                        });
                        match control.send(&to_hub::Control::Leaving).await {
                            Ok(()) => {}
                            Err(error @ FrameError::PeerIsOlder(_)) => warn!(%error, "the hub cannot be told"),
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
                    debug!("the hub rings");
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
                    // Never waits: a full queue means that much is under way already.
                    self.executor.hint(ToExecutor::OfferOutcomes);
                }
                Some(_) = tasks.join_next() => {}
            }
        }
    }
}

/// A hub that speaks a newer version: said once a link, whatever it sends.
#[derive(Debug, Default)]
struct NewerHub(AtomicBool);

impl NewerHub {
    fn warn(&self) {
        if !self.0.swap(true, Ordering::Relaxed) {
            warn!("the hub speaks a newer version than this agent: update the agent");
        }
    }
}

/// Hands something to an order's stream; never waits. False if the stream takes
/// nothing any more. What is only told is left out where it would take the room
/// of what must be heard.
fn hand_over(stream: &mpsc::Sender<Frame>, frame: Frame) -> bool {
    if matches!(frame, Frame::Delivered(Delivered::Note(_))) && stream.capacity() <= STREAM_ROOM {
        return !stream.is_closed();
    }
    stream.try_send(frame).is_ok()
}

/// Hands something to the stream of an order. A stream that takes nothing holds up
/// nobody: what it missed is in the agent's store, and is offered again.
fn to_stream(
    streams: &mut HashMap<Ticket, mpsc::Sender<Frame>>,
    opened: &mut mpsc::Receiver<(Ticket, mpsc::Sender<Frame>)>,
    ticket: Ticket,
    frame: Frame,
) -> bool {
    // The order's own announcement may still be on its way.
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

/// Reads the control stream; its end ends the channel. What is for the executor
/// goes there at once: the link's own loop must never wait for it. A frame of a
/// newer version is passed over; any other error is the last that is heard.
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

/// A stream the hub has opened: an echo, an order to its outcome, or a question for the
/// catalogue.
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
            // Told first, by the same messenger: the order finds itself taken back.
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
            receive.turn_away();
            return send.turn_away();
        }
        Ok(Err(error)) => {
            if let Some(why) = error.reproach() {
                warn!(%error, "the hub misbehaved");
                link.close(why);
            }
            return debug!(%error, "a stream began with no order");
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
            // The hub does without what it does not know.
            Err(error @ FrameError::PeerIsOlder(_)) => debug!(%error, "the hub is not told"),
            Err(_) => break,
        }
    }
    executor.send(ToExecutor::Gone(ticket)).await;
}

async fn await_stored(receive: &mut Receiver, run: RunId, executor: &Handle) {
    match tokio::time::timeout(STORE_WAIT, receive.expect::<Stored>()).await {
        Ok(Ok(Stored::Countersigned(envelope))) => executor.send(ToExecutor::Stored(run, envelope)).await,
        Ok(Ok(Stored::NotNow(denial))) => warn!(%run, code = %denial.code(), "the hub cannot store an outcome now"),
        Ok(Err(_)) | Err(_) => debug!(%run, "an outcome was not acknowledged; it is kept"),
    }
}

/// Outcomes that are being handed over on a link.
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

/// Offers an outcome that no hub has acknowledged, one after another: many at once
/// would each be too slow on a slow line.
async fn offer(link: Link, (run, outcome): (RunId, SignedOutcome), executor: Handle, offering: Arc<Offering>) {
    if !offering.runs().insert(run) {
        // It stands in line already.
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

/// Fetches what the catalogue has newer than these versions.
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
            Ok(Some(Fetched::Blob(_))) => return warn!("the hub answers what was not asked"),
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

/// Fetches a script's file. A link that breaks meanwhile says nothing: the file
/// is asked for again on the next one.
async fn fetch_blob(link: Link, hash: Digest, executor: Handle) {
    let fetched = async {
        let (mut send, mut receive) = link.open().await.ok()?;
        send.send(&Ask::Blob(hash)).await.ok()?;
        send.finish();
        match receive.next::<Fetched>().await {
            Ok(Some(Fetched::Blob(bytes))) => Some(Some(bytes.into_bytes())),
            Ok(Some(Fetched::Denied(denial))) => {
                warn!(%hash, code = %denial.code(), "a script's file is not to be had");
                Some(None)
            }
            Ok(Some(Fetched::File(_)) | None) | Err(FrameError::Newer | FrameError::TurnedAway) => Some(None),
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
    fn however_much_is_told_the_states_and_the_outcome_find_room() {
        let (stream, mut heard) = mpsc::channel(STREAM_QUEUE);
        for _ in 0..100 {
            assert!(hand_over(&stream, Frame::Delivered(Delivered::Note(Note::Turn))));
        }
        for state in [RunState::Waiting, RunState::Started] {
            assert!(hand_over(&stream, Frame::Delivered(Delivered::State(state))));
        }
        // As good as an outcome: it must be heard.
        assert!(hand_over(&stream, Frame::Delivered(Delivered::Refused(fernwart_protocol::code::Refusal::Paused))));
        let mut last = None;
        while let Ok(delivered) = heard.try_recv() {
            last = Some(delivered);
        }
        assert!(matches!(last, Some(Frame::Delivered(Delivered::Refused(_)))));
        drop(heard);
        assert!(!hand_over(&stream, Frame::Delivered(Delivered::Note(Note::Turn))), "nobody hears it");
    }
}
