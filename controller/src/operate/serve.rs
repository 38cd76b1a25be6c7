//! `fernwart serve`: the hub, until told to stop.

use crate::failure::{Exit, Failure};
use crate::homes::HomePaths;
use clap::Args;
use fernwart_hub::{Hub, HubHome, Ports};
use std::net::SocketAddr;
use tokio::signal::unix::{SignalKind, signal};
use tracing::info;

/// Run the hub.
#[derive(Args)]
pub struct Serve {
    /// The UDP address to listen on, instead of the one in hub.toml
    #[arg(long)]
    listen: Option<SocketAddr>,
    /// Tell metrics at this TCP address of this computer, as 127.0.0.1:9464
    #[arg(long, value_name = "ADDRESS")]
    metrics: Option<SocketAddr>,
    /// Say more
    #[arg(short, long)]
    verbose: bool,
}

/// Serves until SIGTERM or SIGINT.
///
/// # Errors
/// When the hub cannot start.
pub fn run(command: &Serve, homes: &HomePaths) -> Result<Exit, Failure> {
    let level = if command.verbose { tracing::Level::DEBUG } else { tracing::Level::INFO };
    tracing_subscriber::fmt().with_writer(std::io::stderr).with_max_level(level).with_target(false).init();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let hub = Hub::start(HubHome::at(&homes.hub()), Ports { listen: command.listen, metrics: command.metrics }).await?;
        let catalogue = hub.catalogue();
        let shop = catalogue.as_ref().map(|catalogue| catalogue.shop.name.to_string());
        info!(address = %hub.address()?, shop = shop.as_deref().unwrap_or("(nothing published yet)"), "hub is listening");
        if let Some(address) = hub.metrics() {
            info!(page = %format_args!("http://{address}/metrics"), "metrics are served");
        }
        let failed = tokio::select! {
            _ = terminate.recv() => false,
            _ = interrupt.recv() => false,
            () = hub.failed() => true,
        };
        let clean = hub.shutdown().await;
        info!(clean, "hub has stopped");
        if failed {
            return Err(Failure::new(Exit::Failed, "FW-HUB-25", "an essential part of the hub has ended by itself"));
        }
        Ok(Exit::Done)
    })
}
