//! The door of admitted machines: one task a link.

use crate::delivery::give_back::{Knows, take_back};
use crate::delivery::outcome::{self, Origin};
use crate::delivery::redelivery;
use crate::doors::rate_limiter::RateLimiter;
use crate::presence::Linked;
use crate::{Shared, journal};
use fernwart_certs::peer::Name;
use fernwart_fleet::{Machine, Standing};
use fernwart_protocol::code::{Denial, Goodbye};
use fernwart_protocol::document::{Envelope, UnixMs, Versions};
use fernwart_protocol::event::Happened;
use fernwart_protocol::id::{Digest, MachineId};
use fernwart_protocol::limits::{FIRST_FRAME_TIMEOUT, PENALTY};
use fernwart_protocol::link::{Door, FrameError, Link, LinkError, Receiver, Sender};
use fernwart_protocol::text::{Blob, List, Text};
use fernwart_protocol::to_agent::{CatalogueFile, Control, Deliver, Fetched, Renewed, Stored};
use fernwart_protocol::to_hub::{self, About, Ask};
use fernwart_protocol::version::{Hello, tag};
use fernwart_store::{KeepSealedTo, Quarantine, Records, Retire, Seen, SeenAs, SetStanding, SetTlsKey};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};
use tokio::sync::Notify;
use tokio::time::Instant;
use tracing::{debug, info, warn};

/// A machine follows a newer catalogue within this time, or is not waited for.
const FOLLOWS: Duration = Duration::from_secs(10);

/// An alarm is raised for a catalogue that is not believed for so long.
const STILL_DISBELIEVED: Duration = Duration::from_secs(45);

/// An agent that is still there answers an echo within this time.
const STILL_THERE: Duration = Duration::from_secs(3);

/// A machine that has misbehaved.
#[derive(Debug)]
pub(crate) struct Penalised {
    /// When it is served again.
    until: Instant,
    /// Whether a link of it is held until then.
    is_held: bool,
}

/// Serves a machine until its link ends.
pub(crate) async fn serve(shared: &Arc<Shared>, link: Link, id: MachineId, tls_key: Digest, until: UnixMs) {
    let may_come = may_come(shared, &id, tls_key);
    if let Err(why) = may_come {
        info!(machine = %id, address = %link.remote_address(), ?why, "a machine is not let in");
    }
    let retired = may_come.is_err() && is_retired_with(shared, &id, tls_key);
    if let (Err(why), false) = (may_come, retired) {
        return link.close(why);
    }
    if shared.key_rates().is_link_too_many(id, Instant::now()) {
        let until = Instant::now() + PENALTY;
        let mut held_off = shared.penalty();
        held_off.entry(id).or_insert(Penalised { until, is_held: false }).until = until;
    }
    if serve_penalty(shared, &link, &id).await {
        return link.close(Goodbye::Overloaded);
    }
    if let Err(why) = may_come {
        hand_over_retirement(shared, &link, &id).await;
        return link.close(why);
    }
    let result = converse(shared, &link, id, tls_key, until).await;
    let has_left = shared.presence.machine_left(&id, &link);
    if let Err(error) = result
        && let Some(why) = error.reproach()
    {
        warn!(machine = %id, %error, "a machine misbehaved");
        link.close(why);
    }
    if let Some(LinkError::ClosedHere(Goodbye::Misbehaved | Goodbye::TooSlow)) = link.end() {
        shared.penalty().insert(id, Penalised { until: Instant::now() + PENALTY, is_held: false });
    }
    // A hub whose disk is full still knows who is linked.
    shared.store.note(Seen { machine: id, at: shared.now(), about: None }).await;
    if has_left {
        let why = link.end().unwrap_or(LinkError::ClosedHere(Goodbye::Done));
        debug!(machine = %id, %why, "a machine has left");
        shared.happened_on(&id, |machine| Happened::Left(machine, Text::clipped(why.as_str())));
    }
}

