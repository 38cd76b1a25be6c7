//! How many journal lines an hour others can cause: so many are written, the rest is
//! counted and told in one line.
//!
//! What was done here is no such line: each act has its own, whatever else is written.

use std::time::Duration;

/// Lines an hour.
pub(super) const LINES: u32 = 60;

const HOUR: Duration = Duration::from_secs(3600);

/// The lines of one hour, by a clock that nobody sets.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct LineBudget {
    begun: Option<Duration>,
    written: u32,
    left_out: u64,
}

/// What becomes of a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Line {
    /// It is written.
    Write,
    /// It is written, and that so many of the hour before were left out.
    WriteAfter(u64),
    /// It is counted alone.
    LeaveOut,
}

impl LineBudget {
    /// One more line is wanted.
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
    fn an_hour_has_its_lines_and_the_rest_is_told_in_the_next() {
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
