//! File systems, drives, RAIDs: each with its facts, or why they are missing.

use super::mounts::{self, Mount};
use super::smart;
use crate::collect::bytes::{clipped, names_in, read_bytes, shown};
use crate::collect::counting::Counting;
use crate::collect::{budget, missing, pct, read};
use fernwart_protocol::diagnosis::facts::{Array, Disks, Filesystem, LIST, MissingMount, Pool};
use fernwart_protocol::diagnosis::{Cause, Class, Reason};
use rustix::fs::{AtFlags, CWD, OFlags, StatVfs, StatxFlags};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

/// Time limit for one file system to report its size. Local ones take microseconds, a nearby
/// server milliseconds.
const BUDGET: Duration = Duration::from_millis(1000);

/// File systems asked at once, so that several that hang cost the time of one.
const AT_ONCE: usize = 4;

pub(super) fn facts(counting: &Counting, until: Instant) -> Result<Disks, Cause> {
    let table = mounts::of("self").map_err(|error| Cause::new(Reason::Unreadable, format!("mountinfo: {error}")))?;
    // Process 1's view: the agent's own may be hardened with read-only mounts.
    let machine = mounts::of("1").unwrap_or_default();
    let fstab = read_bytes("/etc/fstab");
    let wanted = fstab.as_ref().map(|fstab| mounts::wanted(fstab)).unwrap_or_default();
    let mut disks = Disks { filesystems: filesystems(&table, &machine, until), ..Disks::default() };
    // A container's fstab comes from its image and does not describe it.
    if super::system::container().is_empty() {
        for filesystem in disks.filesystems.iter_mut().filter(|filesystem| filesystem.read_only) {
            filesystem.read_only_unasked |= wanted.iter().any(|wanted| wanted.wants_writable(filesystem));
        }
    }
    disks.drives = smart::drives(counting, until);
    let silent = disks.drives.iter().filter_map(|drive| drive.why.get("healthy"));
    let silent = silent.filter(|why| why.reason.class() != Class::NotApplicable).map(Cause::in_words).next();
    match silent {
        Some(why) => disks.smart_unanswered = Some(why),
        None => drop(disks.why.insert("smart_unanswered".into(), Reason::Absent.into())),
    }
    disks.arrays = Some(arrays(Path::new("/sys/block")));
    disks.pools = Some(pools(Path::new("/proc/spl/kstat/zfs")));
    match fstab {
        Ok(fstab) => {
            let seen = if machine.is_empty() { &table } else { &machine };
            disks.missing_mounts = Some(missing_mounts(&fstab, seen));
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => disks.missing_mounts = Some(Vec::new()),
        Err(error) => {
            let why = Cause::new(Reason::Unreadable, clipped(&format!("/etc/fstab: {error}")));
            disks.why.insert("missing_mounts".into(), why);
        }
    }
    Ok(disks)
}

/// The mounts of each file system, best first: its root rather than a folder of it, then the
/// shortest path.
fn by_device(table: &[Mount]) -> BTreeMap<String, Vec<&Mount>> {
    let mut devices: BTreeMap<String, Vec<&Mount>> = BTreeMap::new();
    for mount in table.iter().filter(|mount| mount.is_storage()) {
        devices.entry(mount.number.clone()).or_default().push(mount);
    }
    for mounts in devices.values_mut() {
        mounts.sort_by_key(|mount| (mount.root != b"/", mount.path.as_os_str().len(), mount.path.clone()));
    }
    devices
}

/// Maximum number of mounts of one file system that are tried.
const TRIES: usize = 4;

fn filesystems(table: &[Mount], machine: &[Mount], until: Instant) -> Vec<Filesystem> {
    let unasked: HashSet<&str> =
        machine.iter().filter(|mount| mount.is_read_only_unasked()).map(|mount| mount.number.as_str()).collect();
    let devices = by_device(table);
    let things = devices.iter().map(|(number, mounts)| {
        let places: Vec<(PathBuf, u64)> =
            mounts.iter().take(TRIES).map(|mount| (mount.path.clone(), mount.id)).collect();
        (format!("mount {number}"), places)
    });
    let answers = budget::each(things.collect(), AT_ONCE, BUDGET, until, figures);
    let mut all = Vec::new();
    for (mounts, answer) in devices.values().zip(answers) {
        let answered = match &answer {
            Ok(Ok((index, _))) => *index,
            _ => 0,
        };
        let Some(mount) = mounts.get(answered).or(mounts.first()) else { continue };
        let mut filesystem = Filesystem {
            mount: clipped(&shown(mount.path.as_os_str().as_encoded_bytes())),
            device: clipped(&mount.device),
            kind: clipped(&mount.kind),
            read_only: mount.is_read_only(),
            read_only_unasked: mounts.iter().any(|mount| mount.is_read_only_unasked())
                || unasked.contains(mount.number.as_str()),
            ..Filesystem::default()
        };
        let lost = match answer {
            Ok(Ok((_, stat))) if stat.f_blocks == 0 => continue,
            Ok(Ok((_, stat))) => {
                fill(&mut filesystem, &stat);
                None
            }
            // Another mount covers it, so it cannot be used.
            Ok(Err(None | Some(rustix::io::Errno::NOENT | rustix::io::Errno::NOTDIR))) => continue,
            Ok(Err(Some(error))) if error == rustix::io::Errno::ACCESS || error == rustix::io::Errno::PERM => {
                // A user's FUSE mount denies access to root; others fail for lack of permission.
                let is_root = rustix::process::geteuid().is_root();
                Some(Cause::new(Reason::NotPermitted, if is_root { filesystem.mount.as_str() } else { "" }))
            }
            Ok(Err(Some(error))) => Some(Cause::new(Reason::Unreadable, clipped(&error.to_string()))),
            Err(reason) => Some(Cause::new(reason, "")),
        };
        filesystem.hangs = matches!(&lost, Some(why) if why.reason == Reason::Hangs);
        if let Some(why) = lost {
            missing(&mut filesystem.why, &["size_bytes", "free_bytes", "free_pct", "inodes", "inodes_free_pct"], &why);
        }
        recorded_errors(&mut filesystem, mount);
        all.push(filesystem);
    }
    all.sort_by(|a, b| {
        let first = |fs: &Filesystem| (!fs.hangs, !fs.read_only_unasked, fs.errors.unwrap_or_default() == 0);
        let room = |fs: &Filesystem| fs.free_pct.unwrap_or_default().min(fs.inodes_free_pct.unwrap_or(100.0));
        first(a).cmp(&first(b)).then(room(a).total_cmp(&room(b)))
    });
    all.truncate(LIST);
    all
}

/// The index of the first of these paths that really is this mount, and its statistics; an error
/// or none if all are covered by others.
type Figures = Result<(usize, StatVfs), Option<rustix::io::Errno>>;

fn figures(places: Vec<(PathBuf, u64)>) -> Figures {
    let mut last = None;
    for (index, (path, id)) in places.iter().enumerate() {
        match figures_at(path, *id) {
            Ok(Some(stat)) => return Ok((index, stat)),
            Ok(None) => {}
            Err(error) => last = Some(error),
        }
    }
    Err(last)
}

fn figures_at(path: &Path, id: u64) -> rustix::io::Result<Option<StatVfs>> {
    let place =
        rustix::fs::openat(CWD, path, OFlags::PATH | OFlags::CLOEXEC | OFlags::NOFOLLOW, rustix::fs::Mode::empty())?;
    // Bit 0x1000 is STATX_MNT_ID; kernels before 5.8 do not support it.
    let wanted = StatxFlags::from_bits_retain(0x1000);
    if let Ok(stat) = rustix::fs::statx(&place, "", AtFlags::EMPTY_PATH | AtFlags::NO_AUTOMOUNT, wanted)
        && stat.stx_mask & 0x1000 != 0
        && stat.stx_mnt_id != id
    {
        return Ok(None);
    }
    rustix::fs::fstatvfs(&place).map(Some)
}

fn fill(filesystem: &mut Filesystem, stat: &StatVfs) {
    let free = stat.f_bavail.saturating_mul(stat.f_frsize);
    let used = stat.f_blocks.saturating_sub(stat.f_bfree).saturating_mul(stat.f_frsize);
    filesystem.size_bytes = Some(stat.f_blocks.saturating_mul(stat.f_frsize));
    filesystem.free_bytes = Some(free);
    // As df: reserved blocks count as neither used nor free.
    filesystem.free_pct = Some(pct(free as f64, (free + used) as f64));
    if stat.f_files > 0 {
        filesystem.inodes = Some(stat.f_files);
        filesystem.inodes_free_pct = Some(pct(stat.f_favail as f64, stat.f_files as f64));
    } else {
        // btrfs and vfat do not count inodes.
        missing(
            &mut filesystem.why,
            &["inodes", "inodes_free_pct"],
            &Cause::new(Reason::NotSupported, clipped(&filesystem.kind)),
        );
    }
}

/// The errors that ext4 has recorded in its superblock; only a file system check clears them.
fn recorded_errors(filesystem: &mut Filesystem, mount: &Mount) {
    let known = ["ext4", "ext3", "ext2"].contains(&mount.kind.as_str()).then(|| {
        let device = std::fs::read_link(format!("/sys/dev/block/{}", mount.number)).ok()?;
        let folder = Path::new("/sys/fs/ext4").join(device.file_name()?);
        let number = |file: &str| read(folder.join(file))?.trim().parse::<u64>().ok();
        Some((number("errors_count")?, number("last_error_time").unwrap_or_default()))
    });
    match known {
        Some(Some((errors, last))) => {
            filesystem.errors = Some(errors);
            let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
            match errors {
                0 => drop(filesystem.why.insert("error_days".into(), Reason::Absent.into())),
                _ => filesystem.error_days = Some((now.saturating_sub(last) as f64 / 8640.0).round() / 10.0),
            }
        }
        Some(None) | None => {
            missing(
                &mut filesystem.why,
                &["errors", "error_days"],
                &Cause::new(Reason::NotSupported, clipped(&filesystem.kind)),
            );
        }
    }
}

/// What fstab mounts at boot and is not mounted.
fn missing_mounts(fstab: &[u8], table: &[Mount]) -> Vec<MissingMount> {
    let mounted: HashMap<&Path, &Mount> = table.iter().map(|mount| (mount.path.as_path(), mount)).collect();
    let is_there = |path: &Path| {
        // The path may contain a link: /var/run for /run.
        mounted.contains_key(path)
            || crate::platform::paths::real_path(path).is_some_and(|path| mounted.contains_key(path.as_path()))
    };
    let wanted = mounts::wanted(fstab).into_iter().filter(|wanted| wanted.is_mounted_at_boot());
    // Mounts that hang are reported elsewhere; resolving a path below one would hang here.
    let asked = wanted.filter(|wanted| {
        let below_remote = table.iter().any(|mount| mount.is_remote() && wanted.path.starts_with(&mount.path));
        if below_remote { !mounted.contains_key(wanted.path.as_path()) } else { !is_there(&wanted.path) }
    });
    asked
        .take(LIST)
        .map(|wanted| MissingMount {
            mount: clipped(&shown(wanted.path.as_os_str().as_encoded_bytes())),
            may_be_absent: wanted.may_be_absent(),
            device: clipped(&wanted.device),
        })
        .collect()
}

/// Software RAIDs, from sysfs (Documentation/admin-guide/md.rst).
fn arrays(block: &Path) -> Vec<Array> {
    let devices = names_in(block, |name| name.starts_with("md"));
    let array = |name: String| {
        let folder = block.join(&name).join("md");
        let text = |file: &str| read(folder.join(file)).map(|text| text.trim().to_owned());
        let state = text("array_state")?;
        // A stopped array leaves its device behind.
        if state == "clear" {
            return None;
        }
        let disks = text("raid_disks").and_then(|number| number.split_whitespace().next()?.parse().ok()).unwrap_or(0);
        let members = names_in(&folder, |name| name.starts_with("dev-"));
        let states = members.iter().map(|member| read(folder.join(member).join("state")).unwrap_or_default());
        let (mut working, mut faulty) = (0u32, 0);
        for state in states {
            let has = |word: &str| state.trim().split(',').any(|one| one == word);
            working += u32::from(has("in_sync"));
            faulty += u32::from(has("faulty"));
        }
        let mut array = Array {
            device: format!("/dev/{name}"),
            level: clipped(&text("level").unwrap_or_default()),
            disks,
            faulty,
            rebuilding: text("sync_action").is_some_and(|action| action == "recover" || action == "reshape"),
            state: clipped(&state),
            ..Array::default()
        };
        match text("degraded").and_then(|number| number.parse::<u32>().ok()) {
            // A removed disk is not counted as degraded, so the working disks are compared, too.
            Some(degraded) => array.missing = Some(degraded.max(disks.saturating_sub(working))),
            None => drop(array.why.insert("missing".into(), Cause::new(Reason::NotSupported, array.level.clone()))),
        }
        Some(array)
    };
    devices.into_iter().filter_map(array).take(LIST).collect()
}

/// ZFS pools, from /proc: `zpool` would hang if a pool does.
fn pools(kstat: &Path) -> Vec<Pool> {
    let found = names_in(kstat, |_| true);
    let pool = |name: String| {
        let state = read(kstat.join(&name).join("state"))?;
        Some(Pool { name: clipped(&name), state: clipped(&state) })
    };
    found.into_iter().filter_map(pool).take(LIST).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_system_is_measured_at_its_own_root_wherever_it_is_listed() {
        let table = mounts::parse(
            b"30 1 8:1 /srv/shop /mnt/bind rw - ext4 /dev/sda1 rw\n\
              31 1 8:1 / / rw - ext4 /dev/sda1 rw\n\
              32 1 0:5 / /proc rw - proc proc rw\n\
              33 1 8:2 / /data rw - fuseblk /dev/sdb1 rw\n",
        );
        let devices = by_device(&table);
        let first: Vec<_> = devices.values().map(|mounts| mounts[0].path.clone()).collect();
        assert_eq!(first, [PathBuf::from("/"), PathBuf::from("/data")]);
    }

    /// Writes files of an array as in Linux 6.1.
    fn array_files(folder: &Path, files: &[(&str, &str)]) {
        for (file, text) in files {
            let path = folder.join(file);
            std::fs::create_dir_all(path.parent().expect("a folder")).expect("made");
            std::fs::write(path, format!("{text}\n")).expect("written");
        }
    }

    #[test]
    fn a_removed_disk_is_missing_even_if_none_is_marked_faulty() {
        let place = tempfile::tempdir().expect("a folder");
        let of = |name: &str| place.path().join(name).join("md");
        array_files(
            &of("md0"),
            &[
                ("array_state", "clean"),
                ("raid_disks", "2"),
                ("degraded", "1"),
                ("level", "raid1"),
                ("sync_action", "idle"),
                ("dev-sda1/state", "in_sync"),
            ],
        );
        array_files(
            &of("md1"),
            &[
                ("array_state", "active"),
                ("raid_disks", "3"),
                ("degraded", "0"),
                ("level", "raid5"),
                ("sync_action", "check"),
                ("dev-sda2/state", "in_sync"),
                ("dev-sdb2/state", "in_sync"),
                ("dev-sdc2/state", "in_sync"),
            ],
        );
        array_files(&of("md2"), &[("array_state", "clear"), ("raid_disks", "0")]);
        array_files(
            &of("md3"),
            &[
                ("array_state", "clean"),
                ("raid_disks", "2"),
                ("level", "raid0"),
                ("dev-sda3/state", "in_sync"),
                ("dev-sdb3/state", "in_sync"),
            ],
        );
        array_files(
            &of("md4"),
            &[
                ("array_state", "clean"),
                ("raid_disks", "2"),
                ("degraded", "1"),
                ("level", "raid1"),
                ("sync_action", "recover"),
                ("dev-sda4/state", "in_sync"),
                ("dev-sdb4/state", "spare"),
                ("dev-sdc4/state", "faulty"),
            ],
        );
        let found = arrays(place.path());
        let short: Vec<_> = found.iter().map(|a| (a.device.as_str(), a.missing, a.faulty, a.rebuilding)).collect();
        assert_eq!(
            short,
            [
                ("/dev/md0", Some(1), 0, false),
                ("/dev/md1", Some(0), 0, false),
                ("/dev/md3", None, 0, false),
                ("/dev/md4", Some(1), 1, true)
            ]
        );
    }

    #[test]
    fn fstab_entries_that_are_not_mounted_are_named() {
        let fstab =
            b"UUID=1 / ext4 defaults\n/dev/sdb1 /no/such/place ext4 nofail\n/dev/sdc1 /no/backup xfs defaults\n";
        let table = mounts::parse(b"31 1 8:1 / / rw - ext4 /dev/sda1 rw\n");
        let missing = missing_mounts(fstab, &table);
        let short: Vec<_> = missing.iter().map(|m| (m.mount.as_str(), m.may_be_absent)).collect();
        assert_eq!(short, [("/no/such/place", true), ("/no/backup", false)]);
    }
}
