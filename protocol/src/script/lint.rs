//! Reads a manifest field by field and reports every mistake with its position.

use super::bundle::{BundleName, FileName};
use super::manifest::{ExitMeaning, Interpreter, Limits, Manifest, Platform, Privilege};
use super::parameter::{Declared, Kind, PARAMETERS, Value};
use super::reader::{Mistake, Reader};
use crate::diagnosis::Both;
use crate::document::UnixMs;
use regex::RegexBuilder;
use serde::Deserialize;
use std::collections::HashSet;
use std::ops::Range;
use toml::Spanned;

const LIMITS: [(&str, u32, u32, Option<u32>); 5] = [
    // name, minimum, maximum, default
    ("time_s", 1, 3600, Some(60)),
    ("memory_mib", 8, 4096, Some(256)),
    ("processes", 1, 1024, Some(64)),
    ("cpu_pct", 5, 800, None),
    ("output_mib", 1, 1024, Some(64)),
];

impl Manifest {
    /// Reads a manifest's text.
    ///
    /// # Errors
    /// Every mistake in it, in the order of the text.
    pub fn read(text: &str) -> Result<Self, Vec<Mistake>> {
        let mut mistakes = Vec::new();
        let mut file = Reader::file(text, &mut mistakes);
        let manifest = read(&mut file);
        file.finish();
        mistakes.sort_by_key(|mistake| mistake.span.start);
        match manifest {
            Some(manifest) if mistakes.is_empty() => Ok(manifest),
            _ => Err(mistakes),
        }
    }
}

/// Reads the complete file; `None` if a required field is missing.
fn read(file: &mut Reader<'_, '_>) -> Option<Manifest> {
    let name = file.required::<BundleName>("name");
    let version = file.required::<u32>("version");
    if let Some(zero) = version.as_ref().filter(|version| *version.get_ref() == 0) {
        file.mistake(zero.span(), "version counts from 1");
    }
    let title = both(file, "title", 80);
    let explain = both(file, "explain", 2000);
    let interpreter = file.required::<Interpreter>("interpreter");
    let run = file.required::<FileName>("run");
    let platforms = file.required::<Vec<Platform>>("platforms");
    if let Some(none) = platforms.as_ref().filter(|platforms| platforms.get_ref().is_empty()) {
        file.mistake(none.span(), "platforms is empty; it could run nowhere");
    }
    let privilege = file.required::<Privilege>("privilege");
    let network = flag(file, "network");
    let sees_processes = flag(file, "sees_processes");
    let services = power(file, "services", privilege.as_ref());
    let writes = file.optional::<Vec<Spanned<String>>>("writes");
    let writes = paths(file, writes, privilege.as_ref(), services);
    let dry_run = flag(file, "dry_run");
    let undo = file.optional::<BundleName>("undo");
    let retry_safe = flag(file, "retry_safe");
    let repairs_clock = power(file, "repairs_clock", privilege.as_ref());
    let expires = file.optional::<String>("expires");
    let expires = expires.and_then(|day| end_of(file, &day));
    let checks = file.optional::<Vec<String>>("checks").map(Spanned::into_inner).unwrap_or_default();
    let limits = limits(file);
    let parameters = parameters(file);
    let exits = file.tables("exit", exit);
    let exits = once(file, exits, "exit", |meaning: &ExitMeaning| meaning.code);
    Some(Manifest {
        name: name?.into_inner(),
        version: version?.into_inner(),
        title: title?,
        explain: explain?,
        interpreter: interpreter?.into_inner(),
        run: run?.into_inner(),
        platforms: platforms?.into_inner(),
        privilege: privilege?.into_inner(),
        writes,
        network,
        sees_processes,
        services,
        dry_run,
        undo: undo.map(Spanned::into_inner),
        retry_safe,
        repairs_clock,
        expires,
        limits,
        parameters,
        exits,
        checks,
    })
}

fn flag(file: &mut Reader<'_, '_>, name: &'static str) -> bool {
    file.optional::<bool>(name).is_some_and(Spanned::into_inner)
}

/// A flag that allows changes: a mistake in a script that only reads.
fn power(file: &mut Reader<'_, '_>, name: &'static str, privilege: Option<&Spanned<Privilege>>) -> bool {
    let Some(mentioned) = file.optional::<bool>(name) else { return false };
    if *mentioned.get_ref() && privilege.is_some_and(|privilege| *privilege.get_ref() == Privilege::Read) {
        file.mistake(
            mentioned.span(),
            format!("a script with privilege \"read\" changes nothing; {name} needs \"repair\""),
        );
    }
    mentioned.into_inner()
}

fn both(file: &mut Reader<'_, '_>, name: &'static str, most: usize) -> Option<Both> {
    let there = file.table(name);
    let Some(mut inner) = there else {
        file.mistake_here(format!("{name}.en and {name}.de are missing"));
        return None;
    };
    let read = words(&mut inner, most);
    inner.finish();
    read
}

