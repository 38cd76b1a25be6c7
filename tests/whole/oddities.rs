//! Unusual machines: odd mounts, bytes that are not UTF-8, programs that hang, settings written by others.
//! Each is set up for real in an isolated environment on this computer, and the shipped program diagnoses
//! it.

use fernwart_tests::place::{Diagnosed, Place};
use serde_json::{Value, json};
use std::time::Instant;

/// A FUSE mount that never answers, as if its program or server hung. Every access to it waits.
const HANG: &str = r#"
hang() { # PLACE USER
    mkdir -p "$1"
    python3 - "$1" "$2" <<'END' >/dev/null 2>&1 &
import ctypes, os, sys, time
device = os.open('/dev/fuse', os.O_RDWR)
libc = ctypes.CDLL(None, use_errno=True)
options = f'fd={device},rootmode=40000,user_id={sys.argv[2]},group_id=0'
if libc.mount(b'nas', sys.argv[1].encode(), b'fuse.hangs', 0, options.encode()):
    sys.exit(os.strerror(ctypes.get_errno()))
time.sleep(20)
END
    hanging=$!
    for try in $(seq 100); do grep -q " $1 " /proc/self/mountinfo && break; sleep 0.05; done
    grep -q " $1 " /proc/self/mountinfo
}
"#;

/// A small ext4 file system in a file, mounted.
const IMAGE: &str = r#"
image() { # FILE PLACE OPTIONS
    dd if=/dev/zero of="$1" bs=1M count=16 2>/dev/null
    mkfs.ext4 -q -F "$1"
    mkdir -p "$2"
    mount -o "loop${3:+,$3}" "$1" "$2"
}
mount -t tmpfs none /mnt
"#;

fn mounts(diagnosed: &Diagnosed) -> Vec<String> {
    let all = diagnosed.facts("disks")["filesystems"].as_array().expect("a list");
    all.iter().map(|one| one["mount"].as_str().expect("a path").to_owned()).collect()
}

#[test]
fn paths_may_contain_any_bytes_and_each_file_system_is_listed_once() {
    let Some(place) = Place::new() else { return };
    let script = format!(
        "{IMAGE}
        odd=$(printf '/mnt/a b\\nc\\\\d\\374')
        image /mnt/one.img \"$odd\"
        mkdir -p /mnt/early /mnt/late && mkdir \"$odd/shop\"
        mount --bind \"$odd/shop\" /mnt/early && mount --bind \"$odd\" /mnt/late"
    );
    let diagnosed = place.prepared(&script).diagnose_only("disks");
    let ours: Vec<String> = mounts(&diagnosed).into_iter().filter(|mount| mount.starts_with("/mnt/")).collect();
    // Of its three mount points, the shortest one that shows its root.
    assert_eq!(ours, ["/mnt/late"]);
    let Some(place) = Place::new() else { return };
    let script = format!("{IMAGE}\n image /mnt/one.img \"$(printf '/mnt/a b\\nc\\\\d\\374')\"");
    let diagnosed = place.prepared(&script).diagnose_only("disks");
    let ours = diagnosed.entry("disks", "filesystems", "mount", "/mnt/a b\nc\\d\\xfc").expect("it is told");
    assert!(ours["size_bytes"].as_u64().is_some_and(|size| size > 10_000_000), "{ours}");
}

#[test]
fn only_an_unrequested_read_only_mount_is_a_finding() {
    let Some(place) = Place::new() else { return };
    let script = format!(
        "{IMAGE}
        image /mnt/asked.img /mnt/asked ro
        image /mnt/broken.img /mnt/broken errors=remount-ro
        image /mnt/shared.img /mnt/shared
        mkdir /mnt/view && mount --bind /mnt/shared /mnt/view && mount -o remount,bind,ro /mnt/view
        echo 1 > /sys/fs/ext4/$(basename $(findmnt -no SOURCE /mnt/broken))/trigger_fs_error"
    );
    let diagnosed = place.prepared(&script).diagnose_only("disks");
    let found: Vec<String> = diagnosed.found("disk.readonly").into_iter().map(|(name, _)| name).collect();
    assert_eq!(found, ["disk.readonly:/mnt/broken"], "{}", diagnosed.report["findings"]);
    // The file system has recorded the error, with its time.
    assert_eq!(diagnosed.found("fs.damage"), [("fs.damage:/mnt/broken".to_owned(), "crit".to_owned())]);
    let broken = diagnosed.entry("disks", "filesystems", "mount", "/mnt/broken").expect("it is told");
    assert!(broken["errors"].as_u64().is_some_and(|errors| errors > 0), "{broken}");
    assert_eq!(diagnosed.code, 1);
}

