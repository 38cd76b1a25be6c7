//! A log line, from any source.

/// A line.
#[derive(Debug, Clone, Copy)]
pub(super) struct Line<'a> {
    /// The time, microseconds since 1970.
    pub(super) at: i64,
    /// The program, as stated by the writer.
    pub(super) program: &'a str,
    /// The program, as reported by the kernel; empty if unknown.
    pub(super) command: &'a str,
    /// The service that wrote it; empty if unknown.
    pub(super) unit: &'a str,
    /// Whether the kernel wrote it; cannot be forged.
    pub(super) is_kernels: bool,
    /// Whether a service or root wrote it, not a user under a chosen name.
    pub(super) is_trusted: bool,
    /// Whether an ssh server running as root wrote it.
    pub(super) is_sshds: bool,
    /// syslog(3): 0 is worst, 3 an error, 6 information.
    pub(super) priority: u8,
    /// systemd's id of this kind of message; usually empty.
    pub(super) message_id: &'a str,
    /// The text.
    pub(super) message: &'a str,
    /// How often it was logged: some daemons combine repeated lines.
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
    /// What the line is about if its text does not tell: the unit, else the program.
    pub(super) fn about(&self) -> &'a str {
        if self.unit.is_empty() { self.program } else { self.unit }
    }
}