/// `en` and `de` of a table.
fn words(inner: &mut Reader<'_, '_>, most: usize) -> Option<Both> {
    let mut one = |language: &'static str| {
        let text = inner.required::<String>(language)?;
        let length = text.get_ref().chars().count();
        if text.get_ref().trim().is_empty() || length > most {
            inner.mistake(text.span(), format!("{language} must have 1 to {most} characters, and has {length}"));
        }
        Some(text.into_inner())
    };
    let (en, de) = (one("en"), one("de"));
    Some(Both { en: en?, de: de? })
}

/// Midnight after a day, as milliseconds.
fn end_of(file: &mut Reader<'_, '_>, day: &Spanned<String>) -> Option<UnixMs> {
    let date: Option<jiff::civil::Date> = day.get_ref().parse().ok();
    let end = date.and_then(|date| date.tomorrow().ok()?.to_zoned(jiff::tz::TimeZone::UTC).ok());
    if end.is_none() {
        file.mistake(day.span(), "a day is written as \"2027-11-23\"");
    }
    end.map(|end| end.timestamp().as_millisecond())
}

/// Whether a path may contain sockets through which the computer can be controlled.
fn is_among_sockets(path: &str) -> bool {
    (is_below(path, "/run") || is_below(path, "/var/run")) && !is_below(path, "/run/lock")
}

/// Whether a path is this folder, or lies in it.
fn is_below(path: &str, folder: &str) -> bool {
    path == folder || path.strip_prefix(folder).is_some_and(|rest| rest.starts_with('/'))
}

/// Folders of which every script has a private copy.
const OWN: [&str; 2] = ["/tmp", "/var/tmp"];

/// Folders that contain the agent's own data, and much else.
const TOO_MUCH: [&str; 2] = ["/var", "/var/lib"];

fn is_plain_path(path: &str) -> bool {
    path.starts_with('/')
        && path.len() > 1
        && !path.chars().any(char::is_control)
        && path.split('/').skip(1).all(|part| !part.is_empty() && part != "." && part != "..")
}

fn paths(
    file: &mut Reader<'_, '_>,
    writes: Option<Spanned<Vec<Spanned<String>>>>,
    privilege: Option<&Spanned<Privilege>>,
    services: bool,
) -> Vec<String> {
    let Some(writes) = writes else { return Vec::new() };
    let span = writes.span();
    let writes = writes.into_inner();
    if let Some(privilege) = privilege {
        match privilege.get_ref() {
            Privilege::Read if !writes.is_empty() => {
                file.mistake(span, "a script with privilege \"read\" writes nowhere; \"repair\" may write");
            }
            Privilege::Raw => {
                file.mistake(span, "a script with privilege \"raw\" may write everywhere; leave writes out")
            }
            Privilege::Read | Privilege::Repair => {}
        }
    }
    if writes.len() > 16 {
        file.mistake_here("at most 16 paths in writes");
    }
    let mut plain = Vec::new();
    for path in writes {
        if OWN.iter().any(|own| is_below(path.get_ref(), own)) {
            file.mistake(
                path.span(),
                "a script has a /tmp and a /var/tmp of its own, empty and gone with it; leave it out",
            );
        } else if !services && is_among_sockets(path.get_ref()) {
            file.mistake(path.span(), "the sockets of services lie below /run; say services = true");
        } else if TOO_MUCH.contains(&path.get_ref().as_str()) {
            file.mistake(path.span(), "that is most of the computer; name what lies below, or use privilege \"raw\"");
        } else if is_plain_path(path.get_ref()) {
            plain.push(path.into_inner());
        } else {
            file.mistake(
                path.span(),
                "must be a path like \"/var/log\": from the root, without . and .., no slash at the end",
            );
        }
    }
    plain
}

fn limits(file: &mut Reader<'_, '_>) -> Limits {
    let mut values = LIMITS.map(|(_, _, _, unless_mentioned)| unless_mentioned);
    if let Some(mut inner) = file.table("limits") {
        for (value, (name, least, most, _)) in values.iter_mut().zip(LIMITS) {
            let Some(mentioned) = inner.optional::<u32>(name) else { continue };
            if (least..=most).contains(mentioned.get_ref()) {
                *value = Some(*mentioned.get_ref());
            } else {
                inner.mistake(mentioned.span(), format!("{name} must be from {least} to {most}"));
            }
        }
        inner.finish();
    }
    let [time_s, memory_mib, processes, cpu_pct, output_mib] = values;
    let bound = |value: Option<u32>| value.unwrap_or(u32::MAX);
    Limits {
        time_s: bound(time_s),
        memory_mib: bound(memory_mib),
        processes: bound(processes),
        cpu_pct,
        output_mib: bound(output_mib),
    }
}

fn exit(inner: &mut Reader<'_, '_>) -> Option<(Range<usize>, ExitMeaning)> {
    let code = inner.required::<u8>("code");
    let well = inner.required::<bool>("well");
    let says = words(inner, 200);
    if let (Some(code), Some(well)) = (&code, &well)
        && *code.get_ref() == 0
        && !*well.get_ref()
    {
        inner.mistake(well.span(), "exit code 0 is always well");
    }
    let code = code?;
    Some((code.span(), ExitMeaning { code: code.into_inner(), well: well?.into_inner(), says: says? }))
}