#[test]
fn read_only_images_are_not_listed_as_disks() {
    let Some(place) = Place::new() else { return };
    let script = "mount -t tmpfs none /mnt && mkdir /mnt/files /mnt/snap && echo x > /mnt/files/x
        mkfs.erofs /mnt/snap.img /mnt/files >/dev/null 2>&1
        mount -o loop /mnt/snap.img /mnt/snap";
    let diagnosed = place.prepared(script).diagnose_only("disks");
    assert!(!mounts(&diagnosed).iter().any(|mount| mount.starts_with("/mnt/")), "{:?}", mounts(&diagnosed));
    assert_eq!(diagnosed.found("disk.readonly"), []);
}

#[test]
fn a_hanging_mount_does_not_delay_the_diagnosis_of_others() {
    let Some(place) = Place::new() else { return };
    let script = format!(
        "{IMAGE}{HANG}
        image /mnt/good.img /mnt/good
        mkdir -p /mnt/nas/in && image /mnt/in.img /mnt/in
        hang /mnt/nas 0"
    );
    let begun = Instant::now();
    let diagnosed = place.prepared(&script).diagnose();
    assert!(diagnosed.report["took_ms"].as_u64().is_some_and(|ms| ms <= 3000), "{}", begun.elapsed().as_secs_f32());
    assert_eq!(diagnosed.found("disk.hangs"), [("disk.hangs:/mnt/nas".to_owned(), "crit".to_owned())]);
    let nas = diagnosed.entry("disks", "filesystems", "mount", "/mnt/nas").expect("it is told");
    assert_eq!((&nas["free_pct"], &nas["why"]["free_pct"]), (&Value::Null, &json!("hangs")));
    for well in ["/mnt/good", "/mnt/in"] {
        let good = diagnosed.entry("disks", "filesystems", "mount", well).expect("it is told");
        assert!(good["free_pct"].is_number(), "{good}");
    }
    assert_eq!(diagnosed.unknown("disk.free:/mnt/nas").len(), 1, "what hangs is not called well");
    assert_eq!(diagnosed.code, 1);
}

#[test]
fn a_mount_inside_a_hanging_mount_is_named_and_the_others_answer() {
    let Some(place) = Place::new() else { return };
    // It answers until something is mounted in it; then its program is suspended.
    let script = format!(
        "{IMAGE}
        image /mnt/good.img /mnt/good
        mkdir -p /mnt/files/in /mnt/nas && bindfs -f /mnt/files /mnt/nas >/dev/null 2>&1 &
        daemon=$!
        for try in $(seq 100); do grep -q ' /mnt/nas ' /proc/self/mountinfo && break; sleep 0.05; done
        image /mnt/in.img /mnt/nas/in
        kill -STOP $daemon
        # Until then the kernel remembers what lies in it.
        sleep 1.5
        (sleep 6; kill -KILL $daemon) >/dev/null 2>&1 &"
    );
    let script =
        script.replace("mkdir -p /mnt/files/in /mnt/nas && bindfs", "mkdir -p /mnt/files/in /mnt/nas\n        bindfs");
    let diagnosed = place.prepared(&script).diagnose_only("disks");
    let hangs: Vec<String> = diagnosed.found("disk.hangs").into_iter().map(|(name, _)| name).collect();
    assert!(hangs.contains(&"disk.hangs:/mnt/nas/in".to_owned()), "{}", diagnosed.report["findings"]);
    let good = diagnosed.entry("disks", "filesystems", "mount", "/mnt/good").expect("it is told");
    assert!(good["free_pct"].is_number(), "{good}");
    assert!(diagnosed.report["took_ms"].as_u64().is_some_and(|ms| ms <= 3000));
}

#[test]
fn a_missing_fstab_mount_is_reported() {
    let Some(place) = Place::new() else { return };
    let script = "mount -t tmpfs none /mnt
        printf 'UUID=1 / ext4 defaults\\n# remark\\n/dev/sdz1 /mnt/my\\\\040data ext4 defaults 0 2\\n/dev/sdy1 /mnt/usb vfat nofail\\n//nas/x /mnt/x cifs noauto\\n' > /mnt/fstab
        mount --bind /mnt/fstab /etc/fstab 2>/dev/null || { touch /etc/fstab; mount --bind /mnt/fstab /etc/fstab; }";
    let diagnosed = place.prepared(script).diagnose_only("disks");
    let found: Vec<_> = diagnosed.found("mount.missing");
    assert_eq!(
        found,
        [
            ("mount.missing:/mnt/my data".to_owned(), "warn".to_owned()),
            ("mount.missing:/mnt/usb".to_owned(), "note".to_owned())
        ]
    );
}

