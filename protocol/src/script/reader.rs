//! Reads a TOML table field by field and collects every mistake with its place,
//! where serde would stop at the first.

use serde::Deserialize;
use serde::de::IntoDeserializer;
use std::ops::Range;
use toml::Spanned;
use toml::de::{DeTable, DeValue, Error};

/// Something in a manifest that must be otherwise.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mistake {
    /// Where: bytes of the text.
    pub span: Range<usize>,
    /// What is wrong, and what would be right.
    pub what: String,
    /// A word that is not known here, and those that are.
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
    /// A whole file. Where its TOML is broken, what can be read is.
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

    /// A field that may be missing, with its place.
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

    /// A field that must be there.
    pub(super) fn required<T: Deserialize<'t>>(&mut self, name: &'static str) -> Option<Spanned<T>> {
        let there = self.table.keys().any(|key| key.get_ref() == name);
        if !there {
            self.known.push(name);
            self.mistake(self.span.clone(), format!("{name} is missing"));
            return None;
        }
        self.optional(name)
    }

    /// A table inside.
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

    /// Notes a mistake.
    pub(super) fn mistake(&mut self, span: Range<usize>, what: impl Into<String>) {
        self.mistakes.push(Mistake::at(span, what));
    }

    /// Notes a mistake about the table as a whole.
    pub(super) fn mistake_here(&mut self, what: impl Into<String>) {
        self.mistake(self.span.clone(), what);
    }

    /// Whatever is left is not known here.
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
