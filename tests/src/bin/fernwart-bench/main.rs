//! Measures the figures in tests/README.md: Fernwart beside raw quinn, in one run, on one machine.
//!
//! `idle` measures an idle agent for a minute; `fleet [N]` a hub with N machines: its memory, and what
//! requests to all of them cost; `storm [N]` how fast they reconnect after the hub was killed; `run [N]` N
//! runs of a script that does nothing, beside ssh; `endure [MINUTES [N [RUNS]]]` a hub that is killed every
//! 5 to 30 s at RUNS runs a second on N machines, by default 50 on 500; `rogues [SECONDS]` how each kind of
//! misbehaviour affects honest machines; `peers [N]` the same requests to N machines of Fernwart, Salt and
//! Ansible. Each starts its own processes on loopback and prints a table, or JSON lines with `--json`.
//! Build with `--profile dist` first.

#![allow(clippy::expect_used, clippy::print_stdout, clippy::indexing_slicing, reason = "a benchmark may fail loudly")]

mod endure;
mod fleet;
mod idle;
mod measure;
mod peers;
mod raw;
mod rogues;
mod run;
mod ssh;

use measure::Paper;
use std::path::Path;

const HELP: &str = "fernwart-bench [--json] idle | fleet [N] | storm [N] | run [N] | endure [MINUTES [N [RUNS]]] \
    | rogues [SECONDS [KIND]] | peers [N]";

fn main() {
    let mut words: Vec<String> = std::env::args().skip(1).collect();
    let before = words.len();
    words.retain(|word| word != "--json");
    let paper = Paper { json: words.len() < before };
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let number = |word: &str| word.parse().expect("a number");
    match words.as_slice() {
        ["run"] => run::run(50),
        ["run", n] => run::run(number(n)),
        ["idle"] => idle::idle(),
        ["fleet"] => fleet::fleet(10_000, &paper),
        ["fleet", n] => fleet::fleet(number(n), &paper),
        ["storm"] => fleet::storm(10_000, &paper),
        ["storm", n] => fleet::storm(number(n), &paper),
        ["endure"] => endure::endure(20, (500, 50), &paper),
        ["endure", minutes] => endure::endure(number(minutes), (500, 50), &paper),
        ["endure", minutes, n] => endure::endure(number(minutes), (number(n), 50), &paper),
        ["endure", minutes, n, runs] => endure::endure(number(minutes), (number(n), number(runs)), &paper),
        ["rogues"] => rogues::rogues(20, None, &paper),
        ["rogues", seconds] => rogues::rogues(seconds.parse().expect("a number"), None, &paper),
        ["rogues", seconds, name] => rogues::rogues(seconds.parse().expect("a number"), Some(name), &paper),
        ["peers"] => peers::peers(50, &paper),
        ["peers", n] => peers::peers(number(n), &paper),
        ["rogue", name, hub, identity] => rogues::misbehave(name, hub, Path::new(identity)),
        ["raw-server", port, folder] => raw::server(port.parse().expect("a port"), Path::new(folder)),
        ["raw-idle", port, folder] => raw::idle(port.parse().expect("a port"), Path::new(folder)),
        _ => println!("{HELP}"),
    }
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime")
}
