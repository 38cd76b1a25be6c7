//! Remedies: what repairs a finding, with parameters out of the finding's facts.

use super::super::script::approved;
use super::super::{Exit, Failure};
use super::{Plan, checked, secrets, sha256_of};
use crate::cli::diagnose::stored;
use fernwart_client::Session;
use fernwart_client::target::{Target, select};
use fernwart_protocol::diagnosis::{Finding, Report, builtin_rules};
use fernwart_protocol::row::Row;
use fernwart_protocol::script::{BundleName, Declared, Manifest, Value};
use fernwart_protocol::staff::{MachineRow, Request};
use std::collections::BTreeMap;

/// A remedy rebuilt from typed facts: nothing a machine says becomes a command.
pub(super) async fn plan(session: &mut Session, remedy: &str) -> Result<Plan, Failure> {
    let usage = |what: String| Failure::new(Exit::Usage, "FW-CLI-12", what);
    let parts = remedy.split_once('/').and_then(|(machine, finding)| match finding.split_once(':') {
        None => Some((machine, finding, None)),
        Some((id, number)) => Some((machine, id, Some(number.parse::<usize>().ok()?.checked_sub(1)?))),
    });
    let Some((machine, id, number)) = parts else {
        return Err(usage("a remedy is MACHINE/FINDING or MACHINE/FINDING:2, as diagnose prints it".to_owned()));
    };
    let target = Target { words: vec![machine.to_owned()], ..Target::default() };
    let machines = select(&target, &session.machines().await?)?;
    let [row] = machines.as_slice() else {
        return Err(usage("a remedy is for one machine".to_owned()));
    };
    let report = newest_report(session, row).await?;
    let mut found = report.findings.iter().filter(|finding| finding.id == id).skip(number.unwrap_or_default());
    let finding = match (found.next(), found.next().filter(|_| number.is_none())) {
        (Some(finding), None) => finding.clone(),
        (None, _) => {
            return Err(usage(format!("{machine} has no finding {id:?} in its newest report"))
                .now(format!("fernwart diagnose {machine}")));
        }
        (Some(_), Some(_)) => {
            return Err(usage(format!("{machine} has several findings {id:?}; name one: {machine}/{id}:2"))
                .now(format!("fernwart diagnose {machine}")));
        }
    };
    // What repairs it is our own word, not the machine's.
    let rule = builtin_rules().into_iter().find(|rule| rule.id == finding.id);
    let name: Option<BundleName> = rule.and_then(|rule| rule.remedy?.parse().ok());
    let name = name.ok_or_else(|| usage(format!("nothing is known that repairs {id:?}")))?;
    let (bundle, manifest) = approved(session, &name).await?;
    let parameters = checked(&manifest, from_finding(&manifest, &finding))?;
    let secrets = secrets(&manifest, &[], &parameters)?;
    let sha256 = sha256_of(session, &bundle)?;
    Ok(Plan { bundle, sha256, manifest, parameters, secrets, machines })
}

/// Parameters that a manifest takes from a finding's evidence.
fn from_finding(manifest: &Manifest, finding: &Finding) -> BTreeMap<String, Value> {
    let value = |declared: &Declared| {
        let evidence = finding.evidence.get(declared.from.as_ref()?)?;
        serde_json::from_value::<Value>(evidence.clone()).ok()
    };
    manifest.parameters.iter().filter_map(|one| Some((one.name.clone(), value(one)?))).collect()
}

async fn newest_report(session: &mut Session, row: &Row<MachineRow>) -> Result<Report, Failure> {
    if let Some((_, report)) = stored(session, row, &Request::Facts(row.id)).await? {
        return Ok(report);
    }
    let what = format!("{} has not been diagnosed yet", row.name);
    Err(Failure::new(Exit::Usage, "FW-CLI-12", what).now(format!("fernwart diagnose {}", row.name)))
}