#[test]
fn invalid_utf8_in_system_files_affects_only_its_own_entry() {
    let Some(place) = Place::new() else { return };
    let script = "mount -t tmpfs none /mnt
        printf 'root:x:0:0:root:/root:/bin/sh\\nm\\374ller:x:0:0:M\\374ller:/:/bin/sh\\nmeyer:x:1000:1000:J\\366rg Meyer:/:/bin/sh\\n' > /mnt/passwd
        printf '# f\\374r den Router\\nnameserver 192.0.2.1\\n' > /mnt/resolv
        mount --bind /mnt/passwd /etc/passwd && mount --bind /mnt/resolv /etc/resolv.conf
        python3 -c 'import socket; socket.sethostname(b\"kasse-m\\xfcller\")'
        python3 -c 'open(\"/proc/self/comm\", \"wb\").write(b\"M\\xfcller\"); x = bytearray(300 << 20); x[::4096] = b\"x\" * len(x[::4096]); import time; time.sleep(8)' >/dev/null 2>&1 &
        sleep 1";
    let diagnosed = place.with_name().prepared(script).diagnose();
    let security = diagnosed.facts("security");
    assert_eq!(security["second_roots"], json!(["m\\xfcller"]));
    assert_eq!(diagnosed.facts("network")["dns_servers"], json!(["192.0.2.1"]));
    assert_eq!(diagnosed.facts("system")["hostname"], "kasse-m\\xfcller");
    assert!(
        diagnosed.entry("processes", "top_memory", "name", "M\\xfcller").is_some(),
        "{}",
        diagnosed.facts("processes")
    );
}

#[test]
fn a_host_name_of_64_bytes_is_accepted() {
    let Some(place) = Place::new() else { return };
    let script = "python3 -c 'import socket; socket.sethostname(b\"k\" * 64)'";
    let diagnosed = place.with_name().prepared(script).diagnose_only("system");
    assert_eq!(diagnosed.facts("system")["hostname"], "k".repeat(64));
    let name = fernwart_protocol::text::MachineName::from_hostname(&"k".repeat(64));
    assert_eq!(name.as_str(), "k".repeat(63));
}

#[test]
fn a_default_route_needs_no_gateway_and_a_dead_route_is_reported() {
    let Some(place) = Place::new() else { return };
    let ppp = "ip link add ppp0 type veth peer name peer0 && ip link set peer0 up && ip addr add 192.0.2.7/32 dev ppp0 && ip link set ppp0 up && ip route add default dev ppp0";
    let diagnosed = place.with_network().prepared(ppp).diagnose_only("network");
    assert_eq!(diagnosed.facts("network")["default_routes"], json!([{"device": "ppp0"}]));
    assert!(diagnosed.is_well("network.route") && !diagnosed.is_well("network.gateway"));
    let Some(place) = Place::new() else { return };
    let none = "ip link add eth7 type veth peer name peer0 && ip link set peer0 up && ip addr add 192.0.2.7/24 dev eth7 && ip link set eth7 up && ip route add unreachable default metric 5";
    let diagnosed = place.with_network().prepared(none).diagnose_only("network");
    assert_eq!(diagnosed.found("network.route").len(), 1, "{}", diagnosed.facts("network"));
    let Some(place) = Place::new() else { return };
    let silent = "ip link add eth7 type veth peer name peer0 && ip link set peer0 up && ip addr add 192.0.2.7/24 dev eth7 && ip link set eth7 up && ip route add default via 192.0.2.1";
    let diagnosed = place.with_network().prepared(silent).diagnose_only("network");
    assert_eq!(diagnosed.facts("network")["gateway_reachable"], false, "{}", diagnosed.facts("network"));
    assert_eq!(diagnosed.found("network.gateway").len(), 1);
    let Some(place) = Place::new() else { return };
    let third = format!(
        "{silent} metric 1 && ip route add default via 192.0.2.9 metric 2 && ip route add default via 192.0.2.3 metric 3 && ip neigh add 192.0.2.3 lladdr 02:00:00:00:00:03 nud permanent dev eth7"
    );
    let diagnosed = place.with_network().prepared(&third).diagnose_only("network");
    assert!(diagnosed.is_well("network.gateway"), "{}", diagnosed.facts("network"));
    let Some(place) = Place::new() else { return };
    let nowhere = format!("{silent} table 100");
    let diagnosed = place.with_network().prepared(&nowhere).diagnose_only("network");
    assert_eq!(diagnosed.found("network"), [("network.route".to_owned(), "warn".to_owned())], "no rule leads there");
}

