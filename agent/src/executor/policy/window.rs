//! Windows of time in which the owner allows acts: days, hours, a zone.

use fernwart_protocol::document::UnixMs;
use jiff::civil::{Date, DateTime, Time, Weekday};
use jiff::tz::{AmbiguousOffset, TimeZone};
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
    days: Option<Vec<Weekday>>,
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

fn days<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Vec<Weekday>>, D::Error> {
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
    words.iter().map(day).collect::<Result<_, _>>().map(Some)
}

fn zone<'de, D: Deserializer<'de>>(from: D) -> Result<Option<TimeZone>, D::Error> {
    let name = String::deserialize(from)?;
    TimeZone::get(&name).map(Some).map_err(|_| D::Error::custom(format!("{name:?} is no zone like Europe/Berlin")))
}

/// When the next window opens: `now` or earlier if one is open, none if none opens within eight
/// days.
pub(super) fn opens(windows: &[Window], now: UnixMs) -> Option<UnixMs> {
    windows.iter().filter_map(|window| window.opens(now)).min()
}

impl Window {
    /// Its opening time, if it closes at the same time.
    pub(super) fn empty_at(&self) -> Option<String> {
        (self.to == End::At(self.from)).then(|| self.from.strftime("%H:%M").to_string())
    }

    /// Whether its list of days is empty.
    pub(super) fn is_on_no_day(&self) -> bool {
        self.days.as_ref().is_some_and(Vec::is_empty)
    }

    /// Whether it is open at this local time. Daylight saving is not special: an hour that is
    /// skipped never comes, an hour that is repeated comes twice.
    fn is_open_at(&self, wall: DateTime) -> bool {
        let is_day = |day: Date| self.days.as_ref().is_none_or(|days| days.contains(&day.weekday()));
        let (today, time) = (wall.date(), wall.time());
        let began_today = is_day(today) && time >= self.from;
        let began_yesterday = today.yesterday().is_ok_and(is_day);
        match self.to {
            // An empty window is refused when the policy is read; here it would never be open.
            End::At(to) if to >= self.from => began_today && time < to,
            End::At(to) => began_today || (began_yesterday && time < to),
            End::Midnight => began_today,
        }
    }

