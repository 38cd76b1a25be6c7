//! Every text that a customer can read, in both languages, on one page, for proofreading.
//!
//! `FERNWART_WRITE=1 tests/run -E 'test(sentences)'` writes the page anew.

use fernwart_tests::{program, run};
use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The texts of a file of messages, in its order.
fn messages(name: &str) -> Vec<(String, String)> {
    let mut all: Vec<(String, String)> = Vec::new();
    for line in read(&root().join("agent/src/owner/words").join(name)).lines() {
        let begins = line.split_once(" =").filter(|(key, _)| !key.starts_with([' ', '#']));
        match (begins, all.last_mut()) {
            (Some((key, text)), _) => all.push((key.to_owned(), text.trim().to_owned())),
            (None, Some((_, text))) if line.starts_with(' ') => *text += &format!(" ⏎ {}", line.trim()),
            _ => {}
        }
    }
    all
}

/// Every pair of texts in a TOML file, below the name of what it belongs to.
fn pairs(page: &mut String, of: &str, value: &toml::Value) {
    match value {
        toml::Value::Table(table) => {
            let text = |language: &str| table.get(language).and_then(toml::Value::as_str);
            if let (Some(de), Some(en)) = (text("de"), text("en")) {
                row(page, of, de, en);
                return;
            }
            let named = ["id", "name", "code"].iter().find_map(|key| table.get(*key));
            let of = match named {
                Some(name) => format!("{of} {}", name.as_str().map_or_else(|| name.to_string(), str::to_owned)),
                None => of.to_owned(),
            };
            for (key, inner) in table {
                let of = if ["rule", "level"].contains(&key.as_str()) { of.clone() } else { format!("{of} {key}") };
                pairs(page, &of, inner);
            }
        }
        toml::Value::Array(all) => all.iter().for_each(|inner| pairs(page, of, inner)),
        _ => {}
    }
}

fn row(page: &mut String, of: &str, de: &str, en: &str) {
    let cell = |text: &str| text.replace('|', "\\|").replace('\n', " ⏎ ");
    // Writing into a String does not fail.
    let _ = writeln!(page, "| {} | {} | {} |", of.trim(), cell(de), cell(en));
}

fn section(page: &mut String, title: &str) {
    let _ = writeln!(page, "\n## {title}\n\n| where | Deutsch | English |\n|---|---|---|");
}

fn tomls(folder: &str, file: Option<&str>) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(root().join(folder)).expect(folder);
    let mut all: Vec<PathBuf> = entries.map(|entry| entry.expect("an entry").path()).collect();
    all.sort();
    match file {
        Some(file) => all.into_iter().map(|path| path.join(file)).filter(|path| path.exists()).collect(),
        None => all,
    }
}

fn help(words: &[&str], language: &str) -> String {
    let mut command = Command::new(program("fernwart-agent"));
    run(command.args(["--lang", language, "help"]).args(words).env("COLUMNS", "100")).exits(0).out
}

fn page() -> String {
    let mut page = String::from(
        "# What customers read\n\nMade by `tests/whole/sentences.rs` out of what the programs say; a test compares. \
         `{ $name }` and `{name}` stand for what is put in, `⏎` for a new line.\n",
    );
    section(&mut page, "Screens");
    let english: BTreeMap<String, String> = messages("en.ftl").into_iter().collect();
    for (key, de) in messages("de.ftl") {
        row(&mut page, &key, &de, english.get(&key).map_or("–", String::as_str));
    }
    section(&mut page, "Findings of a diagnosis");
    for path in tomls("protocol/src/diagnosis/rules", None) {
        pairs(&mut page, "", &toml::from_str(&read(&path)).expect("TOML"));
    }
    section(&mut page, "Scripts");
    for path in tomls("controller/scripts", Some("manifest.toml")) {
        pairs(&mut page, "", &toml::from_str(&read(&path)).expect("TOML"));
    }
    page.push_str("\n## Help\n");
    let commands = [
        "enroll",
        "run",
        "status",
        "diagnose",
        "policy",
        "journal",
        "history",
        "questions",
        "allow",
        "deny",
        "pause",
        "resume",
        "check",
        "leave",
        "uninstall",
    ];
    for words in std::iter::once(None).chain(commands.into_iter().map(Some)) {
        let words: Vec<&str> = words.into_iter().collect();
        for language in ["de", "en"] {
            let _ = writeln!(page, "\n```text\n{}\n```", help(&words, language).trim_end());
        }
    }
    page
}

#[test]
fn sentences_md_matches_the_texts_of_the_programs() {
    let path = root().join("tests/sentences.md");
    let page = page();
    assert!(page.lines().count() > 500, "{} lines", page.lines().count());
    assert!(!page.contains("| – |"), "a sentence in one language only");
    if std::env::var_os("FERNWART_WRITE").is_some() {
        std::fs::write(&path, &page).expect("written");
    }
    let kept = read(&path);
    let differs = kept.lines().zip(page.lines()).find(|(kept, now)| kept != now);
    assert!(kept == page, "FERNWART_WRITE=1 tests/run -E 'test(sentences)' writes it anew: {differs:?}");
}
