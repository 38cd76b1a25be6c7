//! A world for whole-system tests: a real hub and real agents as processes, on loopback, in a temporary
//! folder that is removed afterwards.
//!
//! Tests poll for a state until a deadline; they never wait for an event or a fixed time. A failing test
//! prints the logs.

#![allow(clippy::expect_used, clippy::indexing_slicing, clippy::print_stdout, reason = "a test may fail loudly")]

pub mod endure;
pub mod guest;
pub mod place;
pub mod rogues;
pub mod swarm;
pub mod test_script;

use std::io::{Read, Write};
use std::net::{SocketAddr, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

/// How long anything may take before a test gives up.
pub const TIMEOUT: Duration = Duration::from_secs(20);

/// The folder with the programs under test.
fn programs() -> PathBuf {
    let here = std::env::current_exe().expect("this program has a path");
    let folder = here.ancestors().find(|folder| folder.join("fernwart").is_file());
    folder.expect("the programs are built: cargo build --workspace").to_owned()
}

/// One of the programs under test.
pub fn program(name: &str) -> PathBuf {
    programs().join(name)
}

/// Runs a command with a shifted clock, for example `+30d`. Returns false and prints the reason if the
/// package `faketime` is missing.
///
/// # Panics
/// When it is missing under `CI`.
pub fn at_another_time(command: &mut Command, offset: &str) -> bool {
    let is_there = with_faketime(command);
    command.env("FAKETIME", offset);
    is_there
}

/// The same with a clock that can be changed while the command runs: it reads the offset from this file.
///
/// # Panics
/// When the package is missing under `CI`.
pub fn with_clock_in(command: &mut Command, file: &Path) -> bool {
    let is_there = with_faketime(command);
    command.env("FAKETIME_TIMESTAMP_FILE", file).env("FAKETIME_NO_CACHE", "1");
    is_there
}

fn with_faketime(command: &mut Command) -> bool {
    let libraries = ["x86_64", "aarch64"].map(|arch| format!("/usr/lib/{arch}-linux-gnu/faketime/libfaketime.so.1"));
    let Some(library) = libraries.iter().find(|path| Path::new(path).exists()) else {
        assert!(std::env::var_os("CI").is_none(), "the package faketime is missing");
        println!("skipped: the package faketime is missing");
        return false;
    };
    command.env("LD_PRELOAD", library).env("FAKETIME_DONT_FAKE_MONOTONIC", "1");
    true
}

/// Suspends a process, as if its machine hung; resumes it when dropped.
pub struct Frozen(rustix::process::Pid);

impl Frozen {
    /// Freezes it.
    ///
    /// # Panics
    /// When the process does not exist.
    pub fn new(process: &Process) -> Self {
        let pid = rustix::process::Pid::from_raw(process.pid().cast_signed()).expect("a pid");
        rustix::process::kill_process(pid, rustix::process::Signal::STOP).expect("frozen");
        Self(pid)
    }
}

impl Drop for Frozen {
    fn drop(&mut self) {
        let _ = rustix::process::kill_process(self.0, rustix::process::Signal::CONT);
    }
}

/// A small tmpfs; unmounted when dropped.
pub struct SmallDisk(PathBuf);

impl SmallDisk {
    /// Mounts one. Returns `None` and prints the reason if this user may not.
    ///
    /// # Panics
    /// Under `CI`, if it cannot be mounted.
    pub fn mount(path: &Path, megabytes: u32) -> Option<Self> {
        std::fs::create_dir_all(path).expect("a folder");
        let size = format!("size={megabytes}m,mode=0700");
        let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", &size, "tmpfs"]).arg(path).status();
        let mounted = mounted.is_ok_and(|status| status.success());
        if !mounted {
            assert!(std::env::var_os("CI").is_none(), "small disks need root");
            println!("skipped: small disks need root");
        }
        mounted.then(|| Self(path.to_owned()))
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Fills it to the last byte.
    ///
    /// # Panics
    /// When the filler cannot be made.
    pub fn fill(&self) {
        let mut file = std::fs::File::create(self.0.join("filler")).expect("made");
        let chunk = vec![0u8; 64 * 1024];
        while std::io::Write::write_all(&mut file, &chunk).is_ok() {}
        while std::io::Write::write_all(&mut file, &[0]).is_ok() {}
    }

    /// Makes room again.
    ///
    /// # Panics
    /// When it was not full.
    pub fn empty(&self) {
        std::fs::remove_file(self.0.join("filler")).expect("removed");
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

/// A small ext4 file system on a loop device: 48 MiB, no blocks reserved for root; unmounted when dropped.
pub struct LoopDisk {
    _image: tempfile::TempPath,
    mounted: PathBuf,
}

impl LoopDisk {
    /// Mounts one. Returns `None` and prints the reason if this user may not.
    ///
    /// # Panics
    /// Under `CI`, if it cannot be mounted.
    pub fn mount(path: &Path) -> Option<Self> {
        let image = tempfile::NamedTempFile::new().expect("an image");
        image.as_file().set_len(48 << 20).expect("room");
        std::fs::create_dir_all(path).ok()?;
        let image = image.into_temp_path();
        let made = run(Command::new("mkfs.ext4").args(["-q", "-F", "-m", "0"]).arg(&image)).code == 0
            && run(Command::new("mount").args(["-o", "loop,errors=remount-ro"]).arg(&image).arg(path)).code == 0;
        if !made {
            assert!(std::env::var_os("CI").is_none(), "a disk of one's own needs root");
            println!("skipped: a disk of one's own needs root");
            return None;
        }
        Some(Self { _image: image, mounted: path.to_owned() })
    }

    /// Makes the kernel detect an error in it, after which it takes no more writes.
    ///
    /// # Panics
    /// When the error cannot be triggered.
    pub fn fail(&self) {
        let device = run(Command::new("findmnt").args(["-n", "-o", "SOURCE"]).arg(&self.mounted)).exits(0).out;
        let device = device.trim().trim_start_matches("/dev/");
        std::fs::write(format!("/sys/fs/ext4/{device}/trigger_fs_error"), "1").expect("failed");
    }
}

impl Drop for LoopDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.mounted).status();
    }
}

/// A UDP port nobody uses.
pub fn free_port() -> u16 {
    UdpSocket::bind("127.0.0.1:0").and_then(|socket| socket.local_addr()).expect("a free port").port()
}

/// Waits until a condition holds.
///
/// # Panics
/// When it does not hold in time.
pub fn wait_until(what: &str, mut so: impl FnMut() -> bool) {
    wait_within(TIMEOUT, what, &mut so);
}

/// The same with a given timeout; returns how long it took.
///
/// # Panics
/// When it does not hold in time.
pub fn wait_within(timeout: Duration, what: &str, mut so: impl FnMut() -> bool) -> Duration {
    let begun = Instant::now();
    while !so() {
        assert!(begun.elapsed() < timeout, "{what}: not within {timeout:?}");
        std::thread::sleep(Duration::from_millis(15));
    }
    begun.elapsed()
}

/// What a command wrote and how it ended.
#[derive(Debug)]
pub struct CommandOutput {
    /// Standard output.
    pub out: String,
    /// Standard error.
    pub err: String,
    /// The exit code.
    pub code: i32,
    /// How long it took.
    pub took: Duration,
}

impl CommandOutput {
    /// Asserts the exit code.
    ///
    /// # Panics
    /// When it differs.
    pub fn exits(self, code: i32) -> Self {
        assert_eq!(self.code, code, "stdout: {}\nstderr: {}", self.out, self.err);
        self
    }

    /// Standard output as JSON lines.
    ///
    /// # Panics
    /// When a line is no JSON.
    pub fn json_lines(&self) -> Vec<serde_json::Value> {
        self.out.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}"))).collect()
    }
}

