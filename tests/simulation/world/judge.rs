//! The final check: effects, state stores, hub and what the technician received must agree.

use super::{MACHINES, Played, Stage, copy_folder};
use crate::disks::at_once;
use crate::technician::{Given, Received};
use fernwart_agent::executor::state::{Format, Phase, StateStore};
use fernwart_certs::envelope;
use fernwart_certs::journal::Line;
use fernwart_fleet::RunState;
use fernwart_protocol::document::{Outcome, Receipt};
use fernwart_protocol::id::{Digest, MachineId, RunId};
use fernwart_store::Store;
use std::collections::HashSet;
use std::sync::Mutex;

impl Stage<'_> {
    /// Compares everything and collects violations.
    pub(super) async fn judge(mut self, seed: u64, given: &Mutex<Given>) -> Played {
        let mut wrongs = Vec::new();
        let hash = self.story.hash();
        let took = self.story.at();
        let mut reported = HashSet::new();
        let ledgers: Vec<_> = (0..MACHINES).map(|index| self.ledger(index, &mut reported, &mut wrongs)).collect();
        let confirmed = |place: &&super::Place| {
            let store = StateStore::over(Box::new(place.disk.clone())).expect("books");
            store.format() == Format::NEWEST
        };
        let confirmed = self.places.iter().filter(confirmed).count();
        if let Some((life, hub)) = self.hub_life.take() {
            life.end();
            drop(hub);
        }
        let given = given.lock().expect("nobody panics here");
        let effects = self.story.effects();
        let copy = self.folder.path().join("judged");
        copy_folder(&self.hub_folder, &copy);
        let path = copy.join("store.sqlite");
        if !at_once(Store::is_complete(&path)).unwrap_or(false) {
            wrongs.push("the hub's database is damaged".to_owned());
        }
        let store = at_once(Store::open(&path)).expect("a store");
        let mut settled = 0;
        for (run, machine) in &given.signed {
            let begun = effects.get(run).copied().unwrap_or_default();
            if begun > 1 {
                wrongs.push(format!("run {run} was done {begun} times"));
            }
            if begun > 0 && !reported.contains(&(*machine, run.to_string())) {
                wrongs.push(format!("run {run} has begun, and its machine's journal does not tell of it"));
            }
            let acknowledged = given.acknowledged.contains(&(*run, *machine));
            let (state, outcome) = at_once(self.fate(&store, run, machine));
            settled += usize::from(outcome.is_some());
            let word = state.map_or("unknown", |state| state.as_str());
            let fits = match (state.map(|state| state.is_final()), outcome) {
                // Never acknowledged and not stored: as if it had not been submitted.
                (None, _) => !acknowledged && begun == 0,
                (Some(false), _) => false,
                (Some(true), Some(Outcome::Ok | Outcome::Failed)) => begun == 1,
                (Some(true), Some(Outcome::Refused | Outcome::Expired)) => begun == 0,
                // Begun or not: the machine died in between, or the run was cancelled.
                (Some(true), Some(Outcome::Interrupted | Outcome::Cancelled)) => true,
                (Some(true), None) => begun == 0,
            };
            // A diagnosis has no effect; it must only have ended.
            let fits = match (given.looks.contains(run), state) {
                (true, Some(state)) => state.is_final() && begun == 0,
                (true, None) | (false, _) => fits,
            };
            if !fits {
                wrongs
                    .push(format!("run {run}: {word}, {outcome:?}, acknowledged {acknowledged}, begun {begun} times"));
            }
        }
        for (run, received) in &given.received {
            let begun = effects.get(run).copied().unwrap_or_default();
            let machine = given.signed.iter().find(|(signed, _)| signed == run).map(|(_, machine)| *machine);
            let (_, outcome) = at_once(self.fate(&store, run, &machine.expect("signed")));
            let holds = match received {
                Received::NotDone => begun == 0 && !matches!(outcome, Some(Outcome::Ok | Outcome::Failed)),
                Received::Ended(ended) => outcome == Some(*ended),
            };
            if !holds {
                wrongs.push(format!("run {run}: {received:?} was told; {outcome:?}, begun {begun} times"));
            }
        }
        for (index, (seq, head)) in ledgers.into_iter().enumerate() {
            let records = store.heads(&self.beginning.members[index].machine());
            if records.as_ref().is_none_or(|records| (records.chain_seq, records.chain_head) != (seq, head)) {
                let hub = records.map(|records| records.chain_seq);
                wrongs.push(format!("machine {index} holds receipt {seq}, the hub {hub:?}"));
            }
        }
        at_once(store.close());
        Played {
            seed,
            hash,
            orders: given.signed.len(),
            acknowledged: given.acknowledged.len(),
            effects: effects.values().map(|count| *count as usize).sum(),
            settled,
            confirmed,
            cancels: given.cancels,
            hub_deaths: self.hub_deaths,
            machine_deaths: self.machine_deaths,
            traffic: self.network.traffic(),
            took,
            lines: if wrongs.is_empty() { Vec::new() } else { self.story.lines() },
            wrongs,
        }
    }

    /// Checks a machine's state store: no run may be open in it. Adds the runs whose start is in its
    /// journal to `reported`; returns its newest receipt.
    fn ledger(
        &self,
        index: usize,
        reported: &mut HashSet<(MachineId, String)>,
        wrongs: &mut Vec<String>,
    ) -> (u64, Digest) {
        let store = StateStore::over(Box::new(self.places[index].disk.clone())).expect("books");
        for phase in [Phase::Waiting, Phase::Started, Phase::Finished] {
            for (run, _) in store.runs_in(phase).expect("readable") {
                wrongs.push(format!("run {run} is still {phase:?} on machine {index}"));
            }
        }
        let mut written = HashSet::new();
        for line in store.journal(0, usize::MAX).expect("readable") {
            let Line::Entry { line, body: Some(body), .. } = line else { continue };
            let entry: serde_json::Value = serde_json::from_str(&line).expect("JSON");
            let body: serde_json::Value = serde_json::from_str(&body).expect("JSON");
            let kind = entry["kind"].as_str().expect("a kind").to_owned();
            let once = matches!(kind.as_str(), "run_started" | "run_finished");
            let run = body["run"].as_str().unwrap_or_default().to_owned();
            if once && !written.insert((kind.clone(), run.clone())) {
                wrongs.push(format!("run {run}: {kind} stands twice in the journal of machine {index}"));
            }
            if kind == "run_started" {
                reported.insert((self.beginning.members[index].machine(), run));
            }
        }
        store.hub_chain().expect("readable")
    }

    /// A run's state at the hub, and its outcome as signed by the machine.
    async fn fate(&self, store: &Store, run: &RunId, machine: &MachineId) -> (Option<RunState>, Option<Outcome>) {
        let state = store.run_state(run).await.expect("readable").map(|(state, _)| state);
        let evidence = store.evidence(run).await.expect("readable");
        let receipt = evidence.and_then(|evidence| evidence.receipt);
        let outcome = receipt.map(|receipt| {
            let member = self.beginning.members.iter().find(|member| member.machine() == *machine).expect("known");
            envelope::open::<Receipt>(&receipt, &member.evidence()).expect("signed by its machine").outcome
        });
        (state, outcome)
    }
}