/// Listens on every address, so that a firewall has something to keep out.
const OPEN: &str = "python3 -c 'import socket, time
s = socket.socket(); s.bind((\"0.0.0.0\", 4711)); s.listen(); time.sleep(5)' >/dev/null 2>&1 &\n sleep 0.5\n";

#[test]
fn only_rules_that_drop_unsolicited_packets_count_as_a_firewall() {
    let cases = [
        (
            "an empty chain that lets all in",
            "table inet f { chain in { type filter hook input priority 0; policy accept; } }",
            Some(false),
        ),
        ("a bridge's", "table bridge f { chain in { type filter hook input priority 0; policy drop; } }", Some(false)),
        (
            "fail2ban's kind",
            "table inet f { set bad { type ipv4_addr; elements = { 192.0.2.9 } } chain in { type filter hook input priority 0; policy accept; ip saddr @bad drop; } }",
            Some(false),
        ),
        (
            "what passes through",
            "table inet f { chain fw { type filter hook forward priority 0; policy drop; } }",
            Some(false),
        ),
        (
            "a table that sleeps",
            "table inet f { flags dormant; chain in { type filter hook input priority 0; policy drop; } }",
            Some(false),
        ),
        (
            "what comes back before it is dropped",
            "table inet f { chain a { tcp dport 22 accept; return; drop; } chain in { type filter hook input priority 0; policy accept; jump a; } }",
            Some(false),
        ),
        (
            "what is sent away and does not come back",
            "table inet f { chain a { tcp dport 22 accept; } chain in { type filter hook input priority 0; policy accept; goto a; drop; } }",
            Some(false),
        ),
        (
            "new ones let in",
            "table inet f { chain in { type filter hook input priority 0; policy drop; ct state established,related,new accept; } }",
            Some(false),
        ),
        (
            "every port let in",
            "table inet f { chain in { type filter hook input priority 0; policy drop; tcp dport 1-65535 accept; udp dport 1-65535 accept; } }",
            Some(false),
        ),
        (
            "whatever does not come from here",
            "table inet f { chain in { type filter hook input priority 0; policy accept; iifname != lo drop; } }",
            Some(true),
        ),
        (
            "what is new",
            "table inet f { chain in { type filter hook input priority 0; policy accept; ct state new drop; } }",
            Some(true),
        ),
        (
            "one protocol after the other",
            "table inet f { chain in { type filter hook input priority 0; policy accept; meta l4proto tcp reject; meta l4proto udp reject; } }",
            Some(true),
        ),
        (
            "before it comes in",
            "table inet f { chain pre { type filter hook prerouting priority 0; policy drop; iif lo accept; } }",
            Some(true),
        ),
        (
            "a map of interfaces",
            "table inet f { chain rest { drop; } chain in { type filter hook input priority 0; policy accept; iifname vmap { lo : accept, eth0 : jump rest }; } }",
            Some(true),
        ),
        (
            "by its policy",
            "table inet f { chain in { type filter hook input priority 0; policy drop; iif lo accept; } }",
            Some(true),
        ),
        (
            "by its last rule",
            "table inet f { chain in { type filter hook input priority 0; policy accept; iif lo accept; counter reject; } }",
            Some(true),
        ),
        (
            "through another chain",
            "table inet f { chain rest { drop; } chain in { type filter hook input priority 0; policy accept; ct state established accept; jump rest; } }",
            Some(true),
        ),
    ];
    for (what, rules, filters) in cases {
        let Some(place) = Place::new() else { return };
        // nft needs one statement per line.
        let rules = rules.replace("} chain", "}\n chain").replace(" } }", " }\n}");
        let script = format!("{OPEN}echo '{rules}' | nft -f -");
        let diagnosed = place.with_network().prepared(&script).diagnose_only("security");
        let security = diagnosed.facts("security");
        assert_eq!(security["firewall"], json!(filters), "{what}: {security}");
        assert_eq!(diagnosed.found("security.firewall").is_empty(), filters == Some(true), "{what}");
    }
    // A set of a hundred thousand addresses is not listed.
    let Some(place) = Place::new() else { return };
    let script = format!(
        "{OPEN}{{ echo 'table inet f {{ set bad {{ type ipv4_addr; elements = {{'; python3 -c 'print(\",\".join(f\"10.{{i>>16&255}}.{{i>>8&255}}.{{i&255}}\" for i in range(100000)))'
        printf '}} }}\n chain in {{ type filter hook input priority 0; policy drop; ip saddr @bad drop; }}\n}}\n'; }} > /mnt/rules && nft -f /mnt/rules"
    );
    let diagnosed =
        place.with_network().prepared("mount -t tmpfs none /mnt").prepared(&script).diagnose_only("security");
    assert_eq!(diagnosed.facts("security")["firewall"], true, "{}", diagnosed.facts("security"));
    // Without permission the answer is unknown, not a guess.
    let Some(place) = Place::new() else { return };
    let diagnosed = place.with_network().prepared(OPEN).seen_by(65534).diagnose_only("security");
    assert_eq!(diagnosed.facts("security")["firewall"], Value::Null);
    assert!(!diagnosed.is_well("security.firewall") && diagnosed.found("security.firewall").is_empty());
}

#[test]
fn an_unprivileged_diagnosis_names_its_blind_spots() {
    let Some(place) = Place::new() else { return };
    let script = "mount -o remount,hidepid=2 /proc 2>/dev/null || mount -t proc -o hidepid=2 proc /proc";
    let diagnosed = place.with_processes().prepared(script).seen_by(65534).diagnose();
    let (security, processes) = (diagnosed.facts("security"), diagnosed.facts("processes"));
    assert_eq!(security["sudo_without_password_count"], Value::Null, "{security}");
    assert_eq!(processes["count"], Value::Null, "{processes}");
    assert_eq!(diagnosed.found("rights.blind").len(), 1, "{}", diagnosed.report["notes"]);
    for blind in ["security.sudo", "process.zombies", "process.memory", "security.ssh-root", "restart.needed"] {
        assert!(!diagnosed.is_well(blind), "{blind}");
    }
    // With other tests running, apt may exceed its time limit.
    let unknown: Vec<_> = diagnosed.unknown("").into_iter().filter(|(_, why)| why != "timed_out:apt").collect();
    assert_eq!(unknown, [], "blind spots are no alarm");
}

