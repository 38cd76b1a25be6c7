//! The daemon: executor, uplink and local socket, until it is stopped.

use crate::executor::ExecutorError;
use crate::home::{Home, HomeError};
use crate::machine;
use crate::message::ToExecutor;
use crate::uplink::{Parts, Uplink};
use fernwart_certs::identity::TlsIdentity;
use fernwart_certs::keyfile::KeyFileError;
use fernwart_protocol::clock::Clock;
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

/// How long running work may take to reach the state store at the end.
const GRACE: Duration = Duration::from_secs(5);

/// The daemon cannot run.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The folder cannot be used.
    #[error("using the agent's folder")]
    Home(#[source] HomeError),
    /// The TLS identity cannot be used.
    #[error("reading the TLS identity")]
    Identity(#[source] KeyFileError),
    /// The executor cannot start.
    #[error("starting the executor")]
    Executor(#[source] ExecutorError),
    /// An essential part has ended.
    #[error("{0} has ended by itself")]
    Essential(&'static str),
    /// The system provides no runtime or signals.
    #[error("starting the daemon")]
    System(#[source] std::io::Error),
}

/// Runs the daemon until SIGTERM or SIGINT.
///
/// # Errors
/// When it cannot start.
pub fn run(home: &Home) -> Result<(), RunError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(RunError::System)?;
    runtime.block_on(serve(home))
}

async fn serve(home: &Home) -> Result<(), RunError> {
    let enrollment = home.enrollment().map_err(RunError::Home)?;
    let identity = TlsIdentity::read(&home.tls_identity()).map_err(RunError::Identity)?;
    let machine = enrollment.machine;
    let (executor, from_executor) = machine::start(home, enrollment, &identity).map_err(RunError::Executor)?;
    let mut terminate = signal(SignalKind::terminate()).map_err(RunError::System)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(RunError::System)?;
    let stop = CancellationToken::new();
    info!(%machine, version = env!("CARGO_PKG_VERSION"), "agent started");

    let uplink = Uplink::new(Parts {
        machine,
        identity,
        identity_file: Some(home.tls_identity()),
        executor: executor.clone(),
        from_executor,
        dialer: None,
        clock: Clock::System,
        seed: None,
        stop: stop.clone(),
    });
    let mut uplink = tokio::spawn(uplink.run());
    let socket = home.socket();
    let local = crate::local::serve(home, executor.clone());
    tokio::pin!(local);
    tokio::select! {
        biased;
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
        _ = &mut uplink => return Err(RunError::Essential("the uplink")),
        result = &mut local => {
            warn!(?result, "the local socket has ended");
            return Err(RunError::Essential("the local socket"));
        }
    }
    stop.cancel();
    let clean = tokio::time::timeout(GRACE, &mut uplink).await.is_ok();
    let _ = tokio::time::timeout(GRACE, executor.send(ToExecutor::Stop)).await;
    // A leftover socket would delay `status`.
    let _ = std::fs::remove_file(&socket);
    info!(clean, "agent stopped");
    Ok(())
}
