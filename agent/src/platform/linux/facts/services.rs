//! Services: systemd is asked over D-Bus with its own `busctl`.
//!
//! A D-Bus library would be larger than all sections together, and busctl is installed wherever
//! systemd is.

use super::units::{MANAGER, Unit, properties};
use super::{backups, netlink, printers};
use crate::collect::bytes::clipped;
use crate::collect::counting::Counting;
use crate::collect::{child, missing};
use fernwart_protocol::diagnosis::facts::{FailedService, LIST, RestartingService, Services};
use fernwart_protocol::diagnosis::{Cause, Reason};
use serde_json::Value;
use std::path::Path;
use std::time::Instant;

/// Maximum number of units whose properties are queried.
const ASKED: usize = 16;

pub(super) fn facts(counting: &Counting, until: Instant) -> Services {
    let mut services = Services::default();
    let fields = ["running", "failed", "restarting"];
    if Path::new("/run/systemd/system").exists() {
        services.manager = "systemd".into();
        match list(until) {
            Ok(units) => {
                fill(&mut services, &units, counting, until);
                services.backups = backups::of(&units, counting, until, &mut services.why);
            }
            Err(why) => {
                for name in fields.into_iter().chain(["backups"]) {
                    services.why.insert(name.into(), why.clone());
                }
            }
        }
    } else {
        for name in fields.into_iter().chain(["backups"]) {
            services.why.insert(name.into(), Cause::new(Reason::Absent, "service manager"));
        }
    }
    match printers::all(until) {
        Ok(printers) => services.printers = Some(printers),
        Err(why) => drop(services.why.insert("printers".into(), why)),
    }
    services
}

fn list(until: Instant) -> Result<Vec<Unit>, Cause> {
    let arguments = [
        "--system",
        "--json=short",
        "--timeout=2",
        "--no-pager",
        "call",
        MANAGER,
        "/org/freedesktop/systemd1",
        "org.freedesktop.systemd1.Manager",
        "ListUnits",
    ];
    let text = child::ask("busctl", &arguments, until)?;
    parse(&text).ok_or_else(|| Cause::new(Reason::Unreadable, "systemd's answer"))
}

/// `ListUnits` returns a list of (name, description, load, active, sub, followed, object, …).
fn parse(text: &str) -> Option<Vec<Unit>> {
    let json: Value = serde_json::from_str(text).ok()?;
    let units = json.pointer("/data/0")?.as_array()?;
    let unit = |unit: &Value| {
        let field = |index: usize| unit.get(index).and_then(Value::as_str).unwrap_or_default().to_owned();
        Unit { name: field(0), description: field(1), active: field(3), sub: field(4), object: field(6) }
    };
    Some(units.iter().map(unit).collect())
}

fn fill(services: &mut Services, units: &[Unit], counting: &Counting, until: Instant) {
    let is_service = |unit: &&Unit| unit.name.ends_with(".service");
    let running = units.iter().filter(is_service).filter(|unit| unit.sub == "running").count();
    services.running = u32::try_from(running).ok();
    let is_online = netlink::default_routes().is_ok_and(|routes| !routes.is_empty());
    let failed = units.iter().filter(|unit| unit.active == "failed");
    // These units only wait for the network; if it is up now, their failure is over.
    let failed = failed.filter(|unit| !(is_online && unit.name.ends_with("-wait-online.service")));
    let failed = failed.enumerate().take(LIST).map(|(index, unit)| {
        let kind = unit.name.rsplit('.').next().unwrap_or_default();
        let ask = || properties(unit, &["Type"], until)?.first()?.as_str().map(|kind| kind == "oneshot");
        let runs_once = match kind {
            "service" if index < ASKED => ask(),
            "service" => None,
            _ => Some(false),
        };
        let mut failed = FailedService {
            unit: clipped(&unit.name),
            kind: clipped(kind),
            description: clipped(&unit.description),
            state: format!("failed ({})", clipped(&unit.sub)),
            runs_once,
            ..FailedService::default()
        };
        if runs_once.is_none() {
            failed.why.insert("runs_once".into(), Cause::new(Reason::TimedOut, "systemd"));
        }
        failed
    });
    services.failed = Some(failed.collect());
    // A service that is restarted forever never enters the failed state.
    let down = units.iter().filter(is_service).filter(|unit| unit.sub.starts_with("auto-restart"));
    let down = down.enumerate().take(LIST);
    services.restarting = Some(down.map(|(index, unit)| restarting(unit, index < ASKED, counting, until)).collect());
}

fn restarting(unit: &Unit, is_asked: bool, counting: &Counting, until: Instant) -> RestartingService {
    let ask = || properties(unit, &["NRestarts"], until)?.first()?.as_u64();
    let restarts = is_asked.then(ask).flatten();
    let mut found = RestartingService {
        unit: clipped(&unit.name),
        description: clipped(&unit.description),
        down: true,
        restarts,
        ..RestartingService::default()
    };
    let Some(restarts) = restarts else {
        missing(
            &mut found.why,
            &["restarts", "restarts_since", "restarts_per_h"],
            &Cause::new(Reason::TimedOut, "systemd"),
        );
        return found;
    };
    // Restarts are recorded only while the service is down. Those before the first observation
    // may be of any day.
    match (counting.since_known(&format!("{}.restarts", found.unit), restarts), counting.over_s()) {
        (Ok(since), Some(over)) => {
            found.restarts_since = Some(since);
            found.restarts_per_h = Some((since as f64 * 3600.0 / over.max(60) as f64 * 10.0).round() / 10.0);
        }
        _ => {
            missing(&mut found.why, &["restarts_since", "restarts_per_h"], &Reason::FirstLook.into());
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_are_read_out_of_systemds_answer() {
        let answer = r#"{"type":"a(ssssssouso)","data":[[
            ["cups.service","Printing","loaded","failed","failed","","/a",0,"","/"],
            ["till.service","Till","loaded","activating","auto-restart","","/b",0,"","/"],
            ["a.mount","A disk","loaded","active","mounted","","/c",0,"","/"]]]}"#;
        let units = parse(answer).expect("read");
        assert_eq!(units.len(), 3);
        assert_eq!((units[1].sub.as_str(), units[1].object.as_str()), ("auto-restart", "/b"));
        assert!(parse("garbage").is_none());
    }
}