/// sshd's own output about its settings decides, however they are written.
#[test]
fn ssh_settings_are_read_as_the_server_reads_them() {
    let write = |main: &str, part: &str| {
        format!(
            "mount -t tmpfs none /mnt && mkdir -p /mnt/run/sshd /mnt/d && mount --bind /mnt/run /run
            printf '%b' '{main}' > /mnt/sshd_config && printf '%b' '{part}' > /mnt/d/10-own.conf
            printf 'PermitRootLogin yes\\n' > /mnt/d/20-old.conf.bak
            mount --bind /mnt/sshd_config /etc/ssh/sshd_config && mkdir -p /etc/ssh/sshd_config.d && mount --bind /mnt/d /etc/ssh/sshd_config.d"
        )
    };
    let include = "Include /etc/ssh/sshd_config.d/*.conf\\n";
    let cases = [
        ("plainly", "PermitRootLogin yes\\nPasswordAuthentication yes\\n".to_owned(), "", true),
        ("with =", "PermitRootLogin=yes\\nPasswordAuthentication=yes\\n".to_owned(), "", true),
        ("in quotes and any case", "permitrootlogin \"yes\"\\nPasswordAuthentication yes\\n".to_owned(), "", true),
        (
            "for others only",
            "PermitRootLogin no\\nMatch Address 192.168.0.0/16\\n PermitRootLogin yes\\n".to_owned(),
            "",
            false,
        ),
        (
            "for root from anywhere",
            "PermitRootLogin no\\nMatch User root\\n PermitRootLogin yes\\n".to_owned(),
            "",
            true,
        ),
        ("in a part that comes first", format!("{include}PermitRootLogin no\\n"), "PermitRootLogin yes\\n", true),
        ("in a part that nobody includes", "PermitRootLogin no\\n".to_owned(), "PermitRootLogin yes\\n", false),
        ("after the first word has counted", "PermitRootLogin no\\nPermitRootLogin yes\\n".to_owned(), "", false),
        (
            "with keys only",
            "PermitRootLogin yes\\nPasswordAuthentication no\\nKbdInteractiveAuthentication no\\n".to_owned(),
            "",
            false,
        ),
        (
            "with a remark in Latin-1",
            "# f\\0374r M\\0374ller\\nPermitRootLogin yes\\nPasswordAuthentication yes\\n".to_owned(),
            "",
            true,
        ),
    ];
    for (how, main, part, root) in cases {
        let Some(place) = Place::new() else { return };
        let diagnosed = place.prepared(&write(&main, part)).diagnose_only("security");
        let security = diagnosed.facts("security");
        assert_eq!(security["ssh_root_password"], root, "{how}: {security}");
    }
    let Some(place) = Place::new() else { return };
    let diagnosed = place.prepared(&write("PermitRootLogin perhaps\\n", "")).diagnose_only("security");
    assert_eq!(diagnosed.unknown("security.ssh-root").len(), 1, "what sshd itself cannot read is unknown");
}

#[test]
fn sudo_rules_are_read_as_sudo_reads_them() {
    let write = |main: &str| {
        format!(
            "mount -t tmpfs -o mode=755 none /mnt && mkdir -m 750 /mnt/other /mnt/d && printf '%b' '{main}' > /mnt/sudoers
            printf 'www ALL=(ALL) NOPASSWD: ALL\\n' > /mnt/other/www && printf 'bak ALL=(ALL) NOPASSWD: ALL\\n' > /mnt/d/old.bak
            chmod 440 /mnt/sudoers /mnt/other/www /mnt/d/old.bak
            mount --bind /mnt/sudoers /etc/sudoers && mount --bind /mnt/d /etc/sudoers.d"
        )
    };
    let cases = [
        ("nobody", "root ALL=(ALL) ALL\\n%sudo ALL=(ALL) ALL\\n", vec![]),
        ("another folder", "root ALL=(ALL) ALL\\n@includedir /mnt/other\\n", vec!["www: ALL"]),
        ("a file that sudo passes over", "root ALL=(ALL) ALL\\n@includedir /etc/sudoers.d\\n", vec![]),
        (
            "a line that goes on",
            "root ALL=(ALL) ALL\\nmeyer ALL=(ALL) \\\\\\n    NOPASSWD: /usr/bin/apt\\n",
            vec!["meyer: /usr/bin/apt"],
        ),
        (
            "a remark",
            "root ALL=(ALL) ALL\\n# meyer ALL=(ALL) NOPASSWD: ALL\\nole ALL=(ALL) ALL # not NOPASSWD\\n",
            vec![],
        ),
        ("for all by default", "Defaults !authenticate\\nmeyer ALL=(ALL) ALL\\n", vec!["meyer: ALL"]),
        ("as another user than root", "www ALL=(till) NOPASSWD: ALL\\n", vec![]),
        ("a remark in Latin-1", "# f\\0374r M\\0374ller\\nmeyer ALL=(ALL) NOPASSWD: ALL\\n", vec!["meyer: ALL"]),
    ];
    for (what, main, grants) in cases {
        let Some(place) = Place::new() else { return };
        let diagnosed = place.prepared(&write(main)).diagnose_only("security");
        let security = diagnosed.facts("security");
        assert_eq!(security["sudo_without_password"], json!(grants), "{what}: {security}");
    }
    let Some(place) = Place::new() else { return };
    let diagnosed = place.prepared(&write("this is no rule\\n")).diagnose_only("security");
    assert_eq!(diagnosed.unknown("security.sudo").len(), 1, "{}", diagnosed.facts("security"));
}

