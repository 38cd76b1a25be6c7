//! A separate sshd on loopback, with a temporary account.

use fernwart_tests::{free_port, wait_until};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// Its account, with a plain shell.
pub(crate) const ACCOUNT: &str = "fernwart-bench";

const SSHD: &str = "/usr/sbin/sshd";

/// Runs a command without output; returns whether it succeeded.
pub(crate) fn quiet(command: &mut Command) -> bool {
    let command = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}

/// The daemon.
pub(crate) struct Sshd {
    folder: tempfile::TempDir,
    pub(crate) port: u16,
    daemon: Child,
}

impl Sshd {
    /// Starts it and waits until it listens. Returns `None` and prints the reason if there is no sshd or
    /// the account cannot be created.
    pub(crate) fn start() -> Option<Self> {
        quiet(Command::new("userdel").args(["--remove", "--force", ACCOUNT]));
        let account = ["--create-home", "--shell", "/bin/sh", "--password", "*", ACCOUNT];
        if !Path::new(SSHD).exists() || !quiet(Command::new("useradd").args(account)) {
            println!("no sshd to measure beside: apt-get install openssh-server, as root");
            return None;
        }
        let folder = tempfile::tempdir().expect("a folder");
        let path = |name: &str| folder.path().join(name).display().to_string();
        for key in ["host", "user"] {
            assert!(quiet(Command::new("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-f", &path(key)])));
        }
        std::fs::create_dir_all("/run/sshd").expect("a folder");
        let authorized = format!("/home/{ACCOUNT}/authorized_keys");
        std::fs::copy(path("user.pub"), &authorized).expect("copied");
        assert!(quiet(Command::new("chown").args([ACCOUNT, &authorized])));
        let port = free_port();
        let config = format!(
            "Port {port}\nListenAddress 127.0.0.1\nHostKey {}\nUsePAM no\nStrictModes no\nPidFile none\n\
             AuthorizedKeysFile {authorized}\nMaxStartups 500\nMaxSessions 20\n",
            path("host")
        );
        std::fs::write(path("config"), config).expect("written");
        let mut daemon = Command::new(SSHD);
        daemon.args(["-D", "-f", &path("config")]).stderr(Stdio::null());
        let sshd = Self { port, daemon: daemon.spawn().expect("started"), folder };
        wait_until("sshd listens", || TcpStream::connect(("127.0.0.1", port)).is_ok());
        Some(sshd)
    }

    /// Its process.
    pub(crate) fn pid(&self) -> u32 {
        self.daemon.id()
    }

    /// A file beside its keys.
    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The private key of the account.
    pub(crate) fn key(&self) -> PathBuf {
        self.file("user")
    }
}

impl Drop for Sshd {
    fn drop(&mut self) {
        let _ = self.daemon.kill();
        let _ = self.daemon.wait();
        quiet(Command::new("userdel").args(["--remove", "--force", ACCOUNT]));
    }
}
