//! Selects machines by words, labels and files. Pure.
//!
//! Words form a union; `-l` narrows it. Only the word `all` selects all machines.

use fernwart_protocol::row::Row;
use fernwart_protocol::staff::MachineRow;
use fernwart_protocol::text::ALL;

/// What was typed.
#[derive(Debug, Clone, Default)]
pub struct Target {
    /// Words: `kasse-3`, `kasse-*`, `@group`, `customer:meyer`, `all`.
    pub words: Vec<String>,
    /// Label conditions: `site=kiel,os!=windows`.
    pub labels: Vec<Condition>,
    /// Words that exclude machines.
    pub except: Vec<String>,
    /// Maximum number of machines.
    pub limit: Option<usize>,
}

/// One label condition, in kubectl's grammar.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Condition {
    /// `name=value`.
    Is(String, String),
    /// `name!=value`.
    IsNot(String, String),
    /// `name`.
    Has(String),
    /// `!name`.
    HasNot(String),
}

/// A target that selects nothing sensible.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadTarget {
    /// Nothing was typed.
    #[error("no machine was named")]
    Nothing,
    /// A word fits no machine.
    #[error("no machine fits {word:?}")]
    NoMatch {
        /// The word.
        word: String,
        /// The nearest known name.
        meant: Option<String>,
    },
    /// A label condition cannot be read.
    #[error("{0:?} is no label condition; write site=kiel,os!=windows")]
    Condition(String),
    /// No machine is left.
    #[error("no machine is left")]
    NobodyLeft,
    /// No machine has these labels.
    #[error("no machine has these labels")]
    NoLabels,
}

/// Reads label conditions, separated by commas.
///
/// # Errors
/// When one is empty.
pub fn conditions(text: &str) -> Result<Vec<Condition>, BadTarget> {
    text.split(',')
        .map(|part| {
            let part = part.trim();
            let owned = |text: &str| text.trim().to_owned();
            let condition = if let Some((name, value)) = part.split_once("!=") {
                Condition::IsNot(owned(name), owned(value))
            } else if let Some((name, value)) = part.split_once("==").or_else(|| part.split_once('=')) {
                Condition::Is(owned(name), owned(value))
            } else if let Some(name) = part.strip_prefix('!') {
                Condition::HasNot(owned(name))
            } else {
                Condition::Has(owned(part))
            };
            let name = match &condition {
                Condition::Is(name, _) | Condition::IsNot(name, _) | Condition::Has(name) | Condition::HasNot(name) => {
                    name
                }
            };
            if name.is_empty() { Err(BadTarget::Condition(part.to_owned())) } else { Ok(condition) }
        })
        .collect()
}

/// A label's value; `os` and `distro` are predefined.
fn label<'a>(row: &'a Row<MachineRow>, name: &str) -> Option<&'a str> {
    match name {
        "os" if row.os.as_raw().starts_with("windows") => Some("windows"),
        "os" => Some("linux"),
        "distro" => Some(row.os.as_raw()),
        _ => row.labels.as_slice().iter().find(|(known, _)| known.as_raw() == name).map(|(_, value)| value.as_raw()),
    }
}

impl Condition {
    fn holds(&self, row: &Row<MachineRow>) -> bool {
        match self {
            Self::Is(name, value) => label(row, name) == Some(value),
            Self::IsNot(name, value) => label(row, name) != Some(value),
            Self::Has(name) => label(row, name).is_some(),
            Self::HasNot(name) => label(row, name).is_none(),
        }
    }
}

/// Whether a word matches this name: the name itself, or a pattern with `*` in it.
pub fn is_name(word: &str, name: &str) -> bool {
    glob(word, name)
}

fn glob(pattern: &str, text: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == text,
        Some((head, tail)) => {
            let Some(rest) = text.strip_prefix(head) else { return false };
            (0..=rest.len()).any(|at| rest.get(at..).is_some_and(|rest| glob(tail, rest)))
        }
    }
}

fn fits(word: &str, row: &Row<MachineRow>) -> bool {
    if word == ALL {
        return true;
    }
    if let Some(group) = word.strip_prefix('@') {
        return row.groups.as_slice().iter().any(|known| known.as_raw() == group);
    }
    if let Some(customer) = word.strip_prefix("customer:") {
        // Match the complete name, ignoring case: a part of it could match another customer too.
        let name = row.customer_name.as_raw().to_lowercase();
        return glob(&customer.to_lowercase(), &name) || row.customer.to_string() == customer;
    }
    glob(word, row.name.as_str()) || row.id.to_string() == word
}

