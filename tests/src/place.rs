//! An isolated environment on this computer, made with `unshare`: it has its own mounts and, on request,
//! its own network, host name or processes. Tests set up an unusual machine in it; the changes vanish with
//! it.

use crate::{CommandOutput, program, run};
use serde_json::Value;
use std::process::Command;

/// An environment: the options for `unshare`, and the script that prepares it.
pub struct Place {
    apart: Vec<&'static str>,
    script: String,
    user: Option<u32>,
}

/// The result of a diagnosis in an environment.
pub struct Diagnosed {
    /// The complete report.
    pub report: Value,
    /// Exit code of the program.
    pub code: i32,
}

impl Place {
    /// An environment with its own mounts. Returns `None` and prints the reason if this user may not create
    /// one.
    ///
    /// # Panics
    /// Under `CI`, if it cannot be created.
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
        // sysfs shows the network namespace of its mounter, so it is mounted again.
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

    /// Prepared by these lines of shell; a line that fails ends the test.
    #[must_use]
    pub fn prepared(mut self, script: &str) -> Self {
        self.script += script;
        self.script += "\n";
        self
    }

    /// Commands run as this user instead of root.
    #[must_use]
    pub fn seen_by(mut self, user: u32) -> Self {
        self.user = Some(user);
        self
    }

    /// Runs a command there.
    ///
    /// # Panics
    /// When the environment cannot be prepared.
    pub fn run(&self, command: &str) -> CommandOutput {
        let user = self.user.map(|user| format!("setpriv --reuid {user} --regid {user} --clear-groups "));
        let script = format!("set -e\n{}exec {}{command}\n", self.script, user.unwrap_or_default());
        run(Command::new("unshare").args(&self.apart).args(["sh", "-c", &script]))
    }

    /// Runs the agent's own diagnosis there.
    ///
    /// # Panics
    /// When it prints no report.
    pub fn diagnose(&self) -> Diagnosed {
        self.diagnose_only("")
    }

    /// The same, limited to one section.
    ///
    /// # Panics
    /// When it prints no report.
    pub fn diagnose_only(&self, section: &str) -> Diagnosed {
        let agent = program("fernwart-agent");
        let agent = agent.to_str().expect("text");
        let section = if section.is_empty() { String::new() } else { format!(" --section {section}") };
        let output = self.run(&format!("{agent} diagnose -o json{section}"));
        let report =
            serde_json::from_str(&output.out).unwrap_or_else(|error| panic!("{error}: {} {}", output.out, output.err));
        Diagnosed { report, code: output.code }
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

    /// Findings and notes whose name starts with `begin`, such as `disk.free:/var`, with their severity.
    pub fn found(&self, begin: &str) -> Vec<(String, String)> {
        let lists = ["findings", "notes"].into_iter().filter_map(|list| self.report[list].as_array()).flatten();
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let named = lists.map(|finding| {
            let instance = finding["instance"].as_str().map(|instance| format!(":{instance}")).unwrap_or_default();
            (text(&finding["id"]) + &instance, text(&finding["severity"]))
        });
        named.filter(|(name, _)| name.starts_with(begin)).collect()
    }

    /// Checks without a result whose name starts with `begin`, with the reason.
    pub fn unknown(&self, begin: &str) -> Vec<(String, String)> {
        let unknown = self.report["unknown"].as_array().into_iter().flatten();
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let named = unknown.map(|unknown| {
            let instance = unknown["instance"].as_str().map(|instance| format!(":{instance}")).unwrap_or_default();
            (text(&unknown["id"]) + &instance, text(&unknown["reason"]))
        });
        named.filter(|(name, _)| name.starts_with(begin)).collect()
    }

    /// The entry of a section's list whose `field` equals `is`.
    pub fn entry(&self, section: &str, list: &str, field: &str, is: &str) -> Option<&Value> {
        self.facts(section)[list].as_array()?.iter().find(|entry| entry[field] == is)
    }

    /// Whether a check found nothing.
    pub fn is_well(&self, check: &str) -> bool {
        self.report["well"].as_array().is_some_and(|well| well.iter().any(|id| id == check))
    }
}
