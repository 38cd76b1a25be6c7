//! Services that should run: systemd, asked over D-Bus by its own `busctl`.
//!
//! A D-Bus library would cost the agent more bytes than all sections together;
//! where systemd is, busctl is.

use super::{child, clipped};
use fernwart_protocol::diagnosis::facts::{FailedService, LIST, Services};
use serde_json::Value;
use std::path::Path;
use std::time::Instant;

const ASK: [&str; 9] = [
    "--system",
    "--json=short",
    "--timeout=2",
    "--no-pager",
    "call",
    "org.freedesktop.systemd1",
    "/org/freedesktop/systemd1",
    "org.freedesktop.systemd1.Manager",
    "ListUnits",
];

pub(super) fn facts(deadline: Instant) -> Result<Services, String> {
    if !Path::new("/run/systemd/system").exists() {
        return Err("no service manager that can be asked is running here".into());
    }
    let text = child::run("busctl", &ASK, deadline)?;
    parse(&text).ok_or_else(|| "systemd's answer cannot be read".to_owned())
}

/// `ListUnits` answers a list of (name, description, load, active, sub, …).
fn parse(text: &str) -> Option<Services> {
    let json: Value = serde_json::from_str(text).ok()?;
    let units = json.pointer("/data/0")?.as_array()?;
    let mut services = Services { manager: "systemd".into(), ..Services::default() };
    for unit in units {
        let field = |index: usize| unit.get(index).and_then(Value::as_str).unwrap_or_default();
        let (name, description, active, sub) = (field(0), field(1), field(3), field(4));
        if name.ends_with(".service") && sub == "running" {
            services.running += 1;
        }
        if active == "failed" && services.failed.len() < LIST {
            services.failed.push(FailedService {
                unit: clipped(name),
                description: clipped(description),
                state: format!("failed ({sub})"),
            });
        }
    }
    Some(services)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failed_units_are_found_in_systemds_answer() {
        let answer = r#"{"type":"a(ssssssouso)","data":[[
            ["cups.service","Printing","loaded","failed","failed","","/a",0,"","/"],
            ["ssh.service","Secure shell","loaded","active","running","","/b",0,"","/"],
            ["a.mount","A disk","loaded","active","mounted","","/c",0,"","/"]]]}"#;
        let services = parse(answer).expect("read");
        assert_eq!(services.running, 1);
        assert_eq!(services.failed.len(), 1);
        assert_eq!(services.failed[0].unit, "cups.service");
        assert!(parse("garbage").is_none());
    }
}