/// Holds the link of a machine that has misbehaved until its time is over: whoever
/// comes again at once waits, and costs no more than that. False where it need not.
async fn serve_penalty(shared: &Shared, link: &Link, id: &MachineId) -> bool {
    let until = {
        let mut penalty = shared.penalty();
        let Some(penalised) = penalty.get_mut(id) else { return false };
        if penalised.until <= Instant::now() {
            penalty.remove(id);
            return false;
        }
        if std::mem::replace(&mut penalised.is_held, true) {
            // One link of it waits; more would only fill this hub.
            return true;
        }
        penalised.until
    };
    tokio::select! {
        biased;
        () = shared.stop.cancelled() => {}
        _ = link.closed() => {}
        () = tokio::time::sleep_until(until) => {}
    }
    if let Some(penalised) = shared.penalty().get_mut(id) {
        penalised.is_held = false;
    }
    true
}

/// Whether this machine, with this key, is still one of ours, and not kept out.
fn may_come(shared: &Shared, id: &MachineId, tls_key: Digest) -> Result<(), Goodbye> {
    match shared.store.machine(id) {
        Some(machine) if machine.standing == Standing::Admitted && machine.tls_key == tls_key => {
            if machine.quarantined_at > 0 { Err(Goodbye::Quarantined) } else { Ok(()) }
        }
        _ => Err(Goodbye::Revoked),
    }
}

/// How long a machine may take to end its link once it has its retirement: what it was
/// doing has a little time to end.
const PARTS_WITHIN: Duration = Duration::from_secs(4);

/// How long it may take to say hello.
const SPEAKS_WITHIN: Duration = Duration::from_secs(2);

/// How long it may take to follow the catalogue before it is told all the same.
const FOLLOWS_WITHIN: Duration = Duration::from_secs(4);

/// Whether it is a machine of ours that was retired, by its own key.
fn is_retired_with(shared: &Shared, id: &MachineId, tls_key: Digest) -> bool {
    let of_ours = |machine: &Machine| machine.standing == Standing::Retired && machine.tls_key == tls_key;
    shared.store.machine(id).is_some_and(|machine| of_ours(&machine))
}

/// A machine that was away when it was retired gets what a lead has signed about it: it
/// would not stop for good on this hub's word. First it may fetch the catalogue, by which
/// it knows that lead, and hand over what it has done.
async fn hand_over_retirement(shared: &Arc<Shared>, link: &Link, id: &MachineId) {
    let signed = match shared.store.retirement(id).await {
        Ok(Some(signed)) => signed,
        Ok(None) => return,
        Err(error) => return warn!(machine = %id, %error, "a retirement cannot be read"),
    };
    let told = async {
        let first = tokio::time::timeout(SPEAKS_WITHIN, link.accept()).await;
        let Ok(Ok((mut send, mut receive))) = first else { return Err(FrameError::TooSlow) };
        send.demand_rate();
        let Ask::Control(hello, _) = receive.first::<Ask>().await? else { return Err(FrameError::Cut) };
        let Some(records) = shared.store.records(id) else { return Err(FrameError::Cut) };
        let Some(mut send) = greet(shared, link, send, &hello, &records).await? else { return Err(FrameError::Cut) };
        let newest = newest_targets(shared);
        let mut follows = hello.number(tag::TARGETS).unwrap_or_default() >= newest;
        let mut is_told = false;
        let give_up = tokio::time::sleep(FOLLOWS_WITHIN);
        tokio::pin!(give_up);
        let rate = RateLimiter::of(Door::Agent);
        loop {
            if follows && !std::mem::replace(&mut is_told, true) {
                send.send(&Control::Retired(signed.clone())).await?;
            }
            tokio::select! {
                biased;
                // It ends the link itself once it has written that down.
                _ = link.closed() => return Ok(()),
                word = receive.next::<to_hub::Control>() => match word? {
                    Some(to_hub::Control::Following(versions)) => follows |= versions.targets >= newest,
                    Some(_) => {}
                    None => return Ok(()),
                },
                stream = link.accept() => {
                    let (send, receive) = stream.map_err(|_| FrameError::Cut)?;
                    if one_stream(shared, *id, &rate, send, receive).await.is_some() {
                        return Err(FrameError::Cut);
                    }
                }
                () = &mut give_up, if !follows => follows = true,
            }
        }
    };
    if let Ok(Err(error)) = tokio::time::timeout(FOLLOWS_WITHIN + PARTS_WITHIN, told).await {
        debug!(machine = %id, %error, "a machine was not told of its retirement");
    }
}

