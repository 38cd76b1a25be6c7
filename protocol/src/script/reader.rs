//! Reads a TOML table field by field and collects every mistake with its position. serde would stop
//! at the first.

use serde::Deserialize;
use serde::de::IntoDeserializer;
use std::ops::Range;
use toml::Spanned;
use toml::de::{DeTable, DeValue, Error};

/// A mistake in a manifest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mistake {
    /// The position: a range of bytes in the text.
    pub span: Range<usize>,
    /// What is wrong, and what would be right.
    pub what: String,
    /// An unknown field name, and the known ones.
    pub unknown: Option<(String, Vec<&'static str>)>,
}

impl Mistake {
    pub(super) fn at(span: Range<usize>, what: impl Into<String>) -> Self {
        Self { span, what: what.into(), unknown: None }
    }

    /// Line and column, from 1, and the line itself.
    pub fn place<'t>(&self, text: &'t str) -> (usize, usize, &'t str) {
        let before = text.get(..self.span.start.min(text.len())).unwrap_or_default();
        let line = before.matches('\n').count();
        let column = before.rsplit('\n').next().unwrap_or_default().chars().count();
        (line + 1, column + 1, text.lines().nth(line).unwrap_or_default())
    }
}

/// One table, and the mistakes found so far.
pub(super) struct Reader<'t, 'm> {
    table: DeTable<'t>,
    span: Range<usize>,
    known: Vec<&'static str>,
    mistakes: &'m mut Vec<Mistake>,
}

impl<'t, 'm> Reader<'t, 'm> {
    /// A complete file. If its TOML is broken, reads the parts that can be parsed.
    pub(super) fn file(text: &'t str, mistakes: &'m mut Vec<Mistake>) -> Self {
        let (table, errors) = DeTable::parse_recoverable(text);
        for error in errors {
            mistakes.push(Mistake::at(error.span().unwrap_or(0..0), error.message()));
        }
        Self { table: table.into_inner(), span: 0..0, known: Vec::new(), mistakes }
    }

    fn take(&mut self, name: &'static str) -> Option<Spanned<DeValue<'t>>> {
        self.known.push(name);
        let key = self.table.keys().find(|key| key.get_ref() == name).cloned()?;
        self.table.remove(&key)
    }

    /// An optional field, with its position.
    pub(super) fn optional<T: Deserialize<'t>>(&mut self, name: &'static str) -> Option<Spanned<T>> {
        let value = self.take(name)?;
        let span = value.span();
        match T::deserialize(value.into_deserializer()) {
            Ok(read) => Some(Spanned::new(span, read)),
            Err(error) => {
                let error: Error = error;
                self.mistakes.push(Mistake::at(span, format!("{name}: {}", error.message())));
                None
            }
        }
    }

    /// A required field.
    pub(super) fn required<T: Deserialize<'t>>(&mut self, name: &'static str) -> Option<Spanned<T>> {
        let there = self.table.keys().any(|key| key.get_ref() == name);
        if !there {
            self.known.push(name);
            self.mistake(self.span.clone(), format!("{name} is missing"));
            return None;
        }
        self.optional(name)
    }

    /// A nested table.
    pub(super) fn table(&mut self, name: &'static str) -> Option<Reader<'t, '_>> {
        let value = self.take(name)?;
        self.inner(name, value)
    }

    fn inner(&mut self, name: &str, value: Spanned<DeValue<'t>>) -> Option<Reader<'t, '_>> {
        let span = value.span();
        match value.into_inner() {
            DeValue::Table(table) => Some(Reader { table, span, known: Vec::new(), mistakes: self.mistakes }),
            other => {
                let what = format!("{name} must be a table, not {}", other.type_str());
                self.mistake(span, what);
                None
            }
        }
    }

    /// Each table of a list, read by `read`.
    pub(super) fn tables<T>(
        &mut self,
        name: &'static str,
        mut read: impl FnMut(&mut Reader<'t, '_>) -> Option<T>,
    ) -> Vec<T> {
        let Some(value) = self.take(name) else { return Vec::new() };
        let span = value.span();
        let DeValue::Array(items) = value.into_inner() else {
            self.mistake(span, format!("{name} is written as [[{name}]]"));
            return Vec::new();
        };
        let mut all = Vec::new();
        for item in items {
            if let Some(mut inner) = self.inner(name, item) {
                all.extend(read(&mut inner));
                inner.finish();
            }
        }
        all
    }

    /// Records a mistake.
    pub(super) fn mistake(&mut self, span: Range<usize>, what: impl Into<String>) {
        self.mistakes.push(Mistake::at(span, what));
    }

    /// Records a mistake about the table as a whole.
    pub(super) fn mistake_here(&mut self, what: impl Into<String>) {
        self.mistake(self.span.clone(), what);
    }

    /// Reports all remaining fields as unknown.
    pub(super) fn finish(self) {
        for (key, _) in &self.table {
            self.mistakes.push(Mistake {
                span: key.span(),
                what: format!("there is no {:?} here", key.get_ref()),
                unknown: Some((key.get_ref().to_string(), self.known.clone())),
            });
        }
    }
}
