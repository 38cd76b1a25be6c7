//! Scripts: checks a folder before its approval, and lists approved ones.

mod rehearsal;

use super::output::Rows;
use super::{Exit, Failure, HomePaths, ShapeArgs, say, with_session};
use clap::Subcommand;
use fernwart_certs::catalogue::rules_in_force;
use fernwart_client::Session;
use fernwart_client::target::nearest_of;
use fernwart_protocol::code::Denial;
use fernwart_protocol::limits::BLOB_BYTES;
use fernwart_protocol::script::{Bundle, BundleFile, BundleName, FileName, Interpreter, Kind, Manifest};
use fernwart_protocol::text::{List, Text, escaped, escaped_lines};
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command as Process, Stdio};

/// The name of a manifest's file.
pub(crate) const MANIFEST: &str = "manifest.toml";

/// Scripts.
#[derive(clap::Args)]
pub(crate) struct Script {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// What may be run
    Ls(ShapeArgs),
    /// One script: what it does, its parameters, its text
    Show {
        /// Its name
        name: BundleName,
    },
    /// Explain every mistake in a script's folder
    Lint {
        /// The folders; each holds a manifest.toml
        #[arg(required = true, value_name = "DIR")]
        folders: Vec<PathBuf>,
    },
    /// Try a script on a throw-away layer over this computer's files (needs root)
    Test {
        /// The folders; each has .test/break.sh and .test/check.sh
        #[arg(required = true, value_name = "DIR")]
        folders: Vec<PathBuf>,
    },
    /// Internal: this program, started again inside that layer
    #[command(hide = true)]
    Rehearse {
        #[arg(long)]
        inside: bool,
    },
}

pub(crate) fn run(command: &Script, homes: &HomePaths) -> Result<Exit, Failure> {
    match &command.command {
        Command::Ls(shape) => ls(*shape, homes),
        Command::Show { name } => show(name, homes),
        Command::Lint { folders } => lint(folders),
        Command::Test { folders } => rehearsal::run(folders),
        Command::Rehearse { inside: false } => rehearsal::outside(),
        Command::Rehearse { inside: true } => rehearsal::inside(),
    }
}

/// A script read from a folder.
#[derive(Debug, Clone)]
pub(crate) struct Folder {
    pub(crate) bundle: Bundle,
    pub(crate) files: BTreeMap<FileName, String>,
}

/// A mistake in a folder, formatted for printing.
type Message = String;

/// Reads a folder completely, and all of its mistakes.
fn read(folder: &Path) -> (Option<Folder>, Vec<Message>) {
    let mut messages = Vec::new();
    let path = folder.join(MANIFEST);
    let text = match std::fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) => return (None, vec![format!("{}: {error}\n", path.display())]),
    };
    let (files, listed) = files(folder, &mut messages);
    let manifest = match Manifest::read(&text) {
        Ok(manifest) => manifest,
        Err(mistakes) => {
            messages.extend(mistakes.iter().map(|mistake| {
                let meant = mistake.unknown.as_ref().and_then(|(word, known)| nearest_of(word, known.iter().copied()));
                let meant = meant.map(|meant| format!("; did you mean {meant:?}?")).unwrap_or_default();
                at(&path, &text, mistake.place(&text), &(mistake.what.clone() + &meant))
            }));
            return (None, messages);
        }
    };
    let place_of = |what: &str| {
        let start = text.find(what).unwrap_or_default();
        let line = text.get(..start).unwrap_or_default().matches('\n').count();
        let column = text.get(..start).unwrap_or_default().rsplit('\n').next().unwrap_or_default().chars().count();
        (line + 1, column + 1, text.lines().nth(line).unwrap_or_default())
    };
    if !files.contains_key(&manifest.run) {
        let what = format!("the file {} is not in the folder", manifest.run);
        messages.push(at(&path, &text, place_of(manifest.run.as_str()), &what));
    }
    let rules = rules_in_force(None);
    for check in manifest.checks.iter().filter(|check| !rules.rules.iter().any(|rule| rule.id == **check)) {
        let meant = nearest_of(check, rules.rules.iter().map(|rule| rule.id.as_str()));
        let meant = meant.map(|meant| format!("; did you mean {meant:?}?")).unwrap_or_default();
        messages.push(at(&path, &text, place_of(check), &format!("there is no check {check:?}{meant}")));
    }
    if let Some(script) = files.get(&manifest.run) {
        messages.extend(
            syntax(manifest.interpreter, script).map(|why| format!("{}/{}: {why}\n", folder.display(), manifest.run)),
        );
    }
    let bundle = Text::try_from(text.clone()).ok().zip(List::try_from(listed).ok()).map(|(manifest_text, files)| {
        Bundle { name: manifest.name.clone(), version: manifest.version, manifest: manifest_text, files }
    });
    if bundle.is_none() {
        messages.push(format!("{}: a manifest has at most 32 KiB, and a script at most 16 files\n", folder.display()));
    }
    (bundle.map(|bundle| Folder { bundle, files }), messages)
}

