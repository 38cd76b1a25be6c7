//! Lists in five shapes: a table, JSON, JSON lines, CSV, names.

use super::{Exit, Failure, say};
pub(crate) use crate::escaping::{harmless, json_text, shell_word};
use clap::ValueEnum;
use comfy_table::{ContentArrangement, Table, presets};
use fernwart_protocol::document::UnixMs;
use serde_json::{Map, Value};
use std::io::IsTerminal;

/// Fields that every row has: format version and type.
const RESERVED: [&str; 2] = ["v", "type"];

/// The longest cell of a table, characters.
const CELL: usize = 400;

/// The shape of a list.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Shape {
    /// A table to be read.
    Table,
    /// One JSON document, at the end.
    Json,
    /// One JSON object a line, as they come.
    Jsonl,
    /// Comma-separated values.
    Csv,
    /// Names alone, one a line.
    Name,
}

/// A cell: a value for programs, and a text for people if that differs.
#[derive(Debug, Clone)]
pub(crate) struct Cell {
    value: Value,
    shown: Option<String>,
}

impl Cell {
    /// A value, and its text for people.
    pub(crate) fn new(value: impl Into<Value>, shown: impl Into<String>) -> Self {
        Self { value: value.into(), shown: Some(shown.into()) }
    }

    /// A time: RFC 3339, and local time for people.
    pub(crate) fn moment(at: UnixMs) -> Self {
        Self::new(rfc3339(at), moment(at))
    }

    /// A time: RFC 3339, and its age for people.
    pub(crate) fn ago(at: UnixMs, now: UnixMs) -> Self {
        Self::new(rfc3339(at), ago(at, now))
    }

    /// A time: RFC 3339, and its date for people.
    pub(crate) fn day(at: UnixMs) -> Self {
        Self::new(rfc3339(at), day(at))
    }

    fn text(&self) -> String {
        self.shown.as_deref().map_or_else(|| plain(&self.value), fernwart_protocol::text::escaped)
    }
}

macro_rules! cells_of {
    ($($kind:ty),*) => {
        $(impl From<$kind> for Cell {
            fn from(value: $kind) -> Self {
                Self { value: value.into(), shown: None }
            }
        })*
    };
}

cells_of!(
    &str,
    String,
    Value,
    bool,
    u8,
    u16,
    u32,
    u64,
    i64,
    usize,
    f64,
    Option<&str>,
    Option<String>,
    Option<u64>,
    Option<i64>
);

/// Rows with the same columns, the first of which is the name.
pub(crate) struct Rows {
    kind: &'static str,
    /// The field's name for programs, and the head of the column for people.
    columns: Vec<(String, String)>,
    rows: Vec<Vec<Cell>>,
}

impl Rows {
    /// No rows yet. A column is `field`, or `field:head` if its head differs for people.
    pub(crate) fn new(kind: &'static str, columns: &[&str]) -> Self {
        let mut known: Vec<(String, String)> = Vec::with_capacity(columns.len());
        for column in columns {
            let (field, head) = column.split_once(':').unwrap_or((column, column));
            known.push((field.to_owned(), head.to_owned()));
        }
        Self { kind, columns: known, rows: Vec::new() }
    }

    /// The same with column names from elsewhere, such as a query.
    pub(crate) fn of_others(kind: &'static str, columns: &[&str]) -> Self {
        let mut known: Vec<(String, String)> = Vec::with_capacity(columns.len());
        for column in columns {
            let name = fernwart_protocol::text::escaped(column);
            // Every row has the two reserved names.
            let taken = usize::from(RESERVED.contains(&name.to_lowercase().as_str()));
            let alike = known.iter().filter(|(other, _)| *other == name).count() + taken;
            let name = if alike == 0 { name } else { format!("{name}_{}", alike + 1) };
            known.push((name.clone(), name));
        }
        Self { kind, columns: known, rows: Vec::new() }
    }

    /// Adds a row.
    pub(crate) fn push(&mut self, row: Vec<Cell>) {
        self.rows.push(row);
    }

    fn object(&self, row: &[Cell]) -> Value {
        let mut object = Map::new();
        for ((field, _), cell) in self.columns.iter().zip(row) {
            object.insert(field.to_lowercase().replace(' ', "_"), cell.value.clone());
        }
        object.insert("v".into(), 1.into());
        object.insert("type".into(), self.kind.into());
        Value::Object(object)
    }

