//! Durations as people type them: `500ms`, `30s`, `15m`, `48h`, `7d`.

use std::time::Duration;

/// Parses a duration.
///
/// # Errors
/// When `text` is no duration, with a message for the person who typed it.
pub fn parse(text: &str) -> Result<Duration, String> {
    let at = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(at);
    let number: u64 = number.parse().map_err(|_| "write 30s, 15m, 48h or 7d".to_owned())?;
    let seconds = |factor: u64| number.checked_mul(factor).map(Duration::from_secs);
    let span = match unit {
        "ms" => Some(Duration::from_millis(number)),
        "s" => seconds(1),
        // Zero needs no unit; any other number without one is ambiguous.
        "" if number == 0 => seconds(1),
        "m" => seconds(60),
        "h" => seconds(3600),
        "d" => seconds(24 * 3600),
        "y" => seconds(365 * 24 * 3600),
        _ => None,
    };
    span.ok_or_else(|| "write 30s, 15m, 48h or 7d".to_owned())
}

/// Formats a duration as it would be typed, in the largest unit that divides it.
pub fn in_words(span: Duration) -> String {
    let units = [(24 * 3600 * 1000, "d"), (3600 * 1000, "h"), (60 * 1000, "m"), (1000, "s")];
    let ms = span.as_millis();
    match units.iter().find(|(unit, _)| ms > 0 && ms.is_multiple_of(*unit)) {
        Some((unit, letter)) => format!("{}{letter}", ms / unit),
        None => format!("{ms}ms"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_parsed_as_people_type_them() {
        assert_eq!(parse("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(parse("48h"), Ok(Duration::from_secs(48 * 3600)));
        assert_eq!(parse("0"), Ok(Duration::ZERO));
        assert!(parse("90").is_err(), "of days somebody may have meant");
        for typed in ["500ms", "90s", "15m", "36h", "7d", "0ms"] {
            assert_eq!(parse(typed).map(in_words).as_deref(), Ok(typed));
        }
        assert!(parse("h").is_err() && parse("-1s").is_err() && parse("5 parsecs").is_err());
        assert!(parse("99999999999999999999d").is_err() && parse("9999999999999999999d").is_err());
    }
}
