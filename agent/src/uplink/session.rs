//! One link, from hello to its end.

use super::backoff::Backoff;
use super::certificate::RENEW_AGAIN;
use super::fetch::{Offering, fetch, fetch_blob, offer};
use super::streams::{Frame, NewerHub, OrderStreams, serve_stream};
use super::{ExecutorState, Uplink, UplinkError};
use crate::executor::Handle;
use crate::message::{Linked, Ticket, ToExecutor, ToUplink};
use fernwart_protocol::code::{Denial, Goodbye};
use fernwart_protocol::limits::FIRST_FRAME_TIMEOUT;
use fernwart_protocol::link::{FrameError, Link, LinkError, Receiver, RestartHint, Sender};
use fernwart_protocol::to_agent::Control;
use fernwart_protocol::to_hub::{self, Ask};
use fernwart_protocol::version::{Hello, tag};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tracing::{debug, info, warn};

/// How long the hub may take to store that this machine's owner has taken it out.
const LEAVES_WITHIN: Duration = Duration::from_secs(8);

/// Messages of the hub's control stream that wait to be handled.
const WORDS: usize = 8;

/// How often outcomes that no hub has acknowledged are offered again.
const OFFER_AGAIN: Duration = Duration::from_secs(300);

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
            state.update(news, self.executor.channels());
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

        let mut served = LinkedHub::new(link, control, hub_ahead_ms);
        if hello.number(tag::TIMESTAMP).is_some_and(|newest| newest != state.dial.versions.timestamp) {
            served.tasks.spawn(fetch(served.link.clone(), state.dial.versions, self.executor.clone()));
        }
        let result = self.serve(state, &mut served, hint, receive, backoff).await;
        self.part(state, &mut served.tasks).await;
        result
    }

    /// Tells the executor that the link is gone, and waits for the current data for the next
    /// hello. Outdated data would look as if this machine had lost records.
    ///
    /// What the hub has sent until now still reaches the executor: the link's tasks live until it
    /// knows that the link is gone, and no longer.
    async fn part(&mut self, state: &mut ExecutorState, tasks: &mut JoinSet<()>) {
        let executor = self.executor.clone();
        let informing = executor.send(ToExecutor::Unlinked);
        tokio::pin!(informing);
        let mut informed = false;
        loop {
            tokio::select! {
                biased;
                () = &mut informing, if !informed => {
                    informed = true;
                    tasks.abort_all();
                }
                () = self.stop.cancelled() => return,
                message = self.from_executor.recv() => match message {
                    Some(ToUplink::About(about)) => {
                        state.about = about;
                        return;
                    }
                    Some(other) => state.update(other, self.executor.channels()),
                    None => return,
                },
            }
        }
    }

    /// Serves a greeted link until it ends or this machine is parted from it.
    async fn serve(
        &mut self,
        state: &mut ExecutorState,
        linked: &mut LinkedHub,
        mut hint: RestartHint,
        receive: Receiver,
        backoff: &mut Backoff,
    ) -> Result<(), UplinkError> {
        let (words, mut hub_words) = mpsc::channel(WORDS);
        linked.tasks.spawn(listen(receive, words, self.executor.clone()));
        let renewal = tokio::time::sleep(self.renewal_in(state, &linked.link, linked.hub_ahead_ms));
        tokio::pin!(renewal);
        let mut again = tokio::time::interval_at(tokio::time::Instant::now() + OFFER_AGAIN, OFFER_AGAIN);
        loop {
            let next = tokio::select! {
                biased;
                () = self.stop.cancelled() => {
                    // The hub may be gone already.
                    let _ = linked.control.send(&to_hub::Control::Goodbye).await;
                    Next::Close
                }
                error = linked.link.closed() => return Err(UplinkError::Link(error)),
                word = hub_words.recv() => linked.handle_word(state, &self.executor, backoff, word).await?,
                stream = linked.link.accept() => {
                    let stream = stream.map_err(UplinkError::Link)?;
                    self.last_ticket += 1;
                    linked.serve(self.last_ticket, stream, &self.executor)
                }
                () = linked.streams.registered() => Next::GoOn,
                message = self.from_executor.recv() => {
                    linked.handle_message(state, &self.executor, message).await?
                }
                () = hint.rung() => {
                    debug!("restart hint received");
                    linked.say(&to_hub::Control::Following(state.dial.versions)).await?;
                    Next::GoOn
                }
                () = &mut renewal => {
                    let renewed = tokio::time::timeout(FIRST_FRAME_TIMEOUT, self.renew(state, &linked.link)).await;
                    match renewed.unwrap_or(Err(UplinkError::Link(LinkError::Silent))) {
                        Ok(()) => Next::Close,
                        Err(error) => {
                            let reason = fernwart_protocol::text::chain(&error);
                            warn!(reason, "the certificate was not renewed");
                            renewal.as_mut().reset(tokio::time::Instant::now() + RENEW_AGAIN);
                            Next::GoOn
                        }
                    }
                }
                _ = again.tick() => {
                    // Must not block: a full queue means that the executor is busy.
                    self.executor.hint(ToExecutor::OfferOutcomes);
                    Next::GoOn
                }
                Some(_) = linked.tasks.join_next() => Next::GoOn,
            };
            if let Next::Close = next {
                linked.link.close(Goodbye::Done);
                return Ok(());
            }
        }
    }
}

