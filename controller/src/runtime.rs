//! A runtime for one command.

use crate::failure::{Exit, Failure};

/// A runtime for one short command. The command itself may wait for a person: the link
/// lives on a thread of its own meanwhile.
pub(crate) fn block_on<T>(work: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    runtime.block_on(async {
        tokio::select! {
            result = work => result,
            _ = tokio::signal::ctrl_c() => {
                Err(Failure::new(Exit::Stopped, "FW-CLI-15", "stopped; what was sent goes on (fernwart job ls)"))
            }
        }
    })
}
