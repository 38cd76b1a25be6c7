//! Limits the journal lines per hour that others can cause. Further ones are counted, and the
//! count is written with the first line of the next hour.
//!
//! Acts done here are not limited: each has its own line.

use std::time::Duration;

/// Lines an hour.
pub(super) const LINES: u32 = 60;

const HOUR: Duration = Duration::from_secs(3600);

/// The lines of one hour, by the monotonic clock.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct LineBudget {
    begun: Option<Duration>,
    written: u32,
    left_out: u64,
}

/// What to do with a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Line {
    /// It is written.
    Write,
    /// It is written, after a line that says how many were left out in the hour before.
    WriteAfter(u64),
    /// It is only counted.
    LeaveOut,
}

impl LineBudget {
    /// Asks for one more line.
    pub(super) fn take(&mut self, now: Duration) -> Line {
        let is_over = self.begun.is_none_or(|begun| now.saturating_sub(begun) >= HOUR);
        let before = self.left_out;
        if is_over {
            *self = Self { begun: Some(now), written: 0, left_out: 0 };
        }
        if self.written >= LINES {
            self.left_out += 1;
            return Line::LeaveOut;
        }
        self.written += 1;
        if is_over && before > 0 { Line::WriteAfter(before) } else { Line::Write }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_beyond_the_hourly_limit_are_counted_in_the_next_hour() {
        let mut budget = LineBudget::default();
        let at = Duration::from_secs;
        for _ in 0..LINES {
            assert_eq!(budget.take(at(7)), Line::Write);
        }
        for _ in 0..1000 {
            assert_eq!(budget.take(at(8)), Line::LeaveOut);
        }
        assert_eq!(budget.take(at(3606)), Line::LeaveOut);
        assert_eq!(budget.take(at(3607)), Line::WriteAfter(1001));
        assert_eq!(budget.take(at(3608)), Line::Write);
        assert_eq!(budget.take(at(9000)), Line::Write, "nothing was left out");
    }
}
