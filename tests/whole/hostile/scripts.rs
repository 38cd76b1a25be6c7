//! Ways in which a script, or another account, tries to get around the cage: device nodes anywhere, setuid
//! files, namespaces, pipes that others read, memory that is not counted, and planted links, names and
//! locks.

use crate::booted::join;
use crate::cage::Stage;
use fernwart_tests::guest::Guest;
use fernwart_tests::test_script::Script;
use fernwart_tests::{Process, SmallDisk, World, run, wait_until};
use serde_json::Value;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

fn shell(text: &str) -> fernwart_tests::CommandOutput {
    run(Command::new("sh").args(["-ec", text]))
}

/// A temporary folder that scripts may use; removed when dropped.
struct Folder(PathBuf);

impl Folder {
    fn new(below: &str) -> Self {
        let name = format!("fernwart-{:08x}", u32::from_ne_bytes(fernwart_certs::random()));
        let path = Path::new(below).join(name);
        std::fs::create_dir(&path).expect("made");
        Self(path)
    }

    fn text(&self) -> &str {
        self.0.to_str().expect("text")
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = shell(&format!("mount | grep -q ' {0} ' && umount -l {0}; rm -rf {0}", self.0.display()));
    }
}

fn head(report: &Value, stream: &str) -> String {
    report[stream]["head"].as_str().unwrap_or_default().to_owned()
}

/// Approves these shipped scripts.
fn shipped(world: &World, names: &[&str]) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../controller/scripts");
    let folders: Vec<String> = names.iter().map(|name| folder.join(name).display().to_string()).collect();
    let mut words = vec!["catalogue", "propose", "--yes"];
    words.extend(folders.iter().map(String::as_str));
    world.technician(&words).exits(0);
}

