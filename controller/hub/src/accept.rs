//! Accepts connections: completes the handshake, and serves the link at the door that its
//! certificate permits.

use crate::doors;
use crate::doors::agent::AgentDoor;
use crate::doors::enroll::EnrollDoor;
use crate::doors::staff::StaffDoor;
use crate::keys::HubKeys;
use crate::lifecycle::Lifecycle;
use crate::log_limiter::LogLimiter;
use crate::records::Records;
use fernwart_certs::peer::{NotAdmitted, Peer, identify};
use fernwart_protocol::code::Goodbye;
use fernwart_protocol::link::{Incoming, Link, LinkError, Listener};
use std::sync::Arc;
use tracing::{error, info};

/// The port and the doors behind it.
pub(crate) struct Doors {
    pub(crate) listener: Arc<Listener>,
    pub(crate) records: Arc<Records>,
    pub(crate) keys: Arc<HubKeys>,
    pub(crate) lifecycle: Lifecycle,
    pub(crate) agent: Arc<AgentDoor>,
    pub(crate) staff: Arc<StaffDoor>,
    pub(crate) enroll: Arc<EnrollDoor>,
    /// Handshakes that failed.
    pub(crate) failed: LogLimiter,
}

/// Accepts links until the hub stops.
pub(crate) async fn accept(doors: Arc<Doors>) {
    loop {
        tokio::select! {
            biased;
            () = doors.lifecycle.stop.cancelled() => return,
            incoming = doors.listener.accept() => match incoming {
                Some(incoming) => {
                    doors.lifecycle.tasks.spawn(welcome(doors.clone(), incoming));
                }
                None => {
                    if !doors.lifecycle.stop.is_cancelled() {
                        error!("the port has closed by itself");
                        doors.lifecycle.stop.cancel();
                    }
                    return;
                }
            }
        }
    }
}

/// Completes a handshake and serves the link at its door.
async fn welcome(doors: Arc<Doors>, incoming: Incoming) {
    let link = match incoming.finish().await {
        Ok(link) => link,
        Err(reason) => {
            doors.records.metrics.handshake_failed(&reason);
            if let Some(passed_over) = doors.failed.now(doors.records.now()) {
                info!(%reason, passed_over, "a handshake failed");
            }
            return;
        }
    };
    let (door, seen) = (link.door(), link.clone());
    doors.records.metrics.link_came(door);
    enter(&doors, link).await;
    // A link that was served until the hub stops has not been closed yet.
    let end = seen.end().unwrap_or(LinkError::ClosedHere(Goodbye::Done));
    doors.records.metrics.link_ended(door, &end);
}

async fn enter(doors: &Arc<Doors>, link: Link) {
    let peer = identify(link.door(), &link.peer_certificates(), &doors.keys.authorities, doors.records.now());
    match peer {
        Ok(Peer::Newcomer) => doors::enroll::serve(&doors.enroll, link).await,
        Ok(Peer::Machine { id, tls_key, until }) => doors::agent::serve(&doors.agent, link, id, tls_key, until).await,
        Ok(Peer::Staff { key, tls_key, .. }) => doors::staff::serve(&doors.staff, link, key, tls_key).await,
        Err(reason) => reject(&link, reason),
    }
}

fn reject(link: &Link, reason: NotAdmitted) {
    info!(address = %link.remote_address(), %reason, door = ?link.door(), "a peer was rejected");
    link.close(match reason {
        NotAdmitted::Expired => Goodbye::CertificateExpired,
        NotAdmitted::NoCertificate | NotAdmitted::Foreign | NotAdmitted::WrongDoor => Goodbye::NotAdmitted,
    });
}
