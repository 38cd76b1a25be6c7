//! Capabilities that a script never gets. The machine's cage and a rehearsal on a technician's
//! computer drop the same ones.

/// A Linux capability, by its number (capabilities(7), linux/capability.h).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Right(pub u8);

impl Right {
    /// Its bit in a capability set.
    pub const fn bit(self) -> u64 {
        1 << self.0
    }
}

const DAC_READ_SEARCH: Right = Right(2);
const SETPCAP: Right = Right(8);
const LINUX_IMMUTABLE: Right = Right(9);
const NET_ADMIN: Right = Right(12);
const NET_RAW: Right = Right(13);
const SYS_MODULE: Right = Right(16);
const SYS_RAWIO: Right = Right(17);
const SYS_PTRACE: Right = Right(19);
const SYS_PACCT: Right = Right(20);
const SYS_ADMIN: Right = Right(21);
const SYS_BOOT: Right = Right(22);
const SYS_NICE: Right = Right(23);
const SYS_RESOURCE: Right = Right(24);
const SYS_TIME: Right = Right(25);
const SYS_TTY_CONFIG: Right = Right(26);
const MKNOD: Right = Right(27);
const AUDIT_CONTROL: Right = Right(30);
const SETFCAP: Right = Right(31);
const MAC_OVERRIDE: Right = Right(32);
const MAC_ADMIN: Right = Right(33);
const SYSLOG: Right = Right(34);
const WAKE_ALARM: Right = Right(35);
const BLOCK_SUSPEND: Right = Right(36);
const PERFMON: Right = Right(38);
const BPF: Right = Right(39);

/// Capabilities that no script needs. With these a script could escape its cage, change the kernel,
/// or stop the computer.
const NEVER: [Right; 15] = [
    // A process with a higher priority than all others could not be stopped in time.
    SYS_NICE,
    // open_by_handle_at would reach the whole file system around every mount.
    DAC_READ_SEARCH,
    SYS_ADMIN,
    SYS_MODULE,
    SYS_RAWIO,
    SYS_BOOT,
    SYS_PTRACE,
    SYS_RESOURCE,
    MKNOD,
    MAC_ADMIN,
    MAC_OVERRIDE,
    SYSLOG,
    BPF,
    PERFMON,
    SETPCAP,
];

/// Capabilities that a script which only looks does not need either.
const LOOKING: [Right; 9] = [
    NET_ADMIN,
    NET_RAW,
    SYS_TIME,
    SYS_TTY_CONFIG,
    SYS_PACCT,
    AUDIT_CONTROL,
    LINUX_IMMUTABLE,
    WAKE_ALARM,
    BLOCK_SUSPEND,
];

/// Whether a script changes anything.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reach {
    /// It only looks: by its privilege, or because it is a dry run.
    Looks,
    /// It changes something.
    Acts,
    /// It may write everywhere, since packages contain files with capabilities.
    ActsOnAll,
}

/// Whether a script may set the clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClockRight {
    /// Its manifest says that it repairs it.
    May,
    /// It does not.
    MayNot,
}

/// The capabilities that a script loses for good.
pub fn given_up(reach: Reach, clock: ClockRight) -> impl Iterator<Item = Right> {
    let looks = LOOKING.into_iter().filter(move |_| reach == Reach::Looks);
    let clock = (clock == ClockRight::MayNot).then_some(SYS_TIME);
    // A script could leave behind a file with capabilities, which anybody who starts it gains.
    let on_files = (reach != Reach::ActsOnAll).then_some(SETFCAP);
    NEVER.into_iter().chain(looks).chain(clock).chain(on_files)
}
