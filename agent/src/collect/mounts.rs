//! The kernel's table of mounts, read by its own grammar (proc_pid_mountinfo(5)).

use super::bytes::{clipped, read_bytes, shown};
use fernwart_protocol::diagnosis::facts::Filesystem;
use std::ffi::OsStr;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

/// One mount.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Mount {
    /// Its number in this namespace.
    pub(crate) id: u64,
    /// The number of the mount it lies in.
    pub(crate) parent: u64,
    /// The device's number, `8:1`.
    pub(crate) number: String,
    /// Which folder of the file system is mounted.
    pub(crate) root: Vec<u8>,
    /// Where.
    pub(crate) path: PathBuf,
    /// Options of this mount.
    pub(crate) options: String,
    /// The file system's type.
    pub(crate) kind: String,
    /// What is mounted.
    pub(crate) device: String,
    /// Options of the file system itself.
    pub(crate) super_options: String,
}

/// Kinds that are no file system on anything: the kernel's own.
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

/// Where disks in memory are that a program fills for itself: of a session, of a
/// container, of a credential.
const OTHERS: [&str; 8] =
    ["/run/user", "/run/credentials", "/run/lock", "/run/snapd", "/run/docker", "/run/containers", "/sys", "/var/lib"];

/// Kinds that can only ever be read.
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
    /// Which folder of the file system is mounted.
    pub(crate) fn root(&self) -> &Path {
        Path::new(OsStr::from_bytes(&self.root))
    }

    /// Whether it is a file system on something, or a disk in memory that programs fill
    /// and fail by. An overlay is another view
    /// of a file system that is told by itself, but where it is all there is.
    pub(crate) fn is_storage(&self) -> bool {
        !PSEUDO.contains(&self.kind.as_str())
            && !IMAGES.contains(&self.kind.as_str())
            && (self.kind != "tmpfs"
                || !self.is_read_only() && !OTHERS.iter().any(|place| self.path.starts_with(place)))
            && (self.kind != "overlay" || self.path == Path::new("/"))
    }

    /// Whether it can only be read.
    pub(crate) fn is_read_only(&self) -> bool {
        has(&self.options, "ro") || has(&self.super_options, "ro") || self.is_shut_down()
    }

    /// Whether the file system can only be read although whoever mounted it wanted to
    /// write. The mount's own option is what was asked for; an error changes the file
    /// system's. Newer kernels leave even that and say `emergency_ro` or `shutdown`.
    pub(crate) fn is_read_only_unasked(&self) -> bool {
        let is_image = self.kind == "overlay" && !self.super_options.contains("upperdir=");
        self.is_shut_down() || (has(&self.super_options, "ro") && !has(&self.options, "ro") && !is_image)
    }

    fn is_shut_down(&self) -> bool {
        ["emergency_ro", "shutdown"].iter().any(|option| has(&self.super_options, option))
    }

    /// Whether a program or a server far away answers for it.
    pub(crate) fn is_remote(&self) -> bool {
        self.kind.starts_with("fuse")
            || ["nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "afs", "ceph", "glusterfs", "virtiofs", "ncpfs", "coda"]
                .contains(&self.kind.as_str())
    }
}

/// The mounts that a process sees.
///
/// # Errors
/// When the kernel does not say.
pub(crate) fn of(process: &str) -> std::io::Result<Vec<Mount>> {
    Ok(parse(&read_bytes(format!("/proc/{process}/mountinfo"))?))
}

/// Lines that are no mounts are passed over.
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
    // Any number of optional fields, then a dash.
    fields.find(|field| *field == b"-")?;
    let kind = shown(fields.next()?);
    let device = shown(&unescaped(fields.next()?));
    let super_options = shown(fields.next().unwrap_or_default());
    Some(Mount { id, parent, number, root, path, options, kind, device, super_options })
}

/// Blank, tab, newline, backslash and hash are written as `\040` (octal).
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
    /// Whether the machine should have mounted it by itself.
    pub(crate) fn is_mounted_at_boot(&self) -> bool {
        let later = ["noauto", "x-systemd.automount"];
        self.path.is_absolute() && self.kind != "swap" && !later.iter().any(|option| has(&self.options, option))
    }

    /// Whether this is what is mounted there, and it was to be written to.
    pub(crate) fn wants_writable(&self, mounted: &Filesystem) -> bool {
        let place = clipped(&shown(self.path.as_os_str().as_encoded_bytes()));
        place == mounted.mount
            && (self.kind == mounted.kind || self.kind == "auto")
            && !has(&self.options, "ro")
            && !has(&self.options, "noauto")
    }

    /// Whether the machine is to start without it.
    pub(crate) fn may_be_absent(&self) -> bool {
        has(&self.options, "nofail")
    }
}

/// The lines of a file like fstab.
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
    fn a_line_is_read_whole_whatever_is_in_a_path() {
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
    fn read_only_is_a_fault_only_where_it_was_not_asked_for() {
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
    fn fstab_is_read_with_blanks_and_remarks() {
        let table = b"# a remark\nUUID=1 / ext4 errors=remount-ro 0 1\n/dev/sdb1\t/mnt/my\\040disk\tntfs nofail\n\nUUID=2 none swap sw\n//nas/x /mnt/n cifs noauto,user\n";
        let wanted = wanted(table);
        let paths: Vec<_> = wanted.iter().filter(|w| w.is_mounted_at_boot()).map(|w| w.path.clone()).collect();
        assert_eq!(paths, [PathBuf::from("/"), PathBuf::from("/mnt/my disk")]);
        assert!(wanted[1].may_be_absent() && !wanted[0].may_be_absent());
    }
}