/// The selected machines, sorted by name.
///
/// # Errors
/// When a word matches nothing, or no machine is left.
pub fn select(target: &Target, machines: &[Row<MachineRow>]) -> Result<Vec<Row<MachineRow>>, BadTarget> {
    if target.words.is_empty() && target.labels.is_empty() {
        return Err(BadTarget::Nothing);
    }
    for word in &target.words {
        if word != ALL && !machines.iter().any(|row| fits(word, row)) {
            return Err(BadTarget::NoMatch { word: word.clone(), meant: nearest(word, machines) });
        }
    }
    let worded = |row: &&Row<MachineRow>| target.words.is_empty() || target.words.iter().any(|word| fits(word, row));
    let kept = |row: &&Row<MachineRow>| {
        target.labels.iter().all(|condition| condition.holds(row)) && !target.except.iter().any(|word| fits(word, row))
    };
    let mut selected: Vec<Row<MachineRow>> = machines.iter().filter(worded).filter(kept).cloned().collect();
    if selected.is_empty() && !target.labels.is_empty() {
        return Err(BadTarget::NoLabels);
    }
    if selected.is_empty() || target.limit == Some(0) {
        return Err(BadTarget::NobodyLeft);
    }
    selected.sort_by(|a, b| a.name.cmp(&b.name));
    selected.truncate(target.limit.unwrap_or(usize::MAX));
    Ok(selected)
}

/// The name nearest to a misspelt one.
fn nearest(word: &str, machines: &[Row<MachineRow>]) -> Option<String> {
    if let Some(part) = word.strip_prefix("customer:") {
        let part = part.to_lowercase();
        let names = machines.iter().map(|row| row.customer_name.as_raw());
        let holds = names.clone().find(|name| !part.is_empty() && name.to_lowercase().contains(&part));
        let meant = holds.map(str::to_owned).or_else(|| nearest_of(&part, names));
        return meant.map(|name| format!("customer:{name}"));
    }
    nearest_of(word, machines.iter().map(|row| row.name.as_str()))
}

/// The name that was probably meant.
pub fn nearest_of<'a>(word: &str, names: impl Iterator<Item = &'a str>) -> Option<String> {
    let best = names.map(|name| (strsim::damerau_levenshtein(word, name), name)).min()?;
    (best.0 <= 1 + word.len() / 4).then(|| best.1.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use fernwart_protocol::id::{CustomerId, MachineId};
    use fernwart_protocol::staff::{Presence, Verdict};
    use fernwart_protocol::text::{List, Text};

    fn row(name: &str, site: &str, group: &str) -> Row<MachineRow> {
        Row::from(MachineRow {
            id: MachineId::from_bytes([name.len() as u8; 16]),
            name: name.parse().expect("a name"),
            customer: CustomerId::from_bytes([1; 16]),
            customer_name: Text::clipped("Bäckerei Meyer"),
            os: Text::clipped("debian-12"),
            presence: Presence::Away,
            health_in_version_1: Verdict::Unknown,
            seen_at: 0,
            labels: List::try_from(vec![(Text::clipped("site"), Text::clipped(site))]).expect("one"),
            groups: List::try_from(vec![Text::clipped(group)]).expect("one"),
            certificate_until: 0,
            agent: Text::default(),
        })
    }

    fn names(words: &[&str], labels: &str, except: &[&str]) -> Result<Vec<String>, BadTarget> {
        let machines =
            [row("kasse-1", "kiel", "tills"), row("kasse-2", "bonn", "tills"), row("lager-1", "kiel", "stores")];
        let owned = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect();
        let labels = if labels.is_empty() { Vec::new() } else { conditions(labels)? };
        let target = Target { words: owned(words), labels, except: owned(except), limit: None };
        Ok(select(&target, &machines)?.iter().map(|row| row.name.to_string()).collect())
    }

    #[test]
    fn words_are_a_union_and_labels_narrow() {
        assert_eq!(names(&["kasse-*"], "", &[]), Ok(vec!["kasse-1".into(), "kasse-2".into()]));
        assert_eq!(names(&["kasse-2", "@stores"], "", &[]), Ok(vec!["kasse-2".into(), "lager-1".into()]));
        assert_eq!(names(&["all"], "site=kiel", &[]), Ok(vec!["kasse-1".into(), "lager-1".into()]));
        assert_eq!(names(&[], "site!=kiel,os=linux", &[]), Ok(vec!["kasse-2".into()]));
    }

    #[test]
    fn a_customer_is_selected_by_the_complete_name_or_a_pattern() {
        let both = || Ok(vec!["kasse-1".into(), "kasse-2".into()]);
        assert_eq!(names(&["customer:bäckerei meyer"], "", &["lager-*"]), both());
        assert_eq!(names(&["customer:*Meyer"], "", &["lager-*"]), both());
        assert_eq!(names(&[&format!("customer:{}", CustomerId::from_bytes([1; 16]))], "", &["lager-*"]), both());
        for part in ["customer:meyer", "customer:Bäckerei", "customer:bäckerei meye", "customer:"] {
            assert!(matches!(names(&[part], "", &[]), Err(BadTarget::NoMatch { .. })), "{part}");
        }
    }

    #[test]
    fn an_empty_target_is_rejected_and_a_misspelt_name_gets_a_suggestion() {
        assert_eq!(names(&[], "", &[]), Err(BadTarget::Nothing));
        let meant = Some("kasse-1".to_owned());
        assert_eq!(names(&["kase-1"], "", &[]), Err(BadTarget::NoMatch { word: "kase-1".into(), meant }));
        assert_eq!(names(&["zzz"], "", &[]), Err(BadTarget::NoMatch { word: "zzz".into(), meant: None }));
        assert_eq!(names(&["all"], "site=rom", &[]), Err(BadTarget::NoLabels));
        assert_eq!(conditions("=x"), Err(BadTarget::Condition("=x".into())));
    }
}