/// Retires a machine by a lead's signed word. One that is linked gets it, and has a little
/// time to end its link itself.
pub(crate) async fn retire(shared: &Arc<Shared>, id: MachineId, signed: Envelope) -> Result<(), Denial> {
    let write = Retire { machine: id, signed: signed.clone() };
    shared.store.write(write).await.map_err(|error| shared.denial(&error))??;
    if let Some(linked) = shared.presence.machine(&id) {
        linked.say(&Control::Retired(signed)).await;
        let shared = shared.clone();
        shared.clone().tasks.spawn(async move {
            let _ = tokio::time::timeout(PARTS_WITHIN, linked.link.closed()).await;
            shared.presence.part_with(&id, Goodbye::Revoked);
        });
    }
    Ok(())
}

/// Whether somebody is there, now.
async fn answers(link: &Link) -> bool {
    let echo = async {
        let (mut send, mut receive) = link.open().await.ok()?;
        send.send(&Deliver::Echo(0)).await.ok()?;
        send.finish();
        receive.expect::<Deliver>().await.ok()
    };
    matches!(tokio::time::timeout(STILL_THERE, echo).await, Ok(Some(_)))
}

/// Two links of one machine, and somebody was there on the newer one. An agent that
/// has restarted, or moved, has left the older one; if that still answers, two
/// computers live with one identity.
async fn tell_apart(shared: Arc<Shared>, id: MachineId, older: Link) {
    if !answers(&older).await {
        return older.close(Goodbye::Replaced);
    }
    warn!(machine = %id, one = %older.remote_address(), "two computers use one identity; it is kept out");
    older.close(Goodbye::Quarantined);
    let alarm = Text::clipped("two computers use its identity: it was copied, and is kept out");
    shared.happened_on(&id, |machine| Happened::Alarm(machine, alarm.clone()));
    if let Err(error) = shared.store.write(Quarantine { machine: id, at: shared.now(), alarm }).await {
        warn!(machine = %id, %error, "that could not be stored");
    }
    shared.presence.part_with(&id, Goodbye::Quarantined);
}

