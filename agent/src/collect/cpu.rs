//! Cores, load, pressure; busy time over a short look.

use super::{clipped, pct, pressure, read};
use fernwart_protocol::diagnosis::facts::Cpu;
use std::time::Duration;

/// How long busy time is watched.
const WATCH: Duration = Duration::from_millis(250);

/// Clock ticks since boot: all, idle, stolen (proc_stat(5)).
fn ticks() -> Option<(f64, f64, f64)> {
    let stat = read("/proc/stat")?;
    let fields: Vec<f64> =
        stat.lines().next()?.split_whitespace().skip(1).filter_map(|number| number.parse().ok()).collect();
    let at = |index: usize| fields.get(index).copied().unwrap_or_default();
    // guest time is part of user time already
    Some((fields.iter().take(8).sum(), at(3) + at(4), at(7)))
}

pub(super) fn facts() -> Result<Cpu, String> {
    let load = read("/proc/loadavg").ok_or("the kernel gives no load")?;
    let mut loads = load.split_whitespace().filter_map(|number| number.parse::<f64>().ok());
    let (load_1, load_5, load_15) = match (loads.next(), loads.next(), loads.next()) {
        (Some(one), Some(five), Some(fifteen)) => (one, five, fifteen),
        _ => return Err("the kernel's load cannot be read".into()),
    };
    let info = read("/proc/cpuinfo").unwrap_or_default();
    let model = info.lines().find_map(|line| line.strip_prefix("model name")?.split(':').nth(1)).unwrap_or_default();
    let cores = std::thread::available_parallelism().map_or(1, |n| u32::try_from(n.get()).unwrap_or(1));
    let before = ticks();
    std::thread::sleep(WATCH);
    let (busy_pct, stolen_pct) = match before.zip(ticks()) {
        Some(((all, idle, stolen), (all_now, idle_now, stolen_now))) => {
            let passed = all_now - all;
            (pct(passed - (idle_now - idle), passed), pct(stolen_now - stolen, passed))
        }
        None => (0.0, 0.0),
    };
    Ok(Cpu {
        model: clipped(model),
        cores,
        load_1,
        load_5,
        load_15,
        load_15_per_core: (load_15 / f64::from(cores) * 100.0).round() / 100.0,
        pressure_pct: pressure("/proc/pressure/cpu", "some"),
        io_pressure_pct: pressure("/proc/pressure/io", "full"),
        busy_pct,
        stolen_pct,
    })
}
