//! `fernwart doctor`: checks this home and its hub.

use super::output::{Rows, Shape, day, moment};
use super::{Exit, Failure, HomePaths, block_on, say};
use fernwart_certs::catalogue::Catalogue;
use fernwart_client::{Session, StaffHome, now};
use fernwart_protocol::id::{KeyId, MachineId};
use fernwart_protocol::row::{self, Row};
use fernwart_protocol::staff::Health;
use fernwart_protocol::text::Text;
use std::time::Duration;

const SOON_MS: i64 = 60 * 24 * 3600 * 1000;

/// The checks done, each with advice if it failed.
struct Findings(Vec<(String, Option<String>)>);

impl Findings {
    fn well(&mut self, what: &str) {
        self.0.push((what.to_owned(), None));
    }

    fn bad(&mut self, what: &str, now: &str) {
        self.0.push((what.to_owned(), Some(now.to_owned())));
    }

    fn runs_out(&mut self, what: &str, until: i64, then: &str) {
        self.runs_out_within(SOON_MS, what, until, then);
    }

    fn runs_out_within(&mut self, soon: i64, what: &str, until: i64, then: &str) {
        if until - now() < soon {
            self.bad(&format!("{what} runs out on {}", day(until)), then);
        } else {
            self.well(&format!("{what}: until {}", day(until)));
        }
    }

    /// What is published, and this key's place in it; `since` is when its entry began.
    fn catalogue(&mut self, catalogue: &Catalogue, key: &KeyId, since: i64) {
        self.runs_out("the catalogue's root", catalogue.expiries.root, "fernwart catalogue rotate, sign, publish");
        self.runs_out(
            "the catalogue's targets",
            catalogue.expiries.targets,
            "fernwart catalogue propose, sign, publish",
        );
        match catalogue.staff.find(key) {
            Some(entry) => {
                let what = format!("your staff entry ({})", entry.role.as_str());
                let before = super::warn_before(since, entry.until);
                self.runs_out_within(before, &what, entry.until, "a lead renews it: fernwart staff add");
            }
            None => self.bad("your key is not on the staff list", "ask a lead: fernwart staff add"),
        }
        let approvers = format!("{} of {} approvers must sign", catalogue.threshold, catalogue.approvers.len());
        self.well(&approvers);
    }

    /// How the hub is.
    fn hub(&mut self, health: &Row<Health>, rtt: Duration, targets: u64) {
        let ms = rtt.as_secs_f64() * 1000.0;
        self.well(&format!(
            "hub {} answers in {ms:.1} ms · {} of {} machines online",
            health.program, health.online, health.machines
        ));
        if let Some((newer, machine)) = health.get::<(u64, MachineId)>(row::tag::NEWER_CATALOGUE) {
            let what = format!("machine {machine} says that it follows catalogue {newer}; this hub has {targets}");
            let now = "if the hub was restored and nobody can give it back: fernwart catalogue propose --above";
            self.bad(&what, &format!("{now} {newer}"));
        }
        let off = (health.now - now()).abs() / 1000;
        if off > 300 {
            self.bad(&format!("your clock and the hub's differ by {off} s"), "set the clock that is wrong");
        } else {
            self.well("the clocks agree");
        }
        let free = health.free_bytes >> 20;
        if free < 1024 {
            self.bad(&format!("the hub has {free} MiB of disk left"), "free space on the hub");
        } else {
            self.well(&format!("the hub has {} GiB of disk left", free >> 10));
        }
        if let Some((bytes, unused)) = health.get::<(u64, u64)>(row::tag::STORE) {
            self.store(bytes, unused, health.get::<(Text<32>, Text<32>)>(row::tag::RETENTION), health.free_bytes);
        }
        self.well(&format!(
            "the catalogue's timestamp is renewed by the hub; the present one lasts until {}",
            moment(health.timestamp_until)
        ));
    }
}

impl Findings {
    fn store(&mut self, bytes: u64, unused: u64, kept: Option<(Text<32>, Text<32>)>, free: u64) {
        let mib = |bytes: u64| bytes >> 20;
        let mut what = format!("the hub's store has {} MiB", mib(bytes));
        if let Some((diagnoses, scripts)) = kept {
            what += &format!("; diagnoses are kept {diagnoses}, scripts {scripts}");
        }
        if unused > 16 << 20 && unused * 2 > bytes {
            what += &format!("; {} MiB of it are free, a restart of the hub gives them back", mib(unused));
        }
        // A backup, or compacting at a start, needs as much space again.
        if bytes.saturating_sub(unused) > free {
            self.bad(&what, "it has no room for a copy of itself: keep results for less time, [retention] in hub.toml");
        } else {
            self.well(&what);
        }
    }

    fn print(&self, shape: Shape) -> Result<Exit, Failure> {
        if shape == Shape::Table {
            let line = |(what, now): &(String, Option<String>)| match now {
                None => format!("ok    {what}\n"),
                Some(now) => format!("BAD   {what}\n      now: {now}\n"),
            };
            say(&self.0.iter().map(line).collect::<String>())?;
        } else {
            let mut rows = Rows::new("check", &["what", "ok", "now"]);
            let row = |(what, now): &(String, Option<String>)| {
                vec![what.clone().into(), now.is_none().into(), now.clone().into()]
            };
            self.0.iter().for_each(|one| rows.push(row(one)));
            rows.print(shape)?;
        }
        Ok(if self.0.iter().any(|(_, now)| now.is_some()) { Exit::Bad } else { Exit::Done })
    }
}

pub(crate) fn run(shape: Shape, homes: &HomePaths) -> Result<Exit, Failure> {
    let path = homes.staff();
    let home = StaffHome::open(&path)?;
    let mut findings = Findings(Vec::new());
    findings.well(&format!("home {} · {} · key {}", path.display(), home.settings.name, home.key_id()));
    if let Some((_, until)) = home.identity.lasts() {
        findings.runs_out("your certificate", until, "any fernwart command renews it, once the hub answers");
    }
    let reached = block_on(async {
        let mut session = Session::open(home, super::TIMEOUT).await?;
        let health = session.health().await?;
        let entry = session.catalogue.staff.find(&session.key_id());
        let since = entry.map_or(0, |entry| session.home().entry_since(entry.until, now()));
        let parts = (session.catalogue.clone(), session.key_id(), session.rtt(), since);
        session.close().await;
        Ok((parts, health))
    });
    match reached {
        Ok(((catalogue, key, rtt, since), health)) => {
            findings.catalogue(&catalogue, &key, since);
            findings.hub(&health, rtt, catalogue.versions.targets);
        }
        Err(failure) => {
            findings.print(shape)?;
            return Err(failure);
        }
    }
    findings.print(shape)
}