async fn converse(
    shared: &Arc<Shared>,
    link: &Link,
    id: MachineId,
    tls_key: Digest,
    until: UnixMs,
) -> Result<(), FrameError> {
    let Ok(Ok((mut send, mut receive))) = tokio::time::timeout(FIRST_FRAME_TIMEOUT, link.accept()).await else {
        return Err(if link.is_closed() { FrameError::Cut } else { FrameError::TooSlow });
    };
    send.demand_rate();
    let (hello, about) = match receive.first::<Ask>().await? {
        Ask::Control(hello, about) => (hello, about),
        Ask::Fetch(_) | Ask::Outcome(_) | Ask::Renew(_) | Ask::Blob(_) => {
            link.close(Goodbye::Misbehaved);
            return Err(FrameError::Cut);
        }
    };
    let Some(records) = shared.store.records(&id) else { return Err(FrameError::Cut) };
    let Some(send) = greet(shared, link, send, &hello, &records).await? else {
        link.close(Goodbye::Incompatible);
        return Ok(());
    };
    // A network can keep the first packets of a dial that was given up long ago, and
    // nobody is there any more who could answer for them.
    if shared.presence.machine(&id).is_some() && !answers(link).await {
        info!(machine = %id, address = %link.remote_address(), "a link on which nobody answers is not taken for the machine's");
        link.close(Goodbye::Overloaded);
        return Ok(());
    }
    let linked = Linked::new(link.clone(), send, until);
    let to_it = linked.clone();
    if let Some(older) = shared.presence.machine_came(id, linked.clone()) {
        shared.tasks.spawn(tell_apart(shared.clone(), id, older));
    }
    // Only now: whatever comes from here on is told to those who are present.
    for envelope in shared.locks() {
        linked.say(&Control::Lock(envelope)).await;
    }
    if let Some(catalogue) = shared.published.catalogue() {
        linked.say(&Control::CatalogueChanged { timestamp: catalogue.versions.timestamp }).await;
    }
    // Once more, now that whoever parts with it finds this link: much may have
    // happened since it connected.
    if let Err(why) = may_come(shared, &id, tls_key) {
        link.close(why);
        return Ok(());
    }
    note_arrival(shared, link, id, &hello, &about, &records).await;
    let following = Arc::new(Notify::new());
    let knows = hello.number(tag::TARGETS).unwrap_or_default();
    let follows = Knows { targets: knows, timestamp: hello.number(tag::TIMESTAMP).unwrap_or_default() };
    if follows.is_newer_than(&shared.published.versions()) || shared.home.was_restored() {
        shared.tasks.spawn(take_back(shared.clone(), link.clone(), id, follows));
    }
    shared.deliveries.spawn(bring(shared.clone(), id, knows, following.clone()));
    info!(machine = %id, address = %link.remote_address(), "a machine is linked");
    shared.happened_on(&id, Happened::Linked);

    let rate = Arc::new(RateLimiter::of(Door::Agent));
    let words = listen((shared, &rate), (id, &to_it), receive, &about, records, &following);
    tokio::pin!(words);
    loop {
        tokio::select! {
            biased;
            () = shared.stop.cancelled() => return Ok(()),
            result = &mut words => {
                // The control stream is the link's heart: without it, no link.
                let why = result.as_ref().err().and_then(FrameError::reproach);
                link.close(why.unwrap_or(Goodbye::Done));
                return result;
            }
            stream = link.accept() => match stream {
                Ok((send, receive)) => {
                    let (shared, link, rate) = (shared.clone(), link.clone(), rate.clone());
                    shared.clone().tasks.spawn(async move {
                        if let Some(why) = one_stream(&shared, id, &rate, send, receive).await {
                            link.close(why);
                        }
                    });
                }
                Err(_) => return Ok(()),
            }
        }
    }
}

fn newest_targets(shared: &Shared) -> u64 {
    shared.published.catalogue().map_or(0, |catalogue| catalogue.versions.targets)
}

/// Brings a machine its undelivered orders, once it follows what is published: before
/// that it would refuse what it does not know yet.
async fn bring(shared: Arc<Shared>, id: MachineId, knows: u64, following: Arc<Notify>) {
    if knows < newest_targets(&shared) {
        tokio::select! {
            biased;
            () = following.notified() => {}
            () = tokio::time::sleep(FOLLOWS) => {}
            () = shared.draining.cancelled() => return,
        }
    }
    redelivery::catch_up(shared, id).await;
}

/// Says hello back; nothing if the two cannot speak.
async fn greet(
    shared: &Shared,
    link: &Link,
    mut send: Sender,
    hello: &Hello,
    records: &Records,
) -> Result<Option<Sender>, FrameError> {
    if link.settle(hello).is_err() {
        send.send(&Control::Denied(Denial::Incompatible)).await?;
        send.delivered().await?;
        return Ok(None);
    }
    let (seq, head) = (records.chain_seq, records.chain_head);
    let spread = u64::try_from(shared.return_spread().as_millis()).unwrap_or_default();
    let ours = our_hello(shared).with(tag::RETURN_SPREAD, &spread.to_le_bytes());
    let mut ours = ours.with(tag::CHAIN_SEQ, &seq.to_le_bytes()).with(tag::CHAIN_HEAD, head.as_bytes());
    if records.journal_seq > 0 {
        ours = ours.with(tag::JOURNAL_SEQ, &records.journal_seq.to_le_bytes());
    }
    send.send(&Control::Hello(ours)).await?;
    Ok(Some(send))
}

