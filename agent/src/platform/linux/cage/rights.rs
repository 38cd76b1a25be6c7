//! Restricts a script's use of the kernel: limits, capabilities, system calls, and writable
//! paths.

use super::Spec;
use fernwart_protocol::script::{ClockRight, Reach, given_up};
use landlock::{ABI, AccessFs, CompatLevel, Compatible, PathBeneath, PathFd, Ruleset, RulesetAttr, RulesetCreatedAttr};
use rustix::process::{Resource, Rlimit};
use rustix::thread::CapabilitySet;
use seccompiler::{
    BackendError, BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule,
};
use std::collections::BTreeMap;
use std::path::Path;

/// What every script may write to: its own folders, harmless devices, its own processes.
const WRITABLE: [&str; 4] = ["/tmp", "/var/tmp", "/dev", "/proc"];

/// Uses Landlock to refuse opening anything for writing, except the allowed paths. Read-only
/// mounts do the same for files and folders, but not for pipes and devices, whose other end may
/// be a service. On kernels without Landlock (before 5.13) only the mounts protect.
pub(crate) fn hold_writes(spec: &Spec) -> Result<(), String> {
    if spec.writes_all {
        return Ok(());
    }
    let failed = |error: &dyn std::fmt::Display| format!("holding what it writes: {error}");
    let writes = AccessFs::from_write(ABI::V3);
    let ruleset = Ruleset::default().set_compatibility(CompatLevel::BestEffort).handle_access(writes);
    let mut ruleset = ruleset.and_then(Ruleset::create).map_err(|error| failed(&error))?;
    let places = WRITABLE.into_iter().chain(spec.writes.iter().map(String::as_str));
    for place in places.filter(|place| Path::new(place).exists()) {
        let folder = PathFd::new(place).map_err(|error| failed(&error))?;
        // Only file rights can be granted for what is not a folder.
        let allowed = if Path::new(place).is_dir() { writes } else { AccessFs::from_file(ABI::V3) & writes };
        ruleset = ruleset.add_rule(PathBeneath::new(folder, allowed)).map_err(|error| failed(&error))?;
    }
    ruleset.restrict_self().map(drop).map_err(|error| failed(&error))
}

/// Gives up resources and capabilities that are not needed, for good.
pub(crate) fn give_up(spec: &Spec) -> Result<(), String> {
    let both = |most: u64| Rlimit { current: Some(most), maximum: Some(most) };
    let memory = u64::from(spec.memory_mib) << 20;
    for (resource, most) in [(Resource::Data, memory), (Resource::Core, 0), (Resource::Nofile, 1024)] {
        rustix::process::setrlimit(resource, both(most)).map_err(|error| format!("limits: {error}"))?;
    }
    rustix::thread::set_no_new_privs(true).map_err(|error| error.to_string())?;
    let reach = match (spec.looks, spec.writes_all) {
        (true, _) => Reach::Looks,
        (false, false) => Reach::Acts,
        (false, true) => Reach::ActsOnAll,
    };
    let clock = if spec.clock { ClockRight::May } else { ClockRight::MayNot };
    for right in given_up(reach, clock) {
        match rustix::thread::remove_capability_from_bounding_set(CapabilitySet::from_bits_retain(right.bit())) {
            // A capability that this kernel does not know needs no removal.
            Ok(()) | Err(rustix::io::Errno::INVAL) => {}
            Err(error) => return Err(format!("giving up rights: {error}")),
        }
    }
    Ok(())
}

/// Calls that are always refused: the kernel's keyrings, which all processes of an account share;
/// and ways around mounts and other processes, in addition to the removed capabilities.
const FORBIDDEN: [libc::c_long; 22] = [
    libc::SYS_add_key,
    libc::SYS_keyctl,
    libc::SYS_request_key,
    libc::SYS_bpf,
    libc::SYS_perf_event_open,
    libc::SYS_userfaultfd,
    libc::SYS_open_by_handle_at,
    libc::SYS_ptrace,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_mount,
    libc::SYS_umount2,
    libc::SYS_pivot_root,
    libc::SYS_move_mount,
    libc::SYS_open_tree,
    libc::SYS_fsopen,
    libc::SYS_mount_setattr,
    libc::SYS_setns,
    libc::SYS_init_module,
    libc::SYS_finit_module,
    libc::SYS_kexec_load,
    libc::SYS_reboot,
];

/// Calls that appear not to exist: uncounted memory, ways past this filter, and calls whose flags
/// the filter cannot inspect. Programs work without them.
const ABSENT: [libc::c_long; 5] =
    [libc::SYS_memfd_create, libc::SYS_memfd_secret, libc::SYS_io_uring_setup, libc::SYS_clone3, libc::SYS_openat2];

