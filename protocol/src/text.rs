//! Bounded strings, bytes and lists.
//!
//! External input is converted to one of these types on arrival, so that it cannot use unlimited
//! memory. Printing a `Text` escapes control characters, so that no machine can send escape
//! sequences to a technician's terminal.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::de::{Error, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::fmt;
use std::str::FromStr;

/// A value from outside was longer than its type allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("longer than {max}")]
pub struct TooLong {
    /// The bound: bytes of a text, items of a list.
    pub max: usize,
}

/// A string of at most `N` bytes.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Text<const N: usize>(String);

impl<const N: usize> Text<N> {
    /// Truncates a string to `N` bytes at a character boundary.
    pub fn clipped(text: &str) -> Self {
        let mut end = text.len().min(N);
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        Self(text.get(..end).unwrap_or_default().to_owned())
    }

    /// The text as received, including control characters.
    pub fn as_raw(&self) -> &str {
        &self.0
    }

    /// Whether nothing is in it.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl<const N: usize> TryFrom<String> for Text<N> {
    type Error = TooLong;
    fn try_from(text: String) -> Result<Self, TooLong> {
        if text.len() > N { Err(TooLong { max: N }) } else { Ok(Self(text)) }
    }
}

impl<const N: usize> FromStr for Text<N> {
    type Err = TooLong;
    fn from_str(text: &str) -> Result<Self, TooLong> {
        Self::try_from(text.to_owned())
    }
}

/// Whether a character does not simply display as itself: it controls a terminal, changes the
/// direction of the text after it, breaks the line, or is invisible. These are the Unicode classes
/// Cc, Cf, Zl, Zp and Co, spaces outside of ASCII, and Default_Ignorable_Code_Point (Unicode 16,
/// UnicodeData.txt and DerivedCoreProperties.txt).
pub fn is_unseen(c: char) -> bool {
    if c.is_ascii() {
        return c.is_ascii_control();
    }
    c.is_control()
        || (c.is_whitespace() && c != '\u{3000}')
        || matches!(c,
            '\u{ad}' | '\u{34f}' | '\u{600}'..='\u{605}' | '\u{61c}' | '\u{6dd}' | '\u{70f}'
            | '\u{890}' | '\u{891}' | '\u{8e2}' | '\u{115f}' | '\u{1160}' | '\u{17b4}' | '\u{17b5}'
            | '\u{180b}'..='\u{180f}' | '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}' | '\u{2800}' | '\u{3164}' | '\u{e000}'..='\u{f8ff}'
            | '\u{fe00}'..='\u{fe0f}' | '\u{feff}' | '\u{ffa0}' | '\u{fff0}'..='\u{fffc}'
            | '\u{110bd}' | '\u{110cd}' | '\u{13430}'..='\u{1343f}' | '\u{1bca0}'..='\u{1bca3}'
            | '\u{1d173}'..='\u{1d17a}' | '\u{e0000}'..='\u{e0fff}' | '\u{f0000}'..='\u{10ffff}')
}

/// Escapes every character of `text` for which [`is_unseen`] holds.
pub fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if is_unseen(c) {
            out.extend(c.escape_unicode());
        } else {
            out.push(c);
        }
    }
    out
}

/// The same for a text of several lines; the line breaks stay.
pub fn escaped_lines(text: &str) -> String {
    text.split('\n').map(escaped).collect::<Vec<_>>().join("\n")
}

/// An error and its causes on one line.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    // A cause may contain text from an untrusted source.
    escaped_lines(&text)
}

impl<const N: usize> fmt::Display for Text<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&escaped(&self.0))
    }
}

impl<const N: usize> fmt::Debug for Text<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

impl<const N: usize> Serialize for Text<N> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        self.0.serialize(to)
    }
}

impl<'de, const N: usize> Deserialize<'de> for Text<N> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        Self::try_from(String::deserialize(from)?).map_err(D::Error::custom)
    }
}

