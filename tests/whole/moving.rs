//! Addresses: a machine keeps its link when its address changes, and a hub with several addresses is
//! reached at the one that answers.

use fernwart_protocol::limits::HANDSHAKE_TIMEOUT;
use fernwart_tests::{Process, World, run, wait_within};
use std::net::UdpSocket;
use std::process::Command;
use std::time::{Duration, Instant};

/// A network namespace with one virtual cable to this computer; removed when dropped.
struct Elsewhere {
    name: String,
    cable: String,
}

fn ip(arguments: &str) -> bool {
    Command::new("ip")
        .args(arguments.split_whitespace())
        .stderr(std::process::Stdio::null())
        .status()
        .is_ok_and(|s| s.success())
}

impl Elsewhere {
    fn new() -> Option<Self> {
        let mark = std::process::id() % 10_000;
        let (name, cable) = (format!("fwt{mark}"), format!("fwt{mark}a"));
        let made = ip(&format!("netns add {name}"));
        if !made {
            assert!(std::env::var_os("CI").is_none(), "network namespaces need root");
            println!("skipped: network namespaces need root");
            return None;
        }
        let there = Self { name, cable };
        let (name, cable) = (&there.name, &there.cable);
        for step in [
            format!("link add {cable} type veth peer name eth0 netns {name}"),
            format!("addr add 10.231.77.1/24 dev {cable}"),
            format!("link set {cable} up"),
            format!("-n {name} link set lo up"),
            format!("-n {name} addr add 10.231.77.2/24 dev eth0"),
            format!("-n {name} link set eth0 up"),
        ] {
            assert!(ip(&step), "ip {step}");
        }
        Some(there)
    }

    fn inside(&self, command: &Command) -> Command {
        let mut inside = Command::new("ip");
        inside.args(["netns", "exec", &self.name]).arg(command.get_program()).args(command.get_args());
        inside
    }
}

impl Drop for Elsewhere {
    fn drop(&mut self) {
        ip(&format!("netns del {}", self.name));
        ip(&format!("link del {}", self.cable));
    }
}

#[test]
fn a_machine_that_changes_its_address_keeps_its_link() {
    let Some(there) = Elsewhere::new() else { return };
    let world = World::at("10.231.77.1");
    let line = world.invitation(&["Bäckerei Meyer"]);
    let home = world.path().join("kasse-1");
    let agent = |arguments: &[&str]| {
        let mut command = Command::new(fernwart_tests::program("fernwart-agent"));
        command.arg("--home").arg(&home).args(arguments);
        there.inside(&command)
    };
    run(&mut agent(&["enroll", &line, "--policy", "ask", "--no-service"])).exits(0);
    let running = Process::start(&mut agent(&["run"]), &world.path().join("agent.log"));
    let name = world.technician(&["pending", "-o", "name"]).exits(0).out.trim().to_owned();
    world.technician(&["admit", &name, "--as", "kasse-1"]).exits(0);
    wait_within(Duration::from_secs(10), "it is linked", || world.is_online("kasse-1"));
    let linked = |process: &Process| process.log().matches("INFO linked").count();
    assert_eq!(linked(&running), 1);

    assert!(ip(&format!("-n {} addr add 10.231.77.9/24 dev eth0", there.name)));
    assert!(ip(&format!("-n {} addr del 10.231.77.2/24 dev eth0", there.name)));
    assert!(ip(&format!("-n {} addr replace 10.231.77.9/24 dev eth0", there.name)));
    let addresses = run(Command::new("ip").args(["-n", &there.name, "-4", "-o", "addr", "show", "eth0"])).exits(0).out;
    assert!(
        addresses.contains("10.231.77.9") && !addresses.contains("10.231.77.2/"),
        "the old address is gone: {addresses}"
    );
    // The agent sends something at least every 20 s; the first packet from the new address moves the link.
    let moved = wait_within(Duration::from_secs(40), "the link has moved", || {
        world.technician(&["ping", "kasse-1", "--timeout", "1s"]).code == 0
    });
    println!("moved after {moved:?}");
    assert_eq!(linked(&running), 1, "it is the same link: {}", running.log());
    let output = world.technician(&["diagnose", "kasse-1", "--section", "network", "-o", "jsonl"]);
    assert!(matches!(output.code, 0 | 1) && output.out.contains("10.231.77.9"), "{}", output.out);
}

#[test]
fn an_unresponsive_hub_address_is_skipped_before_its_timeout() {
    let silent = UdpSocket::bind("127.0.0.1:0").expect("a port");
    let mut world = World::also_at(silent.local_addr().expect("an address"));
    let began = Instant::now();
    world.technician(&["ls"]).exits(0);
    let took = began.elapsed();
    println!("a command takes {took:?}");
    assert!(took < HANDSHAKE_TIMEOUT / 2, "{took:?}");
    let mut datagram = [0; 2048];
    silent.set_nonblocking(true).expect("set");
    assert!(silent.recv_from(&mut datagram).is_ok(), "the silent address was tried");

    let kasse = world.add_machine("kasse-1");
    let linked = kasse.agent.log();
    assert!(linked.contains(&format!("address={}", world.address)), "{linked}");
    // On a socket for both families the hub logs plain IPv4 addresses, and sends its restart hint to them.
    let hub = world.hub.log();
    assert!(hub.contains("address=127.0.0.1:") && !hub.contains("ffff"), "{hub}");
    let began = Instant::now();
    world.hub.kill_9();
    world.restart_hub();
    wait_within(Duration::from_secs(15), "it is linked again", || world.is_online("kasse-1"));
    println!("linked again after {:?}", began.elapsed());
}
