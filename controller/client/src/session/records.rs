//! What the hub has stored: customers, jobs, reports, receipts, events.

use super::{Session, Stream};
use crate::answer::{Answer, judge_news};
use crate::error::ClientError;
use fernwart_protocol::document::{Envelope, UnixMs};
use fernwart_protocol::event::{Event, Until};
use fernwart_protocol::id::{JobId, MachineId, PublicKey};
use fernwart_protocol::limits::QUESTION_BYTES;
use fernwart_protocol::row::Row;
use fernwart_protocol::staff::{ChainLink, CustomerRow, Health, JobRow, News, Reply, Request, RunRow, Token};
use fernwart_protocol::text::Text;

/// A machine's receipts as the hub has them; unverified.
#[derive(Debug)]
pub struct ReceiptChain {
    /// The machine's evidence key.
    pub evidence_key: PublicKey,
    /// Orders with their receipts, by position.
    pub links: Vec<ChainLink>,
    /// The hub's signed chain cuts, where receipts were dropped.
    pub cuts: Vec<Envelope>,
    /// The hub's signed end.
    pub end: Envelope,
}

/// The hub's events as they happen.
pub struct EventStream<'a> {
    session: &'a Session,
    stream: Stream,
}

impl EventStream<'_> {
    /// The next event; `None` after the last one. Not cancel safe.
    ///
    /// # Errors
    /// When the hub says no, or the link breaks.
    pub async fn next(&mut self) -> Result<Option<Event>, ClientError> {
        while let Some(reply) = self.stream.next().await.map_err(|error| self.session.why(error))? {
            if let Reply::Event(event) = reply {
                return Ok(Some(event));
            }
        }
        Ok(None)
    }
}

impl Session {
    /// All customers.
    ///
    /// # Errors
    /// When the hub says no, or the link breaks.
    pub async fn customers(&mut self) -> Result<Vec<CustomerRow>, ClientError> {
        let mut customers = Vec::new();
        for reply in self.collect(&Request::Customers).await? {
            match reply {
                Reply::CustomerRows(rows) => customers.extend(rows.into_iter().map(Row::into_base)),
                Reply::Customers(rows) => customers.extend(rows),
                _ => return Err(ClientError::Unexpected),
            }
        }
        Ok(customers)
    }

    /// The newest jobs.
    ///
    /// # Errors
    /// When the hub says no, or the link breaks.
    pub async fn jobs(&mut self) -> Result<Vec<JobRow>, ClientError> {
        Ok(self.jobs_and_runs(&Request::Jobs).await?.0)
    }

    /// One job with its runs.
    ///
    /// # Errors
    /// When the hub says no, or the link breaks.
    pub async fn job(&mut self, job: JobId) -> Result<(Option<JobRow>, Vec<RunRow>), ClientError> {
        let (jobs, runs) = self.jobs_and_runs(&Request::Job(job)).await?;
        Ok((jobs.into_iter().next(), runs))
    }

    async fn jobs_and_runs(&mut self, request: &Request) -> Result<(Vec<JobRow>, Vec<RunRow>), ClientError> {
        let (mut jobs, mut runs) = (Vec::new(), Vec::new());
        for reply in self.collect(request).await? {
            match reply {
                Reply::JobRows(rows) => jobs.extend(rows.into_iter().map(Row::into_base)),
                Reply::Jobs(rows) => jobs.extend(rows),
                Reply::RunRows(rows) => runs.extend(rows.into_iter().map(Row::into_base)),
                Reply::Runs(rows) => runs.extend(rows),
                _ => return Err(ClientError::Unexpected),
            }
        }
        Ok((jobs, runs))
    }

    /// The hub's health.
    ///
    /// # Errors
    /// When the hub says no, or the link breaks.
    pub async fn health(&mut self) -> Result<Row<Health>, ClientError> {
        match self.collect(&Request::Health).await?.into_iter().next() {
            Some(Reply::HubHealth(health)) => Ok(health),
            Some(Reply::Health(health)) => Ok(health.into()),
            _ => Err(ClientError::Unexpected),
        }
    }

    /// Adds a customer.
    ///
    /// # Errors
    /// When the hub says no, or the link breaks.
    pub async fn add_customer(&self, customer: CustomerRow) -> Result<(), ClientError> {
        self.request(&Request::AddCustomer(customer)).await
    }

    /// Makes an invitation known.
    ///
    /// # Errors
    /// When the hub says no, or the link breaks.
    pub async fn invite(&self, token: Token) -> Result<(), ClientError> {
        self.request(&Request::Invite(token)).await
    }

    /// A machine's newest complete report and its time; verified, so that it may also be
    /// [`Answer::Newer`] or [`Answer::Forged`].
    ///
    /// # Errors
    /// When the hub says no, or the link breaks.
    pub async fn facts(&mut self, machine: MachineId) -> Result<Option<(UnixMs, Answer)>, ClientError> {
        self.stored(machine, &Request::Facts(machine)).await
    }

    /// The same of the newest report from before this time.
    ///
    /// # Errors
    /// When the hub says no, or the link breaks.
    pub async fn facts_at(&mut self, machine: MachineId, at: UnixMs) -> Result<Option<(UnixMs, Answer)>, ClientError> {
        self.stored(machine, &Request::FactsAt(machine, at)).await
    }

    async fn stored(&mut self, machine: MachineId, request: &Request) -> Result<Option<(UnixMs, Answer)>, ClientError> {
        let mut replies = self.collect(request).await?.into_iter();
        let (Some(Reply::Report(at, receipt, body)), Some(Reply::EvidenceKey(key))) = (replies.next(), replies.next())
        else {
            return Ok(None);
        };
        let judged = judge_news(machine, None, News::Outcome(receipt, key, body));
        Ok(Some((at, judged.map_or(Answer::Forged, |answered| answered.answer))))
    }

    /// A machine's chain of receipts; `None` if the hub sends no complete one.
    ///
    /// # Errors
    /// When the hub says no, or the link breaks.
    pub async fn receipt_chain(&mut self, machine: MachineId) -> Result<Option<ReceiptChain>, ClientError> {
        let (mut key, mut links, mut cuts, mut end) = (None, Vec::new(), Vec::new(), None);
        for reply in self.collect(&Request::Chain(machine)).await? {
            match reply {
                Reply::EvidenceKey(evidence) => key = Some(evidence),
                Reply::ChainLink(link) => links.push(link),
                Reply::ChainCut(cut) => cuts.push(cut),
                Reply::ChainEnd(envelope) => end = Some(envelope),
                _ => {}
            }
        }
        Ok(key.zip(end).map(|(evidence_key, end)| ReceiptChain { evidence_key, links, cuts, end }))
    }

    /// The answer to a question in SQL: lines of JSON, of which the last says how it ended.
    ///
    /// # Errors
    /// When the hub says no, or the link breaks.
    pub async fn query(&mut self, question: Text<QUESTION_BYTES>) -> Result<Vec<u8>, ClientError> {
        let mut text = Vec::new();
        for reply in self.collect(&Request::Query(question)).await? {
            if let Reply::Lines(piece) = reply {
                text.extend_from_slice(piece.as_bytes());
            }
        }
        Ok(text)
    }

    /// The events that the hub remembers and, if wanted, those to come.
    ///
    /// # Errors
    /// When the link breaks.
    pub async fn events(&self, until: Until) -> Result<EventStream<'_>, ClientError> {
        let stream = self.ask(&Request::Events(until)).await.map_err(|error| self.why(error))?;
        Ok(EventStream { session: self, stream })
    }
}