/// Calls for memory that belongs to no process, refused where no control group counts it.
const UNCOUNTED: [libc::c_long; 3] = [libc::SYS_shmget, libc::SYS_msgget, libc::SYS_mq_open];

/// Flags for new namespaces: in a user namespace a program has every capability (clone(2)).
const NAMESPACES: u64 = 0x7e02_0080;

/// Mode bits that let a file run with its owner's or group's rights (inode(7)).
const SETUID: u64 = 0o6000;

/// Makes the kernel refuse these calls, here and in all processes started from here.
pub(crate) fn refuse_calls(spec: &Spec) -> Result<(), String> {
    refuse(&FORBIDDEN, libc::EPERM)?;
    refuse(&ABSENT, libc::ENOSYS)?;
    let any = |call: libc::c_long, at: u8, bits: u64| (call, at, bits);
    refuse(&[libc::SYS_unshare], libc::EPERM)?;
    refuse_bits(&[any(libc::SYS_clone, 0, NAMESPACES)])?;
    if !spec.writes_all {
        // Calls that open a file with a mode can also create one with it.
        refuse_bits(&[
            #[cfg(target_arch = "x86_64")]
            any(libc::SYS_chmod, 1, SETUID),
            any(libc::SYS_fchmod, 1, SETUID),
            any(libc::SYS_fchmodat, 2, SETUID),
            any(FCHMODAT2, 2, SETUID),
            #[cfg(target_arch = "x86_64")]
            any(libc::SYS_open, 2, SETUID),
            any(libc::SYS_openat, 3, SETUID),
            #[cfg(target_arch = "x86_64")]
            any(libc::SYS_creat, 1, SETUID),
            #[cfg(target_arch = "x86_64")]
            any(libc::SYS_mknod, 1, SETUID),
            any(libc::SYS_mknodat, 2, SETUID),
        ])?;
    }
    refuse_leases()?;
    refuse_strange_sockets()?;
    if !spec.is_counted {
        refuse(&UNCOUNTED, libc::ENOSYS)?;
        // Shared memory without a file: MAP_SHARED and MAP_ANONYMOUS (mmap(2)).
        refuse_all_bits(libc::SYS_mmap, 3, 0x21)?;
    }
    if spec.services { Ok(()) } else { refuse_sockets_of_files() }
}

/// Since Linux 6.6; libc does not define it on all architectures yet.
const FCHMODAT2: libc::c_long = 452;

/// Refuses a call if an argument has any of these bits set.
fn refuse_bits(calls: &[(libc::c_long, u8, u64)]) -> Result<(), String> {
    let failed = |error: BackendError| format!("refusing calls: {error}");
    let mut rules = BTreeMap::new();
    for (call, at, bits) in calls {
        let mut any = Vec::new();
        for bit in (0..32).map(|shift| 1u64 << shift).filter(|bit| bits & bit != 0) {
            let is_set = SeccompCondition::new(*at, SeccompCmpArgLen::Dword, SeccompCmpOp::MaskedEq(bit), bit);
            any.push(SeccompRule::new(vec![is_set.map_err(failed)?]).map_err(failed)?);
        }
        rules.insert(*call, any);
    }
    refuse_with(rules, libc::EPERM)
}

/// Refuses a call if an argument has all of these bits set.
fn refuse_all_bits(call: libc::c_long, at: u8, bits: u64) -> Result<(), String> {
    let failed = |error: BackendError| format!("refusing calls: {error}");
    let are_set = SeccompCondition::new(at, SeccompCmpArgLen::Dword, SeccompCmpOp::MaskedEq(bits), bits);
    let rule = SeccompRule::new(vec![are_set.map_err(failed)?]).map_err(failed)?;
    refuse_with(BTreeMap::from([(call, vec![rule])]), libc::EPERM)
}

