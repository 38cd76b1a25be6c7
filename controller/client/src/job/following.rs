//! Follows a job to its end, even across restarts of the hub.
//!
//! ```text
//! submit ─▶ Job(id) ─▶ news … link lost ─▶ dial again ─▶ Watch(id) ─▶ news from the beginning …
//! ```
//! Updates may repeat after a reconnect; the caller must ignore known ones.

use crate::error::ClientError;
use crate::session::{Session, Stream};
use fernwart_protocol::code::{Denial, Goodbye};
use fernwart_protocol::id::JobId;
use fernwart_protocol::link::{FrameError, LinkError};
use fernwart_protocol::staff::{Reply, Request};
use std::time::Duration;
use tokio::time::{Instant, sleep, timeout};

/// How long to wait for a hub that has gone: it may be restarting.
const TIMEOUT: Duration = Duration::from_secs(120);

/// Delay between two attempts to reach it: the first and the largest.
const AGAIN: Duration = Duration::from_millis(500);
const SLOW_AGAIN: Duration = Duration::from_secs(5);

/// Timeout of one attempt.
const DIAL_TIMEOUT: Duration = Duration::from_secs(2);

/// What the hub reports of a job.
#[derive(Debug)]
pub(super) enum Received {
    /// News, or the job's number.
    Reply(Box<Reply>),
    /// The hub has gone; reconnecting.
    Gone,
    /// The hub is back.
    Back,
}

/// A job's updates.
pub(super) struct Following<'a> {
    session: &'a mut Session,
    stream: Stream,
    job: Option<JobId>,
    lost: Option<ClientError>,
    /// When to give up reconnecting; reset by the next reply.
    until: Option<Instant>,
    timeout: Duration,
}

impl<'a> Following<'a> {
    /// Follows a job that was just submitted.
    pub(super) fn submitted(session: &'a mut Session, stream: Stream) -> Self {
        Self { session, stream, job: None, lost: None, until: None, timeout: TIMEOUT }
    }

    /// Follows a job by its number.
    ///
    /// # Errors
    /// When the link breaks.
    pub(super) async fn known(session: &'a mut Session, job: JobId) -> Result<Self, ClientError> {
        let stream = session.ask(&Request::Watch(job)).await?;
        Ok(Self { session, stream, job: Some(job), lost: None, until: None, timeout: TIMEOUT })
    }

    /// Limits how long to wait for a hub that has gone.
    #[must_use]
    pub(super) fn within(self, longest: Duration) -> Self {
        Self { timeout: self.timeout.min(longest), ..self }
    }

    /// The job's number, once the hub has sent it; from then on the job is stored.
    pub(super) fn job(&self) -> Option<JobId> {
        self.job
    }

    /// The next report; `None` once the job has ended.
    ///
    /// # Errors
    /// When the hub denies the request, or has gone and is not back in time: two minutes, or less
    /// ([`Self::within`]).
    pub(super) async fn next(&mut self) -> Result<Option<Received>, ClientError> {
        if let Some(lost) = self.lost.take() {
            self.return_to_it(lost).await?;
            return Ok(Some(Received::Back));
        }
        match self.stream.next().await.map_err(|error| self.session.why(error)) {
            Ok(None) => Ok(None),
            Ok(Some(reply)) => {
                self.until = None;
                if let Reply::Job(job) = reply {
                    self.job = Some(job);
                }
                Ok(Some(Received::Reply(Box::new(reply))))
            }
            Err(error) if self.job.is_some() && may_come_back(&error) => {
                self.lost = Some(error);
                Ok(Some(Received::Gone))
            }
            Err(error) => Err(error),
        }
    }

    /// Asks for the job's updates over a new link, and waits for the hub's hello.
    async fn watch(&mut self, job: JobId) -> Result<Stream, ClientError> {
        self.session.dial_again(DIAL_TIMEOUT).await?;
        let mut stream = self.session.ask(&Request::Watch(job)).await?;
        match timeout(DIAL_TIMEOUT, stream.greeted()).await {
            Ok(greeted) => greeted.map_err(|error| self.session.why(error)).map(|()| stream),
            Err(_) => Err(ClientError::Frame(FrameError::Cut)),
        }
    }

    async fn return_to_it(&mut self, lost: ClientError) -> Result<(), ClientError> {
        let Some(job) = self.job else { return Err(lost) };
        // A hub that accepts the link and closes it again is not back: keep the deadline.
        let until = *self.until.get_or_insert_with(|| Instant::now() + self.timeout);
        let mut pause = AGAIN;
        loop {
            sleep(pause).await;
            pause = (pause * 2).min(SLOW_AGAIN);
            match self.watch(job).await {
                Ok(stream) => {
                    self.stream = stream;
                    return Ok(());
                }
                Err(error) if may_come_back(&error) && Instant::now() < until => {}
                Err(error) if may_come_back(&error) => {
                    return Err(match lost {
                        // That denial is outdated by now.
                        ClientError::Denied(_) => ClientError::Link(LinkError::Closed(Goodbye::Done)),
                        lost => lost,
                    });
                }
                Err(error) => return Err(error),
            }
        }
    }
}

/// Whether to reconnect: the hub or the network has gone, and the hub has not rejected this peer.
fn may_come_back(error: &ClientError) -> bool {
    match error {
        ClientError::Denied(denial) => *denial == Denial::ShuttingDown,
        ClientError::Link(LinkError::Closed(Goodbye::Misbehaved | Goodbye::Incompatible | Goodbye::TooSlow)) => false,
        _ => error.is_no_answer(),
    }
}