    /// Writes the rows in this format.
    ///
    /// # Errors
    /// When standard output cannot be written.
    pub(crate) fn print(&self, shape: Shape) -> Result<Exit, Failure> {
        let text = match shape {
            Shape::Table => self.table(columns()),
            Shape::Json => {
                let all: Vec<_> = self.rows.iter().map(|row| self.object(row)).collect();
                json_text(&Value::Array(all)) + "\n"
            }
            Shape::Jsonl => self.rows.iter().map(|row| json_text(&self.object(row)) + "\n").collect(),
            Shape::Csv => {
                let head = self.columns.iter().map(|(field, _)| csv_cell(&field.to_lowercase().into()));
                let cell = |cell: &Cell| match (&cell.value, &cell.shown) {
                    // A CSV cell cannot hold a list or object.
                    (Value::Object(_) | Value::Array(_), Some(shown)) => csv_cell(&shown.as_str().into()),
                    (value, _) => csv_cell(value),
                };
                let body = self.rows.iter().map(|row| row.iter().map(cell).collect::<Vec<_>>().join(",") + "\n");
                head.collect::<Vec<_>>().join(",") + "\n" + &body.collect::<String>()
            }
            Shape::Name => self.rows.iter().filter_map(|row| row.first()).map(|name| name.text() + "\n").collect(),
        };
        say(&text)
    }

    /// The rows as a table. With a width, cells are wrapped at words.
    fn table(&self, width: Option<u16>) -> String {
        let mut table = Table::new();
        table.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled);
        if let Some(width) = width {
            table.set_content_arrangement(ContentArrangement::Dynamic).set_width(width);
        }
        table.set_header(self.columns.iter().map(|(_, head)| head.to_uppercase()));
        for row in &self.rows {
            table.add_row(row.iter().map(|cell| {
                let text = cut(cell.text());
                if text.is_empty() { "–".to_owned() } else { text }
            }));
        }
        let text = table.to_string();
        text.lines()
            .map(|line| line.trim_end().strip_prefix(' ').unwrap_or(line).trim_end().to_owned() + "\n")
            .collect()
    }
}

/// The terminal's width; `None` if standard output is no terminal.
fn columns() -> Option<u16> {
    let out = std::io::stdout();
    let size = out.is_terminal().then(|| rustix::termios::tcgetwinsize(&out).ok()).flatten();
    size.map(|size| size.ws_col).filter(|columns| *columns >= NARROW)
}

/// A terminal that reports less does not know its width.
const NARROW: u16 = 20;

fn plain(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => fernwart_protocol::text::escaped(text),
        other => other.to_string(),
    }
}

/// Shortens a cell for people; the other formats contain all of it.
fn cut(text: String) -> String {
    match text.char_indices().nth(CELL) {
        Some((end, _)) => format!("{}… ({} bytes)", text.get(..end).unwrap_or_default(), text.len()),
        None => text,
    }
}

/// Quotes a cell where needed, and keeps text from being read as a spreadsheet formula. Numbers are
/// safe.
///
/// The reading program decides which separator splits cells, in German the semicolon. A cell may
/// then begin after any of them, quoted or not, so a formula is also prevented after each
/// separator.
fn csv_cell(value: &Value) -> String {
    let text = plain(value);
    if value.is_number() {
        return text;
    }
    let mut safe = String::with_capacity(text.len() + 2);
    let mut begins = true;
    for c in text.chars() {
        if begins && ['=', '+', '-', '@', '＝', '＋', '－', '＠'].contains(&c) {
            safe.push('\'');
        }
        // Readers strip or ignore these characters before a formula.
        let may_stand_before = c == ' ' || c == '"' || c == '\'';
        begins = PARTS.contains(&c) || (begins && may_stand_before);
        safe.push(c);
    }
    if safe.contains(PARTS) || safe.contains('"') { format!("\"{}\"", safe.replace('"', "\"\"")) } else { safe }
}

/// Separators that some program uses.
const PARTS: [char; 6] = [',', ';', '\t', '|', '\n', '\r'];

/// A time for programs: `2026-11-23T13:15:00.123Z`.
pub(crate) fn rfc3339(at: UnixMs) -> String {
    jiff::Timestamp::from_millisecond(at).unwrap_or_default().to_string()
}

/// A time in this computer's zone: `23 Nov 14:15 CET`.
pub(crate) fn moment(at: UnixMs) -> String {
    let zoned = jiff::Timestamp::from_millisecond(at).unwrap_or_default().to_zoned(jiff::tz::TimeZone::system());
    zoned.strftime("%a %-d %b %H:%M %Z").to_string()
}

/// A day: `2027-11-23`.
pub(crate) fn day(at: UnixMs) -> String {
    let zoned = jiff::Timestamp::from_millisecond(at).unwrap_or_default().to_zoned(jiff::tz::TimeZone::system());
    zoned.strftime("%Y-%m-%d").to_string()
}

/// How long ago: `now`, `5 min ago`, `2 h ago`.
pub(crate) fn ago(at: UnixMs, now: UnixMs) -> String {
    match now.saturating_sub(at) / 1000 {
        s if s < 30 => "now".into(),
        s if s < 7200 => format!("{} min ago", (s + 30) / 60),
        s if s < 172_800 => format!("{} h ago", s / 3600),
        s => format!("{} d ago", s / 86_400),
    }
}