#[test]
fn a_script_can_open_no_device_node_on_any_mount() {
    let place = Folder::new("/srv");
    let of = |name: &str| place.0.join(name).display().to_string();
    // A disk and a random device: in a folder, on a read-only mount, and where the script may write.
    let disk = std::fs::metadata("/").expect("there").dev();
    let made = shell(&format!(
        "mkdir {0}/ro {0}/own; mount -t tmpfs none {0}/ro
        for folder in {0} {0}/ro {0}/own; do
            mknod $folder/disk b {1} {2} || mknod $folder/disk b 7 0; mknod $folder/random c 1 9; chmod 666 $folder/*
        done; mount -o remount,ro {0}/ro; head -c 8 {0}/ro/random | wc -c",
        place.text(),
        rustix::fs::major(disk),
        rustix::fs::minor(disk)
    ))
    .exits(0);
    assert_eq!(made.out.trim(), "8", "outside it opens");
    let tries = format!(
        "for file in {0}/random {0}/ro/random {0}/own/random {0}/disk {0}/ro/disk {0}/own/disk; do
            head -c 8 $file >/dev/null 2>&1 && echo read $file; (: > $file) 2>/dev/null && echo wrote $file
        done; head -c 8 /dev/urandom | wc -c",
        place.text()
    );
    let writes = format!("writes = [{:?}]", of("own"));
    let scripts = [Script::new("reads", &tries).privilege("read"), Script::new("acts", &tries).with(&writes)];
    Stage::each(&scripts, |stage, _| {
        for name in ["reads", "acts"] {
            let report = stage.report(&[name]);
            assert_eq!(head(&report, "stdout").trim(), "8", "{name}: {report}");
        }
    });
}

#[test]
fn a_script_leaves_no_setuid_files_and_creates_no_namespaces() {
    let place = Folder::new("/srv");
    let tries = format!(
        "cd {}
        for mode in 4755 2755 6711 u+s g+s; do cp /bin/true a; chmod $mode a 2>/dev/null; done
        install -m 4755 /bin/true b 2>/dev/null
        python3 -c \"import os; os.umask(0); os.open('c', os.O_CREAT|os.O_WRONLY, 0o4755)\" 2>/dev/null
        python3 -c \"import os; os.umask(0); os.mknod('d', 0o104755)\" 2>/dev/null
        python3 -c \"import os; os.open('e', os.O_CREAT|os.O_WRONLY); os.fchmod(3, 0o4755)\" 2>/dev/null
        cp /bin/true f; setcap cap_setuid+ep f 2>/dev/null; python3 -c \"import os; os.setxattr('f', 'security.capability', b'\\\\1\\\\0\\\\0\\\\2\\\\200\\\\0\\\\0\\\\0\\\\0\\\\0\\\\0\\\\0\\\\0\\\\0\\\\0\\\\0\\\\0\\\\0\\\\0\\\\0')\" 2>/dev/null
        unshare -U true 2>/dev/null && echo a namespace of accounts
        unshare -m true 2>/dev/null && echo a namespace of mounts
        python3 -c \"import ctypes; l = ctypes.CDLL(None); [print('cloned') for n in (56, 0x40000038) if l.syscall(n, 0x10000011, 0, 0, 0, 0) > 0]\" 2>/dev/null
        mkdir g && chmod 755 g && touch g/x && chmod 640 g/x && echo done",
        place.text()
    );
    // Proof: outside the cage a setuid file can be made.
    let outside = Folder::new("/srv");
    shell(&format!("cd {}; cp /bin/true a; chmod 4755 a; [ -u a ]", outside.text())).exits(0);
    let writes = format!("writes = [{:?}]", place.text());
    Stage::each(&[Script::new("leaves", &tries).with(&writes)], |stage, _| {
        let report = stage.report(&["leaves"]);
        assert_eq!(head(&report, "stdout"), "done\n", "what is not evil works: {report}");
        for entry in std::fs::read_dir(&place.0).expect("readable").flatten() {
            let data = entry.metadata().expect("there");
            assert_eq!(data.permissions().mode() & 0o6000, 0, "{:?}", entry.path());
        }
        let capabilities = shell(&format!("getcap -r {} 2>/dev/null || :", place.text())).out;
        assert_eq!(capabilities, "", "no file with rights");
        shell(&format!("find {} -mindepth 1 -delete", place.text())).exits(0);
    });
}

#[test]
fn a_script_cannot_write_to_a_pipe_that_another_process_reads() {
    let has_landlock = std::fs::read_to_string("/sys/kernel/security/lsm").is_ok_and(|lsm| lsm.contains("landlock"));
    let place = Folder::new("/srv");
    let pipe = place.0.join("control");
    shell(&format!("mkfifo -m 666 {}", pipe.display())).exits(0);
    let received = place.0.join("heard");
    let mut listens = Command::new("sh");
    listens.args(["-c", &format!("exec 3<> {}; cat <&3 > {}", pipe.display(), received.display())]);
    let _listener = Process::start(&mut listens, &place.0.join("log"));
    wait_until("it listens", || received.exists());
    shell(&format!("echo outside > {}", pipe.display())).exits(0);
    wait_until("it hears", || std::fs::read_to_string(&received).is_ok_and(|text| text == "outside\n"));
    let speaks = format!("(echo inside > {}) 2>/dev/null && echo spoke; echo done\n", pipe.display());
    let scripts = [
        Script::new("reads", &speaks).privilege("read"),
        Script::new("acts", &speaks).with("writes = [\"/srv/elsewhere\"]"),
    ];
    if !has_landlock {
        println!("skipped: this kernel has no Landlock");
        return;
    }
    Stage::each(&scripts, |stage, _| {
        for name in ["reads", "acts"] {
            assert_eq!(head(&stage.report(&[name]), "stdout"), "done\n", "{name}");
        }
    });
    assert_eq!(std::fs::read_to_string(&received).expect("heard"), "outside\n");
}

#[test]
fn kernel_memory_of_a_script_is_counted_or_denied() {
    let limited = |name: &str, text: &str| {
        Script::new(name, text).shell("python3").and("[limits]\nmemory_mib = 64\nprocesses = 8\ntime_s = 20\n")
    };
    // Each allocates four times its limit, and prints `has it` once it succeeds.
    let scripts = [
        limited(
            "segment",
            "import ctypes\nl = ctypes.CDLL(None, use_errno=True)\nl.shmat.restype = ctypes.c_void_p\nn = l.shmget(0, 1 << 28, 0o1600)\nif n >= 0:\n    ctypes.memset(l.shmat(n, None, 0), 1, 1 << 28); print('has it', flush=True)\n",
        ),
        limited(
            "maps",
            "import mmap\ntry:\n    m = mmap.mmap(-1, 1 << 28)\n    for n in range(256): m.write(b'x' * (1 << 20))\n    print('has it', flush=True)\nexcept OSError: pass\n",
        ),
        limited(
            "sealed",
            "import os\ntry:\n    f = os.memfd_create('x')\n    for n in range(256): os.write(f, b'x' * (1 << 20))\n    print('has it', flush=True)\nexcept OSError: pass\n",
        ),
        limited(
            "zeros",
            "import os, mmap, time\nf = os.open('/dev/zero', os.O_RDWR)\nm = mmap.mmap(f, 1 << 28)\nfor n in range(256): m.write(b'x' * (1 << 20))\ntime.sleep(1); print('has it', flush=True)\n",
        ),
        limited(
            "datagrams",
            "import socket\nsocket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)\nkept = []\ntry:\n    while len(kept) < 500:\n        a, b = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)\n        kept += [a, b]; a.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20); a.setblocking(False)\n        for n in range(9): a.send(b'x' * 65536)\n    print('has it', flush=True)\nexcept OSError: pass\n",
        ),
        limited(
            "folders",
            "import os\nfor f in ('/tmp/a', '/var/tmp/b', '/tmp/fernwart/c'):\n    try:\n        with open(f, 'wb') as o:\n            for n in range(256): o.write(b'x' * (1 << 20))\n    except OSError: pass\nprint('has it' if 64 < sum(os.stat(f).st_size for f in ('/tmp/a', '/var/tmp/b', '/tmp/fernwart/c') if os.path.exists(f)) >> 20 else 'less')\n",
        ),
        limited(
            "names",
            "n = 0\ntry:\n    while n < 200000:\n        open('/tmp/%d' % n, 'w').close(); n += 1\nexcept OSError: pass\nprint('has it' if n > 20000 else 'less')\n",
        ),
        limited(
            "threads",
            "import threading, time\nfor n in range(4000):\n    threading.Thread(target=time.sleep, args=(15,), daemon=True).start()\ntime.sleep(10)\nprint('has it')\n",
        ),
        limited(
            "netlink",
            "import socket\nkept = []\ntry:\n    for n in range(300):\n        s = socket.socket(16, 3, 2); s.bind((0, 0)); s.setsockopt(socket.SOL_SOCKET, 33, 1 << 20); s.setblocking(False); kept.append(s)\n        try:\n            while True: s.sendto(b'x' * 32768, s.getsockname())\n        except BlockingIOError: pass\n    print('has it')\nexcept OSError: pass\n",
        ),
        limited(
            "tables",
            "import mmap, time\nm = mmap.mmap(-1, 1 << 37, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | 0x4000, mmap.PROT_READ)\nfor at in range(0, 1 << 37, 1 << 21): m[at]\ntime.sleep(2); print('has it')\n",
        ),
        limited(
            "processes",
            "import os, time\nfor n in range(40):\n    if os.fork() == 0: time.sleep(15); os._exit(0)\ntime.sleep(2)\nprint('has it')\n",
        ),
    ];
    Stage::each(&scripts, |stage, cage| {
        for name in [
            "segment",
            "maps",
            "sealed",
            "zeros",
            "datagrams",
            "folders",
            "names",
            "threads",
            "netlink",
            "tables",
            "processes",
            "honest",
        ] {
            let report = stage.report(&[name]);
            assert!(!head(&report, "stdout").contains("has it"), "{name} in a cage of {cage}: {report}");
        }
    });
}

#[test]
fn a_read_only_script_gets_no_file_leases_and_no_host_sockets() {
    let place = Folder::new("/srv");
    let file = place.0.join("app.conf");
    std::fs::write(&file, "x").expect("written");
    let lease = format!(
        "import fcntl, os, time\nf = os.open({:?}, os.O_RDONLY)\ntry:\n    fcntl.fcntl(f, fcntl.F_SETLEASE, fcntl.F_RDLCK); print('has it', flush=True); time.sleep(5)\nexcept OSError: print('none')\n",
        file.display().to_string()
    );
    // Proof: outside the cage the lease is granted.
    let outside = run(Command::new("python3").args(["-c", &lease.replace("time.sleep(5)", "pass")])).exits(0);
    assert_eq!(outside.out, "has it\n");
    let sockets = "import socket\nfor kind in (40, 38, 31, 44, 30):\n    for n in (1, 2, 3, 5):\n        try: socket.socket(kind, n, 0); print('has', kind)\n        except OSError: pass\nsocket.socket(); socket.socket(10); socket.socket(16, 3, 0); print('done')\n";
    let scripts = [
        Script::new("lease", &lease).shell("python3").privilege("read"),
        Script::new("sockets", sockets).shell("python3").privilege("read"),
    ];
    Stage::each(&scripts, |stage, _| {
        assert_eq!(head(&stage.report(&["lease"]), "stdout"), "none\n");
        assert_eq!(head(&stage.report(&["sockets"]), "stdout"), "done\n");
    });
}

/// A log folder that an unprivileged account owns, and a file that only root may read.
fn planted() -> (Folder, Folder) {
    let (logs, secrets) = (Folder::new("/var/log"), Folder::new("/srv"));
    std::fs::write(secrets.0.join("root.log"), "only for root\n").expect("written");
    std::fs::set_permissions(secrets.0.join("root.log"), PermissionsExt::from_mode(0o600)).expect("set");
    chown(&logs.0, Some(65534), Some(65534)).expect("given away");
    (logs, secrets)
}

#[test]
fn shipped_scripts_follow_no_links_planted_by_other_accounts() {
    Stage::each(&[], |stage, _| {
        let (logs, secrets) = planted();
        let victim = secrets.0.join("root.log");
        shipped(&stage.world, &["log-rotate", "logs-collect", "disk-free"]);
        let path = |name: &str| format!("path={}/{name}", logs.text());
        // A link as the log itself, a link as a parent folder, and a hard link.
        symlink(&victim, logs.0.join("link.log")).expect("linked");
        symlink(&secrets.0, logs.0.join("way")).expect("linked");
        std::fs::hard_link(&victim, logs.0.join("second.log")).ok();
        for name in ["link.log", "way/root.log", "second.log"] {
            if !logs.0.join(name).exists() {
                continue;
            }
            let report = stage.report(&["log-rotate", "-p", &path(name), "-p", "keep_lines=0"]);
            assert_ne!(report["exit"], 0, "{name}: {report}");
            let report = stage.report(&["logs-collect", "-p", &path(name)]);
            assert!(!report.to_string().contains("only for root"), "{name}: {report}");
        }
        let report = stage.report(&["logs-collect", "-p", &format!("path={}", logs.text())]);
        assert!(!report.to_string().contains("only for root"), "{report}");
        assert_eq!(std::fs::read_to_string(&victim).expect("there"), "only for root\n");
        assert_eq!(std::fs::metadata(&victim).expect("there").permissions().mode() & 0o777, 0o600);
        // The names of its output files exist already, as links and as files of the account.
        let log = logs.0.join("shop.log");
        std::fs::write(&log, "private line\n".repeat(1000)).expect("written");
        std::fs::set_permissions(&log, PermissionsExt::from_mode(0o600)).expect("set");
        shell(&format!(
            "now=$(date +%s); for n in $(seq 0 20); do
            name={}.$(date -d @$((now + n)) +%Y%m%d-%H%M%S).gz
            if [ $((n % 2)) = 0 ]; then ln -s {} $name; else : > $name; chmod 666 $name; chown 65534 $name; fi
        done",
            log.display(),
            victim.display()
        ))
        .exits(0);
        let report = stage.report(&["log-rotate", "-p", &path("shop.log"), "-p", "keep_lines=1"]);
        assert_eq!(report["exit"], 4, "{report}");
        assert_eq!(std::fs::read_to_string(&victim).expect("there"), "only for root\n");
        for entry in std::fs::read_dir(&logs.0).expect("there").flatten().filter(|entry| entry.path() != log) {
            if entry.metadata().is_ok_and(|data| data.is_file() && data.uid() == 65534) {
                assert_eq!(entry.metadata().expect("there").len(), 0, "nobody reads along: {:?}", entry.path());
            }
        }
        // Pipes with these names, and a process that reads them.
        let (till, received) = (logs.0.join("till.log"), secrets.0.join("heard"));
        std::fs::write(&till, "private line\n".repeat(1000)).expect("written");
        let pipes = format!(
            "now=$(date +%s); for n in $(seq 0 20); do
            name={}.$(date -d @$((now + n)) +%Y%m%d-%H%M%S).gz
            mkfifo -m 666 $name; timeout 30 cat $name >> {} &
        done; wait",
            till.display(),
            received.display()
        );
        let _listeners = Process::start(Command::new("sh").args(["-c", &pipes]), &secrets.0.join("log"));
        wait_until("they listen", || received.exists());
        let report = stage.report(&["log-rotate", "-p", &path("till.log"), "-p", "keep_lines=1"]);
        assert_eq!(report["exit"], 4, "{report}");
        assert_eq!(std::fs::read(&received).expect("there").len(), 0, "nobody hears it");
        assert_eq!(std::fs::read_to_string(&till).expect("there").lines().count(), 1000, "nothing is lost");
        // A path with a line break, which could be read as two paths.
        let other = Folder::new("/var/log");
        let fresh = other.0.join("fresh.gz");
        std::fs::write(&fresh, "x").expect("written");
        let double = format!("{}/x\n{}", logs.text(), other.text());
        std::fs::create_dir_all(&double).expect("made");
        shell(&format!("touch -d '-30 days' '{double}/fresh.gz'")).exits(0);
        let report = stage.report(&["disk-free", "-p", "mount=/", "-p", "keep_days=7"]);
        assert!(fresh.exists(), "{report}");
    });
}

#[test]
fn log_rotate_works_on_a_full_disk_and_filesystem_check_skips_disks_in_use() {
    let Some(stage) = Stage::new(&[Script::new("honest", "echo fine\n")]) else { return };
    shipped(&stage.world, &["log-rotate", "filesystem-check"]);
    let logs = Folder::new("/var/log");
    let Some(disk) = SmallDisk::mount(&logs.0, 16) else { return };
    let log = logs.0.join("till.log");
    let line =
        |number: usize| format!("{number:06} {}\n", "x".repeat(if number.is_multiple_of(3000) { 90_000 } else { 200 }));
    std::fs::write(&log, (1..=20_000).map(line).collect::<String>()).expect("written");
    disk.fill();
    let path = format!("path={}", log.display());
    let rotate = |more: &[&str]| stage.report(&[&["log-rotate", "-p", &path, "-p", "pack=false"], more].concat());
    let report = rotate(&["-p", "keep_lines=18000"]);
    assert_eq!(report["exit"], 0, "{report}");
    let left = std::fs::read_to_string(&log).expect("there");
    assert_eq!(left, (2_001..=20_000).map(line).collect::<String>(), "the newest, whole, and no others");
    let report = rotate(&["-p", "keep_lines=18000"]);
    assert_eq!((&report["exit"], std::fs::metadata(&log).expect("there").len()), (&0.into(), left.len() as u64));
    let report = rotate(&["-p", "keep_lines=0"]);
    assert_eq!((&report["exit"], std::fs::metadata(&log).expect("there").len()), (&0.into(), 0));
    drop(disk);

    let place = Folder::new("/srv");
    let (image, at) = (place.0.join("disk.img"), place.0.join("at"));
    let check = |more: &[&str]| {
        let path = format!("mount={}", image.display());
        stage.report(&[&["filesystem-check", "-p", &path], more].concat())["exit"].clone()
    };
    let make = format!("mkdir {1}; truncate -s 8M {0}; mkfs.ext4 -q {0}", image.display(), at.display());
    shell(&make).exits(0);
    assert_eq!(check(&[]), 0);
    // In use where it is not visible from here: in another mount namespace.
    let mut holds = Command::new("unshare");
    let hold = format!("mount -o loop {0} {1} && touch {1}/held && exec sleep 60", image.display(), at.display());
    holds.args(["--mount", "--propagation", "private", "sh", "-c", &hold]);
    let holder = Process::start(&mut holds, &place.0.join("log"));
    let attached = || shell(&format!("losetup -j {}", image.display())).out.contains("loop");
    wait_until("it is mounted", attached);
    for more in [&[][..], &["-p", "repair=true"]] {
        assert_eq!(check(more), 6, "it is in use");
    }
    drop(holder);
    wait_until("it is free", || !attached());
    shell(&format!("e2fsck -fy {0} >/dev/null; debugfs -w -R 'ssv free_blocks_count 5' {0}", image.display()));
    assert_eq!(check(&[]), 4, "a count that is wrong is damage");
    assert_eq!(check(&["-p", "repair=true"]), 5);
    assert_eq!(check(&[]), 0);
}

/// Ways to hold a lock file that is old enough to be removed.
const HOLDERS: [(&str, &str); 6] = [
    ("open", "import sys, time\nf = open(sys.argv[1], 'r+')\nopen(sys.argv[1] + '.held', 'w')\ntime.sleep(60)\n"),
    (
        "named number",
        "import os, sys, time\nopen(sys.argv[1], 'w').write('till-%d.host\\n' % os.getpid())\nos.utime(sys.argv[1], (1, 1))\nopen(sys.argv[1] + '.held', 'w')\ntime.sleep(60)\n",
    ),
    (
        "binary number",
        "import os, struct, sys, time\nopen(sys.argv[1], 'wb').write(struct.pack('=I', os.getpid()))\nos.utime(sys.argv[1], (1, 1))\nopen(sys.argv[1] + '.held', 'w')\ntime.sleep(60)\n",
    ),
    (
        "flock",
        "import fcntl, sys, time\nf = open(sys.argv[1], 'r+')\nfcntl.flock(f, fcntl.LOCK_EX)\nopen(sys.argv[1] + '.held', 'w')\ntime.sleep(60)\n",
    ),
    (
        "posix",
        "import fcntl, sys, time\nf = open(sys.argv[1], 'r+')\nfcntl.lockf(f, fcntl.LOCK_EX)\nopen(sys.argv[1] + '.held', 'w')\ntime.sleep(60)\n",
    ),
    (
        "number",
        "import os, sys, time\nopen(sys.argv[1], 'w').write('%10d\\n' % os.getpid())\nos.utime(sys.argv[1], (1, 1))\nopen(sys.argv[1] + '.held', 'w')\ntime.sleep(60)\n",
    ),
];

#[test]
fn lock_remove_keeps_a_lock_that_a_process_holds() {
    Stage::each(&[], |stage, _| {
        shipped(&stage.world, &["lock-remove"]);
        let place = Folder::new("/run/lock");
        let lock = place.0.join("till.lock");
        let remove = || stage.report(&["lock-remove", "-p", &format!("path={}", lock.display())]);
        let make = || {
            std::fs::write(&lock, "").expect("written");
            shell(&format!("touch -d '-2 hours' {}", lock.display())).exits(0);
        };
        for (kind, holder) in HOLDERS {
            make();
            let held = place.0.join("till.lock.held");
            let mut command = Command::new("python3");
            command.args(["-c", holder]).arg(&lock);
            let process = Process::start(&mut command, &place.0.join("log"));
            wait_until("it is held", || held.exists());
            let report = remove();
            assert_eq!(report["exit"], 4, "{kind}: {report}");
            assert!(lock.exists(), "{kind}");
            drop(process);
            std::fs::remove_file(held).expect("removed");
            if !kind.contains("number") {
                let report = remove();
                assert_eq!(report["exit"], 0, "{kind}: nobody holds it any more: {report}");
                assert!(!lock.exists(), "{kind}");
            }
        }
        // A process that has it open, and locks it while it is being removed.
        make();
        let racer = "import fcntl, os, sys, time\nf = open(sys.argv[1], 'r+')\nopen(sys.argv[1] + '.held', 'w')\nwhile os.fstat(f.fileno()).st_nlink == 1 and os.path.exists(sys.argv[1]): time.sleep(0.005)\nfcntl.lockf(f, fcntl.LOCK_EX)\ntime.sleep(60)\n";
        let mut command = Command::new("python3");
        command.args(["-c", racer]).arg(&lock);
        let _racer = Process::start(&mut command, &place.0.join("log"));
        wait_until("it waits", || place.0.join("till.lock.held").exists());
        let report = remove();
        assert_eq!(report["exit"], 4, "{report}");
        assert!(lock.exists(), "it is back");
    });
}

#[test]
fn the_cage_holds_under_systemd_too() {
    let world = World::new();
    let Some(guest) = Guest::boot(world.path()) else { return };
    join(&world, &guest);
    guest
        .run(&[
            "sh",
            "-c",
            "printf '[look]\\nmode = \"allow\"\\n[act]\\nmode = \"allow\"\\n' > /var/lib/fernwart-agent/policy.toml",
        ])
        .exits(0);
    shipped(&world, &["lock-remove"]);
    let tries = "head -c 8 /srv/random >/dev/null 2>&1 && echo read it\ncp /bin/true /srv/own/a; chmod 4755 /srv/own/a 2>/dev/null && echo gave rights\nunshare -U true 2>/dev/null && echo a namespace\npython3 -c 'import socket; socket.socket(socket.AF_UNIX)' 2>/dev/null && echo a socket\necho done\n";
    world.approve(&Script::new("tries", tries).with("writes = [\"/srv/own\"]"));
    guest
        .run(&[
            "sh",
            "-ec",
            "mkdir -p /srv/own; mknod /srv/random c 1 9; chmod 666 /srv/random; head -c 8 /srv/random > /dev/null",
        ])
        .exits(0);
    let printed = world.technician(&["run", "tries", "kasse-1", "--reason", "Probe", "-o", "jsonl"]);
    let report =
        printed.json_lines().into_iter().find(|line| line["type"] == "result").expect("a result")["report"].clone();
    assert_eq!((&report["cage"], head(&report, "stdout").as_str()), (&"systemd".into(), "done\n"), "{report}");
    // A lock held by a service of the guest.
    let hold = "mkdir -p /run/lock; : > /run/lock/till.lock; touch -d '-2 hours' /run/lock/till.lock; systemd-run --quiet --unit=holder python3 -c \"import fcntl, time; f = open('/run/lock/till.lock', 'r+'); fcntl.lockf(f, fcntl.LOCK_EX); time.sleep(60)\"; sleep 1";
    guest.run(&["sh", "-ec", hold]).exits(0);
    let remove =
        ["run", "lock-remove", "kasse-1", "-p", "path=/run/lock/till.lock", "--reason", "Probe", "-o", "jsonl"];
    let result = |printed: fernwart_tests::CommandOutput| {
        printed.json_lines().into_iter().find(|line| line["type"] == "result").expect("a result")
    };
    let held = result(world.technician(&remove));
    assert_eq!(held["report"]["exit"], 4, "{held}");
    guest.run(&["systemctl", "stop", "holder"]).exits(0);
    let free = result(world.technician(&remove));
    assert_eq!(free["report"]["exit"], 0, "{free}");
}
