//! Cores, load, pressure; busy time measured over a short time.

use super::{pressure, system};
use crate::collect::bytes::clipped;
use crate::collect::counting::Counting;
use crate::collect::{missing, pct, read};
use fernwart_protocol::diagnosis::facts::Cpu;
use fernwart_protocol::diagnosis::{Cause, Reason};
use std::time::Duration;

/// How long busy time is measured.
const WATCH: Duration = Duration::from_millis(250);

/// Clock ticks since boot: all, idle, stolen (proc_stat(5)).
fn ticks() -> Option<(u64, u64, u64)> {
    let stat = read("/proc/stat")?;
    let fields: Vec<u64> =
        stat.lines().next()?.split_whitespace().skip(1).filter_map(|number| number.parse().ok()).collect();
    let at = |index: usize| fields.get(index).copied().unwrap_or_default();
    // guest time is included in user time
    Some((fields.iter().take(8).sum(), at(3) + at(4), at(7)))
}

pub(super) fn facts(counting: &Counting) -> Result<Cpu, Cause> {
    let unreadable = || Cause::new(Reason::Unreadable, "/proc/loadavg");
    let load = read("/proc/loadavg").ok_or_else(unreadable)?;
    let mut loads = load.split_whitespace().filter_map(|number| number.parse::<f64>().ok());
    let (Some(load_1), Some(load_5), Some(load_15)) = (loads.next(), loads.next(), loads.next()) else {
        return Err(unreadable());
    };
    let info = read("/proc/cpuinfo").unwrap_or_default();
    let model = info.lines().find_map(|line| line.strip_prefix("model name")?.split(':').nth(1)).unwrap_or_default();
    let cores = std::thread::available_parallelism().map_or(1, |n| u32::try_from(n.get()).unwrap_or(1));
    let mut cpu = Cpu { model: clipped(model), cores, load_1, load_5, load_15, ..Cpu::default() };
    // A container shows its host's load, unless lxcfs provides its own.
    let is_own =
        system::container().is_empty() || read("/proc/self/mounts").is_some_and(|t| t.contains("lxcfs /proc/loadavg"));
    match is_own {
        true => cpu.load_15_per_core = Some((load_15 / f64::from(cores) * 100.0).round() / 100.0),
        false => drop(cpu.why.insert("load_15_per_core".into(), Cause::new(Reason::NotSupported, "container"))),
    }
    let before = ticks();
    std::thread::sleep(WATCH);
    if let (Some((all, idle, stolen)), Some((all_now, idle_now, stolen_now))) = (before, ticks()) {
        let passed = all_now.saturating_sub(all) as f64;
        cpu.busy_pct = Some(pct(passed - idle_now.saturating_sub(idle) as f64, passed));
        cpu.stolen_pct = Some(pct(stolen_now.saturating_sub(stolen) as f64, passed));
        match (counting.since("cpu.all", all_now), counting.since("cpu.stolen", stolen_now)) {
            (Ok(all), Ok(stolen)) => cpu.stolen_since_pct = Some(pct(stolen as f64, all as f64)),
            (Err(why), _) | (_, Err(why)) => drop(cpu.why.insert("stolen_since_pct".into(), why)),
        }
    } else {
        missing(
            &mut cpu.why,
            &["busy_pct", "stolen_pct", "stolen_since_pct"],
            &Cause::new(Reason::Unreadable, "/proc/stat"),
        );
    }
    let why = &mut cpu.why;
    (cpu.pressure_pct, cpu.pressure_5m_pct) = pressure("cpu", "some", ("pressure_pct", "pressure_5m_pct"), why);
    (cpu.io_pressure_pct, cpu.io_pressure_5m_pct) =
        pressure("io", "full", ("io_pressure_pct", "io_pressure_5m_pct"), why);
    Ok(cpu)
}
