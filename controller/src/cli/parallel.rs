//! The maximum number of concurrent orders: a number, or a share of all.

use std::str::FromStr;

/// `20`, `10%`, or 0 to leave it to the hub.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Parallel {
    /// A number.
    Number(u32),
    /// A share, per cent.
    Share(u32),
}

impl FromStr for Parallel {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let number = |text: &str| text.parse().map_err(|_| "a number as 20, or a share as 10%".to_owned());
        match text.strip_suffix('%') {
            None => number(text).map(Self::Number),
            Some(share) => match number(share)? {
                share @ 1..=100 => Ok(Self::Share(share)),
                _ => Err("a share is from 1% to 100%".to_owned()),
            },
        }
    }
}

impl Parallel {
    /// The number for this many machines; a share is at least one.
    pub(crate) fn of(self, machines: usize) -> u32 {
        let machines = u32::try_from(machines).unwrap_or(u32::MAX);
        match self {
            Self::Number(number) => number,
            Self::Share(share) => {
                u32::try_from(u64::from(machines) * u64::from(share) / 100).unwrap_or(u32::MAX).max(1)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_of_the_selected_machines_is_at_least_one() {
        let of = |text: &str, machines| text.parse::<Parallel>().map(|parallel| parallel.of(machines));
        assert_eq!((of("20", 3), of("0", 3)), (Ok(20), Ok(0)));
        assert_eq!((of("10%", 164), of("10%", 3), of("100%", 3)), (Ok(16), Ok(1), Ok(3)));
        for bad in ["", "x", "0%", "101%", "-1", "1.5"] {
            assert!(bad.parse::<Parallel>().is_err(), "{bad}");
        }
    }
}
