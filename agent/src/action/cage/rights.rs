//! What a script may ask of the kernel: bounds, rights, calls, and where it writes.

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

/// What every script writes to: folders of its own, devices that do nothing, its own
/// processes.
const WRITABLE: [&str; 4] = ["/tmp", "/var/tmp", "/dev", "/proc"];

/// Has the kernel refuse, by Landlock, to open anything for writing but what may be
/// written. Mounts that are read-only do the same for files and folders; a pipe or a
/// device opens there all the same, and whoever hears its other end acts. Where the
/// kernel does not know Landlock (before 5.13), the mounts are all there is.
pub(super) fn hold_writes(spec: &Spec) -> Result<(), String> {
    if spec.writes_all {
        return Ok(());
    }
    let said = |error: &dyn std::fmt::Display| format!("holding what it writes: {error}");
    let writes = AccessFs::from_write(ABI::V3);
    let ruleset = Ruleset::default().set_compatibility(CompatLevel::BestEffort).handle_access(writes);
    let mut ruleset = ruleset.and_then(Ruleset::create).map_err(|error| said(&error))?;
    let places = WRITABLE.into_iter().chain(spec.writes.iter().map(String::as_str));
    for place in places.filter(|place| Path::new(place).exists()) {
        let folder = PathFd::new(place).map_err(|error| said(&error))?;
        // Of what is no folder only what a file has can be allowed.
        let allowed = if Path::new(place).is_dir() { writes } else { AccessFs::from_file(ABI::V3) & writes };
        ruleset = ruleset.add_rule(PathBeneath::new(folder, allowed)).map_err(|error| said(&error))?;
    }
    ruleset.restrict_self().map(drop).map_err(|error| said(&error))
}

/// Gives up what is not needed, for good.
pub(super) fn give_up(spec: &Spec) -> Result<(), String> {
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
            // One that this kernel does not know, nobody has.
            Ok(()) | Err(rustix::io::Errno::INVAL) => {}
            Err(error) => return Err(format!("giving up rights: {error}")),
        }
    }
    Ok(())
}

/// What the kernel answers nobody in there: its keyrings, which are shared by
/// all of one account; and ways around mounts and other processes, once more
/// beside the rights that are given up.
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

/// What is not there: memory that nobody counts, ways past this filter, and calls whose
/// flags it cannot see; programs do without them.
const ABSENT: [libc::c_long; 5] =
    [libc::SYS_memfd_create, libc::SYS_memfd_secret, libc::SYS_io_uring_setup, libc::SYS_clone3, libc::SYS_openat2];

/// Memory that belongs to no process, where no control group counts it.
const UNCOUNTED: [libc::c_long; 3] = [libc::SYS_shmget, libc::SYS_msgget, libc::SYS_mq_open];

/// Namespaces of one's own: in one of accounts a program has every right (clone(2)).
const NAMESPACES: u64 = 0x7e02_0080;

/// A file that gives whoever starts it another's rights (inode(7)).
const SETUID: u64 = 0o6000;

