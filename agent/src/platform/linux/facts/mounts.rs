//! Parses the kernel's mount table (proc_pid_mountinfo(5)).

use crate::collect::bytes::{clipped, read_bytes, shown};
use fernwart_protocol::diagnosis::facts::Filesystem;
use std::ffi::OsStr;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

/// One mount.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Mount {
    /// Its mount id.
    pub(crate) id: u64,
    /// The id of its parent mount.
    pub(crate) parent: u64,
    /// The device number, `8:1`.
    pub(crate) number: String,
    /// The folder of the file system that is mounted.
    pub(crate) root: Vec<u8>,
    /// The mount point.
    pub(crate) path: PathBuf,
    /// Options of this mount.
    pub(crate) options: String,
    /// The file system's type.
    pub(crate) kind: String,
    /// The mounted device or source.
    pub(crate) device: String,
    /// Options of the file system itself.
    pub(crate) super_options: String,
}

/// Types of the kernel's virtual file systems.
const PSEUDO: [&str; 30] = [
    "autofs",
    "bdev",
    "binfmt_misc",
    "bpf",
    "cgroup",
    "cgroup2",
    "configfs",
    "cpuset",
    "debugfs",
    "devpts",
    "devtmpfs",
    "efivarfs",
    "fusectl",
    "fuse.gvfsd-fuse",
    "fuse.lxcfs",
    "fuse.portal",
    "hugetlbfs",
    "mqueue",
    "nsfs",
    "proc",
    "pstore",
    "ramfs",
    "resctrl",
    "rpc_pipefs",
    "securityfs",
    "selinuxfs",
    "smackfs",
    "sysfs",
    "tracefs",
    "nfsd",
];

/// Where programs mount their own tmpfs: for sessions, containers, credentials.
const OTHERS: [&str; 8] =
    ["/run/user", "/run/credentials", "/run/lock", "/run/snapd", "/run/docker", "/run/containers", "/sys", "/var/lib"];

/// Types that are always read-only.
const IMAGES: [&str; 11] = [
    "squashfs",
    "iso9660",
    "udf",
    "erofs",
    "cramfs",
    "romfs",
    "cd9660",
    "fuse.snapfuse",
    "fuse.squashfuse",
    "fuse.squashfuse_ll",
    "fuse.archivemount",
];

fn has(options: &str, wanted: &str) -> bool {
    options.split(',').any(|option| option == wanted)
}

impl Mount {
    /// The folder of the file system that is mounted.
    pub(crate) fn root(&self) -> &Path {
        Path::new(OsStr::from_bytes(&self.root))
    }

    /// Whether it stores data: a real file system, or a tmpfs that programs can fill up. An
    /// overlay is a view of another file system and does not count, unless it is the root.
    pub(crate) fn is_storage(&self) -> bool {
        !PSEUDO.contains(&self.kind.as_str())
            && !IMAGES.contains(&self.kind.as_str())
            && (self.kind != "tmpfs"
                || !self.is_read_only() && !OTHERS.iter().any(|place| self.path.starts_with(place)))
            && (self.kind != "overlay" || self.path == Path::new("/"))
    }

    /// Whether it is read-only.
    pub(crate) fn is_read_only(&self) -> bool {
        has(&self.options, "ro") || has(&self.super_options, "ro") || self.is_shut_down()
    }

    /// Whether the file system became read-only although it was mounted writable. The mount's
    /// options are what was requested; an error changes the file system's options. Newer kernels
    /// do not change those and add `emergency_ro` or `shutdown`.
    pub(crate) fn is_read_only_unasked(&self) -> bool {
        let is_image = self.kind == "overlay" && !self.super_options.contains("upperdir=");
        self.is_shut_down() || (has(&self.super_options, "ro") && !has(&self.options, "ro") && !is_image)
    }

    fn is_shut_down(&self) -> bool {
        ["emergency_ro", "shutdown"].iter().any(|option| has(&self.super_options, option))
    }

    /// Whether a program or a remote server provides it.
    pub(crate) fn is_remote(&self) -> bool {
        self.kind.starts_with("fuse")
            || ["nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "afs", "ceph", "glusterfs", "virtiofs", "ncpfs", "coda"]
                .contains(&self.kind.as_str())
    }
}

/// The mounts that a process sees.
///
/// # Errors
/// When the kernel does not report them.
pub(crate) fn of(process: &str) -> std::io::Result<Vec<Mount>> {
    Ok(parse(&read_bytes(format!("/proc/{process}/mountinfo"))?))
}

/// Parses a mount table; other lines are skipped.
pub(crate) fn parse(table: &[u8]) -> Vec<Mount> {
    table.split(|byte| *byte == b'\n').filter_map(mount).collect()
}

/// `36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 - ext3 /dev/root rw,errors=continue`
fn mount(line: &[u8]) -> Option<Mount> {
    let mut fields = line.split(|byte| *byte == b' ');
    let mut text = || fields.next().map(shown);
    let (id, parent, number) = (text()?.parse().ok()?, text()?.parse().ok()?, text()?);
    let root = unescaped(fields.next()?);
    let path = PathBuf::from(std::ffi::OsString::from_vec(unescaped(fields.next()?)));
    let options = shown(fields.next()?);
    // Skips the optional fields up to the dash.
    fields.find(|field| *field == b"-")?;
    let kind = shown(fields.next()?);
    let device = shown(&unescaped(fields.next()?));
    let super_options = shown(fields.next().unwrap_or_default());
    Some(Mount { id, parent, number, root, path, options, kind, device, super_options })
}

/// Decodes blank, tab, newline, backslash and hash, which are written as `\040` (octal).
pub(crate) fn unescaped(field: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((first, after)) = rest.split_first() {
        let octal = || {
            let digits = after.get(..3).filter(|_| *first == b'\\')?;
            let digits = std::str::from_utf8(digits).ok()?;
            u8::from_str_radix(digits, 8).ok()
        };
        match octal() {
            Some(byte) => {
                out.push(byte);
                rest = after.get(3..).unwrap_or_default();
            }
            None => {
                out.push(*first);
                rest = after;
            }
        }
    }
    out
}

/// One line of fstab(5).
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Wanted {
    pub(crate) device: String,
    pub(crate) path: PathBuf,
    pub(crate) kind: String,
    pub(crate) options: String,
}

impl Wanted {
    /// Whether it should be mounted at boot.
    pub(crate) fn is_mounted_at_boot(&self) -> bool {
        let later = ["noauto", "x-systemd.automount"];
        self.path.is_absolute() && self.kind != "swap" && !later.iter().any(|option| has(&self.options, option))
    }

