//! A runtime for one command.

use crate::failure::{Exit, Failure};

/// Runs one short command. The command may block on a question to a person, so the link runs on
/// another thread.
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
