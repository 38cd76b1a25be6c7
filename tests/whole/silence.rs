//! A check without an answer is not reported as ok, and a healthy machine raises no alarm.

use crate::booted::join;
use fernwart_tests::guest::Guest;
use fernwart_tests::place::Place;
use fernwart_tests::{World, program};
use serde_json::{Value, json};

#[test]
fn missing_package_sources_are_not_reported_as_up_to_date() {
    let Some(place) = Place::new() else { return };
    let empty = "mount -t tmpfs none /etc/apt/sources.list.d && mount -t tmpfs none /mnt && : > /mnt/none
        [ ! -e /etc/apt/sources.list ] || mount --bind /mnt/none /etc/apt/sources.list\n";
    let diagnosed = place.prepared(empty).diagnose_only("updates");
    let updates = diagnosed.facts("updates");
    // With other tests running, apt may exceed its time limit.
    if updates["why"]["pending"] == "timed_out:apt" {
        return;
    }
    assert_eq!(updates["why"]["security"], "not_configured:package sources", "{updates}");
    assert_eq!(diagnosed.found("update.sources"), [("update.sources".to_owned(), "warn".to_owned())]);
    assert!(!diagnosed.is_well("update.security") && !diagnosed.is_well("update.pending"));
    let Some(place) = Place::new() else { return };
    let other = format!("{empty} echo 'deb http://deb.example/debian zurg main' > /etc/apt/sources.list.d/x.list");
    let diagnosed = place.prepared(&other).diagnose_only("updates");
    let updates = diagnosed.facts("updates");
    let bad = updates["bad_sources"].to_string();
    assert!(bad.contains("zurg (nothing was ever fetched)") && bad.contains("none of security updates"), "{updates}");
    assert!(!diagnosed.is_well("update.security"));
}

const CABLE: &str = "ip link add eth7 type veth peer name peer0 && ip link set peer0 up
    ip addr add 192.0.2.7/24 dev eth7 && ip link set eth7 up\n";

#[test]
fn dead_and_unusable_name_servers_are_reported() {
    let resolv = |text: &str| {
        format!(
            "{CABLE} ip route add default dev eth7; mount -t tmpfs none /mnt; printf '{text}' > /mnt/r; mount --bind /mnt/r /etc/resolv.conf"
        )
    };
    let Some(place) = Place::new() else { return };
    let diagnosed = place.with_network().prepared(&resolv("nameserver 192.0.2.77\\n")).diagnose_only("network");
    assert_eq!(diagnosed.found("dns.fails"), [("dns.fails".to_owned(), "crit".to_owned())]);
    assert!(!diagnosed.is_well("dns.slow"), "all are dead");
    let Some(place) = Place::new() else { return };
    // The C library ignores an indented line, so no name can be resolved.
    let diagnosed = place.with_network().prepared(&resolv("  nameserver 127.0.0.1\\n")).diagnose_only("network");
    assert_eq!(diagnosed.found("network.names"), [("network.names".to_owned(), "warn".to_owned())]);
}

#[test]
fn a_default_route_over_an_unplugged_cable_does_not_count() {
    let Some(place) = Place::new() else { return };
    let out = format!("{CABLE} ip route add default via 192.0.2.1 && ip link set peer0 down && sleep 0.3");
    let diagnosed = place.with_network().prepared(&out).diagnose_only("network");
    assert_eq!(diagnosed.facts("network")["default_routes"], json!([]));
    assert_eq!(diagnosed.found("network.route"), [("network.route".to_owned(), "warn".to_owned())]);
}

