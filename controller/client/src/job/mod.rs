//! Jobs as values and streams: planned, sealed, started, watched. Nothing here prints.
//!
//! ```text
//! Work + machines ─▶ SealedJob (signed orders, nothing sent) ─▶ JobStream ─▶ JobEvent …
//! a job's number ───────────────────────────────────────────▶ JobStream
//! ```

mod following;

use crate::answer::{Answer, Answered, judge_news};
use crate::error::ClientError;
use crate::now;
use crate::order::SignedOrder;
use crate::session::{Session, Stream};
use fernwart_certs::envelope;
use fernwart_protocol::document::{Action, Cancel, Envelope, Order};
use fernwart_protocol::id::{JobId, MachineId, RunId};
use fernwart_protocol::limits::ORDERS_PER_FRAME;
use fernwart_protocol::row::Row;
use fernwart_protocol::staff::{JobHead, MachineRow, News, Reply, Request, RunRow, Update};
use fernwart_protocol::text::{List, Text};
use fernwart_protocol::to_hub::Note;
use following::{Following, Received};
use std::collections::{HashMap, HashSet};
use std::time::Duration;

/// What is to be done, the same on each machine.
#[derive(Debug, Clone)]
pub struct Work {
    /// What is ordered.
    pub action: Action,
    /// Secret parameters as JSON, to be encrypted for each machine.
    pub secrets: Option<String>,
    /// The technician's reason, which the customer reads.
    pub reason: Text<500>,
    /// How long the orders are valid.
    pub life: Duration,
    /// Whether orders for machines that are away are held for them.
    pub queued: bool,
}

impl Work {
    /// The job's title.
    fn title(&self) -> Text<64> {
        match &self.action {
            Action::Diagnose { .. } => Text::clipped("diagnose"),
            Action::Script { bundle, dry_run, .. } => {
                Text::clipped(&format!("script {bundle}{}", if *dry_run { " (dry run)" } else { "" }))
            }
        }
    }
}

/// A job whose orders are signed; nothing was sent.
#[derive(Debug)]
pub struct SealedJob {
    head: JobHead,
    orders: HashMap<MachineId, SignedOrder>,
    /// As they are sent, in the order in which they were signed.
    envelopes: Vec<Envelope>,
    /// Machines whose agents are too old for it; none of them gets an order.
    pub too_old: Vec<Answered>,
    life: Duration,
    queued: bool,
}

/// What happens in a job.
#[derive(Debug)]
pub enum JobEvent {
    /// The hub has stored it; from now on it goes on without this program.
    Stored(JobId),
    /// The hub has gone; it is dialled again.
    HubGone,
    /// The hub is back.
    HubBack,
    /// A machine is away, and its order is held for it.
    Held(MachineId),
    /// Something on the way to a machine's answer.
    Note(MachineId, Note),
    /// A machine's verified answer, once for each run.
    Answered(Answered),
}

/// A job's events, across restarts of the hub.
pub struct JobStream<'a> {
    /// None where no order could be signed.
    following: Option<Following<'a>>,
    /// The orders of machines that have not answered; none where somebody else may have
    /// submitted the job, whose orders are not known here.
    open: Option<HashMap<MachineId, SignedOrder>>,
    /// Runs that were reported as held or answered: a hub that is back repeats them.
    held: HashSet<RunId>,
    answered: HashSet<RunId>,
}

impl JobStream<'_> {
    /// The job's number, once the hub has stored it.
    pub fn job(&self) -> Option<JobId> {
        self.following.as_ref().and_then(Following::job)
    }

    /// The next event; `None` once all machines have answered or are known to be away, or the
    /// job has ended. Not cancel safe: a cancelled call may lose an event.
    ///
    /// # Errors
    /// When the hub says no, or has gone and is not back in time.
    pub async fn next(&mut self) -> Result<Option<JobEvent>, ClientError> {
        loop {
            let is_over = self.open.as_ref().is_some_and(HashMap::is_empty);
            let Some(following) = self.following.as_mut().filter(|_| !is_over) else { return Ok(None) };
            let event = match following.next().await? {
                None => return Ok(None),
                Some(Received::Gone) => Some(JobEvent::HubGone),
                Some(Received::Back) => Some(JobEvent::HubBack),
                Some(Received::Reply(reply)) => match *reply {
                    Reply::Job(job) => Some(JobEvent::Stored(job)),
                    Reply::Update(update) => self.judge(update),
                    _ => None,
                },
            };
            if event.is_some() {
                return Ok(event);
            }
        }
    }

    fn judge(&mut self, Update { run, machine, news }: Update) -> Option<JobEvent> {
        let order = match &self.open {
            Some(open) => Some(open.get(&machine)?),
            None => None,
        };
        let event = match news {
            News::Held => self.held.insert(run).then_some(JobEvent::Held(machine)),
            News::Note(note) => return Some(JobEvent::Note(machine, note)),
            news => {
                let answered = judge_news(machine, order, news)?;
                self.answered.insert(run).then_some(JobEvent::Answered(answered))
            }
        };
        // A held order is not waited for.
        self.open.as_mut().and_then(|open| open.remove(&machine));
        event
    }
}

/// How one run of a job stands.
#[derive(Debug)]
pub enum Standing {
    /// Its machine is away; the order is held.
    Held,
    /// It was sent, and has not begun.
    Offered,
    /// It has begun.
    Started,
    /// It has ended.
    Final(Answer),
}

/// How runs stand, one after another as they arrive: a report may have 64 KiB.
pub struct Outcomes<'a> {
    session: &'a Session,
    stream: Stream,
}

