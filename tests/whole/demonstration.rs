//! The README's first command: `fernwart demo`.

use fernwart_tests::{Process, program, run, wait_within};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

fn demo(place: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(program("fernwart"));
    command.arg("demo").args(arguments).env("TMPDIR", place).env("TZ", "UTC").env_remove("FERNWART_HOME");
    command
}

/// Nothing is left: no folder, and no process that was started in one.
fn is_clean(place: &Path) -> bool {
    let folders = std::fs::read_dir(place).expect("a folder").flatten();
    let left = folders.filter(|entry| entry.file_name().to_string_lossy().starts_with("fernwart-demo-")).count();
    let processes = run(Command::new("pgrep").arg("-f").arg(format!("{}/fernwart-demo-", place.display())));
    left == 0 && processes.out.is_empty()
}

#[test]
fn demo_once_shows_a_report_and_a_dry_run_and_leaves_nothing_behind() {
    let place = tempfile::tempdir().expect("a folder");
    let output = run(&mut demo(place.path(), &["--once"])).exits(0);
    assert!(output.out.contains("this-computer-3") && output.out.contains("online"), "{}", output.out);
    assert!(output.out.contains(" checks: ") && output.out.contains(" ok"), "a report: {}", output.out);
    assert!(output.out.contains("would free") && output.out.contains("nothing was changed"), "{}", output.out);
    assert!(output.err.contains("Next: "), "what to do now: {}", output.err);
    assert!(is_clean(place.path()));
}

#[test]
fn ctrl_c_ends_the_demo_and_cleans_up_at_any_moment() {
    use rustix::process::{Pid, Signal, kill_process};
    for moment in ["fernwart invite", "second terminal"] {
        let place = tempfile::tempdir().expect("a folder");
        let mut running = Process::start(&mut demo(place.path(), &[]), &place.path().join("demo.log"));
        wait_within(Duration::from_secs(60), moment, || running.log().contains(moment));
        let pid = Pid::from_raw(running.pid().cast_signed()).expect("a pid");
        kill_process(pid, Signal::INT).expect("interrupted");
        wait_within(Duration::from_secs(20), "it ends", || !running.is_running());
        assert!(is_clean(place.path()), "{}", running.log());
    }
}
