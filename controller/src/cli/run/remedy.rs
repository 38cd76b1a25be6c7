//! Remedies: scripts that repair a finding, with parameters taken from the finding's facts.
//!
//! `MACHINE/JOB/RULE:INSTANCE` names one finding of one report, never a position in a list. The
//! machine is asked again before anything is sent: a finding that is gone is not repaired.

use super::super::script::approved;
use super::super::{Exit, Failure};
use super::{Plan, checked, secrets, sha256_of};
use crate::cli::choosing::chosen;
use crate::cli::diagnose::{look_again, status, stored, unreadable};
use crate::cli::{HUB_BACK, HUB_GONE};
use fernwart_client::target::Target;
use fernwart_client::{Answer, JobEvent, Session};
use fernwart_protocol::diagnosis::{Finding, Report, Rule, Unknown};
use fernwart_protocol::id::JobId;
use fernwart_protocol::row::Row;
use fernwart_protocol::script::{BundleName, Declared, Manifest, Value};
use fernwart_protocol::staff::MachineRow;
use fernwart_protocol::text::escaped;
use std::collections::BTreeMap;

/// A parsed remedy argument.
#[derive(Debug, PartialEq, Eq)]
struct Named<'a> {
    machine: &'a str,
    /// The job of the report; without one, the newest complete report.
    job: Option<JobId>,
    rule: &'a str,
    instance: Option<&'a str>,
}

fn named(remedy: &str) -> Option<Named<'_>> {
    let (machine, rest) = remedy.split_once('/')?;
    // An instance may contain any character; a rule contains no slash or colon.
    let job = rest.split_once('/').and_then(|(job, rest)| Some((JobId(job.parse().ok()?), rest)));
    let (job, finding) = job.map_or((None, rest), |(job, rest)| (Some(job), rest));
    let (rule, instance) = finding.split_once(':').map_or((finding, None), |(rule, one)| (rule, Some(one)));
    (!machine.is_empty() && !rule.is_empty()).then_some(Named { machine, job, rule, instance })
}

fn usage(what: impl Into<String>) -> Failure {
    Failure::new(Exit::Usage, "FW-CLI-12", what.into())
}

/// Plans a remedy from typed facts: no text from a machine becomes a command.
pub(super) async fn plan(session: &mut Session, remedy: &str) -> Result<Plan, Failure> {
    let form = "a remedy is MACHINE/JOB/FINDING, as diagnose prints it: kasse-2/218/disk.free:/var";
    let named = named(remedy).ok_or_else(|| usage(form))?;
    let target = Target { words: vec![named.machine.to_owned()], ..Target::default() };
    let machines = chosen(session, &target).await?;
    let [row] = machines.as_slice() else {
        return Err(usage("a remedy is for one machine"));
    };
    // The remedy comes from our own rules, not from the machine.
    let rules = session.catalogue.rules();
    let rule = rules.find(named.rule).ok_or_else(|| usage(format!("there is no check {:?}", named.rule)))?;
    let script: Option<BundleName> = rule.remedy.as_ref().and_then(|name| name.parse().ok());
    let script = script.ok_or_else(|| usage(format!("nothing is known that repairs {:?}", named.rule)))?;
    let shown = match named.job {
        Some(job) => report_of(session, row, job).await?,
        None => newest_report(session, row).await?,
    };
    let finding = still_so(session, row, rule, find(&shown, &named)?).await?;
    let (bundle, manifest) = approved(session, &script).await?;
    let parameters = checked(&manifest, from_finding(&manifest, &finding))?;
    let secrets = secrets(&manifest, &[], &parameters)?;
    let sha256 = sha256_of(session, &bundle)?;
    Ok(Plan { bundle, sha256, manifest, parameters, secrets, machines })
}

/// Finds the named finding in the report that was shown.
fn find<'a>(report: &'a Report, named: &Named<'_>) -> Result<&'a Finding, Failure> {
    let again = || format!("fernwart diagnose {}", named.machine);
    let mut found = report.findings.iter().filter(|finding| {
        finding.id == named.rule && (named.instance.is_none() || finding.instance.as_deref() == named.instance)
    });
    match (found.next(), found.next()) {
        (Some(finding), None) => Ok(finding),
        (Some(first), Some(second)) => {
            let (first, second) = (escaped(&first.name()), escaped(&second.name()));
            let what = format!("{} has several findings {:?}: {first}, {second} …", named.machine, named.rule);
            Err(usage(what).now(format!("name one of them: fernwart run --remedy {}/…/{first}", named.machine)))
        }
        (None, _) => {
            let which = named.instance.map_or_else(|| named.rule.to_owned(), |one| format!("{}:{one}", named.rule));
            let of = named.job.map_or_else(|| "its newest report".to_owned(), |job| format!("the report of job {job}"));
            Err(usage(format!("{} has no finding {which:?} in {of}", named.machine)).now(again()))
        }
    }
}