/// Bytes, at most `N` of them.
#[derive(Clone, PartialEq, Eq, Hash, Default)]
pub struct Blob<const N: usize>(Vec<u8>);

impl<const N: usize> Blob<N> {
    /// The bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// Returns the bytes.
    pub fn into_bytes(self) -> Vec<u8> {
        self.0
    }
}

impl<const N: usize> TryFrom<Vec<u8>> for Blob<N> {
    type Error = TooLong;
    fn try_from(bytes: Vec<u8>) -> Result<Self, TooLong> {
        if bytes.len() > N { Err(TooLong { max: N }) } else { Ok(Self(bytes)) }
    }
}

impl<const N: usize> fmt::Debug for Blob<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Blob({} bytes)", self.0.len())
    }
}

/// Raw bytes in frames, base64 in JSON.
impl<const N: usize> Serialize for Blob<N> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        if to.is_human_readable() { to.serialize_str(&STANDARD.encode(&self.0)) } else { to.serialize_bytes(&self.0) }
    }
}

impl<'de, const N: usize> Deserialize<'de> for Blob<N> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Bounded<const N: usize>;
        impl<const N: usize> Visitor<'_> for Bounded<N> {
            type Value = Blob<N>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "at most {N} bytes")
            }
            fn visit_bytes<E: Error>(self, bytes: &[u8]) -> Result<Blob<N>, E> {
                Blob::try_from(bytes.to_vec()).map_err(E::custom)
            }
            fn visit_byte_buf<E: Error>(self, bytes: Vec<u8>) -> Result<Blob<N>, E> {
                Blob::try_from(bytes).map_err(E::custom)
            }
        }
        if from.is_human_readable() {
            let text = std::borrow::Cow::<'de, str>::deserialize(from)?;
            return Self::try_from(STANDARD.decode(text.as_bytes()).map_err(D::Error::custom)?)
                .map_err(D::Error::custom);
        }
        from.deserialize_byte_buf(Bounded::<N>)
    }
}

/// A list of at most `N` items; decoding fails at the first item beyond that.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct List<T, const N: usize>(Vec<T>);

impl<T, const N: usize> Default for List<T, N> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<T, const N: usize> List<T, N> {
    /// The items.
    pub fn as_slice(&self) -> &[T] {
        &self.0
    }

    /// Returns the items.
    pub fn into_vec(self) -> Vec<T> {
        self.0
    }
}

impl<T, const N: usize> TryFrom<Vec<T>> for List<T, N> {
    type Error = TooLong;
    fn try_from(items: Vec<T>) -> Result<Self, TooLong> {
        if items.len() > N { Err(TooLong { max: N }) } else { Ok(Self(items)) }
    }
}

impl<T, const N: usize> IntoIterator for List<T, N> {
    type Item = T;
    type IntoIter = std::vec::IntoIter<T>;
    fn into_iter(self) -> Self::IntoIter {
        self.0.into_iter()
    }
}

impl<'a, T, const N: usize> IntoIterator for &'a List<T, N> {
    type Item = &'a T;
    type IntoIter = std::slice::Iter<'a, T>;
    fn into_iter(self) -> Self::IntoIter {
        self.0.iter()
    }
}

impl<T: Serialize, const N: usize> Serialize for List<T, N> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        self.0.serialize(to)
    }
}

impl<'de, T: Deserialize<'de>, const N: usize> Deserialize<'de> for List<T, N> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Bounded<T, const N: usize>(std::marker::PhantomData<T>);
        impl<'de, T: Deserialize<'de>, const N: usize> Visitor<'de> for Bounded<T, N> {
            type Value = List<T, N>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "at most {N} items")
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<List<T, N>, A::Error> {
                // The list grows as items arrive: the announced length allocates nothing.
                let mut items = Vec::new();
                while let Some(item) = seq.next_element()? {
                    if items.len() == N {
                        return Err(A::Error::custom(TooLong { max: N }));
                    }
                    items.push(item);
                }
                Ok(List(items))
            }
        }
        from.deserialize_seq(Bounded(std::marker::PhantomData))
    }
}

