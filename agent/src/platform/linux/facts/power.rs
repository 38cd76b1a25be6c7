//! Batteries and mains power, from the kernel.

use crate::collect::bytes::{clipped, names_in};
use crate::collect::{pct, read};
use fernwart_protocol::diagnosis::Reason;
use fernwart_protocol::diagnosis::facts::{Battery, Power};
use std::path::Path;

pub(super) fn facts() -> Power {
    of(Path::new("/sys/class/power_supply"))
}

fn of(folder: &Path) -> Power {
    let mut power = Power::default();
    for name in names_in(folder, |_| true).into_iter().take(16) {
        let sys = |file: &str| read(folder.join(&name).join(file)).map(|text| text.trim().to_owned());
        let number = |file: &str| sys(file).and_then(|text| text.parse::<f64>().ok());
        match sys("type").as_deref() {
            Some("Mains") => {
                let online = number("online").map(|n| n > 0.0);
                power.mains = power.mains.max(online);
            }
            // An empty USB charging port tells nothing.
            Some("USB" | "Wireless") if number("online").is_some_and(|n| n > 0.0) => power.mains = Some(true),
            // Batteries of mice and headsets are not the machine's.
            Some(kind @ ("Battery" | "UPS")) if sys("scope").as_deref() != Some("Device") => {
                let full = number("energy_full").or_else(|| number("charge_full"));
                let new = number("energy_full_design").or_else(|| number("charge_full_design"));
                let state = sys("status").unwrap_or_default();
                let mut battery = Battery {
                    name: clipped(&name),
                    discharging: state == "Discharging",
                    of_ups: kind == "UPS",
                    state: clipped(&state),
                    charge_pct: number("capacity"),
                    // Some vendors report zero, or less than the battery holds.
                    health_pct: full.zip(new.filter(|new| *new > 0.0)).map(|(full, new)| pct(full, new).min(100.0)),
                    ..Battery::default()
                };
                for (field, known) in [("charge_pct", battery.charge_pct), ("health_pct", battery.health_pct)] {
                    if known.is_none() {
                        battery.why.insert(field.into(), Reason::NotSupported.into());
                    }
                }
                power.batteries.push(battery);
            }
            _ => {}
        }
    }
    if power.mains.is_none() {
        // A discharging battery shows that there is no mains power.
        let discharging = power.batteries.iter().any(|battery| battery.discharging && !battery.of_ups);
        match discharging {
            true => power.mains = Some(false),
            false => drop(power.why.insert("mains".into(), Reason::Absent.into())),
        }
    }
    power
}

#[cfg(test)]
mod tests {
    use super::*;

    fn supplies(all: &[(&str, &[(&str, &str)])]) -> Power {
        let place = tempfile::tempdir().expect("a folder");
        for (name, files) in all {
            let folder = place.path().join(name);
            std::fs::create_dir(&folder).expect("made");
            for (file, text) in *files {
                std::fs::write(folder.join(file), format!("{text}\n")).expect("written");
            }
        }
        of(place.path())
    }

    #[test]
    fn an_empty_usb_port_is_not_reported_as_a_power_cut() {
        let port = ("ucsi-source-psy-USBC000:001", [("type", "USB"), ("online", "0")]);
        let power = supplies(&[(port.0, &port.1)]);
        assert_eq!((power.mains, power.batteries.len()), (None, 0));
        let on = [("type", "Mains"), ("online", "1")];
        assert_eq!(supplies(&[(port.0, &port.1), ("AC", &on)]).mains, Some(true));
        let charging = [("type", "USB"), ("online", "1")];
        assert_eq!(supplies(&[("ucsi", &charging)]).mains, Some(true));
        let empty = [("type", "Battery"), ("status", "Discharging"), ("capacity", "9")];
        let power = supplies(&[(port.0, &port.1), ("BAT0", &empty)]);
        assert_eq!((power.mains, power.batteries[0].discharging), (Some(false), true));
    }

    #[test]
    fn a_mouse_battery_is_ignored_and_battery_health_is_at_most_100_percent() {
        let mouse = [("type", "Battery"), ("scope", "Device"), ("capacity", "5"), ("status", "Discharging")];
        let ups = [("type", "UPS"), ("status", "Discharging"), ("capacity", "80")];
        let big = [
            ("type", "Battery"),
            ("energy_full", "60"),
            ("energy_full_design", "50"),
            ("capacity", "70"),
            ("status", "Full"),
        ];
        let zero = [("type", "Battery"), ("energy_full", "60"), ("energy_full_design", "0"), ("status", "Unknown")];
        let power = supplies(&[("hidpp", &mouse), ("ups", &ups), ("BAT0", &big), ("BAT1", &zero)]);
        let short: Vec<_> = power.batteries.iter().map(|b| (b.name.as_str(), b.health_pct, b.of_ups)).collect();
        assert_eq!(short, [("BAT0", Some(100.0), false), ("BAT1", None, false), ("ups", None, true)]);
    }
}
