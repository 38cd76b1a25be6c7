//! Windows of time in which the owner allows acts: days, hours, a zone.

use fernwart_protocol::document::UnixMs;
use jiff::civil::{Time, Weekday};
use jiff::tz::TimeZone;
use jiff::{Timestamp, ToSpan};
use serde::{Deserialize, Deserializer, de::Error};

/// From one time of day to another, which may lie on the next day.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Window {
    /// `02:00`.
    #[serde(deserialize_with = "time")]
    from: Time,
    /// `04:00`; `24:00` is the end of the day.
    #[serde(deserialize_with = "end")]
    to: End,
    /// `["sat", "sun"]`; every day if it is not there.
    #[serde(default, deserialize_with = "days")]
    days: Vec<Weekday>,
    /// `Europe/Berlin`; the machine's own if it is not there.
    #[serde(default, deserialize_with = "zone")]
    zone: Option<TimeZone>,
}

fn time<'de, D: Deserializer<'de>>(from: D) -> Result<Time, D::Error> {
    let text = String::deserialize(from)?;
    Time::strptime("%H:%M", &text).map_err(|_| D::Error::custom(format!("{text:?} is no time like 02:00")))
}

/// When a window closes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    At(Time),
    Midnight,
}

fn end<'de, D: Deserializer<'de>>(from: D) -> Result<End, D::Error> {
    let text = String::deserialize(from)?;
    match text.as_str() {
        "24:00" => Ok(End::Midnight),
        _ => Time::strptime("%H:%M", &text)
            .map(End::At)
            .map_err(|_| D::Error::custom(format!("{text:?} is no time like 04:00"))),
    }
}

fn days<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<Weekday>, D::Error> {
    let known = |word: &str| {
        let all = [
            ("mon", Weekday::Monday),
            ("tue", Weekday::Tuesday),
            ("wed", Weekday::Wednesday),
            ("thu", Weekday::Thursday),
            ("fri", Weekday::Friday),
            ("sat", Weekday::Saturday),
            ("sun", Weekday::Sunday),
        ];
        all.into_iter().find(|(name, _)| *name == word).map(|(_, day)| day)
    };
    let words = Vec::<String>::deserialize(from)?;
    let day = |word: &String| known(word).ok_or_else(|| D::Error::custom(format!("{word:?} is no day like sat")));
    words.iter().map(day).collect()
}

fn zone<'de, D: Deserializer<'de>>(from: D) -> Result<Option<TimeZone>, D::Error> {
    let name = String::deserialize(from)?;
    TimeZone::get(&name).map(Some).map_err(|_| D::Error::custom(format!("{name:?} is no zone like Europe/Berlin")))
}

/// When the next window opens: `now` or before if one is open, nothing if none
/// opens within eight days.
pub(super) fn opens(windows: &[Window], now: UnixMs) -> Option<UnixMs> {
    windows.iter().filter_map(|window| window.opens(now)).min()
}

impl Window {
    /// The time at which it opens and closes, where that is one.
    pub(super) fn empty_at(&self) -> Option<String> {
        (self.to == End::At(self.from)).then(|| self.from.strftime("%H:%M").to_string())
    }

    fn opens(&self, now: UnixMs) -> Option<UnixMs> {
        let zone = self.zone.clone().unwrap_or_else(TimeZone::system);
        let today = Timestamp::from_millisecond(now).ok()?.to_zoned(zone.clone()).date();
        // One that began yesterday may still be open.
        for ahead in -1..8 {
            let day = today.checked_add(ahead.days()).ok()?;
            if !self.days.is_empty() && !self.days.contains(&day.weekday()) {
                continue;
            }
            let (last, to) = match self.to {
                End::At(to) if to > self.from => (day, to),
                End::At(to) => (day.tomorrow().ok()?, to),
                End::Midnight => (day.tomorrow().ok()?, Time::midnight()),
            };
            let moment = |date: jiff::civil::Date, time| {
                date.to_datetime(time).to_zoned(zone.clone()).map(|at| at.timestamp().as_millisecond()).ok()
            };
            let (from, to) = (moment(day, self.from)?, moment(last, to)?);
            if now < to {
                return Some(from);
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn window(text: &str) -> Window {
        toml::from_str(text).expect("a window")
    }

    fn at(text: &str) -> UnixMs {
        text.parse::<Timestamp>().expect("a time").as_millisecond()
    }

    #[test]
    fn a_window_is_open_in_its_hours_and_opens_again_the_next_night() {
        let night = [window("from = \"02:00\"\nto = \"04:00\"\nzone = \"Europe/Berlin\"")];
        // 01:30 UTC is 02:30 in Berlin in winter.
        assert!(opens(&night, at("2026-11-23T01:30:00Z")).expect("open") <= at("2026-11-23T01:30:00Z"));
        assert_eq!(opens(&night, at("2026-11-23T03:00:00Z")), Some(at("2026-11-24T01:00:00Z")));
        // And in summer the same hours are others in UTC.
        assert_eq!(opens(&night, at("2026-07-01T03:00:00Z")), Some(at("2026-07-02T00:00:00Z")));
    }

    #[test]
    fn a_window_over_midnight_and_one_on_some_days() {
        let late = [window("from = \"22:00\"\nto = \"03:00\"\nzone = \"UTC\"\ndays = [\"sat\"]")];
        // Sat 28 Nov 2026, 22:00 to Sun 03:00.
        assert_eq!(opens(&late, at("2026-11-23T12:00:00Z")), Some(at("2026-11-28T22:00:00Z")));
        let sunday = at("2026-11-29T02:00:00Z");
        assert!(opens(&late, sunday).expect("open") <= sunday);
        assert_eq!(opens(&late, at("2026-11-29T03:00:00Z")), Some(at("2026-12-05T22:00:00Z")));
    }

    #[test]
    fn what_is_no_time_day_or_zone_is_told() {
        for bad in [
            "from = \"2\"\nto = \"04:00\"",
            "from = \"02:00\"\nto = \"25:00\"",
            "from = \"02:00\"\nto = \"04:00\"\ndays = [\"someday\"]",
            "from = \"02:00\"\nto = \"04:00\"\nzone = \"Mars\"",
        ] {
            assert!(toml::from_str::<Window>(bad).is_err(), "{bad}");
        }
    }
}