/// A text is not a valid machine name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a machine's name has 1 to 63 of a-z, 0-9 and -, and begins and ends with a letter or digit")]
pub struct BadName;

/// The word that selects every machine; no machine gets this name.
pub const ALL: &str = "all";

/// A machine's name: a DNS label, unique per hub.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct MachineName(String);

impl MachineName {
    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The closest valid name for a host name.
    pub fn from_hostname(hostname: &str) -> Self {
        let label = hostname.split('.').next().unwrap_or_default();
        let kept: String = label
            .chars()
            .map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' })
            .take(63)
            .collect();
        let name = Self::try_from(kept.trim_matches('-').to_owned());
        name.ok().filter(|name| name.0 != ALL).unwrap_or_else(|| Self("machine".into()))
    }

    /// This name with `-number` appended, shortened if necessary.
    pub fn numbered(&self, number: u64) -> Self {
        let tail = format!("-{number}");
        let keep = self.0.len().min(63usize.saturating_sub(tail.len()));
        let head = self.0.get(..keep).unwrap_or_default().trim_end_matches('-');
        Self(format!("{head}{tail}"))
    }
}

impl TryFrom<String> for MachineName {
    type Error = BadName;
    fn try_from(name: String) -> Result<Self, BadName> {
        let letters = name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
        let edges = !name.starts_with('-') && !name.ends_with('-');
        if letters && edges && (1..=63).contains(&name.len()) { Ok(Self(name)) } else { Err(BadName) }
    }
}

impl FromStr for MachineName {
    type Err = BadName;
    fn from_str(name: &str) -> Result<Self, BadName> {
        Self::try_from(name.to_owned())
    }
}

impl From<MachineName> for String {
    fn from(name: MachineName) -> String {
        name.0
    }
}

impl fmt::Display for MachineName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_shows_control_characters_escaped() {
        let hostile = Text::<64>::clipped("ok\u{1b}[2J\u{202e}x");
        assert_eq!(hostile.to_string(), "ok\\u{1b}[2J\\u{202e}x");
    }

    #[test]
    fn bytes_are_base64_in_json_and_no_longer_than_allowed_anywhere() {
        let blob = Blob::<4>::try_from(vec![1, 2, 255]).expect("short");
        let json = serde_json::to_string(&blob).expect("written");
        assert_eq!(json, "\"AQL/\"");
        assert_eq!(serde_json::from_str::<Blob<4>>(&json).ok(), Some(blob.clone()));
        assert!(serde_json::from_str::<Blob<2>>(&json).is_err());
        let wire = crate::codec::encode(&blob).expect("encoded");
        assert!(crate::codec::decode::<Blob<4>>(&wire).is_ok() && crate::codec::decode::<Blob<2>>(&wire).is_err());
    }

    #[test]
    fn a_text_is_cut_at_a_character() {
        assert_eq!(Text::<3>::clipped("aéé").as_raw(), "aé");
        assert!(Text::<3>::try_from("aéé".to_owned()).is_err());
    }

    #[test]
    fn a_list_refuses_one_item_too_many_while_reading() {
        let wire = crate::codec::encode(&vec![1u8, 2, 3]).unwrap_or_default();
        assert!(crate::codec::decode::<List<u8, 3>>(&wire).is_ok());
        assert!(crate::codec::decode::<List<u8, 2>>(&wire).is_err());
    }

    #[test]
    fn a_host_name_becomes_a_machine_name() {
        assert_eq!(MachineName::from_hostname("Kasse_1.shop.local").as_str(), "kasse-1");
        assert_eq!(MachineName::from_hostname("\u{1b}[31m").as_str(), "31m");
        assert_eq!(MachineName::from_hostname("日本").as_str(), "machine");
        assert_eq!(MachineName::from_hostname("ALL.local").as_str(), "machine", "that word means every one of them");
        assert_eq!(MachineName::from_hostname("kasse-1").numbered(2).as_str(), "kasse-1-2");
    }
}
