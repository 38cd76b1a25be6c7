//! Who uses processor and memory, over a short look.

use super::{pct, read};
use fernwart_protocol::diagnosis::facts::{Process, Processes};
use std::collections::HashMap;
use std::time::{Duration, Instant};

const WATCH: Duration = Duration::from_millis(250);
const TOP: usize = 8;

/// Clock ticks per second in /proc (proc_pid_stat(5)); 100 on every Linux.
const TICKS: f64 = 100.0;

struct Sample {
    name: String,
    state: char,
    ticks: u64,
    pages: u64,
}

fn sample() -> HashMap<u32, Sample> {
    let Ok(entries) = std::fs::read_dir("/proc") else { return HashMap::new() };
    let pids = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    pids.filter_map(|pid| Some((pid, parse(&read(&format!("/proc/{pid}/stat"))?)?))).collect()
}

/// A line of /proc/PID/stat; the name stands in brackets and may hold any.
fn parse(stat: &str) -> Option<Sample> {
    let (head, tail) = stat.rsplit_once(')')?;
    let name = head.split_once('(')?.1.to_owned();
    let fields: Vec<&str> = tail.split_whitespace().collect();
    let number = |index: usize| fields.get(index).and_then(|field| field.parse::<u64>().ok()).unwrap_or_default();
    Some(Sample { name, state: fields.first()?.chars().next()?, ticks: number(11) + number(12), pages: number(21) })
}

pub(super) fn facts() -> Result<Processes, String> {
    let begun = Instant::now();
    let before = sample();
    std::thread::sleep(WATCH);
    let now = sample();
    let passed = begun.elapsed().as_secs_f64();
    if now.is_empty() {
        return Err("the kernel lists no processes".into());
    }
    let page = rustix::param::page_size() as u64;
    let total = read("/proc/meminfo")
        .and_then(|text| text.lines().next()?.split_whitespace().nth(1)?.parse::<f64>().ok())
        .unwrap_or_default()
        * 1024.0;
    let mut all: Vec<Process> = now
        .iter()
        .map(|(pid, sample)| {
            let used = before.get(pid).map_or(0, |earlier| sample.ticks.saturating_sub(earlier.ticks));
            let memory = sample.pages.saturating_mul(page);
            Process {
                pid: *pid,
                name: super::clipped(&sample.name),
                cpu_pct: pct(used as f64 / TICKS, passed),
                memory_bytes: memory,
                memory_pct: pct(memory as f64, total),
            }
        })
        .collect();
    let top = |all: &[Process]| all.iter().take(TOP).cloned().collect::<Vec<_>>();
    all.sort_by(|a, b| b.cpu_pct.total_cmp(&a.cpu_pct).then(a.pid.cmp(&b.pid)));
    let mut top_cpu = top(&all);
    top_cpu.retain(|process| process.cpu_pct > 0.0);
    all.sort_by_key(|process| std::cmp::Reverse(process.memory_bytes));
    Ok(Processes {
        count: u32::try_from(now.len()).unwrap_or(u32::MAX),
        zombies: u32::try_from(now.values().filter(|sample| sample.state == 'Z').count()).unwrap_or(u32::MAX),
        top_cpu,
        top_memory: top(&all),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_with_brackets_in_its_name_is_read() {
        let tail: Vec<String> = (4..=52).map(|n| n.to_string()).collect();
        let stat = format!("77 (evil) R (x) S {}", tail.join(" "));
        let sample = parse(&stat).expect("read");
        assert_eq!((sample.name.as_str(), sample.state), ("evil) R (x", 'S'));
        assert_eq!((sample.ticks, sample.pages), (14 + 15, 24));
    }
}
