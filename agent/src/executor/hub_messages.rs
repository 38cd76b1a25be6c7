//! Messages from the hub besides orders: catalogues, locks, cancels, requests for lost data; and
//! the signed claim to be this machine.

use super::receipt::ReceiptBuilder;
use super::{DOUBT_EVERY, Executor, LOCKS, TAKEN_BACK};
use crate::message::{Ticket, ToUplink};
use fernwart_certs::catalogue::{self, Files};
use fernwart_protocol::code::Refusal;
use fernwart_protocol::document::{Cancel, Document, Envelope, Outcome, Versions};
use fernwart_protocol::enroll::Claim;
use fernwart_protocol::id::RunId;
use fernwart_protocol::text::{Blob, Text, chain};
use fernwart_protocol::to_agent::CatalogueFile;
use fernwart_protocol::to_hub::GivenBack;
use serde_json::json;
use tracing::{info, warn};

impl Executor {
    pub(super) fn handle_lock(&mut self, envelope: &Envelope) {
        match fernwart_certs::lock::believe(envelope, &self.catalogue) {
            Ok(lock) => {
                let body = json!({"locked": lock.locked, "key": lock.key, "reason": lock.reason});
                let known = self.store.locks().is_ok_and(|locks| locks.contains(envelope) || locks.len() >= LOCKS);
                let kept = known
                    || self
                        .store
                        .write(self.machine.moment(), |tx| {
                            tx.lock(envelope)?;
                            tx.line("locked", &body).map(drop)
                        })
                        .inspect_err(|error| warn!(%error, "a lock could not be written; it holds until a restart"))
                        .is_ok();
                if kept && !known {
                    info!(key = %lock.key, "a lock is in force");
                }
                self.locks.add(&lock, self.enrollment.machine);
            }
            Err(refusal) => warn!(code = %refusal.code(), "a lock was rejected"),
        }
    }

    /// Cancels a run that has not begun, or the running script. A running look ends by itself
    /// within seconds.
    pub(super) fn handle_cancel(&mut self, envelope: &Envelope) {
        let Some(entry) = self.catalogue.staff.find(&envelope.key) else { return };
        let may = entry.until >= self.standing().now() && entry.customers.include(&self.enrollment.customer);
        if !may || self.locks.holds(&envelope.key) {
            return;
        }
        let Ok(cancel) = fernwart_certs::envelope::open::<Cancel>(envelope, &entry.order_key) else { return };
        if cancel.machine != self.enrollment.machine {
            return;
        }
        // Pending runs are ended first, since that needs no state store, which may be
        // unavailable.
        if self.end_waiting(cancel.run, Outcome::Cancelled, None) {
            return;
        }
        self.cancel_acting(Some(cancel.run));
        if let Some(at) = self.to_look.iter().position(|(run, _)| *run == cancel.run) {
            self.to_look.remove(at);
            return self.end_unbegun(cancel.run, Outcome::Cancelled, None);
        }
        if !matches!(self.store.run(&cancel.run), Ok(Some(_))) {
            self.take_back(cancel.run);
        }
    }

    /// Ends a queued look before it has begun.
    pub(super) fn end_unbegun(&mut self, run: RunId, outcome: Outcome, refusal: Option<Refusal>) {
        let record = self.store.run(&run).ok().flatten();
        let order = record.as_ref().and_then(|record| Document::from_bytes(record.order.bytes.as_bytes()).ok());
        let (Some(record), Some(order)) = (record, order) else { return };
        let builder = ReceiptBuilder { outcome, refusal, ..ReceiptBuilder::refused(order, record.order, self.now()) };
        if let Err(error) = self.finish(builder, None) {
            warn!(%run, %error, "the outcome of a cancelled look could not be written");
            self.started.remove(&run);
        }
    }