/// The finding as the machine reports it now.
///
/// # Errors
/// When it is gone, or the machine does not report it.
async fn still_so(
    session: &mut Session,
    row: &Row<MachineRow>,
    rule: &Rule,
    shown: &Finding,
) -> Result<Finding, Failure> {
    let name = escaped(&shown.name());
    let gone = |why: String| {
        Failure::new(Exit::Refused, "FW-CLI-20", format!("{name} on {}: {why}; nothing was sent", row.name))
            .now(format!("fernwart diagnose {}", row.name))
    };
    note!("{}: is {name} still so?", row.name);
    let answer = look_again(session, row, rule.section, &format!("before a remedy: {name}")).await?;
    let report = match &answer {
        Answer::Report(report, _) => report.decode().map_err(unreadable)?,
        Answer::Away | Answer::Silent => {
            let what = format!("{} does not answer, so nobody knows whether {name} is still so", row.name);
            return Err(Failure::new(Exit::NoAnswer, "FW-CLI-05", what).now("try again when it is online"));
        }
        other => {
            let (_, _, why) = status(other);
            return Err(gone(why.unwrap_or_else(|| "the machine did not say whether it is still so".to_owned())));
        }
    };
    let is_it = |finding: &&Finding| finding.id == shown.id && finding.instance == shown.instance;
    if let Some(finding) = report.findings.iter().find(is_it) {
        return Ok(finding.clone());
    }
    let may_be_it = |unknown: &&Unknown| {
        unknown.id == shown.id && (unknown.instance.is_none() || unknown.instance == shown.instance)
    };
    let left_out = report.left_out.get(&shown.id).copied().unwrap_or_default();
    match report.unknown.iter().find(may_be_it) {
        None if left_out > 0 => {
            Err(gone(format!("the machine found {left_out} more of {} than it names, so nobody can tell", shown.id)))
        }
        Some(unknown) => Err(gone(format!("it cannot be told whether it is still so ({})", unknown.why.in_words()))),
        None => Err(gone("it is no longer so".to_owned())),
    }
}

/// Parameters that a manifest takes from a finding's evidence.
fn from_finding(manifest: &Manifest, finding: &Finding) -> BTreeMap<String, Value> {
    let value = |declared: &Declared| {
        let evidence = finding.evidence.get(declared.from.as_ref()?)?;
        serde_json::from_value::<Value>(evidence.clone()).ok()
    };
    manifest.parameters.iter().filter_map(|one| Some((one.name.clone(), value(one)?))).collect()
}

/// A machine's report in a job.
async fn report_of(session: &mut Session, row: &Row<MachineRow>, job: JobId) -> Result<Report, Failure> {
    let mut stream = session.watch(job).await?;
    while let Some(event) = stream.next().await? {
        match event {
            JobEvent::HubGone => note!("{HUB_GONE}"),
            JobEvent::HubBack => note!("{HUB_BACK}"),
            JobEvent::Answered(answered) if answered.machine == row.id => match answered.answer {
                Answer::Report(report, _) => return report.decode().map_err(unreadable),
                _ => break,
            },
            JobEvent::Stored(_) | JobEvent::Held(_) | JobEvent::Note(..) | JobEvent::Answered(_) => {}
        }
    }
    Err(usage(format!("job {job} has no report of {}", row.name)).now(format!("fernwart diagnose {}", row.name)))
}

async fn newest_report(session: &mut Session, row: &Row<MachineRow>) -> Result<Report, Failure> {
    if let Some((_, report)) = stored(session.facts(row.id).await?)? {
        return Ok(report);
    }
    let what = format!("{} has not been diagnosed yet", row.name);
    Err(usage(what).now(format!("fernwart diagnose {}", row.name)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_remedy_names_machine_job_rule_and_instance() {
        let of = |text| named(text).map(|n| (n.machine, n.job.map(|job| job.0), n.rule, n.instance));
        assert_eq!(of("kasse-2/218/disk.free:/var"), Some(("kasse-2", Some(218), "disk.free", Some("/var"))));
        assert_eq!(of("kasse-2/disk.free:/mnt/a:b c"), Some(("kasse-2", None, "disk.free", Some("/mnt/a:b c"))));
        assert_eq!(of("kasse-2/7/time.off"), Some(("kasse-2", Some(7), "time.off", None)));
        assert_eq!(of("kasse-2/time.off"), Some(("kasse-2", None, "time.off", None)));
        for bad in ["kasse-2", "/time.off", "kasse-2/", ""] {
            assert_eq!(of(bad), None, "{bad}");
        }
    }

    #[test]
    fn each_remedys_required_parameters_are_in_its_finding() {
        let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts");
        for rule in &fernwart_certs::catalogue::rules_in_force(None).rules {
            let Some(remedy) = &rule.remedy else { continue };
            let text = std::fs::read_to_string(folder.join(remedy).join("manifest.toml"));
            let manifest = Manifest::read(&text.unwrap_or_else(|error| panic!("{}: {remedy}: {error}", rule.id)))
                .unwrap_or_else(|error| panic!("{remedy}: {error:?}"));
            for level in &rule.levels {
                let of_level = level.when.iter().filter(|condition| condition.section.is_none()).map(|c| &c.fact);
                let known: Vec<&String> = of_level.chain(&rule.name).chain(&rule.evidence).collect();
                for declared in manifest.parameters.iter().filter(|declared| declared.default.is_none()) {
                    let from = declared.from.as_ref();
                    let name = &declared.name;
                    assert!(from.is_some_and(|from| known.contains(&from)), "{}: {remedy} lacks its {name}", rule.id);
                }
            }
        }
    }
}
