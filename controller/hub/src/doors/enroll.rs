//! The door for peers without a certificate.
//!
//! Requests are small, few at a time, and each is bound to this link by a proof. Certificates name
//! only a bare public key, under a name that this door computes.

use crate::doors::rate_limiter::RateLimiter;
use crate::keys::{Chain, HubKeys};
use crate::lifecycle::Lifecycle;
use crate::log_limiter::LogLimiter;
use crate::records::Records;
use crate::trust::Trust;
use fernwart_certs::identity::{machine_id, staff_key_id};
use fernwart_certs::join::{JoinProof, ProofKey, check_claim, check_join, check_join_staff, check_staff_claim};
use fernwart_certs::sha256;
use fernwart_fleet::Standing;
use fernwart_protocol::code::{Denial, Goodbye};
use fernwart_protocol::document::Versions;
use fernwart_protocol::enroll::{Claim, Join, JoinStaff, REQUEST, Reply, Request, StaffClaim};
use fernwart_protocol::event::Happened;
use fernwart_protocol::id::MachineId;
use fernwart_protocol::limits::{COLLECT_WAIT, ENROLL_FRAME_BYTES, FIRST_FRAME_TIMEOUT};
use fernwart_protocol::link::{Door, FrameError, Link, Receiver, Sender};
use fernwart_protocol::staff::PendingStaff;
use fernwart_protocol::text::Text;
use fernwart_store::{JoinMachine, Joined};
use std::sync::Arc;
use tokio::sync::Semaphore;
use tokio::time::Instant;
use tracing::{info, warn};

/// Named as the one who admitted when no person had to.
const BY_INVITATION: &str = "the invitation";

/// The parts of the hub that this door uses, and its limits.
pub(crate) struct EnrollDoor {
    pub(crate) records: Arc<Records>,
    pub(crate) trust: Arc<Trust>,
    pub(crate) keys: Arc<HubKeys>,
    pub(crate) lifecycle: Lifecycle,
    /// Links at this door.
    pub(crate) links: Arc<Semaphore>,
    /// Newcomers that were denied.
    pub(crate) denied: LogLimiter,
}

/// Serves a newcomer until it leaves.
pub(crate) async fn serve(door: &Arc<EnrollDoor>, link: Link) {
    let Ok(_place) = door.links.clone().try_acquire_owned() else {
        return link.close(Goodbye::Overloaded);
    };
    let Ok(binding) = link.binding() else { return link.close(Goodbye::Misbehaved) };
    let rate = RateLimiter::of(Door::Enroll);
    loop {
        rate.turn(&door.records.metrics).await;
        let stream = tokio::select! {
            biased;
            () = door.lifecycle.stop.cancelled() => return,
            () = tokio::time::sleep(FIRST_FRAME_TIMEOUT) => return link.close(Goodbye::Done),
            stream = link.accept() => stream,
        };
        let Ok((send, receive)) = stream else { return };
        let answered = tokio::select! {
            biased;
            () = door.lifecycle.stop.cancelled() => return,
            _ = link.closed() => return,
            answered = answer(door, &link, &binding, send, receive) => answered,
        };
        if let Err(error) = answered {
            if let Some(why) = error.reproach() {
                info!(address = %link.remote_address(), %error, "a newcomer misbehaved");
                link.close(why);
            }
            return;
        }
    }
}

async fn answer(
    door: &Arc<EnrollDoor>,
    link: &Link,
    binding: &[u8; 32],
    mut send: Sender,
    mut receive: Receiver,
) -> Result<(), FrameError> {
    receive.limit(ENROLL_FRAME_BYTES);
    // Set before the first answer, so that a peer that does not read holds its slot only for a
    // while.
    send.demand_rate();
    let wants_catalogue;
    let request = match receive.first::<Request>().await {
        Ok(request) => request,
        Err(FrameError::Body(error)) if error.is_later_variant_of(REQUEST) => {
            send.send(&Reply::Denied(Denial::Incompatible)).await?;
            return send.delivered().await;
        }
        Err(error) => return Err(error),
    };
    let result = match request {
        Request::Join(request) => {
            wants_catalogue = true;
            join(door, link, binding, &request).await
        }
        Request::Collect(claim) => {
            wants_catalogue = false;
            collect(door, binding, &claim).await
        }
        Request::Return(claim) => {
            wants_catalogue = false;
            come_back(door, binding, &claim).await
        }
        Request::JoinStaff(request) => {
            wants_catalogue = true;
            join_staff(door, link, binding, &request).await.map(|()| None)
        }
        Request::CollectStaff(claim) => {
            wants_catalogue = true;
            collect_staff(door, binding, &claim).await
        }
    };
    let reply = match result {
        Ok(Some(chain)) => Reply::Certificate(chain),
        Ok(None) => Reply::Pending,
        Err(denial) => {
            if let Some(passed_over) = door.denied.now(door.records.now()) {
                info!(address = %link.remote_address(), code = %denial.code(), passed_over, "a newcomer was denied");
            }
            Reply::Denied(denial)
        }
    };
    let denied = matches!(reply, Reply::Denied(_));
    send.send(&reply).await?;
    if wants_catalogue && !denied {
        for file in door.trust.lacking(&Versions::default()).unwrap_or_default() {
            send.send(&file).await?;
        }
    }
    send.delivered().await
}

/// The invitation's key, if the invitation is known here.
async fn proof_key(door: &EnrollDoor, token: &fernwart_protocol::id::TokenId) -> Result<ProofKey, Denial> {
    let stored = door.records.or_denial(door.records.store.token(token, "").await)?;
    stored.map(|stored| ProofKey(*stored.token.proof_key.as_bytes())).ok_or(Denial::TokenUnknown)
}