/// What becomes of a link after something was handled.
enum Next {
    GoOn,
    /// It is closed with a goodbye.
    Close,
}

/// A greeted link, and what is under way on it.
struct LinkedHub {
    link: Link,
    control: Sender,
    /// How far the hub's clock is ahead of this machine's, milliseconds.
    hub_ahead_ms: i64,
    streams: OrderStreams,
    tasks: JoinSet<()>,
    offering: Arc<Offering>,
    newer: Arc<NewerHub>,
}

impl LinkedHub {
    fn new(link: Link, control: Sender, hub_ahead_ms: i64) -> Self {
        let (streams, tasks) = (OrderStreams::default(), JoinSet::new());
        Self { link, control, hub_ahead_ms, streams, tasks, offering: Arc::default(), newer: Arc::default() }
    }

    async fn say(&mut self, word: &to_hub::Control) -> Result<(), UplinkError> {
        self.control.send(word).await.map_err(UplinkError::Frame)
    }

    /// Sends what an older hub may not know. Returns whether this one does.
    async fn say_if_known(&mut self, word: &to_hub::Control) -> Result<bool, UplinkError> {
        match self.control.send(word).await {
            Ok(()) => Ok(true),
            Err(FrameError::PeerIsOlder(_)) => Ok(false),
            Err(error) => Err(UplinkError::Frame(error)),
        }
    }

    fn serve(&mut self, ticket: Ticket, stream: (Sender, Receiver), executor: &Handle) -> Next {
        let to = (executor.clone(), self.streams.register.clone());
        self.tasks.spawn(serve_stream(ticket, (self.link.clone(), self.newer.clone()), stream, to));
        Next::GoOn
    }

    /// Handles a message from the hub's control stream.
    async fn handle_word(
        &mut self,
        state: &ExecutorState,
        executor: &Handle,
        backoff: &mut Backoff,
        word: Option<Result<Control, FrameError>>,
    ) -> Result<Next, UplinkError> {
        match word {
            Some(Err(FrameError::Newer)) => {
                self.newer.warn();
                self.say(&to_hub::Control::Denied(Denial::Incompatible)).await?;
            }
            Some(Err(error)) => {
                if let Some(why) = error.reproach() {
                    self.link.close(why);
                }
                return Err(UplinkError::Frame(error));
            }
            Some(Ok(Control::CatalogueChanged { timestamp })) => {
                if timestamp != state.dial.versions.timestamp {
                    self.tasks.spawn(fetch(self.link.clone(), state.dial.versions, executor.clone()));
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
        }
        Ok(Next::GoOn)
    }

    /// Handles a message from the executor.
    async fn handle_message(
        &mut self,
        state: &mut ExecutorState,
        executor: &Handle,
        message: Option<ToUplink>,
    ) -> Result<Next, UplinkError> {
        match message {
            Some(ToUplink::Delivered(ticket, delivered)) => {
                self.streams.send(ticket, Frame::Delivered(delivered));
            }
            Some(ToUplink::Opened(ticket, run)) => {
                if let Some(reader) = executor.channels().read(&run) {
                    self.streams.send(ticket, Frame::Channel(reader));
                }
            }
            Some(ToUplink::Outcome(ticket, run, outcome)) => {
                executor.channels().revoke(&run);
                match ticket {
                    Some(ticket) => {
                        if !self.streams.send(ticket, Frame::Outcome(run, outcome)) {
                            executor.hint(ToExecutor::OfferOutcomes);
                        }
                    }
                    None => {
                        let (link, offering) = (self.link.clone(), self.offering.clone());
                        self.tasks.spawn(offer(link, (run, *outcome), executor.clone(), offering));
                    }
                }
            }
            Some(ToUplink::GivenBack(ticket, all)) => {
                self.streams.send(ticket, Frame::GivenBack(all));
            }
            Some(ToUplink::CatalogueRefused(reason)) => {
                if !self.say_if_known(&to_hub::Control::CatalogueRefused(reason)).await? {
                    debug!("the hub is too old to hear why its catalogue is refused");
                }
            }
            Some(ToUplink::Want(hash)) => {
                self.tasks.spawn(fetch_blob(self.link.clone(), hash, executor.clone()));
            }
            Some(ToUplink::Dial(dial)) => {
                let following = to_hub::Control::Following(dial.versions);
                state.dial = dial;
                self.say(&following).await?;
            }
            Some(ToUplink::About(about)) => state.about = about,
            Some(ToUplink::Journal(seq, hash)) => self.say(&to_hub::Control::Journal(seq, hash)).await?,
            Some(ToUplink::Leave) => {
                state.parted = true;
                // The hub closes the link once it has stored that; else it is closed here.
                let link = self.link.clone();
                self.tasks.spawn(async move {
                    tokio::time::sleep(LEAVES_WITHIN).await;
                    link.close(Goodbye::Done);
                });
                if !self.say_if_known(&to_hub::Control::Leaving).await? {
                    warn!("the hub is too old to hear that this machine leaves it");
                }
            }
            Some(ToUplink::Parted) => {
                state.parted = true;
                return Ok(Next::Close);
            }
            Some(ToUplink::Claim(_)) => {}
            Some(ToUplink::Stopped) | None => return Err(UplinkError::NoExecutor),
        }
        Ok(Next::GoOn)
    }
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
