//! Typed parameters: declared by a manifest, and checked by technician's program, hub and machine.
//! The machine's check is decisive.

use crate::diagnosis::Both;
use regex::Regex;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

/// Maximum number of parameters of one script.
pub const PARAMETERS: usize = 32;

/// Maximum size of all values of one order, bytes. It keeps an order below
/// [`crate::limits::DOCUMENT_BYTES`] even if all of them are escaped.
pub const VALUES_BYTES: usize = 8 * 1024;

/// A parameter's value.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Value {
    /// Yes or no.
    Boolean(bool),
    /// A whole number.
    Integer(i64),
    /// Text, a path, or one of several choices.
    Text(String),
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Boolean(value) => value.fmt(f),
            Self::Integer(value) => value.fmt(f),
            Self::Text(value) => f.pad(&crate::text::escaped(value)),
        }
    }
}

/// Values by parameter, as given: bounded, but not yet checked.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "BTreeMap<String, Value>", into = "BTreeMap<String, Value>")]
pub struct Parameters(BTreeMap<String, Value>);

/// Parameters that are too many or too long for an order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("an order holds at most {PARAMETERS} parameters of {VALUES_BYTES} bytes together")]
pub struct TooMuch;

impl TryFrom<BTreeMap<String, Value>> for Parameters {
    type Error = TooMuch;
    fn try_from(values: BTreeMap<String, Value>) -> Result<Self, TooMuch> {
        let bytes = |(name, value): (&String, &Value)| {
            name.len()
                + match value {
                    Value::Text(text) => text.len(),
                    Value::Boolean(_) | Value::Integer(_) => 8,
                }
        };
        let fits = values.len() <= PARAMETERS && values.iter().map(bytes).sum::<usize>() <= VALUES_BYTES;
        if fits { Ok(Self(values)) } else { Err(TooMuch) }
    }
}

impl From<Parameters> for BTreeMap<String, Value> {
    fn from(parameters: Parameters) -> Self {
        parameters.0
    }
}

impl Parameters {
    /// Each with its name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Value)> {
        self.0.iter().map(|(name, value)| (name.as_str(), value))
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// Which values a parameter accepts.
#[derive(Debug, Clone)]
pub enum Kind {
    /// One line of text. It does not begin with a hyphen, so that no program
    /// takes it for an option.
    Text {
        /// Maximum length, bytes.
        max_bytes: usize,
        /// A pattern that the complete value must match.
        pattern: Option<Regex>,
        /// Whether it is removed from the script's output.
        secret: bool,
    },
    /// A whole number.
    Integer {
        /// Minimum.
        min: i64,
        /// Maximum.
        max: i64,
    },
    /// Yes or no.
    Boolean,
    /// One of these.
    Choice {
        /// The choices.
        choices: Vec<String>,
    },
    /// A path in one of these folders.
    Path {
        /// The folders, without a slash at the end.
        under: Vec<String>,
    },
}

/// A parameter as its manifest declares it.
#[derive(Debug, Clone)]
pub struct Declared {
    /// Its name.
    pub name: String,
    /// Which values it accepts.
    pub kind: Kind,
    /// The value if none is given.
    pub default: Option<Value>,
    /// When the script runs as a remedy: the finding's evidence from which to take the value.
    pub from: Option<String>,
    /// A human-readable label.
    pub label: Both,
}

/// A value that its parameter does not accept.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("parameter {name}: {why}")]
pub struct BadValue {
    /// Which parameter, as it was given.
    pub name: String,
    /// Why not.
    pub why: String,
}

/// Values that passed the checks of a manifest. Only [`Declared::check`] makes it.
#[derive(Clone, PartialEq, Eq)]
pub struct Checked {
    values: BTreeMap<String, Value>,
    /// Names of those that are secret.
    secret: BTreeSet<String>,
}

impl fmt::Debug for Checked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.values.keys()).finish()
    }
}

impl Checked {
    /// As one JSON object, for a script's standard input.
    pub fn to_json(&self) -> String {
        serde_json::to_string(&self.values).unwrap_or_else(|_| "{}".to_owned())
    }