    /// Whether this mount is the one wanted here, and was to be writable.
    pub(crate) fn wants_writable(&self, mounted: &Filesystem) -> bool {
        let place = clipped(&shown(self.path.as_os_str().as_encoded_bytes()));
        place == mounted.mount
            && (self.kind == mounted.kind || self.kind == "auto")
            && !has(&self.options, "ro")
            && !has(&self.options, "noauto")
    }

    /// Whether the machine may start without it.
    pub(crate) fn may_be_absent(&self) -> bool {
        has(&self.options, "nofail")
    }
}

/// Parses a table in fstab format.
pub(crate) fn wanted(table: &[u8]) -> Vec<Wanted> {
    let lines = table.split(|byte| *byte == b'\n').map(<[u8]>::trim_ascii);
    let lines = lines.filter(|line| !line.is_empty() && !line.starts_with(b"#"));
    let wanted = |line: &[u8]| {
        let mut fields = line.split(u8::is_ascii_whitespace).filter(|field| !field.is_empty());
        let device = shown(&unescaped(fields.next()?));
        let path = PathBuf::from(OsStr::from_bytes(&unescaped(fields.next()?)));
        Some(Wanted { device, path, kind: shown(fields.next()?), options: shown(fields.next().unwrap_or(b"defaults")) })
    };
    lines.filter_map(wanted).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mount_is_parsed_with_any_bytes_in_its_path() {
        let line = b"36 35 98:0 /a\\040b /mnt/x\\012y\\134z\\040\xfc rw,noatime master:1 propagate_from:2 - fuseblk /dev/sda\\0401 rw,allow_other";
        let mount = parse(line).pop().expect("a mount");
        assert_eq!(mount.path.as_os_str().as_bytes(), b"/mnt/x\ny\\z \xfc");
        assert_eq!((mount.root.as_slice(), mount.device.as_str()), (&b"/a b"[..], "/dev/sda 1"));
        assert_eq!((mount.id, mount.parent, mount.kind.as_str()), (36, 35, "fuseblk"));
        assert!(mount.is_storage() && mount.is_remote() && !mount.is_read_only());
        let plain = parse(b"1 0 8:1 / / rw - ext4 /dev/sda1 rw\ngarbage\n\n7 1 0:5 / /proc rw - proc proc rw");
        assert_eq!(plain.len(), 2);
    }

    #[test]
    fn read_only_is_a_fault_only_if_it_was_not_requested() {
        let mount = |options: &str, kind: &str, of: &str| {
            parse(format!("1 0 8:1 / /x {options} - {kind} /dev/sda1 {of}").as_bytes()).pop().expect("a mount")
        };
        let unasked = |options: &str, kind: &str, of: &str| mount(options, kind, of).is_read_only_unasked();
        assert!(!unasked("rw", "ext4", "rw") && !unasked("ro", "ext4", "ro"), "mount -o ro");
        assert!(!unasked("ro", "ext4", "rw"), "a read-only bind, or ProtectSystem=");
        assert!(unasked("rw", "ext4", "ro,errors=remount-ro"), "after an error");
        assert!(unasked("rw", "ext4", "rw,emergency_ro") && unasked("rw", "ext4", "rw,shutdown"), "newer kernels");
        assert!(mount("rw", "ext4", "rw,emergency_ro").is_read_only());
        assert!(!unasked("rw", "overlay", "ro,lowerdir=/a:/b"), "an overlay without an upper layer");
        assert!(!mount("ro", "squashfs", "ro").is_storage());
    }

    #[test]
    fn fstab_is_parsed_with_blanks_and_comments() {
        let table = b"# a remark\nUUID=1 / ext4 errors=remount-ro 0 1\n/dev/sdb1\t/mnt/my\\040disk\tntfs nofail\n\nUUID=2 none swap sw\n//nas/x /mnt/n cifs noauto,user\n";
        let wanted = wanted(table);
        let paths: Vec<_> = wanted.iter().filter(|w| w.is_mounted_at_boot()).map(|w| w.path.clone()).collect();
        assert_eq!(paths, [PathBuf::from("/"), PathBuf::from("/mnt/my disk")]);
        assert!(wanted[1].may_be_absent() && !wanted[0].may_be_absent());
    }
}
