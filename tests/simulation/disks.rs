//! Disks that fail, and processes that die in the middle of a write.

use fernwart_agent::executor::state::{Changes, Row, Show, StateError, Table, Tables};
use fernwart_store::{Disk, Piece};
use fernwart_tests::swarm::{Chance, Disk as Memory};
use futures::future::BoxFuture;
use std::fmt;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;
use tokio::runtime::{Handle, Runtime};

/// A runtime in real time that waits for database threads.
fn real_time() -> &'static Handle {
    static RUNTIME: OnceLock<Runtime> = OnceLock::new();
    let runtime = RUNTIME.get_or_init(|| {
        tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("a runtime")
    });
    runtime.handle()
}

/// Runs work that waits for other threads to its end, before anything else happens here.
pub(crate) fn at_once<T>(work: impl Future<Output = T>) -> T {
    let _entered = real_time().enter();
    // Nothing else runs here, so the work need not yield.
    futures::executor::block_on(tokio::task::unconstrained(work))
}

/// Whether a hub or a machine is still alive. Clones share the state.
#[derive(Debug, Clone)]
pub(crate) struct Life(Arc<AtomicBool>);

impl Life {
    pub(crate) fn new() -> Self {
        Self(Arc::new(AtomicBool::new(true)))
    }

    pub(crate) fn end(&self) {
        self.0.store(false, Ordering::SeqCst);
    }

    pub(crate) fn goes_on(&self) -> bool {
        self.0.load(Ordering::SeqCst)
    }
}

/// How many writes in a thousand fail. Clones share the number.
#[derive(Debug, Clone, Default)]
pub(crate) struct UserError(Arc<AtomicU64>);

impl UserError {
    pub(crate) fn set(&self, per_mille: u64) {
        self.0.store(per_mille, Ordering::SeqCst);
    }

    fn per_mille(&self) -> u64 {
        self.0.load(Ordering::SeqCst)
    }
}

/// The hub's disk: each piece of work is done completely or not at all. Before and after it there is a
/// delay, in which the hub may die.
#[derive(Debug)]
pub(crate) struct HubDisk {
    pub(crate) chance: Mutex<Chance>,
    pub(crate) life: Life,
    pub(crate) user_error: UserError,
}

impl HubDisk {
    async fn moment(&self, most: u64) {
        let wait = self.chance.lock().expect("nobody panics here").below(most);
        if wait > 0 {
            tokio::time::sleep(Duration::from_millis(wait)).await;
        }
        if !self.life.goes_on() {
            std::future::pending::<()>().await;
        }
    }
}

impl Disk for HubDisk {
    fn carry_out<'a>(&'a self, piece: Piece<'a>) -> BoxFuture<'a, io::Result<()>> {
        Box::pin(async move {
            self.moment(6).await;
            let fails = self.chance.lock().expect("nobody panics here").per_mille(self.user_error.per_mille());
            if fails {
                return Err(io::Error::other("the disk fails, as was wanted"));
            }
            at_once(piece);
            self.moment(6).await;
            Ok(())
        })
    }
}

/// Called when a machine dies in the middle of a write.
pub(crate) type Death = Box<dyn Fn() + Send>;

/// A machine's disk: reads fail, commits fail before or after they are done, or the machine dies at one.
pub(crate) struct MachineDisk {
    pub(crate) disk: Memory,
    pub(crate) chance: Chance,
    pub(crate) reads: Mutex<Chance>,
    pub(crate) life: Life,
    pub(crate) user_error: UserError,
    /// At how many commits in a thousand it dies.
    pub(crate) deadly: UserError,
    pub(crate) death: Death,
}

impl fmt::Debug for MachineDisk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("MachineDisk")
    }
}

fn failed() -> StateError {
    StateError::Write(Box::new(redb::Error::Io(io::Error::other("the disk fails, as was wanted"))))
}

impl MachineDisk {
    /// Reads fail as often as writes.
    fn read(&self) -> Result<(), StateError> {
        let fails = self.reads.lock().expect("nobody panics here").per_mille(self.user_error.per_mille());
        if fails { Err(StateError::Damaged("disk")) } else { Ok(()) }
    }
}

impl Tables for MachineDisk {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, StateError> {
        self.read()?;
        self.disk.get(table, key)
    }

    fn each(&self, table: Table, from: &[u8], show: Show<'_>) -> Result<(), StateError> {
        self.read()?;
        self.disk.each(table, from, show)
    }

    fn last(&self, table: Table) -> Result<Option<Row>, StateError> {
        self.read()?;
        self.disk.last(table)
    }

    fn count(&self, table: Table) -> Result<u64, StateError> {
        self.read()?;
        self.disk.count(table)
    }

    fn commit(&mut self, changes: &Changes) -> Result<(), StateError> {
        if !self.life.goes_on() {
            return Err(failed());
        }
        let (dies, fails, done) = (
            self.chance.per_mille(self.deadly.per_mille()),
            self.chance.per_mille(self.user_error.per_mille()),
            self.chance.per_mille(500),
        );
        if !dies && !fails {
            return self.disk.commit(changes);
        }
        if done {
            self.disk.commit(changes)?;
        }
        if dies {
            self.life.end();
            (self.death)();
        }
        Err(failed())
    }
}
