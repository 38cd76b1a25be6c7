//! A technician who connects, submits orders, cancels some, and disconnects at any moment.

use crate::network::Network;
use crate::story::Story;
use fernwart_certs::envelope::seal;
use fernwart_client::{ClientError, Session, StaffHome, Stream};
use fernwart_protocol::clock::Clock;
use fernwart_protocol::document::{Action, Cancel, Document, Envelope, Order, Outcome, Receipt};
use fernwart_protocol::id::{JobId, MachineId, RunId};
use fernwart_protocol::limits::ORDER_EARLY;
use fernwart_protocol::link::{Dialer, Peers};
use fernwart_protocol::row::Row;
use fernwart_protocol::staff::{JobHead, MachineRow, News, Reply, Request, Update};
use fernwart_protocol::text::{List, Text};
use fernwart_protocol::version::Version;
use fernwart_tests::swarm::Chance;
use std::collections::HashSet;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// What the technician has submitted and received.
#[derive(Debug, Default)]
pub(crate) struct Given {
    /// Orders that were signed and sent, whether or not the hub has got them.
    pub(crate) signed: Vec<(RunId, MachineId)>,
    /// Those of jobs that the hub has acknowledged.
    pub(crate) acknowledged: Vec<(RunId, MachineId)>,
    pub(crate) jobs: Vec<JobId>,
    /// Orders that only diagnose.
    pub(crate) looks: HashSet<RunId>,
    /// The final results that the technician has received.
    pub(crate) received: Vec<(RunId, Received)>,
    pub(crate) cancels: u64,
}

/// A final result.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Received {
    /// It was not done and never will be.
    NotDone,
    /// It ended like this.
    Ended(Outcome),
}

/// The technician.
pub(crate) struct Technician {
    pub(crate) home: PathBuf,
    pub(crate) ip: IpAddr,
    pub(crate) network: Network,
    pub(crate) clock: Clock,
    pub(crate) chance: Chance,
    pub(crate) story: Story,
    pub(crate) script: Action,
    /// Number of orders to submit.
    pub(crate) orders: usize,
    pub(crate) given: Arc<Mutex<Given>>,
}

/// A request that takes longer than this is given up.
const TIMEOUT: Duration = Duration::from_secs(30);

fn names(runs: &[(RunId, MachineId)]) -> String {
    runs.iter().map(|(run, _)| run.to_string()).collect::<Vec<_>>().join(" ")
}

async fn within<T>(time: Duration, work: impl Future<Output = Result<T, ClientError>>) -> Option<T> {
    tokio::time::timeout(time, work).await.ok()?.ok()
}

impl Technician {
    /// Works until all orders are submitted.
    pub(crate) async fn work(mut self) {
        while self.signed() < self.orders {
            if self.visit().await.is_none() {
                self.story.tell("the technician is cut off");
            }
            let pause = self.chance.between(50, 4000);
            tokio::time::sleep(Duration::from_millis(pause)).await;
        }
    }

    fn signed(&self) -> usize {
        self.given.lock().expect("nobody panics here").signed.len()
    }

    async fn visit(&mut self) -> Option<()> {
        let home = StaffHome::open(&self.home).expect("a home");
        let datagrams = self.network.at(self.ip, self.chance.bytes());
        let socket = |_| Dialer::over(datagrams.clone(), (self.ip, 0).into(), Peers::Few);
        let mut session = within(TIMEOUT, Session::open_over(home, Duration::from_secs(5), socket)).await?;
        let mut machines = within(TIMEOUT, session.machines()).await?;
        machines.sort_by(|one, other| one.name.cmp(&other.name));
        for _ in 0..self.chance.between(1, 8) {
            match self.chance.below(10) {
                0 => self.cancel(&session).await?,
                1 => self.watch(&session).await?,
                _ if self.signed() < self.orders => self.submit(&session, &machines).await?,
                _ => break,
            }
            let pause = self.chance.between(1, 300);
            tokio::time::sleep(Duration::from_millis(pause)).await;
        }
        if self.chance.per_mille(500) {
            session.close().await;
        }
        Some(())
    }

    fn receive(&self, reply: Option<Reply>) -> bool {
        let Some(reply) = reply else { return false };
        if let Reply::Update(Update { run, news, .. }) = reply {
            let received = match news {
                News::Refused(_) | News::Cancelled | News::Away => Some(Received::NotDone),
                News::Outcome(receipt, ..) => {
                    let receipt = Receipt::from_bytes(receipt.bytes.as_bytes()).expect("a receipt");
                    Some(Received::Ended(receipt.outcome))
                }
                News::Offered | News::Started | News::Note(_) | News::Held | News::NoAnswer | News::Denied(_) => None,
            };
            if let Some(received) = received {
                self.given.lock().expect("nobody panics here").received.push((run, received));
            }
        }
        true
    }

