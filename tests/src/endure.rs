//! An endurance test: a hub is killed repeatedly while runs are submitted. Each acknowledged run must take
//! effect once, the database must be intact after each kill, and the hub must serve again quickly.

use crate::swarm::{Chance, Effects, Swarm};
use crate::test_script::Script;
use crate::{World, wait_within};
use fernwart_certs::catalogue::Catalogue;
use fernwart_client::{ClientError, Session, StaffHome};
use fernwart_fleet::RunState;
use fernwart_protocol::document::{Action, Document, Outcome, Receipt};
use fernwart_protocol::id::RunId;
use fernwart_protocol::row::Row;
use fernwart_protocol::script::{Parameters, Privilege};
use fernwart_protocol::staff::{JobHead, MachineRow, Reply, Request};
use fernwart_protocol::text::Text;
use fernwart_store::Store;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// Parameters of an endurance test.
#[derive(Debug, Clone, Copy)]
pub struct Plan {
    /// Machines of a swarm.
    pub machines: usize,
    /// Runs submitted per second.
    pub runs_per_second: usize,
    /// Duration of the test.
    pub time: Duration,
    /// The shortest and the longest time between two kills of the hub.
    pub lives: (Duration, Duration),
}

/// Results of an endurance test.
#[derive(Debug)]
pub struct Endured {
    /// How often the hub was killed.
    pub deaths: usize,
    /// From the start of its process to the first answer, each time.
    pub serving_after: Vec<Duration>,
    /// Databases of a killed hub that were damaged.
    pub damaged: usize,
    /// Runs of jobs that the hub has acknowledged.
    pub acknowledged: usize,
    /// Acknowledged runs without a stored outcome.
    pub lost: usize,
    /// Runs that were done more than once, acknowledged or not.
    pub twice: usize,
    /// Runs that were reported as done, and were not.
    pub only_reported: usize,
    /// Runs that were done, and reported otherwise.
    pub denied: usize,
    /// Reported reasons why other acknowledged runs were not done.
    pub not_done: Vec<String>,
}

/// Number of runs per job.
const TOGETHER: usize = 10;

/// Validity of orders, long enough that none expires.
const LIFE: Duration = Duration::from_secs(3600);

fn script(home: &StaffHome) -> Action {
    first_script(&home.catalogue().expect("a catalogue"))
}

/// The first script of a catalogue, as an action without parameters.
pub fn first_script(catalogue: &Catalogue) -> Action {
    let (bundle, approved) = catalogue.scripts.iter().next().expect("a script");
    Action::Script {
        bundle: bundle.clone(),
        version: approved.version,
        sha256: approved.sha256,
        privilege: Privilege::Repair,
        parameters: Parameters::default(),
        dry_run: false,
    }
}

/// Submits jobs at the planned rate to a hub that may be down.
struct Giver {
    home: std::path::PathBuf,
    plan: Plan,
    over: Arc<AtomicBool>,
    acknowledged: Arc<Mutex<Vec<RunId>>>,
}

impl Giver {
    async fn give(self) {
        let mut next = 0;
        let begun = Instant::now();
        let mut given = 0u32;
        let each = Duration::from_secs(1) * u32::try_from(TOGETHER).expect("few")
            / u32::try_from(self.plan.runs_per_second).expect("few");
        while !self.over.load(Ordering::SeqCst) {
            let Ok(mut session) = self.open().await else {
                tokio::time::sleep(Duration::from_millis(20)).await;
                continue;
            };
            let Ok(machines) = session.machines().await else { continue };
            while !self.over.load(Ordering::SeqCst) {
                // Jobs that were due while the hub was down are submitted once it is back.
                tokio::time::sleep((each * given).saturating_sub(begun.elapsed())).await;
                given += 1;
                match tokio::time::timeout(Duration::from_secs(5), self.one(&session, &machines, &mut next)).await {
                    Ok(Ok(())) => {}
                    Ok(Err(_)) | Err(_) => break,
                }
            }
        }
    }

    async fn open(&self) -> Result<Session, ClientError> {
        Session::open(StaffHome::open(&self.home).map_err(ClientError::Home)?, Duration::from_secs(1)).await
    }

    async fn one(&self, session: &Session, machines: &[Row<MachineRow>], next: &mut usize) -> Result<(), ClientError> {
        let reason = Text::clipped("endurance");
        let action = script(session.home());
        let mut runs = Vec::with_capacity(TOGETHER);
        let mut orders = Vec::with_capacity(TOGETHER);
        for _ in 0..TOGETHER {
            let row = &machines[*next % machines.len()];
            *next += 1;
            let order = session.order(row, action.clone(), &reason, LIFE)?;
            runs.push(order.run);
            orders.push(order.envelope);
        }
        let count = u32::try_from(TOGETHER).expect("few");
        let head = JobHead { action: Text::clipped("script"), reason, orders: count, parallel: 0 };
        let mut stream = session.queue(head, &orders).await?;
        if let Some(Reply::Job(_)) = stream.next().await? {
            self.acknowledged.lock().expect("nobody panics here").extend(runs);
        }
        Ok(())
    }
}

/// Whether a hub answers a technician now.
async fn serves(home: &Path) -> bool {
    let Ok(home) = StaffHome::open(home) else { return false };
    let Ok(mut session) = Session::open(home, Duration::from_millis(300)).await else { return false };
    session.collect(&Request::Customers).await.is_ok()
}