/// Runs a command to its end.
///
/// # Panics
/// When it does not start.
pub fn run(command: &mut Command) -> CommandOutput {
    let begun = Instant::now();
    let Output { stdout, stderr, status } = command.stdin(Stdio::null()).output().expect("the program starts");
    CommandOutput {
        out: String::from_utf8_lossy(&stdout).into_owned(),
        err: String::from_utf8_lossy(&stderr).into_owned(),
        code: status.code().unwrap_or(-1),
        took: begun.elapsed(),
    }
}

/// A process that is killed when dropped.
pub struct Process {
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Starts a command, its standard error going to a log.
    ///
    /// # Panics
    /// When it does not start.
    pub fn start(command: &mut Command, log: &Path) -> Self {
        let file = std::fs::File::options().create(true).append(true).open(log).expect("a log");
        let child =
            command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(file).spawn().expect("the program starts");
        Self { child, log: log.to_owned() }
    }

    /// Its pid.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Kills it at once, as a power cut would.
    pub fn kill_9(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Sends SIGTERM and waits; returns the exit code.
    ///
    /// # Panics
    /// When it does not stop in time.
    pub fn stop(&mut self) -> Option<i32> {
        let pid = rustix::process::Pid::from_raw(self.pid().cast_signed()).expect("a pid");
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        wait_until("stopping", || matches!(self.child.try_wait(), Ok(Some(_))));
        self.child.wait().ok().and_then(|status| status.code())
    }

    /// Whether it is still there.
    pub fn is_running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// What it has logged.
    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill_9();
        if std::thread::panicking() {
            println!("--- {}\n{}", self.log.display(), self.log());
        }
    }
}

