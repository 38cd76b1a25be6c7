//! What customers read, in German and English: Fluent texts in `*.ftl`.

use crate::executor::last_run::action_word;
use crate::executor::policy::Mode;
use crate::platform::accounts::name_of;
use fernwart_certs::keyfile::KeyFileError;
use fernwart_protocol::diagnosis::{Both, Cause, Language};
use fernwart_protocol::document::{Action, Outcome, SectionName};
use fernwart_protocol::text::escaped;
use fluent_bundle::{FluentArgs, FluentBundle, FluentResource, FluentValue};
use serde_json::Value;
use std::path::Path;
use unic_langid::LanguageIdentifier;

const EN: &str = include_str!("en.ftl");
const DE: &str = include_str!("de.ftl");
/// The German help texts of the command line; the English ones are in the code.
const HELP_DE: &str = include_str!("help.de.ftl");

/// The words of one language.
pub struct Words {
    bundle: FluentBundle<FluentResource>,
    /// Which language.
    pub language: Language,
}

impl Words {
    /// The words of this language.
    pub fn new(language: Language) -> Self {
        let (texts, name): (&[&str], _) = match language {
            Language::En => (&[EN], "en"),
            Language::De => (&[DE, HELP_DE], "de"),
        };
        let id: LanguageIdentifier = name.parse().unwrap_or_default();
        let mut bundle = FluentBundle::new(vec![id]);
        bundle.set_use_isolating(false);
        for text in texts {
            // Fluent leaves out what it cannot parse; a test checks that it can parse everything.
            let resource = FluentResource::try_new((*text).to_owned()).unwrap_or_else(|(partial, _)| partial);
            let _ = bundle.add_resource(resource);
        }
        Self { bundle, language }
    }

    /// Why something is unknown.
    pub fn reason(&self, why: &Cause) -> String {
        let reason = self.say(&format!("reason-{}", why.reason.as_str()));
        match why.about.as_str() {
            "" => reason,
            about => format!("{} ({reason})", escaped(about)),
        }
    }

    /// A text without arguments.
    pub fn say(&self, id: &str) -> String {
        self.say_with(id, &[])
    }

    /// A text with arguments.
    pub fn say_with(&self, id: &str, with: &[(&str, &str)]) -> String {
        let Some(pattern) = self.bundle.get_message(id).and_then(|message| message.value()) else {
            return id.to_owned();
        };
        let mut arguments = FluentArgs::new();
        for (name, value) in with {
            // Fluent selects the plural form by the count.
            match *name {
                "count" => arguments.set(*name, FluentValue::try_number(value)),
                _ => arguments.set(*name, *value),
            }
        }
        let mut errors = Vec::new();
        self.bundle.format_pattern(pattern, Some(&arguments), &mut errors).into_owned()
    }

    /// How a kind of action is handled.
    pub fn mode(&self, mode: Mode) -> String {
        self.say(match mode {
            Mode::Never => "mode-never",
            Mode::Notify => "mode-notify",
            Mode::Ask => "mode-ask",
            Mode::Window => "mode-window",
            Mode::Allow => "mode-allow",
        })
    }

    /// Why a file that the agent relies on is rejected, and what to do now.
    pub fn file(&self, error: &KeyFileError) -> String {
        let path = |path: &Path| escaped(&path.display().to_string());
        match error {
            KeyFileError::Io(error) => {
                let why = escaped(&error.system().to_string());
                self.say_with("file-unreadable", &[("path", &path(error.path())), ("why", &why)])
            }
            KeyFileError::NotPlain { path: file } => self.say_with("file-not-plain", &[("path", &path(file))]),
            KeyFileError::Mode { path: file, .. } => self.say_with("file-mode", &[("path", &path(file))]),
            KeyFileError::Owner { path: file, owner, me } => {
                let (owner, me) = (name_of(*owner), me.to_string());
                self.say_with("file-owner", &[("path", &path(file)), ("owner", &escaped(&owner)), ("me", &me)])
            }
            KeyFileError::Content { path: file } => self.say_with("file-content", &[("path", &path(file))]),
            KeyFileError::TooLong { path: file, most } => {
                self.say_with("file-too-long", &[("path", &path(file)), ("most", &most.to_string())])
            }
            KeyFileError::Folder { folder, .. } => self.say_with("file-folder", &[("path", &path(folder))]),
        }
    }

    /// The name of a section of a diagnosis.
    pub fn section(&self, section: SectionName) -> String {
        self.say(&format!("section-{section}"))
    }

    /// The name of a kind of action: a check, a repair, a script that changes nothing.
    pub fn action(&self, action: &Action) -> String {
        self.say(&format!("action-{}", action_word(action)))
    }

    /// The name of an action: its manifest's title if there is one.
    pub fn title(&self, action: &Action, title: Option<&Both>) -> String {
        let what = match (title, action) {
            (Some(title), _) => escaped(self.language.of(title)),
            (None, Action::Script { bundle, .. }) => bundle.to_string(),
            (None, Action::Diagnose { .. }) => return self.action(action),
        };
        match action {
            Action::Script { dry_run: true, .. } => self.say_with("history-dry-run", &[("what", &what)]),
            _ => what,
        }
    }

    /// How a run ended.
    pub fn outcome(&self, outcome: Outcome) -> String {
        self.say(&format!("outcome-{}", outcome.as_str()))
    }
}

/// The name of an action in the body of a journal line.
pub(crate) fn action_word_in(line: &Value) -> Option<String> {
    let action = line.get("action")?;
    if let Ok(action) = serde_json::from_value::<Action>(action.clone()) {
        return Some(action_word(&action).to_owned());
    }
    // The action is of another version, or only its name was written.
    let word = action.as_object().and_then(|action| action.keys().next().map(String::as_str)).or(action.as_str());
    word.map(escaped)
}

/// The language of this process's user, from the locale.
pub fn language_of_user() -> Language {
    let locale =
        ["LC_ALL", "LC_MESSAGES", "LANG"].iter().find_map(|name| std::env::var(name).ok().filter(|v| !v.is_empty()));
    if locale.is_some_and(|locale| locale.starts_with("de")) { Language::De } else { Language::En }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    fn ids(text: &str) -> BTreeSet<&str> {
        text.lines().filter_map(|line| line.split_once(" = ")).map(|(id, _)| id).collect()
    }

    #[test]
    fn both_languages_have_the_same_texts() {
        assert_eq!(ids(EN), ids(DE));
        for text in [EN, DE, HELP_DE] {
            assert!(FluentResource::try_new(text.to_owned()).is_ok());
        }
    }

    #[test]
    fn a_text_takes_its_arguments() {
        let words = Words::new(Language::De);
        assert_eq!(words.say_with("status-linked", &[("shop", "Nordlicht IT")]), "ja, mit Nordlicht IT");
        assert_eq!(words.say("no-such-text"), "no-such-text");
    }
}
