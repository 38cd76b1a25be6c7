//! Every confirmation prompt for technicians: with the right answer, a wrong one, Ctrl-C, and without a
//! terminal.

use fernwart_tests::test_script::Script;
use fernwart_tests::{TIMEOUT, World, run, staff_command, wait_until};
use std::io::{Read, Write};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Instant;

const CTRL_C: &[u8] = b"\x03";

/// What a command wrote on its terminal, and how it ended.
struct Typed {
    out: String,
    code: i32,
}

/// Runs a command on a terminal of its own, and types `keys` once the question is shown.
fn at_terminal(command: &Command, question: &str, keys: &[u8]) -> Typed {
    at_terminal_after(command, question, keys, std::time::Duration::ZERO)
}

/// The same, with a pause before typing.
fn at_terminal_after(command: &Command, question: &str, keys: &[u8], pause: std::time::Duration) -> Typed {
    let words: Vec<String> = std::iter::once(command.get_program())
        .chain(command.get_args())
        .map(|word| format!("'{}'", word.to_str().expect("text").replace('\'', "'\\''")))
        .collect();
    let mut script = Command::new("script");
    script.args(["--quiet", "--return", "--flush", "--command", &words.join(" "), "/dev/null"]);
    script.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?)))).env("SHELL", "/bin/sh");
    let mut running =
        script.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("a terminal");
    let out = Arc::new(Mutex::new(Vec::new()));
    let reader = {
        let (out, mut from) = (out.clone(), running.stdout.take().expect("piped"));
        std::thread::spawn(move || {
            let mut bytes = [0; 4096];
            while let Ok(length @ 1..) = from.read(&mut bytes) {
                out.lock().expect("one reader").extend_from_slice(&bytes[..length]);
            }
        })
    };
    let output = || String::from_utf8_lossy(&out.lock().expect("one reader")).into_owned();
    let begun = Instant::now();
    while !output().contains(question) && running.try_wait().expect("a child").is_none() {
        assert!(begun.elapsed() < TIMEOUT, "no question {question:?} in:\n{}", output());
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    assert!(output().contains(question), "it ended without asking:\n{}", output());
    std::thread::sleep(pause);
    let mut keyboard = running.stdin.take().expect("piped");
    keyboard.write_all(keys).expect("typed");
    keyboard.flush().expect("typed");
    let begun = Instant::now();
    let ended = loop {
        if let Some(ended) = running.try_wait().expect("a child") {
            break ended;
        }
        assert!(begun.elapsed() < TIMEOUT, "it goes on after {keys:?}:\n{}", output());
        std::thread::sleep(std::time::Duration::from_millis(20));
    };
    drop(keyboard);
    reader.join().expect("read");
    Typed { out: output().replace('\r', ""), code: ended.code().expect("a code") }
}

/// Asserts that Ctrl-C, a wrong answer, the end of input and a missing terminal each do nothing, and that
/// the command says so.
fn is_left_alone(world: &World, words: &[&str], question: &str, nothing: &str, code: &str) {
    let command = world.command(words);
    let stopped = at_terminal(&command, question, CTRL_C);
    assert_eq!(stopped.code, 130, "{words:?}: {}", stopped.out);
    assert!(stopped.out.contains(&format!("stopped; {nothing}     [FW-CLI-15]")), "{words:?}: {}", stopped.out);
    let wrong = at_terminal(&command, question, b"perhaps\n");
    assert_eq!(wrong.code, 130, "{words:?}: {}", wrong.out);
    assert!(wrong.out.contains(nothing) && wrong.out.contains(code), "{words:?}: {}", wrong.out);
    let ended = at_terminal(&command, question, b"\x04");
    assert!(ended.code == 130 && ended.out.contains(nothing), "{words:?} at the end of input: {}", ended.out);
    let alone = world.technician(words).exits(2);
    assert!(alone.err.contains(nothing) && alone.err.contains(code), "{words:?}: {}", alone.err);
}

#[test]
fn destructive_commands_ask_for_confirmation_and_name_the_target() {
    let world = World::new();
    let _machine = world.add_machine("kasse-1");
    let line = world.invitation(&["Praxis Petersen"]);
    world.owner_in("waiting", &["enroll", &line, "--policy", "ask", "--no-service"]).exits(0);
    let waiting = world.technician(&["pending", "-o", "name"]).exits(0).out.trim().to_owned();
    let invitation = world.invitation_for_staff();
    let join = ["join", "--invitation", &invitation, "--name", "cron", "--no-wait"];
    run(&mut staff_command(&world.path().join("robot"), &join)).exits(0);

    let nothing = "nothing was changed";
    is_left_alone(&world, &["retire", "kasse-1"], "Type kasse-1 to retire it: ", nothing, "FW-CLI-14");
    is_left_alone(&world, &["reject", &waiting], &format!("Type {waiting} to turn it away: "), nothing, "FW-CLI-14");
    is_left_alone(&world, &["staff", "reject", "cron"], "Type cron to turn them away: ", nothing, "FW-CLI-14");
    assert!(world.is_online("kasse-1"), "it was not retired");
    let still = world.technician(&["pending", "-o", "name"]).exits(0).out;
    assert!(still.contains(&waiting) && still.contains("cron"), "{still}");

    let other = world.technician(&["retire", "kasse-1", "--yes=kasse-2"]).exits(2);
    assert!(other.err.contains("--yes=kasse-2, but kasse-1 is meant"), "{}", other.err);
    let reported = at_terminal(&world.command(&["retire", "kasse-1"]), "to retire it: ", b"kasse-1\n");
    assert!(reported.code == 0 && reported.out.contains("kasse-1 (Bäckerei Meyer, "), "{}", reported.out);
    assert!(reported.out.contains("only with a new invitation"), "{}", reported.out);
    world.technician(&["reject", &waiting, &format!("--yes={waiting}")]).exits(0);
    world.technician(&["staff", "reject", "cron", "--yes=cron"]).exits(0);
    assert_eq!(world.technician(&["pending", "-o", "name"]).exits(0).out, "");
}