#[test]
fn certificates_are_found_in_all_forms_of_nginx_settings() {
    let Some(place) = Place::new() else { return };
    let made = "mount -t tmpfs none /mnt && mkdir -p /mnt/web /etc/nginx && mount -t tmpfs none /etc/nginx && mkdir /etc/nginx/sites-enabled
        made() { openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout /mnt/key -out \"$1\" -subj /CN=x \"$2\" \"$3\" 2>/dev/null; }
        odd=$(printf '/mnt/b\\374ro.pem') && made \"$odd\" -days 3 && made /mnt/lines.pem -days 3 && made /mnt/else.pem -days 3
        faketime -f '+900d' openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout /mnt/key -out /mnt/later.pem -subj /CN=x -days 900 2>/dev/null
        printf 'server { ssl_certificate\\n   /mnt/lines.pem;\\n ssl_certificate_key /mnt/key; }\\nserver {\\n ssl_certificate %s; # here\\n}\\n' \"$odd\" > /etc/nginx/sites-enabled/shop
        printf 'include /mnt/web/*.conf;\\nserver { ssl_certificate /mnt/gone.pem; }\\nserver { ssl_certificate /mnt/later.pem; }\\n' > /etc/nginx/nginx.conf
        echo 'server { ssl_certificate /mnt/else.pem; }' > /mnt/web/more.conf";
    let diagnosed = place.prepared(made).diagnose_only("security");
    let mut found: Vec<String> = diagnosed.found("cert.expiry").into_iter().map(|(name, _)| name).collect();
    found.sort();
    let all = ["/mnt/b\\xfcro.pem", "/mnt/else.pem", "/mnt/later.pem", "/mnt/lines.pem"];
    assert_eq!(found, all.map(|file| format!("cert.expiry:{file}")), "{}", diagnosed.facts("security")["certificates"]);
    assert_eq!(diagnosed.unknown("cert.expiry:/mnt/gone.pem").len(), 1, "nginx does not start without it");
    let Some(place) = Place::new() else { return };
    let closed = format!("{made}\n chmod 700 /etc/nginx");
    let diagnosed = place.prepared(&closed).seen_by(65534).diagnose_only("security");
    assert!(!diagnosed.is_well("cert.expiry"), "{}", diagnosed.report);
}

#[test]
fn sshd_is_checked_with_the_config_file_it_was_started_with() {
    let Some(place) = Place::new() else { return };
    let other = "mount -t tmpfs none /mnt && mkdir -p /run/sshd && ssh-keygen -q -t ed25519 -N '' -f /mnt/key
        printf 'HostKey /mnt/key\\nPort 4722\\nListenAddress 127.0.0.1\\nPermitRootLogin yes\\nPasswordAuthentication yes\\nUsePAM no\\n' > /mnt/other
        chmod 600 /mnt/key; $(command -v sshd) -f /mnt/other && sleep 0.3";
    let diagnosed = place.with_processes().prepared(other).diagnose_only("security");
    let security = diagnosed.facts("security");
    assert_eq!(security["ssh_root_password"], true, "{security}");
    assert_eq!(diagnosed.found("security.ssh-root").len(), 1);
}

#[test]
fn a_firewall_for_ipv4_only_is_reported() {
    let Some(place) = Place::new() else { return };
    let half = format!("{CABLE} ip addr add fd00:1::7/64 dev eth7 nodad; ip -6 route add default dev eth7
        nft add table ip f && nft add chain ip f in '{{ type filter hook input priority 0; policy drop; }}'
        python3 -c 'import socket, time\ns = socket.socket(socket.AF_INET6); s.bind((\"::\", 4711)); s.listen(); time.sleep(5)' >/dev/null 2>&1 &\n sleep 0.5");
    let diagnosed = place.with_network().prepared(&half).diagnose_only("security");
    assert_eq!(diagnosed.found("security.firewall").len(), 1, "{}", diagnosed.facts("security"));
    let cause = diagnosed.report["findings"].to_string();
    assert!(cause.contains("tcp 4711 (python3)"), "it is named: {cause}");
}

#[test]
fn a_socket_that_only_sends_is_not_an_open_port() {
    let Some(place) = Place::new() else { return };
    let speaks = format!(
        "{CABLE} python3 -c 'import socket, time\ns = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.sendto(b\"x\", (\"192.0.2.9\", 9)); time.sleep(5)' >/dev/null 2>&1 &\n sleep 0.5"
    );
    let diagnosed = place.with_network().prepared(&speaks).diagnose_only("security");
    assert_eq!(diagnosed.facts("security")["open_ports"], 0, "{}", diagnosed.facts("security"));
    assert_eq!(diagnosed.found("security.firewall"), []);
}

#[test]
fn a_full_tmpfs_is_reported_except_in_a_users_session() {
    let Some(place) = Place::new() else { return };
    let full = "mkdir -p /srv/till && mount -t tmpfs -o size=20m none /srv/till && head -c 20971520 /dev/zero > /srv/till/x 2>/dev/null || :
        mkdir -p /run/user/4711 && mount -t tmpfs -o size=1m none /run/user/4711 && head -c 1048576 /dev/zero > /run/user/4711/x 2>/dev/null || :";
    let found = place.prepared(full).diagnose_only("disks").found("disk.free");
    assert!(found.contains(&("disk.free:/srv/till".to_owned(), "crit".to_owned())), "{found:?}");
    assert!(!found.iter().any(|(name, _)| name.contains("4711")), "a session's own: {found:?}");
}

#[test]
fn failed_logins_are_counted_where_auth_log_is_the_only_log() {
    let Some(place) = Place::new() else { return };
    let lines = "mount -t tmpfs none /var/log
        for n in $(seq 60); do echo \"$(date '+%b %e %H:%M:%S') kasse-1 sshd[7]: Failed password for root from 192.0.2.9 port 4711 ssh2\"; done > /var/log/auth.log";
    let diagnosed = place.prepared(lines).diagnose_only("logs");
    let logs = diagnosed.facts("logs");
    // In a container the kernel's log is the host's, and this machine keeps none.
    if logs["source"] == "kernel" {
        assert_eq!(logs["failed_logins"], 60, "{logs}");
    } else {
        assert_eq!(logs["errors"], Value::Null, "{logs}");
    }
}

#[test]
fn checks_of_a_slow_package_manager_are_not_yet_and_its_answer_is_shared() {
    let world = World::new();
    let Some(guest) = Guest::boot(world.path()) else { return };
    join(&world, &guest);
    guest.put_program(
        "/usr/bin/apt-get",
        "#!/bin/sh\nsleep 6\n[ \"$1\" = indextargets ] && echo 'http://deb.debian.org/debian-security|bookworm-security|/var/lib/apt/lists/x' || echo 'Inst bash [1] (2 Debian-Security:12/stable-security [amd64])'\n",
    );
    guest.run(&["sh", "-c", "mkdir -p /var/lib/apt/lists && touch /var/lib/apt/lists/x_Packages"]);
    let ask = ["diagnose", "kasse-1", "--section", "updates", "-o", "jsonl", "--require", "all,complete"];
    let output = world.technician(&ask).exits(4);
    assert!(output.err.is_empty(), "a cron job mails whatever is said: {}", output.err);
    let report = output.json_lines().swap_remove(0)["report"].clone();
    let not_yet = report["not_yet"].as_array().expect("named").clone();
    assert!(not_yet.contains(&json!("update.security")), "{report}");
    assert!(!report["well"].as_array().expect("a list").contains(&json!("update.security")), "{report}");
    let screen = world.technician(&["diagnose", "kasse-1", "--section", "updates,time"]).out;
    assert!(screen.contains("not yet  update.security"), "{screen}");
    let known = || {
        let output = world.technician(&["diagnose", "kasse-1", "--section", "updates", "-o", "jsonl"]);
        output.json_lines().first().is_some_and(|line| line["report"]["sections"]["updates"]["facts"]["security"] == 1)
    };
    fernwart_tests::wait_until("it has answered", known);
    // The owner's own diagnosis reuses the answer.
    let agent = program("fernwart-agent");
    let own = guest.run(&[agent.to_str().expect("text"), "--lang", "de", "diagnose", "--section", "updates"]);
    assert!(own.out.contains("1 Aktualisierung") && !own.out.contains("UNBEKANNT"), "{}", own.out);
}
