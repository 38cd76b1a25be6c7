//! Measures what processes cost, and prints it.

use std::time::Duration;

/// A field of a process's memory, KiB.
pub(crate) fn memory(pid: u32, field: &str) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).expect("readable");
    let line = text.lines().find(|line| line.starts_with(field)).expect("the field");
    line.split_whitespace().nth(1).and_then(|kib| kib.parse().ok()).expect("a number")
}

/// Processor time of all threads so far, from the scheduler's own count.
pub(crate) fn cpu(pid: u32) -> Duration {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).expect("tasks");
    let nanos = tasks.flatten().filter_map(|task| {
        let text = std::fs::read_to_string(task.path().join("schedstat")).ok()?;
        text.split_whitespace().next()?.parse::<u64>().ok()
    });
    Duration::from_nanos(nanos.sum())
}

/// Processor time of this thread so far.
pub(crate) fn own_cpu() -> Duration {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").expect("readable");
    Duration::from_nanos(text.split_whitespace().next().and_then(|nanos| nanos.parse().ok()).expect("a number"))
}

/// Processor time of all programs that this one has started and waited for.
pub(crate) fn children() -> Duration {
    let stat = std::fs::read_to_string("/proc/self/stat").expect("readable");
    // After the name in brackets, the 14th and 15th field: in hundredths of a second.
    let fields = stat.rsplit(')').next().unwrap_or_default().split_whitespace();
    let ticks: u64 = fields.skip(13).take(2).filter_map(|ticks| ticks.parse::<u64>().ok()).sum();
    Duration::from_millis(ticks * 10)
}

/// Several samples of one figure.
#[derive(Debug, Clone, Default)]
pub(crate) struct Takes(pub(crate) Vec<f64>);

impl Takes {
    fn sorted(&self) -> Vec<f64> {
        let mut takes = self.0.clone();
        takes.sort_by(f64::total_cmp);
        takes
    }

    /// The median.
    pub(crate) fn median(&self) -> f64 {
        let takes = self.sorted();
        takes.get(takes.len() / 2).copied().unwrap_or_default()
    }

    /// Minimum and maximum.
    pub(crate) fn spread(&self) -> (f64, f64) {
        let takes = self.sorted();
        (takes.first().copied().unwrap_or_default(), takes.last().copied().unwrap_or_default())
    }
}

/// Where results are written: a table, or JSON lines.
pub(crate) struct Paper {
    pub(crate) json: bool,
}

impl Paper {
    /// Prints the title of the rows that follow.
    pub(crate) fn title(&self, text: &str) {
        if !self.json {
            println!("\n{text}");
            println!("{:<46} {:>22} {:>22} {:>7} {:>6}", "", "raw quinn", "fernwart", "ratio", "aim");
        }
    }

    /// Prints a figure of Fernwart beside that of raw quinn.
    pub(crate) fn beside(&self, what: &str, unit: &str, raw: &Takes, ours: &Takes, aim: f64) {
        let ratio = ours.median() / raw.median();
        if self.json {
            let (r, o) = (raw.spread(), ours.spread());
            println!(
                "{}",
                serde_json::json!({"v": 1, "type": "ratio", "what": what, "unit": unit, "ratio": ratio, "aim": aim,
                    "raw": {"median": raw.median(), "least": r.0, "most": r.1, "takes": raw.0.len()},
                    "ours": {"median": ours.median(), "least": o.0, "most": o.1, "takes": ours.0.len()}})
            );
        } else {
            let what = format!("{what}, {unit}");
            println!("{what:<46} {:>22} {:>22} {ratio:>7.2} {aim:>6.1}", reported(raw), reported(ours));
        }
    }

    /// Prints the title of the rows of [`Paper::rogue`].
    pub(crate) fn rogues(&self, text: &str) {
        if !self.json {
            println!("\n{text}; milliseconds");
            println!(
                "{:<18} {:>10} {:>10} {:>10} {:>10} {:>10} {:>7} {:>13}",
                "", "times", "p50 quiet", "attacked", "p99 quiet", "attacked", "ratio", "hub grew, KiB"
            );
        }
    }

    /// Prints the median and the 99th percentile of pings to honest machines, quiet and under an attack.
    pub(crate) fn rogue(&self, what: &str, times: u64, quiet: [f64; 2], attacked: [f64; 2], grew: u64) {
        let ([q50, q99], [a50, a99]) = (quiet, attacked);
        let ratio = a99 / q99;
        if self.json {
            println!(
                "{}",
                serde_json::json!({"v": 1, "type": "rogue", "what": what, "times": times, "unit": "ms", "ratio": ratio,
                    "p50": {"quiet": q50, "attacked": a50}, "p99": {"quiet": q99, "attacked": a99},
                    "hub_grew_kib": grew})
            );
        } else {
            println!("{what:<18} {times:>10} {q50:>10.2} {a50:>10.2} {q99:>10.2} {a99:>10.2} {ratio:>7.2} {grew:>13}");
        }
    }

    /// Prints the title of the rows of [`Paper::peer`].
    pub(crate) fn peers(&self, text: &str) {
        if !self.json {
            println!("\n{text}");
            println!(
                "{:<18} {:>26} {:>26} {:>16} {:>16}",
                "", "wall, ms", "processors, ms", "server PSS, MiB", "agent PSS, MiB"
            );
        }
    }

    /// Prints a request to one of several programs: wall time, processor time of all its processes, memory
    /// of its server and of one agent.
    pub(crate) fn peer(&self, (name, what): (&str, &str), wall: &Takes, cpu: &Takes, server: f64, agent: f64) {
        if self.json {
            let of = |takes: &Takes| {
                let (least, most) = takes.spread();
                serde_json::json!({"median": takes.median(), "least": least, "most": most, "takes": takes.0.len()})
            };
            println!(
                "{}",
                serde_json::json!({"v": 1, "type": "peer", "name": name, "what": what, "wall_ms": of(wall),
                    "cpu_ms": of(cpu), "server_pss_mib": server, "agent_pss_mib": agent})
            );
        } else {
            let name = format!("{name} {what}");
            println!("{name:<18} {:>26} {:>26} {server:>16.1} {agent:>16.2}", reported(wall), reported(cpu));
        }
    }

    /// Prints a figure of Fernwart alone.
    pub(crate) fn alone(&self, what: &str, unit: &str, ours: &Takes) {
        if self.json {
            let (least, most) = ours.spread();
            println!(
                "{}",
                serde_json::json!({"v": 1, "type": "figure", "what": what, "unit": unit, "median": ours.median(),
                    "least": least, "most": most, "takes": ours.0.len()})
            );
        } else {
            let what = format!("{what}, {unit}");
            println!("{what:<46} {:>22} {:>22}", "", reported(ours));
        }
    }
}

fn reported(takes: &Takes) -> String {
    let (least, most) = takes.spread();
    if takes.0.len() < 2 {
        format!("{:.1}", takes.median())
    } else {
        format!("{:.1} ({least:.1}-{most:.1})", takes.median())
    }
}
