//! Compares an idle agent to a raw client that only holds a link.

use crate::measure::{cpu, memory};
use crate::raw::{Raw, process};
use fernwart_tests::{World, program};
use std::time::Duration;

/// How long a process rests before it is measured, and how long it is watched.
const SETTLE: Duration = Duration::from_secs(5);
const MINUTE: Duration = Duration::from_secs(60);

/// Prints the table.
pub(crate) fn idle() {
    let world = World::new();
    let machine = world.add_machine("kasse-1");
    let raw = Raw::start();
    let mut quinn = process("raw-idle", raw.port, raw.folder.path());
    std::thread::sleep(SETTLE);
    let pids = [machine.agent.pid(), quinn.id()];
    let before = pids.map(cpu);
    std::thread::sleep(MINUTE);
    println!("one agent at rest, linked, over {} s", MINUTE.as_secs());
    println!("{:<22} {:>9} {:>9} {:>12}", "", "RSS KiB", "PSS KiB", "CPU ms/min");
    for ((name, pid), before) in ["fernwart-agent", "raw quinn client"].into_iter().zip(pids).zip(before) {
        let used = (cpu(pid) - before).as_secs_f64() * 1000.0;
        println!("{name:<22} {:>9} {:>9} {used:>12.2}", memory(pid, "Rss:"), memory(pid, "Pss:"));
    }
    let _ = world.technician(&["diagnose", "kasse-1"]);
    std::thread::sleep(SETTLE);
    let pid = pids[0];
    println!("{:<22} {:>9} {:>9}", "  after a diagnosis", memory(pid, "Rss:"), memory(pid, "Pss:"));
    for name in ["fernwart-agent", "fernwart"] {
        let bytes = std::fs::metadata(program(name)).expect("built").len();
        println!("{name:<22} {:>9.2} MB", bytes as f64 / 1e6);
    }
    let _ = quinn.kill();
    let _ = quinn.wait();
}
