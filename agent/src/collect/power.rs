//! Batteries and mains, as the kernel lists them.

use super::{clipped, pct, read};
use fernwart_protocol::diagnosis::facts::{Battery, Power};

pub(super) fn facts() -> Power {
    let mut power = Power::default();
    let Ok(supplies) = std::fs::read_dir("/sys/class/power_supply") else { return power };
    let mut names: Vec<String> = supplies.flatten().filter_map(|entry| entry.file_name().into_string().ok()).collect();
    names.sort();
    for name in names.into_iter().take(16) {
        let sys =
            |file: &str| read(&format!("/sys/class/power_supply/{name}/{file}")).map(|text| text.trim().to_owned());
        let number = |file: &str| sys(file).and_then(|text| text.parse::<f64>().ok());
        match sys("type").as_deref() {
            Some("Mains" | "USB") => {
                let online = number("online").map(|n| n > 0.0);
                power.mains = power.mains.max(online);
            }
            // Mice and headsets have batteries, too; theirs are not the machine's.
            Some("Battery") if sys("scope").as_deref() != Some("Device") => {
                let full = number("energy_full").or_else(|| number("charge_full"));
                let new = number("energy_full_design").or_else(|| number("charge_full_design"));
                power.batteries.push(Battery {
                    name: clipped(&name),
                    state: clipped(&sys("status").unwrap_or_default()),
                    charge_pct: number("capacity"),
                    health_pct: full.zip(new).map(|(full, new)| pct(full, new)),
                });
            }
            _ => {}
        }
    }
    power
}