/// Lets the kernel answer these calls with a no, here and in all that is
/// started from here.
pub(super) fn refuse_calls(spec: &Spec) -> Result<(), String> {
    refuse(&FORBIDDEN, libc::EPERM)?;
    refuse(&ABSENT, libc::ENOSYS)?;
    let any = |call: libc::c_long, at: u8, bits: u64| (call, at, bits);
    refuse(&[libc::SYS_unshare], libc::EPERM)?;
    refuse_bits(&[any(libc::SYS_clone, 0, NAMESPACES)])?;
    if !spec.writes_all {
        // What opens with a mode makes with it, too.
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

/// Linux 6.6; libc does not know it yet on all architectures.
const FCHMODAT2: libc::c_long = 452;

/// Refuses calls one of whose arguments has any of these bits.
fn refuse_bits(calls: &[(libc::c_long, u8, u64)]) -> Result<(), String> {
    let said = |error: BackendError| format!("refusing calls: {error}");
    let mut rules = BTreeMap::new();
    for (call, at, bits) in calls {
        let mut any = Vec::new();
        for bit in (0..32).map(|shift| 1u64 << shift).filter(|bit| bits & bit != 0) {
            let is_set = SeccompCondition::new(*at, SeccompCmpArgLen::Dword, SeccompCmpOp::MaskedEq(bit), bit);
            any.push(SeccompRule::new(vec![is_set.map_err(said)?]).map_err(said)?);
        }
        rules.insert(*call, any);
    }
    refuse_with(rules, libc::EPERM)
}

/// Refuses a call one of whose arguments has all of these bits.
fn refuse_all_bits(call: libc::c_long, at: u8, bits: u64) -> Result<(), String> {
    let said = |error: BackendError| format!("refusing calls: {error}");
    let are_set = SeccompCondition::new(at, SeccompCmpArgLen::Dword, SeccompCmpOp::MaskedEq(bits), bits);
    let rule = SeccompRule::new(vec![are_set.map_err(said)?]).map_err(said)?;
    refuse_with(BTreeMap::from([(call, vec![rule])]), libc::EPERM)
}

/// A socket may lie anywhere among the files, and a read-only mount keeps nobody from
/// speaking to whoever hears it: a script that says it speaks to no service makes none
/// that could. A pair of its own may be a stream, which is joined for good; one of
/// datagrams could be pointed elsewhere.
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

/// A lease on a file makes every other process that opens it wait, anywhere on the machine.
fn refuse_leases() -> Result<(), String> {
    let said = |error: BackendError| format!("refusing calls: {error}");
    let command = SeccompCondition::new(1, SeccompCmpArgLen::Dword, SeccompCmpOp::Eq, F_SETLEASE).map_err(said)?;
    let rule = SeccompRule::new(vec![command]).map_err(said)?;
    refuse_with(BTreeMap::from([(libc::SYS_fcntl, vec![rule])]), libc::EPERM)
}

/// Sockets that a network namespace does not keep apart (those of a virtual computer's
/// host, of the kernel's ciphers and many more), and the kind of netlink on which programs
/// write to each other: what lies there unread is counted for nobody.
fn refuse_strange_sockets() -> Result<(), String> {
    let said = |error: BackendError| format!("refusing calls: {error}");
    let is = |at: u8, op: SeccompCmpOp, value: u64| SeccompCondition::new(at, SeccompCmpArgLen::Dword, op, value);
    let own_words =
        vec![is(0, SeccompCmpOp::Eq, NETLINK).map_err(said)?, is(2, SeccompCmpOp::Eq, NETLINK_USERSOCK).map_err(said)?];
    let others = KNOWN_SOCKETS.iter().map(|known| is(0, SeccompCmpOp::Ne, *known));
    let others = others.collect::<Result<Vec<_>, _>>().map_err(said)?;
    let rules = vec![SeccompRule::new(own_words).map_err(said)?, SeccompRule::new(others).map_err(said)?];
    refuse_with(BTreeMap::from([(libc::SYS_socket, rules)]), libc::EACCES)
}

/// Linux's number for taking a lease (fcntl(2)).
const F_SETLEASE: u64 = 1024;

/// AF_NETLINK, and the protocol of programs' own words on it.
const NETLINK: u64 = 16;
const NETLINK_USERSOCK: u64 = 2;

/// AF_UNIX, AF_INET, AF_INET6, AF_NETLINK, AF_PACKET.
const KNOWN_SOCKETS: [u64; 5] = [UNIX, 2, 10, NETLINK, 17];

/// AF_UNIX.
const UNIX: u64 = 1;

fn refuse(calls: &[libc::c_long], answer: libc::c_int) -> Result<(), String> {
    refuse_with(calls.iter().map(|call| (*call, Vec::new())).collect(), answer)
}

/// The same calls as programs of the x32 kind make them, where a kernel has those: they
/// come as calls of this architecture, with a bit of their own. A few have other numbers
/// (arch/x86/entry/syscalls/syscall_64.tbl).
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
    let said = |error: &dyn std::fmt::Display| format!("refusing calls: {error}");
    #[cfg(target_arch = "x86_64")]
    for (call, rule) in rules.clone() {
        rules.insert(of_x32(call), rule);
    }
    let answer = SeccompAction::Errno(answer.unsigned_abs());
    let here = std::env::consts::ARCH.try_into().map_err(|error: BackendError| said(&error))?;
    let filter = SeccompFilter::new(rules, SeccompAction::Allow, answer, here).map_err(|error| said(&error))?;
    let program: BpfProgram = filter.try_into().map_err(|error: BackendError| said(&error))?;
    seccompiler::apply_filter(&program).map_err(|error| said(&error))
}