    /// As environment variables: `FERNWART_PARAM_UNIT=cups.service`. Secrets are not included; they
    /// are only passed on standard input.
    pub fn environment(&self) -> impl Iterator<Item = (String, String)> {
        let open = self.values.iter().filter(|(name, _)| !self.secret.contains(*name));
        open.map(|(name, value)| {
            let value = match value {
                Value::Text(text) => text.clone(),
                Value::Boolean(_) | Value::Integer(_) => value.to_string(),
            };
            (format!("FERNWART_PARAM_{}", name.to_ascii_uppercase()), value)
        })
    }

    /// Each with its name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Value)> {
        self.values.iter().map(|(name, value)| (name.as_str(), value))
    }
}

impl Declared {
    /// Whether it is removed from the script's output, and travels sealed.
    pub fn is_secret(&self) -> bool {
        matches!(self.kind, Kind::Text { secret: true, .. })
    }

    /// Like [`Declared::check`], for peers that cannot see secrets: secret parameters are skipped,
    /// and must not be among the given values.
    ///
    /// # Errors
    /// The first value that does not fit, is missing, or belongs to no parameter.
    pub fn check_open(declared: &[Self], given: &Parameters) -> Result<Checked, BadValue> {
        let secret = |name: &str| declared.iter().any(|one| one.name == name && one.is_secret());
        if let Some((name, _)) = given.iter().find(|(name, _)| secret(name)) {
            return Err(BadValue { name: name.to_owned(), why: "is secret and travels sealed".to_owned() });
        }
        let open: Vec<Self> = declared.iter().filter(|one| !one.is_secret()).cloned().collect();
        Self::check(&open, given)
    }

    /// Checks open and unsealed values together.
    ///
    /// # Errors
    /// When a secret is among the open values or the reverse, or when a value does not fit.
    pub fn check_both(declared: &[Self], open: &Parameters, secret: &Parameters) -> Result<Checked, BadValue> {
        Self::check_open(declared, open)?;
        let is_secret = |name: &str| declared.iter().any(|one| one.name == name && one.is_secret());
        if let Some((name, _)) = secret.iter().find(|(name, _)| !is_secret(name)) {
            return Err(BadValue { name: crate::text::escaped(name), why: "is no secret".to_owned() });
        }
        let mut all = open.0.clone();
        all.extend(secret.0.clone());
        let all =
            Parameters::try_from(all).map_err(|error| BadValue { name: String::new(), why: error.to_string() })?;
        Self::check(declared, &all)
    }

    /// Checks values against the declarations, and adds defaults for missing ones.
    ///
    /// # Errors
    /// The first value that does not fit, is missing, or belongs to no parameter.
    pub fn check(declared: &[Self], given: &Parameters) -> Result<Checked, BadValue> {
        let bad = |name: &str, why: String| BadValue { name: crate::text::escaped(name), why };
        if let Some((name, _)) = given.iter().find(|(name, _)| !declared.iter().any(|one| one.name == *name)) {
            let names: Vec<_> = declared.iter().map(|one| one.name.as_str()).collect();
            let which = if names.is_empty() { "none".to_owned() } else { names.join(", ") };
            return Err(bad(name, format!("this script has no such parameter; it has {which}")));
        }
        let mut checked = BTreeMap::new();
        for one in declared {
            let value = given.0.get(&one.name).or(one.default.as_ref());
            let value = value.ok_or_else(|| bad(&one.name, "must be given".to_owned()))?;
            one.kind.holds(value).map_err(|why| bad(&one.name, why))?;
            checked.insert(one.name.clone(), value.clone());
        }
        let secret = declared.iter().filter(|one| one.is_secret()).map(|one| one.name.clone()).collect();
        Ok(Checked { values: checked, secret })
    }

    /// Parses what a person typed.
    ///
    /// # Errors
    /// When it is not of the kind declared.
    pub fn read(&self, typed: &str) -> Result<Value, BadValue> {
        let bad = |why: &str| BadValue { name: self.name.clone(), why: why.to_owned() };
        match self.kind {
            Kind::Integer { .. } => typed.parse().map(Value::Integer).map_err(|_| bad("a whole number is needed")),
            Kind::Boolean => typed.parse().map(Value::Boolean).map_err(|_| bad("true or false is needed")),
            Kind::Text { .. } | Kind::Choice { .. } | Kind::Path { .. } => Ok(Value::Text(typed.to_owned())),
        }
    }
}