/// A machine with its agent.
pub struct Machine {
    /// The agent's folder.
    pub home: PathBuf,
    /// Its name at the hub.
    pub name: String,
    /// The running agent.
    pub agent: Process,
}

impl Machine {
    /// A command of this machine's owner.
    pub fn command(&self, arguments: &[&str]) -> Command {
        agent_command(&self.home, arguments)
    }

    /// Runs a command of this machine's owner.
    pub fn owner(&self, arguments: &[&str]) -> CommandOutput {
        run(&mut self.command(arguments))
    }

    /// Starts the agent again with a shifted clock.
    pub fn restart_at(&mut self, offset: &str) -> bool {
        let mut command = self.command(&["run"]);
        let possible = at_another_time(&mut command, offset);
        self.agent = Process::start(&mut command, &self.home.with_extension("log"));
        possible
    }

    /// Starts the agent again with an adjustable clock, which reads its offset from this file.
    pub fn restart_with_clock_in(&mut self, file: &Path) -> bool {
        let mut command = self.command(&["run"]);
        let possible = with_clock_in(&mut command, file);
        self.agent = Process::start(&mut command, &self.home.with_extension("log"));
        possible
    }

    /// Starts the agent again in a mount namespace where it sees no control groups. Later mounts still
    /// propagate into it.
    pub fn restart_without_groups(&mut self) {
        let agent = self.command(&["run"]);
        let mut command = Command::new("unshare");
        let hide = "mount -t tmpfs none /sys/fs/cgroup && exec \"$@\"";
        command.args(["--mount", "--propagation", "slave", "sh", "-c", hide, "sh"]).arg(agent.get_program());
        command.args(agent.get_args());
        command.envs(agent.get_envs().filter_map(|(name, value)| Some((name, value?)))).env_remove("LC_ALL");
        self.agent = Process::start(&mut command, &self.home.with_extension("log"));
    }

    /// Where an agent with this folder keeps its records.
    pub fn store(home: &Path) -> PathBuf {
        fernwart_agent::home::Home::at(home).store()
    }

    /// Starts the agent again.
    pub fn restart(&mut self) {
        self.agent = Process::start(&mut self.command(&["run"]), &self.home.with_extension("log"));
    }

    /// The journal's entries: kind and body.
    pub fn journal(&self) -> Vec<(String, serde_json::Value)> {
        let lines = self.owner(&["journal", "--export"]).exits(0).json_lines();
        let entries = lines.iter().filter(|line| line["type"] == "entry");
        entries
            .map(|line| {
                let entry: serde_json::Value =
                    serde_json::from_str(line["line"].as_str().expect("a line")).expect("JSON");
                let body = serde_json::from_str(line["body"].as_str().unwrap_or("null")).expect("JSON");
                (entry["kind"].as_str().expect("a kind").to_owned(), body)
            })
            .collect()
    }
}

/// An owner's command on the machine with this folder.
pub fn agent_command(home: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(program("fernwart-agent"));
    command.arg("--home").arg(home).args(arguments).env("LANG", "C.UTF-8").env_remove("LC_ALL");
    command
}

/// When the archived shop of 0.2.0 was packed, Unix seconds.
const PACKED_AT: i64 = 1_795_990_528;

/// Arguments that run a hub.
const SERVE: &[&str] = &["serve", "--metrics", "127.0.0.1:0"];

