//! How long results are kept: `[retention]` in `hub.toml`.

use fernwart_protocol::document::UnixMs;
use fernwart_protocol::span;
use fernwart_protocol::text::Text;
use fernwart_store::Before;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::time::Duration;

/// The setting for results that are never dropped.
const FOREVER: &str = "forever";

const DAY: Duration = Duration::from_secs(24 * 3600);

/// `[retention]`: how long results are kept after they came.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Retention {
    /// Those of diagnoses.
    #[serde(default = "Kept::diagnoses")]
    pub diagnoses: Kept,
    /// Those of scripts.
    #[serde(default = "Kept::scripts")]
    pub scripts: Kept,
}

impl Default for Retention {
    fn default() -> Self {
        Self { diagnoses: Kept::diagnoses(), scripts: Kept::scripts() }
    }
}

impl Retention {
    /// How long diagnoses and scripts are kept, as in `hub.toml`.
    pub(crate) fn in_words(self) -> (Text<32>, Text<32>) {
        (Text::clipped(&self.diagnoses.in_words()), Text::clipped(&self.scripts.in_words()))
    }

    /// The times before which results are dropped.
    pub(crate) fn before(self, now: UnixMs) -> Before {
        Before { diagnoses: self.diagnoses.before(now), scripts: self.scripts.before(now) }
    }
}

/// A span of at least a day, or for ever.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Kept(Option<Duration>);

impl Kept {
    const fn diagnoses() -> Self {
        Self(Some(Duration::from_secs(90 * DAY.as_secs())))
    }

    const fn scripts() -> Self {
        Self(Some(Duration::from_secs(2 * 365 * DAY.as_secs())))
    }

    fn before(self, now: UnixMs) -> Option<UnixMs> {
        let ms = i64::try_from(self.0?.as_millis()).unwrap_or(i64::MAX);
        Some(now.saturating_sub(ms))
    }

    /// As it stands in `hub.toml`.
    pub fn in_words(self) -> String {
        self.0.map_or_else(|| FOREVER.to_owned(), span::in_words)
    }
}

impl Serialize for Kept {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&self.in_words())
    }
}

impl<'de> Deserialize<'de> for Kept {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let text = String::deserialize(from)?;
        let kept = if text == FOREVER { Ok(Self(None)) } else { span::parse(&text).map(|span| Self(Some(span))) };
        match kept {
            Ok(Self(Some(span))) if span < DAY => Err("at least 1d".to_owned()),
            kept => kept,
        }
        .map_err(|why| serde::de::Error::custom(format!("{why}, or \"{FOREVER}\"")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Deserialize)]
    struct File {
        #[serde(default)]
        retention: Retention,
    }

    fn read(text: &str) -> Result<Retention, String> {
        toml::from_str::<File>(text).map(|file| file.retention).map_err(|error| error.to_string())
    }

    #[test]
    fn retention_spans_are_read_and_short_or_invalid_ones_are_rejected() {
        assert_eq!(read("").expect("read"), Retention::default());
        let some = read("[retention]\ndiagnoses = \"30d\"\nscripts = \"forever\"").expect("read");
        let before = some.before(1_000_000_000_000);
        assert_eq!(before, Before { diagnoses: Some(1_000_000_000_000 - 30 * 24 * 3_600_000), scripts: None });
        assert_eq!(read(&format!("[retention]\n{}", toml::to_string(&some).expect("written"))).expect("read"), some);
        for (line, why) in [
            ("diagnoses = \"5h\"", "at least 1d"),
            ("scripts = \"-1d\"", "write 30s"),
            ("diagnoses = \"\"", "write 30s"),
            ("diagnoses = 90", "string"),
            ("reports = \"90d\"", "unknown field"),
            ("diagnoses = \"99999999999999999999d\"", "write 30s"),
        ] {
            let error = read(&format!("[retention]\n{line}")).expect_err(line);
            assert!(error.contains(why), "{line}: {error}");
        }
    }
}
