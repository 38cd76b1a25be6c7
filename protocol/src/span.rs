//! Lengths of time as people type them: `500ms`, `30s`, `15m`, `48h`, `7d`.

use std::time::Duration;

/// Reads a length of time.
///
/// # Errors
/// In words, when it is none.
pub fn parse(text: &str) -> Result<Duration, String> {
    let at = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(at);
    let number: u64 = number.parse().map_err(|_| "write 30s, 15m, 48h or 7d".to_owned())?;
    let seconds = |factor: u64| number.checked_mul(factor).map(Duration::from_secs);
    let span = match unit {
        "ms" => Some(Duration::from_millis(number)),
        "s" | "" => seconds(1),
        "m" => seconds(60),
        "h" => seconds(3600),
        "d" => seconds(24 * 3600),
        "y" => seconds(365 * 24 * 3600),
        _ => None,
    };
    span.ok_or_else(|| "write 30s, 15m, 48h or 7d".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_are_read_as_people_type_them() {
        assert_eq!(parse("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(parse("48h"), Ok(Duration::from_secs(48 * 3600)));
        assert_eq!(parse("7"), Ok(Duration::from_secs(7)));
        assert!(parse("h").is_err() && parse("-1s").is_err() && parse("5 parsecs").is_err());
        assert!(parse("99999999999999999999d").is_err() && parse("9999999999999999999d").is_err());
    }
}