/// The hub's hello, with its clock and what it has published.
pub(crate) fn our_hello(shared: &Shared) -> Hello {
    let mut numbers = vec![(tag::CLOCK, u64::try_from(shared.now()).unwrap_or_default())];
    if let Some(catalogue) = shared.published.catalogue() {
        numbers.push((tag::TARGETS, catalogue.versions.targets));
        numbers.push((tag::TIMESTAMP, catalogue.versions.timestamp));
    }
    Hello::new(&numbers)
}

async fn note_arrival(shared: &Shared, link: &Link, id: MachineId, hello: &Hello, about: &About, records: &Records) {
    let hub_has = records.chain_seq;
    if about.chain_seq > hub_has || (about.chain_seq == hub_has && about.chain_head != records.chain_head) {
        warn!(machine = %id, machine_has = about.chain_seq, hub_has,
            "this machine holds other receipts than this hub: the hub was restored from a backup, or one of them was altered");
    }
    let at @ (seq, _) = (about.journal_seq, about.journal_head);
    match records.journal_seq {
        0 => journal::note(shared, id, at, None).await,
        known if seq < known => {
            journal::note(shared, id, at, Some(format!("its journal went back from entry {known} to {seq}"))).await;
        }
        // It shows the entry that is known; that decides.
        _ => {}
    }
    let about = SeenAs {
        os: about.os.clone(),
        agent: Text::clipped(&hello.program().unwrap_or_default()),
        protocol: hello.reads(),
        address: Text::clipped(&link.remote_address().to_string()),
    };
    shared.store.note(Seen { machine: id, at: shared.now(), about: Some(about) }).await;
}

/// Reads the control stream to its end.
async fn listen(
    (shared, rate): (&Arc<Shared>, &RateLimiter),
    (id, linked): (MachineId, &Linked),
    mut receive: Receiver,
    about: &About,
    records: Records,
    following: &Notify,
) -> Result<(), FrameError> {
    let belief = Belief::default();
    let mut journal = records.journal_head.map(|head| (records.journal_seq, head));
    loop {
        let word = match receive.next::<to_hub::Control>().await {
            Ok(Some(word)) => word,
            Ok(None) => return Ok(()),
            // At the pace of any other ask, and answered like one.
            Err(FrameError::Newer) => {
                rate.turn(shared).await;
                shared.passed_over(&id);
                linked.say(&Control::Denied(Denial::Incompatible)).await;
                continue;
            }
            Err(error) => return Err(error),
        };
        rate.turn(shared).await;
        match word {
            to_hub::Control::Following(versions) => {
                debug!(?versions, "a machine follows");
                if versions.targets >= newest_targets(shared) {
                    belief.believes();
                    following.notify_one();
                }
            }
            to_hub::Control::SealedTo(said) => {
                // Whoever seals to it checks the machine's signature; it is only kept here.
                if !shared.store.is_sealed_to(&id, &said)
                    && let Err(error) = shared.store.write(KeepSealedTo { machine: id, said }).await
                {
                    warn!(machine = %id, %error, "a sealing key could not be stored");
                }
            }
            to_hub::Control::Journal(seq, hash) => {
                // Held once against what the machine said before this link.
                let Some((_, head)) = journal.take_if(|(known, _)| *known == seq) else { continue };
                let rewritten = head != hash;
                let alarm = rewritten.then(|| format!("its journal was rewritten before entry {seq}"));
                journal::note(shared, id, (about.journal_seq, about.journal_head), alarm).await;
            }
            to_hub::Control::Denied(denial) => {
                debug!(machine = %id, code = %denial.code(), "a machine does not know what it was told");
            }
            to_hub::Control::CatalogueRefused(reason) => belief.refused(shared, id, linked.link.clone(), reason),
            to_hub::Control::Leaving => {
                if owner_leaves(shared, &id).await {
                    linked.link.close(Goodbye::Revoked);
                    return Ok(());
                }
            }
            to_hub::Control::Goodbye => return Ok(()),
        }
    }
}

