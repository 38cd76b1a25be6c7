//! SQL conditions and assignments for run states, generated from the type.

use fernwart_fleet::{RunEvent, RunState};

/// A condition on a state column: true for these states.
pub(crate) fn is_one_of(column: &str, states: impl Iterator<Item = RunState>) -> String {
    let words: Vec<String> = states.map(|state| format!("'{}'", state.as_str())).collect();
    // An empty list matches no row.
    if words.is_empty() { "FALSE".to_owned() } else { format!("{column} IN ({})", words.join(", ")) }
}

/// True for the states that an event changes.
pub(crate) fn is_changed_by(event: RunEvent) -> String {
    is_one_of("state", event.changes())
}

/// A `SET` clause for the state that an event leads to.
pub(crate) fn set(event: RunEvent) -> String {
    format!("SET state = '{}'", event.leads_to().as_str())
}

/// A condition for runs whose orders are redelivered to a returning machine.
pub(crate) fn is_brought_again() -> String {
    is_one_of("state", RunState::ALL.into_iter().filter(|state| state.is_brought_again()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    /// The states in the newest definition of an index.
    fn indexed(name: &str) -> BTreeSet<RunState> {
        let all: String = std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/migrations"))
            .expect("there")
            .map(|file| file.expect("a file").path())
            .collect::<BTreeSet<_>>()
            .into_iter()
            .map(|path| std::fs::read_to_string(path).expect("text"))
            .collect();
        let made = all.rsplit(&format!("CREATE INDEX {name} ")).next().expect("made");
        let statement = made.split(';').next().expect("a statement");
        let words = statement.split('\'').skip(1).step_by(2);
        words.map(|word| word.parse().unwrap_or_else(|()| panic!("{word} is no state"))).collect()
    }

    #[test]
    fn indexes_cover_the_states_that_queries_use() {
        let all = RunState::ALL.into_iter();
        let open: BTreeSet<_> = all.clone().filter(|state| !state.is_final()).collect();
        assert_eq!(indexed("runs_open"), open);
        let brought: BTreeSet<_> = all.filter(|state| state.is_brought_again()).collect();
        assert_eq!(indexed("runs_undelivered"), brought);
    }

    #[test]
    fn no_sql_statement_spells_out_a_state() {
        let sources = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
        let folders = [sources.join("writes"), sources].map(|folder| std::fs::read_dir(folder).expect("there"));
        let mut read = 0;
        for file in folders.into_iter().flatten() {
            let path = file.expect("a file").path();
            if path.extension().is_none_or(|extension| extension != "rs") || path.ends_with("states.rs") {
                continue;
            }
            let text = std::fs::read_to_string(&path).expect("text");
            read += 1;
            for state in RunState::ALL {
                let word = format!("'{}'", state.as_str());
                assert!(!text.contains(&word), "{}: {word}", path.display());
            }
        }
        assert!(read > 5, "{read} files");
    }

    #[test]
    fn a_condition_names_each_state_once() {
        assert_eq!(is_changed_by(RunEvent::Withdrawn), "state IN ('queued', 'held')");
        assert_eq!(is_one_of("state", std::iter::empty()), "FALSE");
        assert_eq!(set(RunEvent::Began), "SET state = 'running'");
    }
}