    fn order(&mut self, session: &Session, row: &Row<MachineRow>, action: &Action, life: i64) -> (RunId, Envelope) {
        let (run, now) = (RunId::from_bytes(self.chance.bytes()), self.clock.now());
        let early = i64::try_from(ORDER_EARLY.as_millis()).expect("short");
        let order = Order {
            run,
            machine: row.id,
            machine_name: row.name.clone(),
            customer: row.customer,
            action: action.clone(),
            key: session.key_id(),
            reason: Text::clipped("a simulation"),
            targets_version: session.catalogue.versions.targets,
            not_before: now - early,
            not_after: now + life,
            sealed: None,
            session_key: None,
        };
        (run, seal(&order, &session.home().order_key, Version::OLDEST).expect("signed"))
    }

    async fn submit(&mut self, session: &Session, machines: &[Row<MachineRow>]) -> Option<()> {
        let count = self.chance.between(1, 4).min(machines.len() as u64);
        let first = self.chance.below(machines.len() as u64);
        let life = if self.chance.per_mille(300) { self.chance.between(5, 40) } else { self.chance.between(60, 600) };
        let looks = self.chance.per_mille(150);
        let action = if looks { Action::Diagnose { sections: List::default() } } else { self.script.clone() };
        let mut runs = Vec::new();
        let mut orders = Vec::new();
        for nth in 0..count {
            let row = machines[((first + nth) % machines.len() as u64) as usize].clone();
            let (run, envelope) = self.order(session, &row, &action, i64::try_from(life * 1000).expect("short"));
            runs.push((run, row.id));
            orders.push(envelope);
        }
        {
            let mut given = self.given.lock().expect("nobody panics here");
            given.signed.extend(&runs);
            given.looks.extend(runs.iter().filter(|_| looks).map(|(run, _)| run));
        }
        let head = JobHead {
            action: Text::clipped("script"),
            reason: Text::clipped("a simulation"),
            orders: u32::try_from(count).expect("few"),
            parallel: u32::try_from(self.chance.below(3)).expect("few"),
        };
        let held = self.chance.per_mille(800);
        let sent =
            async { if held { session.queue(head, &orders).await } else { session.submit(head, &orders).await } };
        let mut stream = within(TIMEOUT, sent).await?;
        let Some(Reply::Job(job)) = within(TIMEOUT, stream.next()).await? else { return None };
        self.story.tell(&format!("job {job} is given: {}", names(&runs)));
        {
            let mut given = self.given.lock().expect("nobody panics here");
            given.acknowledged.extend(&runs);
            given.jobs.push(job);
        }
        let listens = match self.chance.below(3) {
            0 => return Some(()),
            1 => self.chance.between(10, 5_000),
            _ => self.chance.between(10, 120_000),
        };
        self.listen(&mut stream, listens).await;
        Some(())
    }

    async fn cancel(&mut self, session: &Session) -> Option<()> {
        let cancels = {
            let given = self.given.lock().expect("nobody panics here");
            let newest = given.acknowledged.iter().rev().take(6);
            let some = newest.filter(|_| self.chance.per_mille(400));
            some.copied().collect::<Vec<_>>()
        };
        if cancels.is_empty() {
            return Some(());
        }
        self.story.tell(&format!("taken back: {}", names(&cancels)));
        self.given.lock().expect("nobody panics here").cancels += cancels.len() as u64;
        let sealed = cancels.into_iter().map(|(run, machine)| {
            let cancel = Cancel { run, machine, key: session.key_id(), at: self.clock.now() };
            seal(&cancel, &session.home().order_key, Version::OLDEST).expect("signed")
        });
        let list = List::try_from(sealed.collect::<Vec<_>>()).expect("few");
        // A denial is fine: some runs have ended already.
        let _ = tokio::time::timeout(TIMEOUT, session.request(&Request::Cancel(list))).await.ok()?;
        Some(())
    }

    async fn watch(&mut self, session: &Session) -> Option<()> {
        let jobs = self.given.lock().expect("nobody panics here").jobs.clone();
        let Some(job) = jobs.get(self.chance.below(jobs.len() as u64) as usize) else { return Some(()) };
        let mut stream = within(TIMEOUT, session.ask(&Request::Watch(*job))).await?;
        let listens = self.chance.between(10, 20_000);
        self.listen(&mut stream, listens).await;
        Some(())
    }

    async fn listen(&self, stream: &mut Stream, most_ms: u64) {
        let listen = async { while within(TIMEOUT, stream.next()).await.is_some_and(|reply| self.receive(reply)) {} };
        let _ = tokio::time::timeout(Duration::from_millis(most_ms), listen).await;
    }
}