/// All files beside the manifest.
fn files(folder: &Path, messages: &mut Vec<Message>) -> (BTreeMap<FileName, String>, Vec<BundleFile>) {
    let mut files = BTreeMap::new();
    let Ok(entries) = std::fs::read_dir(folder) else { return (files, Vec::new()) };
    for entry in entries.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if name == MANIFEST || name.starts_with('.') {
            continue;
        }
        let mut bad = |why: &str| messages.push(format!("{}: {why}\n", entry.path().display()));
        let Ok(name) = name.parse::<FileName>() else {
            bad("a file's name has letters, digits, dots, hyphens and underscores");
            continue;
        };
        if !entry.metadata().is_ok_and(|data| data.is_file()) {
            bad("a script's folder holds files and nothing else");
            continue;
        }
        match std::fs::read_to_string(entry.path()) {
            Ok(text) if text.len() <= BLOB_BYTES => drop(files.insert(name, text)),
            Ok(_) => bad("longer than 256 KiB: more than anybody reads before signing"),
            Err(_) => bad("not a text: nobody could read what they sign"),
        }
    }
    let listed = files
        .iter()
        .map(|(name, text): (&FileName, &String)| BundleFile {
            name: name.clone(),
            sha256: fernwart_certs::sha256(text.as_bytes()),
            bytes: text.len() as u64,
        })
        .collect();
    (files, listed)
}

/// One mistake with its line and a caret.
fn at(path: &Path, _text: &str, (line, column, shown): (usize, usize, &str), what: &str) -> Message {
    let mut out = format!("{}:{line}:{column}: {}\n", path.display(), escaped(what));
    let number = line.to_string();
    let _ = writeln!(out, "  {number} | {}", escaped(shown));
    let _ = writeln!(out, "  {} | {}^", " ".repeat(number.len()), " ".repeat(column - 1));
    out
}

/// Lets the interpreter, if installed, parse the script without running it.
fn syntax(interpreter: Interpreter, script: &str) -> Option<String> {
    let arguments: &[&str] = match interpreter {
        Interpreter::Sh | Interpreter::Bash => &["-n", "/dev/stdin"],
        Interpreter::Python3 => &["-c", "import ast, sys; ast.parse(sys.stdin.read())"],
        // perl -c would run the script's BEGIN blocks.
        Interpreter::Perl => return None,
    };
    let child = Process::new(interpreter.path())
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn();
    let mut child = child.ok()?;
    // The interpreter may stop reading at the first mistake.
    let _ = child.stdin.take()?.write_all(script.as_bytes());
    let output = child.wait_with_output().ok()?;
    if output.status.success() {
        return None;
    }
    let messages = String::from_utf8_lossy(&output.stderr).into_owned();
    let lines: Vec<&str> = messages.lines().filter(|line| !line.trim().is_empty()).collect();
    Some(escaped(lines.last().copied().unwrap_or("cannot be read")).replace("/dev/stdin: ", ""))
}

/// Reads a folder that must have no mistakes.
///
/// # Errors
/// When it has mistakes; all of them are printed.
pub(crate) fn folder(path: &Path) -> Result<Folder, Failure> {
    match read(path) {
        (Some(folder), messages) if messages.is_empty() => Ok(folder),
        (_, messages) => {
            messages.iter().for_each(|messages| note_text!("{}", escaped_lines(messages)));
            let what = format!("{} has {} mistake(s)", path.display(), messages.len());
            Err(Failure::new(Exit::Usage, "FW-CAT-14", what).now(format!("fernwart script lint {}", path.display())))
        }
    }
}

fn lint(folders: &[PathBuf]) -> Result<Exit, Failure> {
    let mut exit = Exit::Done;
    for path in folders {
        let (folder, messages) = read(path);
        for messages in &messages {
            say(&escaped_lines(messages))?;
        }
        match folder.filter(|_| messages.is_empty()) {
            Some(folder) => {
                note!("{} {}: no mistakes", folder.bundle.name, folder.bundle.version);
            }
            None => {
                note!("{}: {} mistake(s)", escaped(&path.display().to_string()), messages.len());
                exit = Exit::Bad;
            }
        }
    }
    if exit == Exit::Done {
        note!("Next: fernwart catalogue propose DIR");
    }
    Ok(exit)
}

/// The folder of a script that is shipped with the program; with an empty name, the folder of all
/// of them.
fn shipped(name: &str) -> Option<String> {
    let folder = Path::new("/usr/share/fernwart/scripts").join(name);
    folder.is_dir().then(|| folder.display().to_string())
}

/// The shipped script that was probably meant.
fn nearly_shipped(name: &str) -> Option<String> {
    let folders = std::fs::read_dir(shipped("")?).ok()?.flatten();
    let names: Vec<String> = folders.filter_map(|folder| folder.file_name().into_string().ok()).collect();
    shipped(&nearest_of(name, names.iter().map(String::as_str))?)
}

