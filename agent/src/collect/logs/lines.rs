//! One line of a log, wherever it was read.

/// A line.
#[derive(Debug, Clone, Copy)]
pub(super) struct Line<'a> {
    /// When, microseconds since 1970.
    pub(super) at: i64,
    /// Who says that they wrote it.
    pub(super) program: &'a str,
    /// The program that wrote it, by the kernel's word; empty where that is not known.
    pub(super) command: &'a str,
    /// The service it came from; empty where that is not known.
    pub(super) unit: &'a str,
    /// Whether the kernel wrote it. Nobody else can make it so.
    pub(super) is_kernels: bool,
    /// Whether a service or root wrote it, and no user with any name that they like.
    pub(super) is_trusted: bool,
    /// Whether an ssh server wrote it that runs as root.
    pub(super) is_sshds: bool,
    /// syslog(3): 0 is worst, 3 an error, 6 information.
    pub(super) priority: u8,
    /// systemd's number for this kind of message; mostly empty.
    pub(super) message_id: &'a str,
    /// What it says.
    pub(super) message: &'a str,
    /// How often it was said: some daemons write repeated lines once.
    pub(super) times: u64,
}

impl Default for Line<'_> {
    fn default() -> Self {
        Self {
            at: 0,
            program: "",
            command: "",
            unit: "",
            is_kernels: false,
            is_trusted: true,
            is_sshds: false,
            priority: 3,
            message_id: "",
            message: "",
            times: 1,
        }
    }
}

impl<'a> Line<'a> {
    /// What it is about where its words do not say: a unit, else whoever wrote it.
    pub(super) fn about(&self) -> &'a str {
        if self.unit.is_empty() { self.program } else { self.unit }
    }
}
