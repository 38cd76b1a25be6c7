//! A job that is followed to its end, also past a hub that goes and comes back.
//!
//! ```text
//! submit ─▶ Job(id) ─▶ news … link lost ─▶ dial again ─▶ Watch(id) ─▶ news from the beginning …
//! ```
//! What has been heard may be heard again after that; it is for the listener to
//! know what is known.

use crate::session::{ClientError, Session, Stream};
use fernwart_protocol::code::{Denial, Goodbye};
use fernwart_protocol::id::JobId;
use fernwart_protocol::link::{FrameError, LinkError};
use fernwart_protocol::staff::{Reply, Request};
use std::time::Duration;
use tokio::time::{Instant, sleep, timeout};

/// How long a hub that has gone is waited for: it may be started anew.
const TIMEOUT: Duration = Duration::from_secs(120);

/// Between two tries to reach it, at first and at most.
const AGAIN: Duration = Duration::from_millis(500);
const SLOW_AGAIN: Duration = Duration::from_secs(5);

/// How long one try may take.
const DIAL_TIMEOUT: Duration = Duration::from_secs(2);

/// What is heard of a job.
#[derive(Debug)]
pub enum Received {
    /// News, or the job's number.
    Reply(Box<Reply>),
    /// The hub has gone; it is waited for.
    Gone,
    /// It is there again.
    Back,
}

/// A job's news.
pub struct Following<'a> {
    session: &'a mut Session,
    stream: Stream,
    job: Option<JobId>,
    lost: Option<ClientError>,
    /// Until when it is waited for; none once it has told something.
    until: Option<Instant>,
    timeout: Duration,
}

impl<'a> Following<'a> {
    /// Of a job that has been handed in.
    pub fn submitted(session: &'a mut Session, stream: Stream) -> Self {
        Self { session, stream, job: None, lost: None, until: None, timeout: TIMEOUT }
    }

    /// Of a job that is known by its number.
    ///
    /// # Errors
    /// When the link breaks.
    pub async fn known(session: &'a mut Session, job: JobId) -> Result<Self, ClientError> {
        let stream = session.ask(&Request::Watch(job)).await?;
        Ok(Self { session, stream, job: Some(job), lost: None, until: None, timeout: TIMEOUT })
    }

    /// Waits no longer than this for a hub that has gone.
    #[must_use]
    pub fn within(self, longest: Duration) -> Self {
        Self { timeout: self.timeout.min(longest), ..self }
    }

    /// The job's number, once the hub has told it: from then on it is stored.
    pub fn job(&self) -> Option<JobId> {
        self.job
    }

    /// What comes next; nothing once all is said.
    ///
    /// # Errors
    /// When the hub says no, or has gone and does not come back in time: two minutes, or
    /// less ([`Self::within`]).
    pub async fn next(&mut self) -> Result<Option<Received>, ClientError> {
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

    /// Asks for the job's news over a new link, and waits for the hub's first word.
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
        // A hub that takes it in and sends it away again is no hub that is back.
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
                        // That was a while ago.
                        ClientError::Denied(_) => ClientError::Link(LinkError::Closed(Goodbye::Done)),
                        lost => lost,
                    });
                }
                Err(error) => return Err(error),
            }
        }
    }
}

/// Whether it is worth waiting: the hub, or the way to it, has gone, and it has
/// nothing against whoever asks.
fn may_come_back(error: &ClientError) -> bool {
    match error {
        ClientError::Denied(denial) => *denial == Denial::ShuttingDown,
        ClientError::Link(LinkError::Closed(Goodbye::Misbehaved | Goodbye::Incompatible | Goodbye::TooSlow)) => false,
        _ => error.is_no_answer(),
    }
}