/// Refuses unix sockets. A socket file may lie anywhere, and a read-only mount does not prevent
/// connecting to it, so a script that does not declare services gets none. Stream pairs are
/// allowed, since they stay connected to each other; a datagram socket could be redirected.
fn refuse_sockets_of_files() -> Result<(), String> {
    let is_unix = SeccompCondition::new(0, SeccompCmpArgLen::Dword, SeccompCmpOp::Eq, UNIX);
    let rule = is_unix.and_then(|is_unix| SeccompRule::new(vec![is_unix]));
    let rule = rule.map_err(|error| format!("refusing calls: {error}"))?;
    // SOCK_DGRAM and SOCK_RAW have this bit, SOCK_STREAM and SOCK_SEQPACKET have not.
    let pair = SeccompCondition::new(0, SeccompCmpArgLen::Dword, SeccompCmpOp::Eq, UNIX).and_then(|is_unix| {
        let bit = SeccompCondition::new(1, SeccompCmpArgLen::Dword, SeccompCmpOp::MaskedEq(2), 2)?;
        SeccompRule::new(vec![is_unix, bit])
    });
    let pair = pair.map_err(|error| format!("refusing calls: {error}"))?;
    refuse_with(BTreeMap::from([(libc::SYS_socket, vec![rule]), (libc::SYS_socketpair, vec![pair])]), libc::EACCES)
}

/// Refuses leases: a lease on a file blocks every other process of the machine that opens it.
fn refuse_leases() -> Result<(), String> {
    let failed = |error: BackendError| format!("refusing calls: {error}");
    let command = SeccompCondition::new(1, SeccompCmpArgLen::Dword, SeccompCmpOp::Eq, F_SETLEASE).map_err(failed)?;
    let rule = SeccompRule::new(vec![command]).map_err(failed)?;
    refuse_with(BTreeMap::from([(libc::SYS_fcntl, vec![rule])]), libc::EPERM)
}

/// Refuses socket families that a network namespace does not isolate (vsock, kernel crypto and
/// many more), and netlink between programs, whose unread messages are counted for nobody.
fn refuse_strange_sockets() -> Result<(), String> {
    let failed = |error: BackendError| format!("refusing calls: {error}");
    let is = |at: u8, op: SeccompCmpOp, value: u64| SeccompCondition::new(at, SeccompCmpArgLen::Dword, op, value);
    let own_words = vec![
        is(0, SeccompCmpOp::Eq, NETLINK).map_err(failed)?,
        is(2, SeccompCmpOp::Eq, NETLINK_USERSOCK).map_err(failed)?,
    ];
    let others = KNOWN_SOCKETS.iter().map(|known| is(0, SeccompCmpOp::Ne, *known));
    let others = others.collect::<Result<Vec<_>, _>>().map_err(failed)?;
    let rules = vec![SeccompRule::new(own_words).map_err(failed)?, SeccompRule::new(others).map_err(failed)?];
    refuse_with(BTreeMap::from([(libc::SYS_socket, rules)]), libc::EACCES)
}

/// Linux's number of the command that takes a lease (fcntl(2)).
const F_SETLEASE: u64 = 1024;

/// AF_NETLINK, and its protocol for messages between programs.
const NETLINK: u64 = 16;
const NETLINK_USERSOCK: u64 = 2;

/// AF_UNIX, AF_INET, AF_INET6, AF_NETLINK, AF_PACKET.
const KNOWN_SOCKETS: [u64; 5] = [UNIX, 2, 10, NETLINK, 17];

/// AF_UNIX.
const UNIX: u64 = 1;

fn refuse(calls: &[libc::c_long], answer: libc::c_int) -> Result<(), String> {
    refuse_with(calls.iter().map(|call| (*call, Vec::new())).collect(), answer)
}

/// The same call for the x32 ABI, if the kernel supports it: it uses this architecture's numbers
/// with an extra bit. A few calls have other numbers (arch/x86/entry/syscalls/syscall_64.tbl).
#[cfg(target_arch = "x86_64")]
fn of_x32(call: libc::c_long) -> libc::c_long {
    const X32: libc::c_long = 0x4000_0000;
    X32 | match call {
        libc::SYS_ptrace => 521,
        libc::SYS_kexec_load => 528,
        libc::SYS_process_vm_readv => 539,
        libc::SYS_process_vm_writev => 540,
        same => same,
    }
}

fn refuse_with(mut rules: BTreeMap<libc::c_long, Vec<SeccompRule>>, answer: libc::c_int) -> Result<(), String> {
    let failed = |error: &dyn std::fmt::Display| format!("refusing calls: {error}");
    #[cfg(target_arch = "x86_64")]
    for (call, rule) in rules.clone() {
        rules.insert(of_x32(call), rule);
    }
    let answer = SeccompAction::Errno(answer.unsigned_abs());
    let here = std::env::consts::ARCH.try_into().map_err(|error: BackendError| failed(&error))?;
    let filter = SeccompFilter::new(rules, SeccompAction::Allow, answer, here).map_err(|error| failed(&error))?;
    let program: BpfProgram = filter.try_into().map_err(|error: BackendError| failed(&error))?;
    seccompiler::apply_filter(&program).map_err(|error| failed(&error))
}