/// A shop with a hub, and machines.
pub struct World {
    folder: tempfile::TempDir,
    /// Where the hub listens.
    pub address: SocketAddr,
    /// The running hub.
    pub hub: Process,
}

impl World {
    /// A new shop with one approver and a running hub.
    pub fn new() -> Self {
        Self::in_folder(tempfile::tempdir().expect("a folder"))
    }

    /// The same in a given folder, for instance on a small file system.
    pub fn in_folder(folder: tempfile::TempDir) -> Self {
        Self::begin(folder, "127.0.0.1")
    }

    /// The same with the hub at another address of this computer.
    ///
    /// # Panics
    /// When the shop cannot be created.
    pub fn at(host: &str) -> Self {
        Self::begin(tempfile::tempdir().expect("a folder"), host)
    }

    /// The same with a hub that listens on all addresses of this computer. The shop also lists `first` as
    /// an address of the hub, which peers try first.
    ///
    /// # Panics
    /// When the shop cannot be created.
    pub fn also_at(first: SocketAddr) -> Self {
        let address = SocketAddr::new([127, 0, 0, 1].into(), free_port());
        let everywhere = format!("[::]:{}", address.port());
        let addresses = [first.to_string(), address.to_string()];
        Self::begin_with(tempfile::tempdir().expect("a folder"), address, &addresses, &everywhere)
    }

    fn begin(folder: tempfile::TempDir, host: &str) -> Self {
        let address = SocketAddr::new(host.parse().expect("an address"), free_port());
        let text = address.to_string();
        Self::begin_with(folder, address, std::slice::from_ref(&text), &text)
    }

    fn begin_with(folder: tempfile::TempDir, address: SocketAddr, addresses: &[String], listen: &str) -> Self {
        let mut arguments = vec![
            "init",
            "--shop",
            "Nordlicht IT",
            "--listen",
            listen,
            "--name",
            "jana",
            "--contact",
            "Jana Petersen, 0431 555 01",
        ];
        for address in addresses {
            arguments.extend(["--address", address]);
        }
        run(&mut staff_command(&folder.path().join("shop"), &arguments)).exits(0);
        let hub = start_hub(folder.path());
        Self { folder, address, hub }
    }

    /// A shop as the programs of 0.2.0 left it: two machines, `kasse-1` whose agent died in the middle of a
    /// script, and `kasse-2` whose owner was being asked. Its hub is not started; its time is
    /// [`World::offset`]. Returns `None` without `faketime`.
    ///
    /// # Panics
    /// When it cannot be unpacked.
    pub fn unpacked() -> Option<Self> {
        let folder = tempfile::tempdir().expect("a folder");
        let archive = concat!(env!("CARGO_MANIFEST_DIR"), "/data/shop-0.2.0.tar.gz");
        let mut tar = Command::new("tar");
        tar.args(["--no-same-owner", "-xzf", archive, "-C"]).arg(folder.path());
        run(&mut tar).exits(0);
        let log = folder.path().join("nobody.log");
        let hub = Process::start(&mut Command::new("true"), &log);
        let world = Self { folder, address: "127.83.0.1:47102".parse().expect("an address"), hub };
        at_another_time(&mut Command::new("true"), "+0").then_some(world)
    }

    /// The clock offset at which [`World::unpacked`] was packed, for [`at_another_time`].
    pub fn offset(&self) -> String {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("after 1970").as_secs();
        let behind = i64::try_from(now).expect("not so far") - PACKED_AT;
        format!("{:+}s", -behind)
    }

    /// Starts the agent of an unpacked machine with a shifted clock.
    pub fn machine_in(&self, name: &str, offset: &str) -> Machine {
        let home = self.path().join(name);
        let mut command = agent_command(&home, &["run"]);
        at_another_time(&mut command, offset);
        let agent = Process::start(&mut command, &home.with_extension("log"));
        Machine { home, name: name.to_owned(), agent }
    }

    /// The world's folder.
    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    /// The shop's folder: `hub`, `staff`, `approver`.
    pub fn shop(&self) -> PathBuf {
        self.path().join("shop")
    }

    /// A command of the founding technician.
    pub fn command(&self, arguments: &[&str]) -> Command {
        staff_command(&self.shop(), arguments)
    }

    /// Runs a command of the founding technician.
    pub fn technician(&self, arguments: &[&str]) -> CommandOutput {
        run(&mut self.command(arguments))
    }