/// A repository on the local disk, with a newer kernel that comes as a new package, and a package whose
/// name only sounds like security.
const REPOSITORY: &str = r#"
mount -t tmpfs none /mnt && mkdir -p /mnt/repo /mnt/apt/apt.conf.d /mnt/apt/preferences.d /mnt/apt/sources.list.d /mnt/lists/partial
cp -a /etc/apt/trusted.gpg.d /mnt/apt/ 2>/dev/null || true
package() { # NAME VERSION DEPENDS
    printf 'Package: %s\nVersion: %s\nArchitecture: all\nMaintainer: x\n%sFilename: ./%s.deb\nSize: 1\nSHA256: 0000000000000000000000000000000000000000000000000000000000000000\nDescription: x\n\n' \
        "$1" "$2" "${3:+Depends: $3
}" "$1"
}
repo() { # FOLDER SUITE LABEL
    mkdir -p "$1" && cat > "$1/Packages"
    ( cd "$1" && printf 'Origin: Debian\nLabel: %s\nSuite: %s\nCodename: x\nArchitectures: all\nDate: %s\nSHA256:\n %s %s Packages\n' "$3" "$2" "$(LC_ALL=C date -Ru)" "$(sha256sum < Packages | cut -d' ' -f1)" "$(stat -c %s Packages)" > Release )
}
{ package kasse-image-all 2 kasse-image-9; package kasse-image-9 9; } | repo /mnt/repo/security stable-security Debian-Security
package harden-security-tools 2 | repo /mnt/repo/stable stable Debian
printf 'deb [trusted=yes] file:/mnt/repo/security ./\ndeb [trusted=yes] file:/mnt/repo/stable ./\n' > /mnt/apt/sources.list
cp /var/lib/dpkg/status /mnt/status
installed() { printf 'Package: %s\nStatus: install ok %s\nArchitecture: all\nVersion: %s\nMaintainer: x\n%sDescription: x\n\n' "$1" "$2" "$3" "${4:+Depends: $4
}" >> /mnt/status; }
installed kasse-image-8 installed 8
installed kasse-image-all installed 1 kasse-image-8
installed harden-security-tools installed 1
"#;

const TAKEN: &str = "
mount --bind /mnt/apt /etc/apt && mount --bind /mnt/lists /var/lib/apt/lists && mount --bind /mnt/status /var/lib/dpkg/status
mount -t tmpfs none /var/cache/apt && mkdir -p /var/cache/apt/archives/partial
apt-get update -qq >/dev/null 2>&1
";

#[test]
fn security_updates_are_recognised_by_source_and_not_by_package_name() {
    let Some(place) = Place::new() else { return };
    let diagnosed = place.prepared(REPOSITORY).prepared(TAKEN).diagnose_only("updates");
    let updates = diagnosed.facts("updates");
    assert_eq!((&updates["pending"], &updates["security"]), (&json!(3), &json!(2)), "{updates}");
    assert_eq!((&updates["broken"], &updates["lists_age_days"]), (&json!([]), &json!(0.0)));
}

#[test]
fn broken_packages_are_named_as_the_cause() {
    let Some(place) = Place::new() else { return };
    let broken = "installed till-app installed 1 'libtill1 (>= 2)'\n";
    let diagnosed = place.prepared(REPOSITORY).prepared(broken).prepared(TAKEN).diagnose_only("updates");
    let updates = diagnosed.facts("updates");
    assert_eq!(updates["broken"], json!(["unmet dependencies: till-app"]), "{updates}");
    assert_eq!(diagnosed.found("update.broken"), [("update.broken".to_owned(), "crit".to_owned())]);
    assert!(!diagnosed.is_well("update.security"), "nobody has counted");
    let Some(place) = Place::new() else { return };
    let half = "installed cups half-configured 1\n";
    let diagnosed = place.prepared(REPOSITORY).prepared(half).prepared(TAKEN).diagnose_only("updates");
    let broken = diagnosed.facts("updates")["broken"].to_string();
    assert!(broken.contains("cups (half-configured)"), "{broken}");
}