/// Who retires a machine whose owner takes it out.
const BY_OWNER: &str = "its owner";

/// The owner ends the care for a machine. Whether that is stored: the machine waits for it.
async fn owner_leaves(shared: &Arc<Shared>, id: &MachineId) -> bool {
    let write = SetStanding { machine: *id, from: Standing::Admitted, to: Standing::Retired };
    match shared.store.write(write).await {
        Ok(Ok(())) => {
            info!(machine = %id, "a machine's owner takes it out");
            shared.happened_on(id, |machine| Happened::Retired(machine, Text::clipped(BY_OWNER)));
            true
        }
        Ok(Err(denial)) => {
            warn!(machine = %id, code = %denial.code(), "a machine that leaves is not admitted");
            true
        }
        Err(error) => {
            warn!(machine = %id, %error, "that a machine leaves could not be stored");
            false
        }
    }
}

/// Whether a machine believes what is published here, as it said last on this link.
#[derive(Debug, Clone)]
struct Belief(Arc<AtomicBool>);

impl Default for Belief {
    fn default() -> Self {
        Self(Arc::new(AtomicBool::new(true)))
    }
}

impl Belief {
    fn believes(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    /// It does not. After a restore it says so before it has given back what it follows:
    /// what is still so after a while is told.
    fn refused(&self, shared: &Arc<Shared>, id: MachineId, link: Link, reason: Text<256>) {
        if !self.0.swap(false, Ordering::Relaxed) {
            return;
        }
        let (shared, believes) = (shared.clone(), self.0.clone());
        shared.clone().tasks.spawn(async move {
            tokio::select! {
                biased;
                () = shared.stop.cancelled() => return,
                _ = link.closed() => return,
                () = tokio::time::sleep(STILL_DISBELIEVED) => {}
            }
            if !believes.load(Ordering::Relaxed) {
                disbelieved(&shared, &id, &reason).await;
            }
        });
    }
}

/// A machine does not believe what is published here: told once, until somebody has
/// acknowledged it.
async fn disbelieved(shared: &Shared, id: &MachineId, reason: &Text<256>) {
    const WHAT: &str = "it does not believe the published catalogue";
    let Some(machine) = shared.store.machine(id) else { return };
    if !machine.alarm.as_raw().contains(WHAT) && journal::raise(shared, *id, WHAT).await {
        warn!(machine = %id, name = %machine.name, %reason, "a machine does not believe the published catalogue");
    }
}

/// One stream that a machine has opened, in its turn; what the link is to be
/// closed with, if it is.
async fn one_stream(
    shared: &Arc<Shared>,
    id: MachineId,
    rate: &RateLimiter,
    mut send: Sender,
    mut receive: Receiver,
) -> Option<Goodbye> {
    rate.turn(shared).await;
    let answered = answer(shared, id, &mut send, &mut receive).await;
    rate.answered(send.sent_bytes());
    let error = answered.err()?;
    if let FrameError::Newer = error {
        shared.passed_over(&id);
        receive.turn_away();
        send.turn_away();
        return None;
    }
    let why = rate.reproach(&error)?;
    warn!(machine = %id, %error, "a machine misbehaved");
    Some(why)
}

async fn answer(
    shared: &Arc<Shared>,
    id: MachineId,
    send: &mut Sender,
    receive: &mut Receiver,
) -> Result<(), FrameError> {
    let ask = receive.first::<Ask>().await?;
    send.demand_rate();
    match ask {
        Ask::Fetch(known) => send_files(shared, send, &known).await?,
        Ask::Outcome(signed) => {
            let stored = match outcome::take_in(shared, id, signed, Origin::Claimed).await {
                Ok((countersignature, _)) => Stored::Countersigned(countersignature),
                Err(denial) => Stored::NotNow(denial),
            };
            send.send(&stored).await?;
        }
        Ask::Blob(hash) => {
            let blob = shared.published.blob(&hash).and_then(|bytes| Blob::try_from(bytes).ok());
            send.send(&blob.map_or(Fetched::Denied(Denial::NoSuchBlob), Fetched::Blob)).await?;
        }
        Ask::Renew(spki) => send.send(&renew(shared, id, &spki).await).await?,
        Ask::Control(..) => return Err(FrameError::Cut),
    }
    send.delivered().await
}

async fn send_files(shared: &Shared, send: &mut Sender, known: &Versions) -> Result<(), FrameError> {
    match catalogue_files(shared, known) {
        Ok(files) => {
            for file in files {
                send.send(&Fetched::File(file)).await?;
            }
            Ok(())
        }
        Err(denial) => send.send(&Fetched::Denied(denial)).await,
    }
}

/// Catalogue files that somebody lacks who knows these versions.
pub(crate) fn catalogue_files(shared: &Shared, known: &Versions) -> Result<Vec<CatalogueFile>, Denial> {
    match shared.published.newer_than(known) {
        Ok(Some(files)) => Ok(files
            .iter()
            .filter_map(|(name, bytes)| {
                Some(CatalogueFile { name: Text::clipped(name), bytes: Blob::try_from(bytes.clone()).ok()? })
            })
            .collect()),
        Ok(None) => Err(Denial::NoCatalogue),
        Err(error) => {
            warn!(%error, "the catalogue cannot be read");
            Err(Denial::StoreFailed)
        }
    }
}

/// A certificate for a machine's new TLS key.
async fn renew(shared: &Shared, id: MachineId, spki: &Blob<256>) -> Renewed {
    match certify(shared, id, spki.as_bytes()).await {
        Ok(chain) => Renewed::Certificate(chain),
        Err(denial) => Renewed::Denied(denial),
    }
}

/// Issues a certificate to an admitted machine and notes its key.
pub(crate) async fn certify(shared: &Shared, id: MachineId, spki: &[u8]) -> Result<List<Blob<4096>, 4>, Denial> {
    let chain =
        shared.authority.issue_member(Name::Machine(id), spki, SystemTime::now()).map_err(|_| Denial::KeysRefused)?;
    let until = chain.first().and_then(|leaf| lasts_until(leaf, shared)).ok_or(Denial::KeysRefused)?;
    let noted = SetTlsKey { machine: id, tls_key: fernwart_certs::sha256(spki), until };
    if !shared.store.write(noted).await.map_err(|error| shared.denial(&error))? {
        return Err(Denial::MachineRetired);
    }
    wire_chain(&chain)
}

fn lasts_until(leaf: &fernwart_certs::CertificateDer<'_>, shared: &Shared) -> Option<UnixMs> {
    fernwart_certs::peer::read_certificate(leaf, shared.authority.certificate()).ok().map(|said| said.until)
}

/// A chain as it travels.
pub(crate) fn wire_chain(chain: &[fernwart_certs::CertificateDer<'_>]) -> Result<List<Blob<4096>, 4>, Denial> {
    let blobs = chain.iter().map(|der| Blob::try_from(der.to_vec())).collect::<Result<Vec<_>, _>>();
    blobs.ok().and_then(|blobs| List::try_from(blobs).ok()).ok_or(Denial::KeysRefused)
}