    /// Sends a request to the hub's metrics server; returns status line, headers and body.
    ///
    /// # Panics
    /// When the hub serves no metrics.
    pub fn metrics_page(&self, request: &str) -> String {
        let log = self.hub.log();
        let (_, reported) = log.rsplit_once("page=http://").expect("the hub tells where");
        let address = reported.split('/').next().expect("an address");
        let mut stream = std::net::TcpStream::connect(address).expect("connected");
        stream.write_all(request.as_bytes()).expect("sent");
        let mut page = String::new();
        stream.read_to_string(&mut page).expect("read");
        page
    }

    /// The current value of a metric, named with its labels, such as `fernwart_links{door="agent"}`; `None`
    /// if it is not on the page.
    pub fn metric(&self, name: &str) -> Option<f64> {
        let page = self.metrics_page("GET /metrics HTTP/1.1\r\nHost: hub\r\n\r\n");
        let value = page.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        value.map(|value| value.parse().expect("a number"))
    }

    /// Starts the hub again on the same home and port.
    pub fn restart_hub(&mut self) {
        self.hub = start_hub(self.path());
    }

    /// Starts the hub's process again without waiting until it listens.
    pub fn start_hub_again(&mut self) {
        self.hub = Process::start(&mut staff_command(&self.shop(), SERVE), &self.path().join("hub.log"));
    }

    /// Starts the hub again with a shifted clock.
    pub fn restart_hub_at(&mut self, offset: &str) -> bool {
        let mut command = staff_command(&self.shop(), SERVE);
        let possible = at_another_time(&mut command, offset);
        self.hub = start_hub_with(self.path(), &mut command);
        possible
    }

    /// Runs a command of the founding technician with a shifted clock.
    pub fn technician_at(&self, offset: &str, arguments: &[&str]) -> CommandOutput {
        let mut command = self.command(arguments);
        at_another_time(&mut command, offset);
        run(&mut command)
    }

    /// Approves a script as the only approver: proposes, signs and publishes it.
    ///
    /// # Panics
    /// When it has mistakes.
    pub fn approve(&self, script: &test_script::Script) -> CommandOutput {
        let folder = script.write(&self.path().join("scripts"));
        self.technician(&["catalogue", "propose", "--yes", folder.to_str().expect("text")]).exits(0)
    }

    /// The same for several at once.
    ///
    /// # Panics
    /// When one has mistakes.
    pub fn approve_all(&self, scripts: &[test_script::Script]) -> CommandOutput {
        let folders: Vec<PathBuf> = scripts.iter().map(|script| script.write(&self.path().join("scripts"))).collect();
        let mut words = vec!["catalogue", "propose", "--yes"];
        words.extend(folders.iter().map(|folder| folder.to_str().expect("text")));
        self.technician(&words).exits(0)
    }

    /// An invitation line.
    pub fn invitation(&self, arguments: &[&str]) -> String {
        let mut all = vec!["invite", "--quiet"];
        all.extend(arguments);
        self.technician(&all).exits(0).out.trim().to_owned()
    }

    /// A file with an invitation for a technician or robot.
    ///
    /// # Panics
    /// When it cannot be written.
    pub fn invitation_for_staff(&self) -> String {
        let line = self.technician(&["invite", "--staff", "--quiet"]).exits(0).out;
        let path = self.path().join("staff-invitation");
        std::fs::write(&path, line).expect("written");
        path.to_str().expect("text").to_owned()
    }

    /// Adds a robot with the role `diagnose` for one customer; returns its home.
    ///
    /// # Panics
    /// When it is not added.
    pub fn add_robot(&self, customer: &str) -> PathBuf {
        let home = self.path().join("robot");
        let invitation = self.invitation_for_staff();
        let join = ["join", "--invitation", &invitation, "--name", "robot", "--no-wait"];
        let joined = run(&mut staff_command(&home, &join)).exits(0).out;
        let key = joined.split_whitespace().last().expect("a key id");
        let add = ["staff", "add", "robot", "--key-id", key, "--role", "diagnose", "--customer", customer];
        self.technician(&add).exits(0);
        run(&mut staff_command(&home, &["join"])).exits(0);
        home
    }

