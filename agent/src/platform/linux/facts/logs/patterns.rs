//! Matches known patterns in a line: which pattern, about which thing, and whether the writer is
//! trusted.

use super::SECOND;
use super::lines::Line;
use crate::collect::bytes::{clipped, read};
use aho_corasick::AhoCorasick;
use fernwart_protocol::diagnosis::{From, Pattern, builtin_patterns};
use std::ops::Range;
use std::path::Path;
use std::sync::LazyLock;

/// All patterns, with one automaton that finds all their words at once.
struct Known {
    patterns: Vec<Pattern>,
    words: AhoCorasick,
    /// For each word, its pattern, and whether it is a word that cancels an earlier match.
    of: Vec<(usize, bool)>,
}

#[expect(clippy::expect_used, reason = "a test builds the same machine from the same words")]
static KNOWN: LazyLock<Known> = LazyLock::new(|| {
    let patterns = builtin_patterns();
    let (mut words, mut of) = (Vec::new(), Vec::new());
    for (index, pattern) in patterns.iter().enumerate() {
        for (list, heals) in [(&pattern.words, false), (&pattern.healed_by, true)] {
            words.extend(list.iter().cloned());
            of.extend(list.iter().map(|_| (index, heals)));
        }
    }
    let machine = AhoCorasick::builder().ascii_case_insensitive(true).build(&words);
    Known { patterns, words: machine.expect("words are few and short"), of }
});

/// The pattern with this index.
pub(super) fn pattern(index: usize) -> Option<&'static Pattern> {
    KNOWN.patterns.get(index)
}

/// The patterns that match a line: index, whether the line cancels an earlier match, and what it
/// is about.
pub(super) fn matches(line: &Line<'_>) -> Vec<(usize, bool, String)> {
    let known = &*KNOWN;
    let own = if line.is_kernels { kernels_words(line.message) } else { 0..line.message.len() };
    let found = known.words.find_overlapping_iter(line.message);
    let found = found.filter(|found| own.start <= found.start() && found.end() <= own.end);
    let mut seen: Vec<(usize, bool)> =
        found.filter_map(|found| known.of.get(found.pattern().as_usize()).copied()).collect();
    if !line.message_id.is_empty() {
        let wanted = |pattern: &Pattern| pattern.message_ids.iter().any(|id| id == line.message_id);
        seen.extend(known.patterns.iter().enumerate().filter(|(_, pattern)| wanted(pattern)).map(|(i, _)| (i, false)));
    }
    seen.sort_unstable();
    seen.dedup();
    let about = |(index, heals): (usize, bool)| {
        let pattern = pattern(index).filter(|pattern| fits(pattern, line, heals))?;
        let about = pattern.about(line.message, line.about());
        // A journal is named by its disk and its inode, which is always 8.
        let about = clipped(about.strip_suffix("-8").filter(|_| pattern.id == "fs.ext4").unwrap_or(about));
        let is_meant = !pattern.not_about.iter().any(|begin| about.starts_with(begin.as_str()));
        is_meant.then_some((index, heals, about))
    };
    seen.into_iter().filter_map(about).collect()
}

/// Whether a line that contains a pattern's word really matches it.
fn fits(pattern: &Pattern, line: &Line<'_>, heals: bool) -> bool {
    let lower = line.message.to_ascii_lowercase();
    let has = |word: &String| lower.contains(&word.to_ascii_lowercase());
    let is_from = match pattern.from {
        From::Kernel => line.is_kernels,
        From::Program => !line.is_kernels,
    };
    is_from
        && (pattern.programs.is_empty() || pattern.programs.iter().any(|p| p == line.program || p == line.command))
        // Patterns for any program accept any writer; patterns for certain programs only a
        // trusted one.
        && (pattern.programs.is_empty() && pattern.message_ids.is_empty() || line.is_trusted || line.is_kernels)
        && (heals || pattern.and.is_empty() || pattern.and.iter().any(has))
        && !pattern.unless.iter().any(has)
}

/// The part of a kernel message that the kernel itself worded. Some messages contain a program's
/// name, which any user can choose.
fn kernels_words(message: &str) -> Range<usize> {
    if let Some(at) = message.rfind("]: segfault at ") {
        return at..message.len();
    }
    const NAMES: [&str; 8] =
        ["traps: ", "Killed process ", "Kill process ", "INFO: task ", "Comm: ", "comm=", "comm ", "! ["];
    let ends = NAMES.iter().filter_map(|name| message.find(name).map(|at| at + name.len()));
    0..ends.min().unwrap_or(message.len())
}

/// Whether a disk's errors are due to unplugging it. `begun` is when they began, `pulled` when
/// USB devices were unplugged, microseconds since 1970.
pub(super) fn was_pulled_out(disk: &str, begun: i64, pulled: &[i64]) -> bool {
    is_removable(disk) || (is_gone(disk) && pulled.iter().any(|at| is_soon_after(begun, *at)))
}

/// Whether there is no such device any more.
fn is_gone(about: &str) -> bool {
    !about.is_empty()
        && ["block", "scsi_device"].iter().all(|class| !Path::new("/sys/class").join(class).join(about).exists())
}

/// Whether errors began when a device was unplugged: pending writes fail within two minutes.
fn is_soon_after(begun: i64, pulled: i64) -> bool {
    (pulled - 5 * SECOND..=pulled + 120 * SECOND).contains(&begun)
}

/// Whether a device, or the disk it is a partition of, is removable.
fn is_removable(about: &str) -> bool {
    let disk = about.trim_end_matches(|c: char| c.is_ascii_digit());
    [about, disk, disk.trim_end_matches('p')].iter().any(|name| {
        let folder = Path::new("/sys/block").join(name);
        let bus = Path::new("/sys/class/scsi_device").join(name);
        !name.is_empty()
            && (read(folder.join("removable")).is_some_and(|text| text.trim() == "1")
                || [folder, bus].iter().any(|place| {
                    std::fs::canonicalize(place).is_ok_and(|path| path.to_string_lossy().contains("/usb"))
                }))
    })
}