/// Whether a person watches progress.
pub(crate) fn is_watched() -> bool {
    std::io::stderr().is_terminal()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_query_column_cannot_take_a_reserved_name() {
        let mut rows = Rows::of_others("row", &["type", "V", "a"]);
        rows.push(vec!["x".into(), 7_u64.into(), 1_u64.into()]);
        let object = rows.object(&rows.rows[0]);
        assert_eq!((&object["type"], &object["type_2"]), (&json!("row"), &json!("x")));
        assert_eq!((&object["v"], &object["v_2"]), (&json!(1), &json!(7)));
    }

    #[test]
    fn any_printed_word_can_be_pasted_into_a_shell() {
        assert_eq!(shell_word("kasse-2/218/disk.free:/var"), "kasse-2/218/disk.free:/var");
        assert_eq!(shell_word("k/1/disk.free:/mnt/my disk"), "'k/1/disk.free:/mnt/my disk'");
        assert_eq!(shell_word("k/1/x:$(reboot)'"), r"'k/1/x:$(reboot)'\'''");
        assert_eq!(shell_word("k/1/x:a\nb"), "'k/1/x:a\\u{a}b'");
    }

    #[test]
    fn a_table_shows_the_beginning_of_a_very_long_cell() {
        let mut rows = Rows::new("row", &["a"]);
        rows.push(vec!["x".repeat(1_000_000).into()]);
        let text = rows.table(None);
        assert!(text.len() < 1000 && text.contains("x… (1000000 bytes)"), "{text}");
    }

    #[test]
    fn a_table_fits_the_terminal() {
        let mut rows = Rows::new("row", &["machine", "why"]);
        rows.push(vec!["kasse-1".into(), "the owner did not answer, and nobody else was there to ask either".into()]);
        let narrow = rows.table(Some(40));
        assert!(narrow.lines().all(|line| line.chars().count() <= 40) && narrow.lines().count() == 4, "{narrow}");
        assert!(narrow.lines().nth(2).is_some_and(|line| line.starts_with("         nobody")), "aligned: {narrow}");
        assert!(narrow.contains("the owner did not answer"), "cut between words: {narrow}");
        assert_eq!(rows.table(None).lines().count(), 2);
    }

    #[test]
    fn a_cell_has_a_typed_value_for_programs_and_a_text_for_people() {
        let mut rows = Rows::new("row", &["machine", "seen_at:seen", "labels"]);
        let labels = json!({"site": "kiel"});
        rows.push(vec![
            "kasse-1".into(),
            Cell::ago(1_795_529_700_123, 1_795_529_700_200),
            Cell::new(labels, "site=kiel"),
        ]);
        let object = rows.object(&rows.rows[0]);
        assert_eq!(object["seen_at"], "2026-11-24T14:15:00.123Z");
        assert_eq!(object["labels"]["site"], "kiel");
        let table = rows.table(None);
        assert!(table.starts_with("MACHINE  SEEN  LABELS\n") && table.contains("now   site=kiel"), "{table}");
    }

    #[test]
    fn json_carries_hostile_text_complete_and_escaped() {
        let hostile = "a\u{9b}2J\u{202e}b";
        let text = json_text(&Value::from(hostile));
        assert!(text.is_ascii(), "{text}");
        assert_eq!(serde_json::from_str::<String>(&text).ok().as_deref(), Some(hostile));
        assert_eq!(json_text(&Value::from("Bäckerei")), "\"Bäckerei\"");
    }

    #[test]
    fn a_csv_cell_is_quoted_and_cannot_be_a_formula() {
        let text = |text: &str| csv_cell(&Value::from(text));
        assert_eq!(text("a,b"), "\"a,b\"");
        assert_eq!(text("=1+1"), "'=1+1");
        assert_eq!(text("-1+cmd|' /C calc'!A0"), "\"'-1+cmd|' /C calc'!A0\"");
        assert_eq!((text("-inf"), text("-5")), ("'-inf".to_owned(), "'-5".to_owned()));
        assert_eq!((csv_cell(&Value::from(-5)), csv_cell(&Value::from(-1.5))), ("-5".to_owned(), "-1.5".to_owned()));
        // Separators of other languages, in cells quoted or not.
        for hostile in ["a;=1+1", "a; =1+1", "a;\"=1+1", "a,@x", "a\t+1", "a|-1", "\"=1", " =1", "a;＝1"] {
            let cell = text(hostile);
            let stripped: String = cell.chars().filter(|c| !['"', ' '].contains(c)).collect();
            for part in stripped.split([',', ';', '|']).map(|part| part.trim_start_matches("\\u{9}")) {
                assert!(!part.starts_with(['=', '+', '-', '@', '＝']), "{hostile}: {cell}");
            }
        }
        assert_eq!(text("1-2=3"), "1-2=3");
        assert_eq!(text("say \"hi\""), "\"say \"\"hi\"\"\"");
    }
}