fn proved(proof: JoinProof) -> Result<(), Denial> {
    match proof {
        JoinProof::Holds => Ok(()),
        JoinProof::NoInvitation => Err(Denial::TokenProof),
        JoinProof::NoKey => Err(Denial::KeysRefused),
    }
}

async fn join(door: &EnrollDoor, link: &Link, binding: &[u8; 32], request: &Join) -> Result<Option<Chain>, Denial> {
    let key = proof_key(door, &request.token).await?;
    proved(check_join(request, binding, &key))?;
    let machine = machine_id(&request.evidence_key);
    let joined = door
        .records
        .store
        .write(JoinMachine {
            token: request.token,
            machine,
            evidence_key: request.evidence_key,
            sealing_key: request.sealing_key,
            tls_key: sha256(request.tls_key.as_bytes()),
            hostname: request.hostname.clone(),
            os: request.os.clone(),
            from: link.remote_address().ip().to_canonical(),
            now: door.records.now(),
        })
        .await
        .map_err(|error| door.records.denial(&error))?;
    match joined? {
        Joined::Pending => {
            info!(%machine, "a machine waits to be admitted");
            door.records.happened_on(&machine, Happened::Waits);
            Ok(None)
        }
        Joined::Admitted => {
            door.records.happened_on(&machine, |machine| Happened::Admitted(machine, Text::clipped(BY_INVITATION)));
            door.keys.certify(&door.records, machine, request.tls_key.as_bytes()).await.map(Some)
        }
    }
}

/// The machine of a claim, if the claim is signed with its key.
fn claimant(door: &EnrollDoor, binding: &[u8; 32], claim: &Claim) -> Result<Arc<fernwart_fleet::Machine>, Denial> {
    let machine = door.records.store.machine(&claim.machine);
    let machine = machine.ok_or(Denial::MachineUnknown)?;
    if !check_claim(claim, binding, &machine.evidence_key) {
        return Err(Denial::KeysRefused);
    }
    match machine.standing {
        Standing::Pending | Standing::Admitted => Ok(machine),
        Standing::Rejected => Err(Denial::MachineRejected),
        Standing::Retired => Err(Denial::MachineRetired),
    }
}

/// Waits until a person admits the machine. Returns its first certificate, for the key whose words
/// that person has compared.
async fn collect(door: &EnrollDoor, binding: &[u8; 32], claim: &Claim) -> Result<Option<Chain>, Denial> {
    let until = Instant::now() + COLLECT_WAIT;
    loop {
        // Subscribe before looking up, so an admission in between is not missed.
        let admitted = door.trust.admitted.notified();
        let machine = claimant(door, binding, claim)?;
        if machine.standing == Standing::Admitted {
            if machine.tls_key != sha256(claim.tls_key.as_bytes()) {
                warn!(machine = %machine.id, "a machine claims a certificate for another key than it joined with");
                return Err(Denial::KeysRefused);
            }
            return door.keys.certify(&door.records, machine.id, claim.tls_key.as_bytes()).await.map(Some);
        }
        if tokio::time::timeout_at(until, admitted).await.is_err() {
            return Ok(None);
        }
    }
}

/// Certifies a machine whose certificate has expired.
async fn come_back(door: &EnrollDoor, binding: &[u8; 32], claim: &Claim) -> Result<Option<Chain>, Denial> {
    let machine = claimant(door, binding, claim)?;
    if machine.standing != Standing::Admitted {
        return Ok(None);
    }
    warn!(machine = %machine.id, "a machine with an expired certificate has come back");
    let id: MachineId = machine.id;
    door.keys.certify(&door.records, id, claim.tls_key.as_bytes()).await.map(Some)
}

async fn join_staff(door: &EnrollDoor, link: &Link, binding: &[u8; 32], request: &JoinStaff) -> Result<(), Denial> {
    let key = proof_key(door, &request.token).await?;
    proved(check_join_staff(request, binding, &key))?;
    let tls_key = sha256(request.tls_key.as_bytes());
    let staff = PendingStaff {
        key: staff_key_id(&request.order_key, &tls_key),
        order_key: request.order_key,
        tls_key,
        name: request.name.clone(),
        at: door.records.now(),
    };
    info!(key = %staff.key, "somebody waits for the staff list");
    let join = fernwart_store::JoinStaff {
        token: request.token,
        staff,
        tls_spki: request.tls_key.as_bytes().to_vec(),
        from: link.remote_address().ip().to_canonical(),
    };
    let (key, name) = (join.staff.key, join.staff.name.clone());
    door.records.or_denial(door.records.store.write(join).await)??;
    door.records.happened(Happened::StaffWaits(key, name));
    Ok(())
}

/// Waits until the published staff list contains the key.
async fn collect_staff(door: &EnrollDoor, binding: &[u8; 32], claim: &StaffClaim) -> Result<Option<Chain>, Denial> {
    let until = Instant::now() + COLLECT_WAIT;
    let joined = door.records.or_denial(door.records.store.staff_join(&claim.key).await)?;
    let (staff, spki) = joined.ok_or(Denial::NotInStaffList)?;
    if !check_staff_claim(claim, binding, &staff.order_key) {
        return Err(Denial::KeysRefused);
    }
    loop {
        let admitted = door.trust.admitted.notified();
        let listed =
            door.trust.published.catalogue().is_some_and(|catalogue| catalogue.staff.find(&claim.key).is_some());
        if listed {
            return door.keys.certify_staff(claim.key, &spki).map(Some);
        }
        if tokio::time::timeout_at(until, admitted).await.is_err() {
            return Ok(None);
        }
    }
}