/// Copies the database as the killed hub left it.
fn keep(world: &World, to: &Path) {
    std::fs::create_dir_all(to).expect("made");
    for name in ["store.sqlite", "store.sqlite-wal"] {
        let from = world.shop().join("hub").join(name);
        if from.exists() {
            std::fs::copy(from, to.join(name)).expect("copied");
        }
    }
}

/// Runs an endurance test.
///
/// # Panics
/// When the world cannot be created, or runs stay open afterwards.
pub fn endure(plan: Plan, seed: u64, mut reported: impl FnMut(&str)) -> Endured {
    let mut world = World::new();
    world.approve(&Script::new("mend", "true\n"));
    let words = ["Swarm", "--machines", &plan.machines.to_string(), "--for", "8h", "--admit-automatically"];
    let invitation = world.invitation(&words).parse().expect("an invitation");
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let runtime = runtime.expect("a runtime");
    let folder = tempfile::tempdir().expect("a folder");
    let mut swarm = runtime.block_on(Swarm::join(folder.path(), world.address, &invitation, plan.machines));
    runtime.block_on(swarm.switch_on(16, Duration::from_secs(180)));
    let staff = world.shop().join("staff");
    let (over, acknowledged) = (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::new(Vec::new())));
    let giver = Giver { home: staff.clone(), plan, over: over.clone(), acknowledged: acknowledged.clone() };
    let giving = runtime.spawn(giver.give());

    let mut chance = Chance::new(seed).branch();
    let (mut serving_after, mut damaged) = (Vec::new(), 0);
    let begun = Instant::now();
    let copy = world.path().join("copy");
    let millis = |time: Duration| u64::try_from(time.as_millis()).expect("short");
    while begun.elapsed() < plan.time {
        std::thread::sleep(Duration::from_millis(chance.between(millis(plan.lives.0), millis(plan.lives.1))));
        world.hub.kill_9();
        keep(&world, &copy);
        let started = Instant::now();
        world.start_hub_again();
        while !runtime.block_on(serves(&staff)) {
            assert!(started.elapsed() < Duration::from_secs(60), "the hub serves again: {}", world.hub.log());
            std::thread::sleep(Duration::from_millis(5));
        }
        serving_after.push(started.elapsed());
        if !runtime.block_on(Store::is_complete(&copy.join("store.sqlite"))).unwrap_or(false) {
            damaged += 1;
        }
        std::fs::remove_dir_all(&copy).expect("removed");
        let count = acknowledged.lock().expect("nobody panics here").len();
        let last = serving_after.last().expect("one").as_millis();
        reported(&format!("death {}: served again after {last} ms; {count} runs acknowledged", serving_after.len()));
    }
    over.store(true, Ordering::SeqCst);
    let _ = runtime.block_on(giving);
    let acknowledged = acknowledged.lock().expect("nobody panics here").clone();
    rest(&world, &runtime, &acknowledged);
    runtime.block_on(swarm.stop());
    world.hub.stop();
    let store = runtime.block_on(Store::open(&world.shop().join("hub/store.sqlite"))).expect("a store");
    judge(
        &runtime,
        &store,
        &swarm.effects(),
        Endured {
            deaths: serving_after.len(),
            serving_after,
            damaged,
            acknowledged: acknowledged.len(),
            lost: 0,
            twice: 0,
            only_reported: 0,
            denied: 0,
            not_done: Vec::new(),
        },
        &acknowledged,
    )
}

/// Waits until all acknowledged runs have ended.
fn rest(world: &World, runtime: &tokio::runtime::Runtime, acknowledged: &[RunId]) {
    let path = world.shop().join("hub/store.sqlite");
    let mut left: Vec<RunId> = acknowledged.to_vec();
    wait_within(Duration::from_secs(600), "all runs are over", || {
        let store = runtime.block_on(Store::open(&path)).expect("a store");
        left.retain(|run| {
            let state = runtime.block_on(store.run_state(run)).expect("readable");
            !state.is_some_and(|(state, _)| state.is_final())
        });
        runtime.block_on(store.close());
        std::thread::sleep(Duration::from_millis(200));
        left.is_empty()
    });
}

fn judge(
    runtime: &tokio::runtime::Runtime,
    store: &Store,
    effects: &Effects,
    mut endured: Endured,
    acknowledged: &[RunId],
) -> Endured {
    let effects = effects.counted();
    endured.twice = effects.values().filter(|count| **count > 1).count();
    for run in acknowledged {
        let state = runtime.block_on(store.run_state(run)).expect("readable").map(|(state, _)| state);
        let done = effects.contains_key(run);
        match state {
            Some(RunState::Settled) => {
                let evidence = runtime.block_on(store.evidence(run)).expect("readable").expect("kept");
                let receipt = evidence.receipt.expect("a receipt");
                let receipt = Receipt::from_bytes(receipt.bytes.as_bytes()).expect("a receipt");
                match (receipt.outcome, done) {
                    (Outcome::Ok, true) => {}
                    (Outcome::Ok | Outcome::Failed, false) => endured.only_reported += 1,
                    (_, true) => endured.denied += 1,
                    (other, false) => endured.not_done.push(format!("{} {:?}", other.as_str(), receipt.refusal)),
                }
            }
            other => {
                println!("run {run}: {other:?}, done: {done}");
                endured.lost += 1;
            }
        }
    }
    endured
}
