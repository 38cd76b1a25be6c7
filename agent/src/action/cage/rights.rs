//! What a script may ask of the kernel: bounds, rights, calls.

use super::Spec;
use fernwart_protocol::script::{ClockRight, Reach, given_up};
use rustix::process::{Resource, Rlimit};
use rustix::thread::CapabilitySet;

/// Gives up what is not needed, for good.
pub(super) fn give_up(spec: &Spec) -> Result<(), String> {
    let both = |most: u64| Rlimit { current: Some(most), maximum: Some(most) };
    let memory = u64::from(spec.memory_mib) << 20;
    for (resource, most) in [(Resource::Data, memory), (Resource::Core, 0), (Resource::Nofile, 1024)] {
        rustix::process::setrlimit(resource, both(most)).map_err(|error| format!("limits: {error}"))?;
    }
    rustix::thread::set_no_new_privs(true).map_err(|error| error.to_string())?;
    let reach = if spec.looks { Reach::Looks } else { Reach::Acts };
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

/// What is not there: memory that nobody counts, and a way past this filter.
const ABSENT: [libc::c_long; 3] = [libc::SYS_memfd_create, libc::SYS_memfd_secret, libc::SYS_io_uring_setup];

/// Lets the kernel answer these calls with a no, here and in all that is
/// started from here.
pub(super) fn refuse_calls() -> Result<(), String> {
    refuse(&FORBIDDEN, libc::EPERM)?;
    refuse(&ABSENT, libc::ENOSYS)
}

fn refuse(calls: &[libc::c_long], answer: libc::c_int) -> Result<(), String> {
    use seccompiler::{BackendError, BpfProgram, SeccompAction, SeccompFilter};
    let said = |error: &dyn std::fmt::Display| format!("refusing calls: {error}");
    let rules = calls.iter().map(|call| (*call, Vec::new())).collect();
    let answer = SeccompAction::Errno(answer.unsigned_abs());
    let here = std::env::consts::ARCH.try_into().map_err(|error: BackendError| said(&error))?;
    let filter = SeccompFilter::new(rules, SeccompAction::Allow, answer, here).map_err(|error| said(&error))?;
    let program: BpfProgram = filter.try_into().map_err(|error: BackendError| said(&error))?;
    seccompiler::apply_filter(&program).map_err(|error| said(&error))
}