    fn opens(&self, now: UnixMs) -> Option<UnixMs> {
        let zone = self.zone.clone().unwrap_or_else(TimeZone::system);
        let wall = |at: UnixMs| Some(Timestamp::from_millisecond(at).ok()?.to_zoned(zone.clone()).datetime());
        if self.is_open_at(wall(now)?) {
            return Some(now);
        }
        let today = wall(now)?.date();
        for ahead in 0..9 {
            let from = today.checked_add(ahead.days()).ok()?.to_datetime(self.from);
            let ambiguous = zone.to_ambiguous_timestamp(from);
            let (early, late) = (ambiguous.earlier().ok()?, ambiguous.later().ok()?);
            let moments = match ambiguous.offset() {
                // The opening time is skipped that night: the window opens when the clock has
                // moved on.
                AmbiguousOffset::Gap { .. } => {
                    let moved = zone.following(early).next().map_or(late, |transition| transition.timestamp());
                    [moved, late]
                }
                AmbiguousOffset::Fold { .. } | AmbiguousOffset::Unambiguous { .. } => [early, late],
            };
            for at in moments.map(Timestamp::as_millisecond) {
                if at > now && self.is_open_at(wall(at)?) {
                    return Some(at);
                }
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
    fn a_window_is_open_during_its_hours_and_opens_again_the_next_night() {
        let night = [window("from = \"02:00\"\nto = \"04:00\"\nzone = \"Europe/Berlin\"")];
        // 01:30 UTC is 02:30 in Berlin in winter.
        assert!(opens(&night, at("2026-11-23T01:30:00Z")).expect("open") <= at("2026-11-23T01:30:00Z"));
        assert_eq!(opens(&night, at("2026-11-23T03:00:00Z")), Some(at("2026-11-24T01:00:00Z")));
        // In summer the same local hours are other hours in UTC.
        assert_eq!(opens(&night, at("2026-07-01T03:00:00Z")), Some(at("2026-07-02T00:00:00Z")));
    }

    #[test]
    fn a_window_may_span_midnight_and_be_limited_to_some_days() {
        let late = [window("from = \"22:00\"\nto = \"03:00\"\nzone = \"UTC\"\ndays = [\"sat\"]")];
        // Sat 28 Nov 2026, 22:00 to Sun 03:00.
        assert_eq!(opens(&late, at("2026-11-23T12:00:00Z")), Some(at("2026-11-28T22:00:00Z")));
        let sunday = at("2026-11-29T02:00:00Z");
        assert!(opens(&late, sunday).expect("open") <= sunday);
        assert_eq!(opens(&late, at("2026-11-29T03:00:00Z")), Some(at("2026-12-05T22:00:00Z")));
    }

    #[test]
    fn a_window_of_no_length_is_never_open() {
        let none = window("from = \"02:00\"\nto = \"02:00\"\nzone = \"UTC\"");
        for hour in 0..24 {
            assert!(!none.is_open_at(DateTime::constant(2026, 11, 23, hour, 0, 0, 0)), "{hour}");
        }
    }

    #[test]
    fn a_window_follows_local_time_across_daylight_saving_changes() {
        let berlin =
            |from: &str, to: &str| [window(&format!("from = \"{from}\"\nto = \"{to}\"\nzone = \"Europe/Berlin\""))];
        let is_open = |from, to, now: &str| opens(&berlin(from, to), at(now)) == Some(at(now));
        // In spring the hour from 02:00 to 03:00 is skipped: 01:59:59 is followed by 03:00:00.
        for (from, to, now, open) in [
            ("02:00", "02:30", "2027-03-28T00:59:59Z", false),
            ("02:00", "02:30", "2027-03-28T01:00:00Z", false),
            ("22:00", "02:30", "2027-03-28T00:59:59Z", true),
            ("22:00", "02:30", "2027-03-28T01:00:00Z", false),
            ("02:00", "04:00", "2027-03-28T01:00:00Z", true),
            // In autumn it is repeated: 02:59:59 is followed by 02:00:00.
            ("02:30", "03:00", "2027-10-31T00:29:59Z", false),
            ("02:30", "03:00", "2027-10-31T00:30:00Z", true),
            ("02:30", "03:00", "2027-10-31T01:15:00Z", false),
            ("02:30", "03:00", "2027-10-31T01:30:00Z", true),
            ("02:30", "03:00", "2027-10-31T02:00:00Z", false),
            ("02:45", "02:05", "2027-10-31T01:15:00Z", false),
        ] {
            assert_eq!(is_open(from, to, now), open, "{from} to {to} at {now}");
        }
        for (from, to, now, next) in [
            // The whole window is skipped, so it opens the next night.
            ("02:00", "02:30", "2027-03-28T00:00:00Z", "2027-03-29T00:00:00Z"),
            // Only its start is skipped, so it opens with the first moment after.
            ("02:15", "03:10", "2027-03-28T00:00:00Z", "2027-03-28T01:00:00Z"),
            ("02:30", "04:00", "2027-03-28T00:00:00Z", "2027-03-28T01:00:00Z"),
            // The hour is repeated, so it opens twice.
            ("02:30", "03:00", "2027-10-31T00:00:00Z", "2027-10-31T00:30:00Z"),
            ("02:30", "03:00", "2027-10-31T01:05:00Z", "2027-10-31T01:30:00Z"),
            ("02:30", "03:00", "2027-10-31T02:00:00Z", "2027-11-01T01:30:00Z"),
        ] {
            assert_eq!(opens(&berlin(from, to), at(now)), Some(at(next)), "{from} to {to} at {now}");
        }
    }

    #[test]
    fn an_invalid_time_day_or_zone_is_rejected() {
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
