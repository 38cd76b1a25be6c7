//! `fernwart demo`: the complete workflow on this computer, with no prepared results.
//!
//! It runs a real hub and three real agents in a temporary home. Every step is a command that a
//! person could type, and is shown.

use crate::failure::{Exit, Failure};
use clap::Args;
use std::io::IsTerminal;
use std::net::UdpSocket;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};
use tokio::signal::unix::{SignalKind, signal};

/// Start a hub and three agents here.
#[derive(Args)]
pub struct Demo {
    /// Stop after the report
    #[arg(long)]
    once: bool,
}

/// How long each step may take.
const TIMEOUT: Duration = Duration::from_secs(30);

/// Processes of the demonstration; they end with it.
struct Processes(Vec<Child>);

impl Drop for Processes {
    fn drop(&mut self) {
        for child in &mut self.0 {
            if let Some(pid) = rustix::process::Pid::from_raw(child.id().cast_signed()) {
                // It may have ended by itself.
                let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
            }
        }
        let deadline = Instant::now() + Duration::from_secs(8);
        for child in &mut self.0 {
            while matches!(child.try_wait(), Ok(None)) && Instant::now() < deadline {
                std::thread::sleep(Duration::from_millis(20));
            }
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Listens for Ctrl-C and SIGTERM from the start, so that everything started and written is cleaned
/// up.
struct Interrupt(mpsc::Receiver<()>);

impl Interrupt {
    fn listen() -> std::io::Result<Self> {
        let (done, finished) = mpsc::channel();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (mut terminate, mut interrupt) = {
            let _inside = runtime.enter();
            (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?)
        };
        std::thread::Builder::new().name("signals".into()).spawn(move || {
            runtime.block_on(async {
                tokio::select! {
                    _ = terminate.recv() => {}
                    _ = interrupt.recv() => {}
                }
            });
            // The receiver is gone once the demonstration is over.
            let _ = done.send(());
        })?;
        Ok(Self(finished))
    }

    fn check(&self) -> Result<(), Failure> {
        match self.0.try_recv() {
            Err(_) => Ok(()),
            Ok(()) => Err(Failure::new(Exit::Stopped, "FW-CLI-15", "stopped; all is cleaned up")),
        }
    }
}

struct Stage {
    interrupt: Interrupt,
    home: PathBuf,
    fernwart: PathBuf,
    agent: PathBuf,
}

fn failed(what: impl Into<String>) -> Failure {
    Failure::new(Exit::Failed, "FW-CLI-09", what)
}

impl Stage {
    fn technician(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.fernwart);
        command.arg("--home").arg(&self.home).args(arguments).stdin(Stdio::null());
        command
    }

    fn agent(&self, number: usize, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.agent);
        command.arg("--home").arg(self.home.join(format!("machine-{number}"))).args(arguments).stdin(Stdio::null());
        command
    }

    fn log(&self, name: &str) -> std::io::Result<std::fs::File> {
        std::fs::File::create(self.home.join(name))
    }

    /// Runs one step and returns what it wrote.
    fn step(&self, mut command: Command, shown: &str) -> Result<String, Failure> {
        self.interrupt.check()?;
        note!("$ {shown}");
        let output = command.output().map_err(|error| failed(format!("{shown}: {error}")))?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        self.interrupt.check()?;
        if output.status.success() {
            Ok(text)
        } else {
            Err(failed(format!("{shown}: {}", String::from_utf8_lossy(&output.stderr).trim())))
        }
    }

    fn log_has(&self, name: &str, words: &str) -> bool {
        std::fs::read_to_string(self.home.join(name)).is_ok_and(|text| text.contains(words))
    }
}

fn wait_for(stage: &Stage, what: &str, mut ready: impl FnMut() -> bool) -> Result<(), Failure> {
    let deadline = Instant::now() + TIMEOUT;
    while !ready() {
        stage.interrupt.check()?;
        if Instant::now() > deadline {
            return Err(failed(format!("{what} took longer than {} s", TIMEOUT.as_secs())));
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

/// Runs the demonstration.
///
/// # Errors
/// When a step of the path does not work.
pub fn run(command: &Demo) -> Result<Exit, Failure> {
    let fernwart = std::env::current_exe()?;
    let agent = fernwart.with_file_name("fernwart-agent");
    if !agent.is_file() {
        return Err(failed(format!("{} is not there", agent.display())).now("build all: cargo build --release"));
    }
    let folder = tempfile::Builder::new().prefix("fernwart-demo-").tempdir()?;
    let stage = Stage { interrupt: Interrupt::listen()?, home: folder.path().to_owned(), fernwart, agent };
    let mut processes = Processes(Vec::new());
    let result = perform(&stage, &mut processes);
    if let Ok(exit) = &result
        && !command.once
    {
        linger(&stage);
        drop(processes);
        note!("\nAll is cleaned up.");
        return Ok(*exit);
    }
    drop(processes);
    result
}

fn perform(stage: &Stage, processes: &mut Processes) -> Result<Exit, Failure> {
    let port = UdpSocket::bind("127.0.0.1:0")?.local_addr()?.port();
    let address = format!("127.0.0.1:{port}");
    note!("A shop, a hub and three machines, all on this computer, in {}\n", stage.home.display());
    let arguments =
        ["init", "--shop", "Demo IT", "--address", &address, "--listen", &address, "--lang", "en", "--name", "you"];
    stage.step(stage.technician(&arguments), &format!("fernwart init --shop 'Demo IT' --address {address}"))?;

    note!("$ fernwart serve &");
    let mut hub = stage.technician(&["serve"]);
    processes.0.push(hub.stdout(Stdio::null()).stderr(stage.log("hub.log")?).spawn()?);
    wait_for(stage, "the hub", || stage.log_has("hub.log", "hub is listening"))?;

    let line = stage.step(
        stage.technician(&["invite", "Demo", "--machines", "3", "--quiet"]),
        "fernwart invite Demo --machines 3",
    )?;
    let invitation = stage.home.join("invitation");
    std::fs::write(&invitation, line)?;
    for number in 1..=3 {
        let file = path_text(&invitation)?;
        let enroll = stage.agent(number, &["enroll", "--invitation", file, "--policy", "ask", "--no-service"]);
        stage.step(enroll, "fernwart-agent enroll --invitation FILE --policy ask")?;
        let log = format!("machine-{number}.log");
        let mut agent = stage.agent(number, &["run"]);
        processes.0.push(agent.stdout(Stdio::null()).stderr(stage.log(&log)?).spawn()?);
    }
    let waiting = stage.step(stage.technician(&["pending", "-o", "name"]), "fernwart pending")?;
    let names = ["this-computer", "this-computer-2", "this-computer-3"];
    for (machine, name) in waiting.lines().zip(names) {
        stage.step(
            stage.technician(&["admit", machine, "--as", name]),
            &format!("fernwart admit {machine} --as {name}"),
        )?;
    }
    wait_for(stage, "being linked", || {
        let listed = stage.technician(&["ls", "-o", "csv"]).output();
        listed.is_ok_and(|output| String::from_utf8_lossy(&output.stdout).matches(",online,").count() == 3)
    })?;
    let show = |arguments: &[&str], shown: &str| -> Result<std::process::ExitStatus, Failure> {
        note!("\n$ {shown}");
        Ok(stage.technician(arguments).status()?)
    };
    show(&["ls"], "fernwart ls")?;
    let ended = show(&["diagnose", "this-computer"], "fernwart diagnose this-computer")?;
    // Findings about this computer do not fail the demonstration.
    if !matches!(ended.code(), Some(0 | 1)) {
        return Err(failed("the diagnosis did not come through"));
    }
    let script = stage.home.join(REPAIR);
    std::fs::create_dir(&script)?;
    std::fs::write(script.join("manifest.toml"), include_str!("../../scripts/disk-free/manifest.toml"))?;
    std::fs::write(script.join("run.sh"), include_str!("../../scripts/disk-free/run.sh"))?;
    let propose = stage.technician(&["catalogue", "propose", "--yes", path_text(&script)?]);
    note!("\nA repair is a script that was approved. This one frees disk space; here it only shows what it would do.");
    stage.step(propose, "fernwart catalogue propose disk-free --yes")?;
    let shown = show(&["run", REPAIR, "this-computer", "--dry-run"], "fernwart run disk-free this-computer --dry-run")?;
    if !matches!(shown.code(), Some(0 | 1)) {
        return Err(failed("the script did not come through"));
    }
    note!("Without --dry-run the machine would ask its owner first: their policy is ask.");
    note!("Next: README.md, the first machine; or: fernwart init --help");
    Ok(Exit::Done)
}

/// A repair that is harmless on every computer, since it is only shown.
const REPAIR: &str = "disk-free";

fn path_text(path: &Path) -> Result<&str, Failure> {
    path.to_str().ok_or_else(|| failed("the temporary folder's name is no text"))
}

/// Leaves everything running until Ctrl-C.
fn linger(stage: &Stage) {
    let home = stage.home.display();
    let program = stage.fernwart.display();
    note!("\nAll of it is running. Try in a second terminal:");
    note!("  export FERNWART_HOME={home}");
    for example in
        ["diagnose all", "diagnose all -o jsonl", "facts this-computer --section disks", "ping all", "job ls", "doctor"]
    {
        note!("  {program} {example}");
    }
    note!("  {} --home {home}/machine-1 status", stage.agent.display());
    if std::io::stdin().is_terminal() {
        note!("Ctrl-C ends it and cleans up.");
    }
    // Fails only if the listening thread is gone; then there is nothing to wait for.
    let _ = stage.interrupt.0.recv();
}