impl Kind {
    /// Whether it accepts a value.
    pub(super) fn holds(&self, value: &Value) -> Result<(), String> {
        match (self, value) {
            (Self::Boolean, Value::Boolean(_)) => Ok(()),
            (Self::Integer { min, max }, Value::Integer(number)) => {
                if (min..=max).contains(&number) {
                    Ok(())
                } else {
                    Err(format!("must be from {min} to {max}"))
                }
            }
            (Self::Choice { choices }, Value::Text(text)) => {
                if choices.contains(text) {
                    Ok(())
                } else {
                    Err(format!("must be one of {}", choices.join(", ")))
                }
            }
            (Self::Text { max_bytes, pattern, .. }, Value::Text(text)) => {
                one_line(text)?;
                if text.len() > *max_bytes {
                    return Err(format!("must not be longer than {max_bytes} bytes"));
                }
                if text.starts_with('-') {
                    return Err("must not begin with a hyphen".to_owned());
                }
                match pattern {
                    Some(pattern) if !pattern.is_match(text) => Err(format!("must be like {}", shown(pattern))),
                    _ => Ok(()),
                }
            }
            (Self::Path { under }, Value::Text(text)) => {
                one_line(text)?;
                let parts = text.split('/').skip(1).all(|part| !part.is_empty() && part != "." && part != "..");
                let plain = parts || text == "/";
                let within = |folder: &String| {
                    let folder = folder.trim_end_matches('/');
                    text.strip_prefix(folder).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
                };
                if !text.starts_with('/') || !plain || text.len() > 1024 {
                    return Err("must be a plain path from the root, without . and ..".to_owned());
                }
                if under.iter().any(within) { Ok(()) } else { Err(format!("must lie under {}", under.join(" or "))) }
            }
            (Self::Boolean, _) => Err("must be true or false".to_owned()),
            (Self::Integer { .. }, _) => Err("must be a whole number".to_owned()),
            (Self::Choice { .. } | Self::Text { .. } | Self::Path { .. }, _) => Err("must be text".to_owned()),
        }
    }
}

/// The pattern as its author wrote it, without the anchors around it.
fn shown(pattern: &Regex) -> &str {
    let text = pattern.as_str();
    text.strip_prefix("^(?:").and_then(|rest| rest.strip_suffix(")$")).unwrap_or(text)
}