#[test]
fn a_package_source_signed_by_an_unknown_key_is_named() {
    let Some(place) = Place::new() else { return };
    let foreign = r#"
        export GNUPGHOME=/mnt/gpg && mkdir -m 700 /mnt/gpg
        gpg --batch --quiet --passphrase '' --quick-gen-key till@till.example default default never 2>/dev/null
        mkdir -p /mnt/repo/dists/stable/main/binary-all && cd /mnt/repo/dists/stable && touch main/binary-all/Packages
        printf 'Origin: Till\nSuite: stable\nCodename: stable\nComponents: main\nArchitectures: all\nDate: %s\nSHA256:\n %s 0 main/binary-all/Packages\n' \
            "$(LC_ALL=C date -Ru)" "$(sha256sum < main/binary-all/Packages | cut -d' ' -f1)" > Release
        gpg --batch --quiet --clearsign --output InRelease Release
        python3 -m http.server 8471 --bind 127.0.0.1 --directory /mnt/repo >/dev/null 2>&1 &
        sleep 1
        echo 'deb http://127.0.0.1:8471 stable main' >> /mnt/apt/sources.list
        cd /
    "#;
    let place =
        place.with_network().prepared(REPOSITORY).prepared(foreign).prepared(&TAKEN.replace("2>&1", "2>&1 || :"));
    let diagnosed = place.diagnose_only("updates");
    let updates = diagnosed.facts("updates");
    assert!(updates["bad_sources"].to_string().contains("127.0.0.1"), "{updates}");
    assert_eq!(diagnosed.found("update.sources"), [("update.sources".to_owned(), "warn".to_owned())]);
}

#[test]
fn the_expiry_of_a_certificate_in_use_is_reported() {
    let Some(place) = Place::new() else { return };
    let script = "mount -t tmpfs none /mnt
        openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout /mnt/key -out /mnt/shop.pem -days 5 -subj /CN=shop 2>/dev/null
        openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout /mnt/key -out /mnt/mail.pem -days 400 -subj /CN=mail 2>/dev/null
        mkdir -p /etc/nginx/sites-enabled /etc/postfix && mount -t tmpfs none /etc/nginx && mount -t tmpfs none /etc/postfix && mkdir /etc/nginx/sites-enabled
        printf 'server {\\n  # f\\374r\\n  ssl_certificate /mnt/shop.pem;\\n}\\n' > /etc/nginx/sites-enabled/shop
        printf 'smtpd_tls_cert_file=/mnt/mail.pem\\n' > /etc/postfix/main.cf";
    let diagnosed = place.prepared(script).diagnose_only("security");
    assert_eq!(diagnosed.found("cert.expiry"), [("cert.expiry:/mnt/shop.pem".to_owned(), "crit".to_owned())]);
    let used = diagnosed.facts("security")["certificates"].to_string();
    assert!(used.contains("/mnt/shop.pem") && used.contains("/mnt/mail.pem"), "{used}");
}

#[test]
fn a_program_running_a_replaced_file_is_named() {
    let Some(place) = Place::new() else { return };
    // A program below /usr that is replaced while it runs, and dpkg's status file, which is written when
    // that happens.
    let script = "mount -t tmpfs none /mnt && mkdir /mnt/up /mnt/work
        mount -t overlay overlay -o lowerdir=/usr/bin,upperdir=/mnt/up,workdir=/mnt/work /usr/bin
        cp /usr/bin/sleep /usr/bin/kassendienst && kassendienst 8 >/dev/null 2>&1 &
        sleep 0.5; cp /usr/bin/sleep /usr/bin/kassendienst.new && mv /usr/bin/kassendienst.new /usr/bin/kassendienst
        cp /var/lib/dpkg/status /mnt/status && touch -d '+5 seconds' /mnt/status && mount --bind /mnt/status /var/lib/dpkg/status";
    let diagnosed = place.prepared(script).diagnose_only("processes");
    let processes = diagnosed.facts("processes");
    assert!(processes["outdated"].to_string().contains("kassendienst"), "{}", processes["outdated"]);
}

#[test]
fn missing_package_lists_are_a_blind_spot_and_missing_packages_are_critical() {
    let Some(place) = Place::new() else { return };
    let diagnosed = place.prepared("mount -t tmpfs none /var/lib/apt/lists").diagnose_only("updates");
    assert_eq!(diagnosed.found("update"), [("update.blind:package lists".to_owned(), "note".to_owned())]);
    let Some(place) = Place::new() else { return };
    let empty = "mount -t tmpfs none /mnt && : > /mnt/status && mount --bind /mnt/status /var/lib/dpkg/status";
    let diagnosed = place.prepared(empty).diagnose_only("updates");
    assert!(diagnosed.found("update.broken").contains(&("update.broken".to_owned(), "crit".to_owned())));
    let Some(place) = Place::new() else { return };
    let bad = "mount -t tmpfs none /mnt && cp -a /etc/apt /mnt/apt && echo 'deb broken' >> /mnt/apt/sources.list && mount --bind /mnt/apt /etc/apt";
    let diagnosed = place.prepared(bad).diagnose_only("updates");
    assert_eq!(diagnosed.found("update.broken"), [], "the packages are well");
    let sources = diagnosed.facts("updates")["bad_sources"].to_string();
    assert!(sources.contains("Malformed entry") && sources.contains("sources.list"), "{sources}");
}