#[test]
fn publishing_shows_the_script_and_asks_for_confirmation() {
    let world = World::new();
    let folder = Script::new("wipe", "echo wiped\n").write(&world.path().join("scripts"));
    let folder = folder.to_str().expect("text");
    let nothing = "nothing was published";
    is_left_alone(&world, &["catalogue", "propose", folder], "Type yes to publish", nothing, "FW-CLI-14");
    assert!(!world.technician(&["script", "ls", "-o", "name"]).exits(0).out.contains("wipe"));
    let reported = at_terminal(&world.command(&["catalogue", "propose", folder]), "Type yes to publish", b"yes\n");
    assert!(reported.code == 0 && reported.out.contains("+ script wipe 1"), "{}", reported.out);
    assert!(
        reported.out.contains("echo wiped") && reported.out.contains("published: version "),
        "its text was shown: {}",
        reported.out
    );
    let versions = world.technician(&["catalogue", "show"]).exits(0).out;
    let again = world.technician(&["catalogue", "propose", folder]).exits(0);
    assert!(again.err.contains("approved already"), "{}", again.err);
    assert_eq!(world.technician(&["catalogue", "show"]).exits(0).out, versions, "nothing new was published");
    is_left_alone(&world, &["catalogue", "withdraw", "wipe"], "Type yes to publish", nothing, "FW-CLI-14");
    world.technician(&["catalogue", "withdraw", "wipe", "--yes"]).exits(0);
}

#[test]
fn a_run_on_many_machines_asks_with_counts_per_customer() {
    let world = World::new();
    let mut machines: Vec<_> = (1..=9).map(|n| world.add_machine(&format!("kasse-{n}"))).collect();
    machines.extend((1..=2).map(|n| world.add_machine_of("Praxis Petersen", &format!("praxis-{n}"))));
    world.approve(&Script::new("mend", "echo mended\n"));
    let words = ["run", "mend", "all", "--reason", "test"];
    is_left_alone(&world, &words, "Type 11 to start: ", "nothing was sent", "FW-CLI-14");
    assert_eq!(world.technician(&["job", "ls", "-o", "name"]).exits(0).out, "", "nothing was sent");
    let reported = at_terminal(&world.command(&words), "Type 11 to start: ", CTRL_C).out;
    assert!(reported.contains("on 11 machines of 2 customers:"), "{reported}");
    assert!(
        reported.contains("  Bäckerei Meyer: 9 machines\n") && reported.contains("  Praxis Petersen: 2 machines\n"),
        "{reported}"
    );
}

#[test]
fn prompts_for_secrets_and_invitations_can_be_interrupted() {
    let world = World::new();
    let _machine = world.add_machine("kasse-1");
    world.approve(&Script::new("login", "cat >/dev/null\n").parameter("token", "text", "secret = true"));
    let words = ["run", "login", "kasse-1", "--reason", "test"];
    let stopped = at_terminal(&world.command(&words), "token", CTRL_C);
    assert!(stopped.code == 130 && stopped.out.contains("stopped; nothing was sent"), "{}", stopped.out);
    let home = world.path().join("newcomer");
    let stopped = at_terminal(&staff_command(&home, &["join"]), "Paste the invitation", CTRL_C);
    assert!(stopped.code == 130 && stopped.out.contains("stopped; nothing was made"), "{}", stopped.out);
}

#[test]
fn a_confirmation_after_a_long_wait_still_works() {
    let world = World::new();
    let _machine = world.add_machine("kasse-1");
    // Longer than the idle timeout of a link.
    let pause = fernwart_protocol::limits::STAFF_IDLE_TIMEOUT + std::time::Duration::from_secs(4);
    let reported = at_terminal_after(&world.command(&["retire", "kasse-1"]), "to retire it: ", b"kasse-1\n", pause);
    assert!(reported.code == 0 && reported.out.contains("kasse-1 is retired"), "{}", reported.out);
}

#[test]
fn reusing_the_old_name_of_another_customers_machine_asks_first() {
    let world = World::new();
    let _meyers = world.add_machine("kasse-1");
    let _krauses = world.add_machine_of("Laden Krause", "kasse-2");
    let theirs = || world.technician(&["ls", "customer:Laden Krause", "-o", "name"]).out.trim().to_owned();
    wait_until("both are there", || world.is_online("kasse-1") && !theirs().is_empty());
    let krauses = theirs();
    world.technician(&["rename", "kasse-1", "meyer-1"]).exits(0);
    let output = world.technician(&["diagnose", "kasse-1"]).exits(2);
    assert!(output.err.contains("kasse-1 is called meyer-1 now"), "{}", output.err);
    let output = world.technician(&["rename", &krauses, "kasse-1"]).exits(2);
    assert!(
        output.err.contains("was the name of a machine of Bäckerei Meyer that is called meyer-1 now"),
        "{}",
        output.err
    );
    assert_eq!(theirs(), krauses, "nothing was changed");
    world.technician(&["rename", &krauses, "kasse-1", "--yes=kasse-1"]).exits(0);
    // A machine gets its own old name back without a prompt.
    world.technician(&["rename", "kasse-1", &krauses]).exits(0);
}
