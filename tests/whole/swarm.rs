//! A small swarm of simulated machines: does with forty what `fernwart-bench fleet` measures with ten
//! thousand.

use fernwart_certs::invitation::Invitation;
use fernwart_tests::World;
use fernwart_tests::swarm::Swarm;
use std::time::Duration;

const MACHINES: usize = 40;
const TIMEOUT: Duration = Duration::from_secs(20);

fn summary(world: &World, words: &[&str]) -> serde_json::Value {
    world.technician(words).exits(0).json_lines().pop().expect("a summary")
}

#[test]
fn a_swarm_reconnects_after_a_hub_crash_and_loses_no_outcome() {
    let mut world = World::new();
    let many = ["Swarm", "--machines", "40", "--for", "1h", "--admit-automatically"];
    let invitation: Invitation = world.invitation(&many).parse().expect("an invitation");
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime");
    let folder = tempfile::tempdir().expect("a folder");
    let mut swarm = runtime.block_on(Swarm::join(folder.path(), world.address, &invitation, MACHINES));
    runtime.block_on(swarm.switch_on(8, TIMEOUT));
    assert_eq!(swarm.linked(), MACHINES);
    let ponged = world.technician(&["ping", "all", "-o", "jsonl"]).exits(0).json_lines();
    assert_eq!(ponged.iter().filter(|line| line["ms"].is_number()).count(), MACHINES);

    let looked = summary(&world, &["diagnose", "all", "--section", "power", "-o", "jsonl"]);
    assert_eq!((looked["answered"].as_u64(), looked["failed"].as_u64()), (Some(MACHINES as u64), Some(0)));

    // The hub and one machine die; the machine's state store stays.
    world.hub.kill_9();
    swarm.begin_return();
    swarm.switch_off(0);
    world.restart_hub();
    runtime.block_on(async {
        swarm.switch_on(8, TIMEOUT).await;
        swarm.wait_back(MACHINES, TIMEOUT).await;
    });
    let again = summary(&world, &["diagnose", "all", "--section", "power", "-o", "jsonl"]);
    assert_eq!(again["answered"].as_u64(), Some(MACHINES as u64));
    // Two outcomes per machine are stored and countersigned, in an intact chain.
    for name in ["swarm-1", "swarm-40"] {
        let exported = world.technician(&["journal", "export", name]).exits(0).out;
        let path = world.path().join(name);
        std::fs::write(&path, exported).expect("written");
        let output = world.technician(&["journal", "verify", path.to_str().expect("text")]).exits(0);
        assert!(output.out.contains('2') || output.err.contains('2'), "{output:?}");
    }
    assert!(!world.hub.log().contains("holds other receipts"), "{}", world.hub.log());
    runtime.block_on(swarm.stop());
}