    /// Sends a restored hub what it has lost: catalogue files and locks. All of it was signed by
    /// others; no secret of this machine is included.
    pub(super) fn handle_give_back(&mut self, ticket: Ticket, hubs: &Versions) {
        let ours = self.catalogue.versions;
        let is_newer = ours.root > hubs.root || ours.targets > hubs.targets || ours.timestamp > hubs.timestamp;
        let file = |(name, bytes): (&String, &Vec<u8>)| {
            let bytes = Blob::try_from(bytes.clone()).ok()?;
            Some(GivenBack::File(CatalogueFile { name: Text::clipped(name), bytes }))
        };
        let files = self.trusted.files.iter().filter(|_| is_newer).filter_map(file);
        let locks = self.store.locks().unwrap_or_default().into_iter().map(GivenBack::Lock);
        let all = files.chain(locks).collect();
        self.say(ToUplink::GivenBack(ticket, all));
    }

    /// Remembers the cancel of an order that has not arrived: the order will be cancelled when it
    /// does.
    fn take_back(&mut self, run: RunId) {
        if self.taken_back.contains(&run) {
            return;
        }
        self.taken_back.truncate(TAKEN_BACK - 1);
        self.taken_back.push_front(run);
        let runs: Vec<RunId> = self.taken_back.iter().copied().collect();
        if let Err(error) = self.store.write(self.machine.moment(), |tx| tx.take_back(&runs)) {
            warn!(%run, %error, "a cancel could not be written; it holds until a restart");
        }
    }

    pub(super) fn handle_catalogue(&mut self, offered: Vec<CatalogueFile>) {
        let mut files = Files::default();
        for file in offered {
            files.insert(file.name.as_raw(), file.bytes.into_bytes());
        }
        let runtime = tokio::runtime::Builder::new_current_thread().build();
        let advanced = match runtime {
            Ok(runtime) => runtime.block_on(catalogue::advance(&self.trusted, &files)),
            Err(error) => return warn!(%error, "a catalogue could not be verified: no runtime"),
        };
        match advanced {
            Ok((trusted, _)) if trusted == self.trusted => {}
            Ok((trusted, catalogue)) => {
                let body = json!({"versions": catalogue.versions});
                // Timestamps are renewed daily and change nothing; only what people signed gets a
                // journal line.
                let news = catalogue.versions.targets != self.catalogue.versions.targets
                    || catalogue.versions.root != self.catalogue.versions.root;
                let written = self.store.write(self.machine.moment(), |tx| {
                    tx.follow(&trusted)?;
                    if news { tx.line("catalogue_followed", &body).map(drop) } else { Ok(()) }
                });
                if let Err(error) = written {
                    return warn!(%error, "a newer catalogue could not be written; the old one stays");
                }
                info!(targets = catalogue.versions.targets, "following a newer catalogue");
                self.trusted = trusted;
                self.catalogue = catalogue;
                self.blobs.tidy(self.files.as_ref(), &self.catalogue);
                self.say(ToUplink::Dial(self.dial()));
            }
            Err(error) => {
                let reason = chain(&error);
                warn!(reason, "an offered catalogue was rejected");
                if self.is_due(self.doubted_at, DOUBT_EVERY) {
                    self.doubted_at = Some(self.awake());
                    if let Err(error) = self.note_of_others("catalogue_refused", &json!({"reason": reason})) {
                        warn!(%error, "the rejected catalogue could not be noted in the journal");
                    }
                }
                self.say(ToUplink::CatalogueRefused(Text::clipped(&reason)));
            }
        }
    }

    pub(super) fn handle_claim(&mut self, binding: &[u8; 32], tls_key: Vec<u8>) {
        let Ok(tls_key) = Blob::try_from(tls_key) else { return };
        let claim = Claim { machine: self.enrollment.machine, tls_key, signature: fernwart_certs::join::unsigned() };
        let claim = fernwart_certs::join::prove_claim(claim, binding, &self.evidence);
        self.say(ToUplink::Claim(claim.signature));
    }
}
