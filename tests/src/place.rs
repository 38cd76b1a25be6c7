//! A place of one's own on this computer: its mounts, network or name are those of
//! nobody else and gone with it. What is odd about a machine is made there, really.

use crate::{CommandOutput, program, run};
use serde_json::Value;
use std::process::Command;

/// A place, as words for `unshare` and a script that prepares it.
pub struct Place {
    apart: Vec<&'static str>,
    script: String,
    user: Option<u32>,
}

/// What a diagnosis said there.
pub struct Diagnosed {
    /// The whole report.
    pub report: Value,
    /// Exit code of the program.
    pub code: i32,
}

impl Place {
    /// A place with its own mounts. Nothing, and a word why, where this user may not
    /// make one.
    ///
    /// # Panics
    /// When it should have worked: under `CI`.
    pub fn new() -> Option<Self> {
        let may = rustix::process::geteuid().is_root()
            && Command::new("unshare").args(["--mount", "true"]).status().is_ok_and(|status| status.success());
        if !may {
            assert!(std::env::var_os("CI").is_none(), "places of one's own need root");
            println!("skipped: places of one's own need root");
        }
        may.then(|| Self { apart: vec!["--mount", "--propagation", "private"], script: String::new(), user: None })
    }

    /// Also with its own network, in which nothing is up but loopback.
    #[must_use]
    pub fn with_network(mut self) -> Self {
        self.apart.push("--net");
        // What sysfs tells of networks is of whoever mounts it.
        self.script += "ip link set lo up\nmount -t sysfs sysfs /sys\n";
        self
    }

    /// Also with its own name.
    #[must_use]
    pub fn with_name(mut self) -> Self {
        self.apart.push("--uts");
        self
    }

    /// Also with its own processes.
    #[must_use]
    pub fn with_processes(mut self) -> Self {
        self.apart.extend(["--pid", "--fork", "--mount-proc"]);
        self
    }

    /// Prepared by these lines of shell; one that fails ends the test.
    #[must_use]
    pub fn prepared(mut self, script: &str) -> Self {
        self.script += script;
        self.script += "\n";
        self
    }

    /// Looked at by this user instead of root.
    #[must_use]
    pub fn seen_by(mut self, user: u32) -> Self {
        self.user = Some(user);
        self
    }

    /// Runs a command there.
    ///
    /// # Panics
    /// When the place cannot be prepared.
    pub fn run(&self, command: &str) -> CommandOutput {
        let user = self.user.map(|user| format!("setpriv --reuid {user} --regid {user} --clear-groups "));
        let script = format!("set -e\n{}exec {}{command}\n", self.script, user.unwrap_or_default());
        run(Command::new("unshare").args(&self.apart).args(["sh", "-c", &script]))
    }

    /// What the agent's own diagnosis says there.
    ///
    /// # Panics
    /// When it says nothing.
    pub fn diagnose(&self) -> Diagnosed {
        self.diagnose_only("")
    }

    /// The same of one section.
    ///
    /// # Panics
    /// When it says nothing.
    pub fn diagnose_only(&self, section: &str) -> Diagnosed {
        let agent = program("fernwart-agent");
        let agent = agent.to_str().expect("text");
        let section = if section.is_empty() { String::new() } else { format!(" --section {section}") };
        let said = self.run(&format!("{agent} diagnose -o json{section}"));
        let report =
            serde_json::from_str(&said.out).unwrap_or_else(|error| panic!("{error}: {} {}", said.out, said.err));
        Diagnosed { report, code: said.code }
    }
}

impl Diagnosed {
    /// The facts of a section.
    ///
    /// # Panics
    /// When it was not answered.
    pub fn facts(&self, section: &str) -> &Value {
        let facts = &self.report["sections"][section]["facts"];
        assert!(facts.is_object(), "{section}: {}", self.report["sections"][section]);
        facts
    }

    /// What was found, `disk.free:/var`, with its severity; of this check or of all
    /// that begin so.
    pub fn found(&self, begin: &str) -> Vec<(String, String)> {
        let lists = ["findings", "notes"].into_iter().filter_map(|list| self.report[list].as_array()).flatten();
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let named = lists.map(|finding| {
            let instance = finding["instance"].as_str().map(|instance| format!(":{instance}")).unwrap_or_default();
            (text(&finding["id"]) + &instance, text(&finding["severity"]))
        });
        named.filter(|(name, _)| name.starts_with(begin)).collect()
    }

    /// Checks without an answer that begin so, and why.
    pub fn unknown(&self, begin: &str) -> Vec<(String, String)> {
        let unknown = self.report["unknown"].as_array().into_iter().flatten();
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let named = unknown.map(|unknown| {
            let instance = unknown["instance"].as_str().map(|instance| format!(":{instance}")).unwrap_or_default();
            (text(&unknown["id"]) + &instance, text(&unknown["reason"]))
        });
        named.filter(|(name, _)| name.starts_with(begin)).collect()
    }

    /// The entry of a section's list whose field is this.
    pub fn entry(&self, section: &str, list: &str, field: &str, is: &str) -> Option<&Value> {
        self.facts(section)[list].as_array()?.iter().find(|entry| entry[field] == is)
    }

    /// Whether a check found nothing.
    pub fn is_well(&self, check: &str) -> bool {
        self.report["well"].as_array().is_some_and(|well| well.iter().any(|id| id == check))
    }
}