#[test]
fn a_full_tmpfs_on_run_is_reported_and_on_run_lock_is_not() {
    let Some(place) = Place::new() else { return };
    let script = "mount -t tmpfs -o size=1m none /run && head -c 1048576 /dev/zero > /run/full 2>/dev/null || :
        mkdir -p /run/lock && mount -t tmpfs -o size=1m none /run/lock && head -c 1048576 /dev/zero > /run/lock/full 2>/dev/null || :";
    let found = place.prepared(script).diagnose_only("disks").found("disk.free");
    assert!(found.contains(&("disk.free:/run".to_owned(), "crit".to_owned())), "{found:?}");
    assert!(!found.iter().any(|(name, _)| name == "disk.free:/run/lock"), "{found:?}");
}

/// A separate print server with two printers; one is stopped and has a job.
const PRINTERS: &str = "for folder in /etc/cups /var/spool/cups /run; do mkdir -p $folder && mount -t tmpfs none $folder; done
    mkdir -p /run/cups /etc/cups/ppd /var/spool/cups/tmp
    printf 'Listen /run/cups/cups.sock\nDefaultAuthType None\n<Policy default>\n<Limit All>\nOrder deny,allow\n</Limit>\n</Policy>\n' > /etc/cups/cupsd.conf
    echo 'FileDevice Yes' > /etc/cups/cups-files.conf
    cupsd -f >/dev/null 2>&1 &
    for try in $(seq 100); do LC_ALL=C lpstat -r 2>/dev/null | grep -q 'is running' && break; sleep 0.1; done
    lpadmin -p kasse -E -v file:/dev/null && lpadmin -p buero -E -v file:/dev/null
    cupsdisable -r 'no paper' buero && echo bon | lp -d buero >/dev/null";

#[test]
fn stopped_printers_and_stuck_jobs_are_reported() {
    let place = || Some(Place::new()?.with_processes().prepared(PRINTERS));
    let Some(stopped) = place() else { return };
    let diagnosed = stopped.diagnose_only("services");
    assert_eq!(diagnosed.found("print.stuck"), [("print.stuck:buero".to_owned(), "warn".to_owned())]);
    let buero = diagnosed.entry("services", "printers", "name", "buero").expect("it is told");
    // The job is new; the server has not written all its files yet.
    assert_eq!((&buero["jobs"], &buero["oldest_job_h"]), (&json!(1), &json!(0.0)), "{buero}");
    // A printer that runs but cannot deliver its jobs; an ordinary user cannot see how old they are.
    let waits = "lpadmin -p kasse -v ipp://127.0.0.1:9/none && echo bon | lp -d kasse >/dev/null && cupsenable buero
        for try in $(seq 50); do [ -z \"$(lpstat -o buero)\" ] && break; sleep 0.1; done
        touch -d '-3 hours' /var/spool/cups/d00002-001";
    let Some(waiting) = place() else { return };
    let diagnosed = waiting.prepared(waits).diagnose_only("services");
    assert_eq!(diagnosed.found("print.stuck"), [("print.stuck:kasse".to_owned(), "warn".to_owned())]);
    let Some(waiting) = place() else { return };
    let diagnosed = waiting.prepared(waits).seen_by(65534).diagnose_only("services");
    let found: Vec<String> = diagnosed.found("").into_iter().map(|(name, _)| name).collect();
    assert_eq!(found, ["blind.not-permitted:/var/spool/cups"], "not permitted is not well");
    assert!(!diagnosed.is_well("print.stuck"));
    let Some(refuses) = place() else { return };
    let diagnosed = refuses.prepared("cupsenable buero; cupsreject kasse").diagnose_only("services");
    assert_eq!(diagnosed.found("print.stuck"), [("print.stuck:kasse".to_owned(), "warn".to_owned())]);
    let Some(none) = place() else { return };
    let diagnosed = none.prepared("lpadmin -x kasse && lpadmin -x buero").diagnose_only("services");
    assert_eq!((diagnosed.found("print.stuck"), &diagnosed.facts("services")["printers"]), (vec![], &json!([])));
}

/// Every check must be listed in tests/README.md.
#[test]
fn the_table_of_checks_names_every_check() {
    let table = include_str!("../README.md");
    for rule in &fernwart_protocol::diagnosis::builtin_rules().rules {
        assert!(table.contains(&format!("| `{}` |", rule.id)), "{} is not in tests/README.md", rule.id);
    }
}