/// An approved script's bundle and manifest, verified here.
///
/// # Errors
/// When nobody has approved one of this name, or the hub does not have it.
pub(crate) async fn approved(session: &mut Session, name: &BundleName) -> Result<(Bundle, Manifest), Failure> {
    session.sync().await?;
    let Some(approved) = session.catalogue.scripts.get(name).copied() else {
        let meant = nearest_of(name.as_str(), session.catalogue.scripts.keys().map(BundleName::as_str));
        let what = format!("script {:?} is not in the catalogue; nobody has approved it.", name.as_str());
        let failure = Failure::new(Exit::Refused, "FW-CAT-01", what);
        return Err(match meant {
            Some(meant) => failure.now(format!("did you mean {meant}?  all scripts: fernwart script ls")),
            None => failure.now(match shipped(name.as_str()).or_else(|| nearly_shipped(name.as_str())) {
                Some(folder) => format!("fernwart catalogue propose {folder}     (it comes with this program)"),
                None => format!("fernwart catalogue propose {name}   (the script's folder)"),
            }),
        });
    };
    let bundle: Bundle = session.document(&approved.sha256).await?;
    let manifest = Manifest::read(bundle.manifest.as_raw())
        .map_err(|_| Failure::new(Exit::Failed, "FW-CAT-02", format!("the approved script {name} cannot be read")))?;
    Ok((bundle, manifest))
}

fn ls(shape: ShapeArgs, homes: &HomePaths) -> Result<Exit, Failure> {
    let mut rows = Rows::new("script", &["name", "version", "privilege", "title"]);
    let none = with_session(homes, async |session| {
        session.sync().await?;
        let names: Vec<BundleName> = session.catalogue.scripts.keys().cloned().collect();
        for name in &names {
            let manifest = match approved(session, name).await {
                Ok((_, manifest)) => manifest,
                // A lost script must not hide the others.
                Err(lost) if lost.is(&Denial::NoSuchBlob.code()) => {
                    let known = session.catalogue.scripts.get(name).map_or(0, |approved| approved.version);
                    let title = "(the hub has lost its files: fernwart catalogue propose DIR)";
                    rows.push(vec![name.as_str().into(), known.into(), "".into(), title.into()]);
                    continue;
                }
                Err(other) => return Err(other),
            };
            rows.push(vec![
                name.as_str().into(),
                manifest.version.into(),
                manifest.privilege.as_str().into(),
                escaped(&manifest.title.en).into(),
            ]);
        }
        Ok(names.is_empty())
    })?;
    if none {
        let examples = shipped("").map(|folder| format!("     (some come with the program: {folder})"));
        let examples = examples.unwrap_or_default();
        note!("no scripts are approved yet; propose one: fernwart catalogue propose DIR{examples}");
    }
    rows.print(shape.output)
}

fn show(name: &BundleName, homes: &HomePaths) -> Result<Exit, Failure> {
    let text = with_session(homes, async |session| {
        let (bundle, manifest) = approved(session, name).await?;
        let mut out = in_words(&manifest);
        for file in &bundle.files {
            let text = session.blob(&file.sha256).await?;
            let text = String::from_utf8_lossy(&text).into_owned();
            let _ = writeln!(out, "--- {}", file.name);
            for line in text.lines() {
                let _ = writeln!(out, "{}", escaped(line));
            }
        }
        Ok(out)
    })?;
    say(&text)
}

/// What a script does, in words.
pub(crate) fn in_words(manifest: &Manifest) -> String {
    let mut out = format!("{} {} · {}\n", manifest.name, manifest.version, escaped(&manifest.title.en));
    out += &format!("  {}\n", escaped(&manifest.explain.en).replace('\n', "\n  "));
    let undo = manifest.undo.as_ref().map_or("no".to_owned(), |undo| format!("fernwart run {undo}"));
    let yes = |yes| if yes { "yes" } else { "no" };
    let _ = writeln!(
        out,
        "  privilege {} · network {} · services {} · sees processes {} · dry run {} · undo {undo}",
        manifest.privilege.as_str(),
        yes(manifest.network),
        yes(manifest.services),
        yes(manifest.sees_processes),
        yes(manifest.dry_run)
    );
    if !manifest.writes.is_empty() {
        let _ = writeln!(out, "  writes to {}", manifest.writes.join(" "));
    }
    let limits = &manifest.limits;
    let _ = writeln!(out, "  at most {} s, {} MiB, {} processes", limits.time_s, limits.memory_mib, limits.processes);
    for parameter in &manifest.parameters {
        let kind = match &parameter.kind {
            Kind::Text { .. } => "text".to_owned(),
            Kind::Integer { min, max } => format!("{min} to {max}"),
            Kind::Boolean => "true or false".to_owned(),
            Kind::Choice { choices } => choices.join("|"),
            Kind::Path { under } => format!("a path under {}", under.join(" or ")),
        };
        let default = parameter.default.as_ref().map(|value| format!(" (unless given: {value})")).unwrap_or_default();
        let _ = writeln!(out, "  -p {}=…  {}: {kind}{default}", parameter.name, escaped(&parameter.label.en));
    }
    if !manifest.checks.is_empty() {
        let _ = writeln!(out, "  looked at again afterwards: {}", manifest.checks.join(", "));
    }
    out
}