/// Drops duplicates and reports them as mistakes.
fn once<T, K: Eq + std::hash::Hash + std::fmt::Display>(
    file: &mut Reader<'_, '_>,
    all: Vec<(Range<usize>, T)>,
    what: &str,
    key: impl Fn(&T) -> K,
) -> Vec<T> {
    let mut seen = HashSet::new();
    let mut kept = Vec::new();
    for (span, one) in all {
        let name = key(&one);
        if seen.contains(&name) {
            file.mistake(span, format!("{what} {name} stands here twice"));
        } else {
            seen.insert(name);
            kept.push(one);
        }
    }
    kept
}

fn parameters(file: &mut Reader<'_, '_>) -> Vec<Declared> {
    let all = file.tables("parameter", parameter);
    if all.len() > PARAMETERS {
        file.mistake_here(format!("at most {PARAMETERS} parameters"));
    }
    once(file, all, "parameter", |one: &Declared| one.name.clone())
}

#[derive(Deserialize)]
#[serde(rename_all = "snake_case")]
enum KindWord {
    Text,
    Integer,
    Boolean,
    Choice,
    Path,
}

fn parameter(inner: &mut Reader<'_, '_>) -> Option<(Range<usize>, Declared)> {
    let name = inner.required::<String>("name");
    if let Some(name) = &name {
        let text = name.get_ref();
        let fits = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
        if !(1..=31).contains(&text.len())
            || !text.starts_with(|c: char| c.is_ascii_lowercase())
            || !text.chars().all(fits)
        {
            inner.mistake(name.span(), "a parameter is named in small letters, digits and underscores");
        }
    }
    let kind = inner.required::<KindWord>("kind");
    let kind = kind.and_then(|word| kind_of(inner, word.get_ref()));
    let default = inner.optional::<Value>("default");
    if let (Some(default), Some(kind)) = (&default, &kind)
        && let Err(why) = kind.holds(default.get_ref())
    {
        inner.mistake(default.span(), format!("the default does not fit: it {why}"));
    }
    let from = inner.optional::<String>("from").map(Spanned::into_inner);
    let label = words(inner, 80);
    let name = name?;
    let (span, name) = (name.span(), name.into_inner());
    Some((span, Declared { name, kind: kind?, default: default.map(Spanned::into_inner), from, label: label? }))
}

fn kind_of(inner: &mut Reader<'_, '_>, word: &KindWord) -> Option<Kind> {
    match word {
        KindWord::Boolean => Some(Kind::Boolean),
        KindWord::Integer => {
            let min = inner.optional::<i64>("min").map_or(i64::MIN, Spanned::into_inner);
            let max = inner.optional::<i64>("max");
            if let Some(low) = max.as_ref().filter(|max| *max.get_ref() < min) {
                inner.mistake(low.span(), "max is less than min");
            }
            Some(Kind::Integer { min, max: max.map_or(i64::MAX, Spanned::into_inner) })
        }
        KindWord::Choice => {
            let choices = inner.required::<Vec<String>>("choices")?;
            if choices.get_ref().is_empty() || choices.get_ref().len() > 64 {
                inner.mistake(choices.span(), "choices needs 1 to 64 of them");
            }
            Some(Kind::Choice { choices: choices.into_inner() })
        }
        KindWord::Path => {
            let under = inner.required::<Vec<Spanned<String>>>("under")?.into_inner();
            let mut folders = Vec::new();
            for folder in under {
                if is_plain_path(folder.get_ref()) || folder.get_ref() == "/" {
                    folders.push(folder.into_inner());
                } else {
                    inner.mistake(folder.span(), "must be a folder like \"/var/log\"");
                }
            }
            Some(Kind::Path { under: folders })
        }
        KindWord::Text => {
            let most = inner.optional::<usize>("max_bytes");
            if let Some(long) = most.as_ref().filter(|most| !(1..=4096).contains(most.get_ref())) {
                inner.mistake(long.span(), "max_bytes must be from 1 to 4096");
            }
            let pattern = inner.optional::<String>("pattern");
            let pattern = match pattern {
                None => None,
                Some(text) => {
                    let anchored = format!("^(?:{})$", text.get_ref());
                    // Small limits are enough for a pattern of a few characters.
                    match RegexBuilder::new(&anchored).size_limit(256 * 1024).dfa_size_limit(256 * 1024).build() {
                        Ok(pattern) => Some(pattern),
                        Err(error) => {
                            let why = error.to_string();
                            let why = why.lines().last().unwrap_or_default().trim_start_matches("error: ").to_owned();
                            inner.mistake(text.span(), format!("this pattern cannot be read: {why}"));
                            None
                        }
                    }
                }
            };
            let secret = flag(inner, "secret");
            Some(Kind::Text { max_bytes: most.map_or(256, Spanned::into_inner), pattern, secret })
        }
    }
}