fn one_line(text: &str) -> Result<(), String> {
    if text.chars().any(char::is_control) {
        Err("must be one line without control characters".to_owned())
    } else {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn declared(kind: Kind) -> Vec<Declared> {
        let label = Both { en: "x".into(), de: "x".into() };
        vec![Declared { name: "x".into(), kind, default: None, from: None, label }]
    }

    fn check(kind: Kind, value: Value) -> Result<Checked, BadValue> {
        let given = Parameters::try_from(BTreeMap::from([("x".to_owned(), value)])).expect("few");
        Declared::check(&declared(kind), &given)
    }

    fn text(value: &str) -> Value {
        Value::Text(value.into())
    }

    #[test]
    fn a_text_that_could_be_taken_for_an_option_or_control_codes_is_rejected() {
        let line = || Kind::Text { max_bytes: 100, pattern: None, secret: false };
        for bad in ["a\nb", "a\0b", "--flag", "-x", "\u{1b}[2J", "a\r", "\u{85}"] {
            assert!(check(line(), text(bad)).is_err(), "{bad:?}");
        }
        assert!(check(line(), text(&"a".repeat(101))).is_err());
        // Harmless in an environment variable, even if a shell would interpret it elsewhere.
        for inert in ["; rm -rf /", "$(reboot)", "`id`", "a|b&c", "%00", "../.."] {
            assert!(check(line(), text(inert)).is_ok(), "{inert:?}");
        }
    }

    #[test]
    fn a_pattern_must_match_the_complete_text() {
        let unit = || Kind::Text {
            max_bytes: 100,
            pattern: Some(Regex::new(r"^(?:[a-z]+\.service)$").expect("one")),
            secret: false,
        };
        assert!(check(unit(), text("cups.service")).is_ok());
        for bad in ["cups.service; reboot", "x cups.service", "CUPS.service", ""] {
            let refused = check(unit(), text(bad)).expect_err("refused");
            assert!(refused.why.ends_with(r"[a-z]+\.service"), "{}", refused.why);
        }
    }

    #[test]
    fn a_path_must_lie_in_an_allowed_folder() {
        let logs = || Kind::Path { under: vec!["/var/log".into()] };
        for good in ["/var/log", "/var/log/pos/debug.log"] {
            assert!(check(logs(), text(good)).is_ok(), "{good}");
        }
        let anywhere = || Kind::Path { under: vec!["/".into()] };
        assert!(check(anywhere(), text("/")).is_ok() && check(anywhere(), text("/srv/a")).is_ok());
        assert!(check(anywhere(), text("//")).is_err() && check(anywhere(), text("srv")).is_err());
        for bad in ["/var/logs", "/var/log/../passwd", "/var/log/", "/var//log", "var/log", "/etc", "/var/log/a\n", ""]
        {
            assert!(check(logs(), text(bad)).is_err(), "{bad}");
        }
    }

    #[test]
    fn values_of_another_kind_or_out_of_bounds_are_refused() {
        let number = || Kind::Integer { min: 1, max: 9 };
        assert!(check(number(), Value::Integer(9)).is_ok());
        for bad in [Value::Integer(0), Value::Integer(10), text("5"), Value::Boolean(true)] {
            assert!(check(number(), bad.clone()).is_err(), "{bad:?}");
        }
        assert!(check(Kind::Boolean, text("true")).is_err());
        let choice = || Kind::Choice { choices: vec!["soft".into(), "hard".into()] };
        assert!(check(choice(), text("hard")).is_ok());
        assert!(check(choice(), text("harder")).is_err());
    }

    #[test]
    fn missing_and_unknown_parameters_are_named() {
        let missing = Declared::check(&declared(Kind::Boolean), &Parameters::default()).expect_err("missing");
        assert_eq!(missing.to_string(), "parameter x: must be given");
        let given = Parameters::try_from(BTreeMap::from([("y".to_owned(), Value::Boolean(true))])).expect("few");
        let foreign = Declared::check(&declared(Kind::Boolean), &given).expect_err("foreign");
        assert!(foreign.to_string().contains("it has x"), "{foreign}");
        let long = Parameters::try_from(BTreeMap::from([("x".to_owned(), text(&"a".repeat(1024 * 1024)))]));
        assert_eq!(long, Err(TooMuch));
    }

    #[test]
    fn secrets_come_sealed_and_only_on_standard_input() {
        let label = || Both { en: "x".into(), de: "x".into() };
        let kind = |secret| Kind::Text { max_bytes: 100, pattern: None, secret };
        let one = |name: &str, secret| Declared {
            name: name.into(),
            kind: kind(secret),
            default: None,
            from: None,
            label: label(),
        };
        let declared = [one("user", false), one("pin", true)];
        let values = |name: &str| Parameters::try_from(BTreeMap::from([(name.to_owned(), text("x1"))])).expect("few");
        assert!(Declared::check_open(&declared, &values("user")).is_ok());
        assert!(Declared::check_open(&declared, &values("pin")).expect_err("refused").why.contains("sealed"));
        let checked = Declared::check_both(&declared, &values("user"), &values("pin")).expect("good");
        assert_eq!(checked.to_json(), r#"{"pin":"x1","user":"x1"}"#);
        assert_eq!(checked.environment().count(), 1);
        assert!(!format!("{checked:?}").contains("x1"));
        assert!(Declared::check_both(&declared, &values("user"), &values("user")).is_err());
        assert!(Declared::check_both(&declared, &values("user"), &Parameters::default()).is_err(), "it is missing");
    }

    #[test]
    fn a_script_gets_parameters_as_json_and_as_environment_variables() {
        let checked =
            check(Kind::Text { max_bytes: 100, pattern: None, secret: false }, text("a \"b\" $c")).expect("good");
        assert_eq!(checked.to_json(), r#"{"x":"a \"b\" $c"}"#);
        assert_eq!(checked.environment().collect::<Vec<_>>(), [("FERNWART_PARAM_X".into(), "a \"b\" $c".into())]);
    }
}