impl Outcomes<'_> {
    /// The next run; `None` after the last one. Not cancel safe.
    ///
    /// # Errors
    /// When the hub says no, or the link breaks.
    pub async fn next(&mut self) -> Result<Option<(RunId, Standing)>, ClientError> {
        while let Some(reply) = self.stream.next().await.map_err(|error| self.session.why(error))? {
            let Reply::Update(Update { run, machine, news }) = reply else { continue };
            let standing = match news {
                News::Held => Standing::Held,
                News::Offered => Standing::Offered,
                News::Started => Standing::Started,
                news => match judge_news(machine, None, news) {
                    Some(answered) => Standing::Final(answered.answer),
                    None => continue,
                },
            };
            return Ok(Some((run, standing)));
        }
        Ok(None)
    }
}

/// An order of a job, and the technician who signed it.
#[derive(Debug)]
pub struct Given {
    /// The order.
    pub order: Order,
    /// Who is on the staff list with its key.
    pub staff: Text<64>,
}

impl SealedJob {
    /// How many orders were signed.
    pub fn orders(&self) -> usize {
        self.envelopes.len()
    }

    /// Sets how many orders are carried out at once; as many as the hub allows unless set, or for 0.
    pub fn at_once(&mut self, parallel: u32) {
        self.head.parallel = parallel;
    }
}

impl Session {
    /// Signs an order for each of these machines.
    ///
    /// # Errors
    /// When the orders cannot be signed for any machine.
    pub async fn seal(&mut self, machines: &[Row<MachineRow>], work: &Work) -> Result<SealedJob, ClientError> {
        let Work { action, secrets, reason, life, .. } = work;
        let (mut orders, mut envelopes, mut too_old) = (HashMap::new(), Vec::new(), Vec::new());
        for row in machines {
            let signed = match secrets {
                None => self.order(row, action.clone(), reason, *life),
                Some(secrets) => self.sealed_order(row, action.clone(), reason, *life, secrets).await,
            };
            match signed {
                Ok(order) => {
                    envelopes.push(order.envelope.clone());
                    orders.insert(row.id, order);
                }
                Err(ClientError::OlderAgent { why, .. }) => {
                    too_old.push(Answered { machine: row.id, answer: Answer::OlderAgent(why) });
                }
                Err(error) => return Err(error),
            }
        }
        let head = JobHead {
            action: work.title(),
            reason: reason.clone(),
            orders: u32::try_from(envelopes.len()).unwrap_or(u32::MAX),
            parallel: 0,
        };
        Ok(SealedJob { head, orders, envelopes, too_old, life: *life, queued: work.queued })
    }

    /// Sends a job's orders.
    ///
    /// # Errors
    /// When the hub says no, or the link breaks.
    pub async fn start(&mut self, job: SealedJob) -> Result<JobStream<'_>, ClientError> {
        let SealedJob { head, orders, envelopes, life, queued, .. } = job;
        let stream = match (envelopes.is_empty(), queued) {
            (true, _) => None,
            (false, true) => Some(self.queue(head, &envelopes).await?),
            (false, false) => Some(self.submit(head, &envelopes).await?),
        };
        let following = stream.map(|stream| Following::submitted(self, stream).within(life));
        let (held, answered) = (HashSet::new(), HashSet::new());
        Ok(JobStream { following, open: Some(orders), held, answered })
    }

    /// Watches a job of any technician from its beginning.
    ///
    /// # Errors
    /// When the link breaks.
    pub async fn watch(&mut self, job: JobId) -> Result<JobStream<'_>, ClientError> {
        let following = Some(Following::known(self, job).await?);
        Ok(JobStream { following, open: None, held: HashSet::new(), answered: HashSet::new() })
    }

    /// How these runs of a job stand now.
    ///
    /// # Errors
    /// When the hub is too old, or the link breaks.
    pub async fn outcomes(&self, job: JobId, runs: &[RunRow]) -> Result<Outcomes<'_>, ClientError> {
        let ids = List::try_from(runs.iter().map(|run| run.run).collect::<Vec<_>>()).unwrap_or_default();
        let stream = self.ask(&Request::Outcomes(job, ids)).await.map_err(|error| self.why(error))?;
        Ok(Outcomes { session: self, stream })
    }

    /// A job's orders that somebody on the staff list has signed, by run.
    ///
    /// # Errors
    /// When the hub says no, or the link breaks.
    pub async fn job_orders(&mut self, job: JobId) -> Result<HashMap<RunId, Given>, ClientError> {
        let mut given = HashMap::new();
        for reply in self.collect(&Request::JobOrders(job)).await? {
            let Reply::Orders(some) = reply else { continue };
            for signed in some {
                let Some(entry) = self.catalogue.staff.find(&signed.key) else { continue };
                let Ok(order) = envelope::open::<Order>(&signed, &entry.order_key) else { continue };
                given.insert(order.run, Given { order, staff: entry.name.clone() });
            }
        }
        Ok(given)
    }

    /// Takes runs back: each with the machine it is for.
    ///
    /// # Errors
    /// When a cancel cannot be signed, the hub says no, or the link breaks.
    pub async fn cancel(&self, runs: &[(RunId, &Row<MachineRow>)]) -> Result<(), ClientError> {
        let sign = |(run, machine): &(RunId, &Row<MachineRow>)| {
            let cancel = Cancel { run: *run, machine: machine.id, key: self.key_id(), at: now() };
            self.sign_for(machine, &cancel)
        };
        let cancels: Vec<Envelope> = runs.iter().map(sign).collect::<Result<_, _>>()?;
        for chunk in cancels.chunks(ORDERS_PER_FRAME) {
            let list = List::try_from(chunk.to_vec()).unwrap_or_default();
            self.request(&Request::Cancel(list)).await?;
        }
        Ok(())
    }
}