    /// Changes which customers the robot may see: one, or all.
    ///
    /// # Panics
    /// When the change is not published.
    pub fn aim_robot(&self, customer: Option<&str>) {
        let rows = self.technician(&["staff", "ls", "-o", "jsonl"]).exits(0).json_lines();
        let robot = rows.iter().find(|row| row["name"] == "robot").expect("listed");
        let key = robot["key"].as_str().expect("a key");
        let mut add = vec!["staff", "add", "robot", "--key-id", key, "--role", "diagnose"];
        add.extend(customer.into_iter().flat_map(|customer| ["--customer", customer]));
        self.technician(&add).exits(0);
    }

    /// Joins a machine of another customer that is admitted at once.
    ///
    /// # Panics
    /// When enrolling fails.
    pub fn add_machine_of(&self, customer: &str, name: &str) -> Machine {
        let home = self.path().join(name);
        let invitation = self.path().join("invitation");
        std::fs::write(&invitation, self.invitation(&[customer, "--admit-automatically"])).expect("written");
        let invitation = invitation.to_str().expect("text");
        let words = ["enroll", "--invitation", invitation, "--policy", "ask", "--no-service"];
        run(&mut agent_command(&home, &words)).exits(0);
        let agent = Process::start(&mut agent_command(&home, &["run"]), &home.with_extension("log"));
        Machine { home, name: name.to_owned(), agent }
    }

    /// Joins a machine by invitation under a name, admits it, and waits until
    /// it is linked.
    pub fn add_machine(&self, name: &str) -> Machine {
        let home = self.path().join(name);
        let line = self.invitation(&["Bäckerei Meyer"]);
        run(&mut agent_command(&home, &["enroll", &line, "--policy", "ask", "--no-service"])).exits(0);
        let agent = Process::start(&mut agent_command(&home, &["run"]), &home.with_extension("log"));
        let waiting = self.technician(&["pending", "-o", "name"]).exits(0).out;
        let machine = waiting.lines().next().expect("one waits").to_owned();
        self.technician(&["admit", &machine, "--as", name]).exits(0);
        let machine = Machine { home, name: name.to_owned(), agent };
        wait_until("a machine is linked", || self.is_online(name));
        machine
    }

    /// A world with one machine, whose agent is stopped and known to be away.
    ///
    /// # Panics
    /// When it is still shown as linked after a while.
    pub fn with_one_away(name: &str) -> (Self, Machine) {
        let world = Self::new();
        let mut machine = world.add_machine(name);
        machine.agent.stop();
        wait_until("it is away", || !world.is_online(name));
        (world, machine)
    }

    /// A world with a linked machine, `kasse-1`, and one whose agent is stopped, `kasse-2`.
    pub fn with_one_linked_and_one_stopped() -> (Self, Machine, Machine) {
        let world = Self::new();
        let linked = world.add_machine("kasse-1");
        let mut stopped = world.add_machine("kasse-2");
        stopped.agent.stop();
        (world, linked, stopped)
    }

    /// Whether a machine is linked.
    pub fn is_online(&self, name: &str) -> bool {
        let printed = self.technician(&["ls", "-o", "jsonl"]);
        printed.code == 0 && printed.json_lines().iter().any(|row| row["name"] == name && row["state"] == "online")
    }

    /// Runs an owner's command in a folder that need not be enrolled.
    pub fn owner_in(&self, home: &str, arguments: &[&str]) -> CommandOutput {
        run(&mut agent_command(&self.path().join(home), arguments))
    }
}

impl Default for World {
    fn default() -> Self {
        Self::new()
    }
}

/// A technician's command with the given home.
pub fn staff_command(home: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(program("fernwart"));
    command.arg("--home").arg(home).args(arguments).env("TZ", "UTC").env_remove("FERNWART_HOME");
    command
}

fn start_hub(folder: &Path) -> Process {
    start_hub_with(folder, &mut staff_command(&folder.join("shop"), SERVE))
}

fn start_hub_with(folder: &Path, command: &mut Command) -> Process {
    let log = folder.join("hub.log");
    let before = std::fs::read_to_string(&log).unwrap_or_default().matches("hub is listening").count();
    let mut hub = Process::start(command, &log);
    wait_until("the hub listens", || hub.log().matches("hub is listening").count() > before || !hub.is_running());
    assert!(hub.is_running(), "the hub has not started: {}", hub.log());
    hub
}
