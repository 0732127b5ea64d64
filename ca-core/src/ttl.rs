//! How long a certificate lives.

use std::fmt;
use std::str::FromStr;

use time::Duration;

use crate::error::{Error, Result, shortened};

const MINUTE: u64 = 60;
const HOUR: u64 = 60 * MINUTE;
const DAY: u64 = 24 * HOUR;

/// A lifetime, in whole seconds: one minute at least, 100 years at most.
///
/// ```
/// use ca_core::Ttl;
/// assert_eq!(Ttl::parse("35d")?, Ttl::from_days(35));
/// assert_eq!(Ttl::parse("1d12h")?.as_secs(), 129_600);
/// # Ok::<(), ca_core::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ttl(u64);

impl Ttl {
    /// The shortest lifetime: one minute. Shorter ones expire while in use.
    pub const MIN: Ttl = Ttl(MINUTE);
    /// The longest lifetime that can be written: 100 years of 365 days.
    pub const MAX: Ttl = Ttl(100 * 365 * DAY);

    /// Parses a sum of numbers with units, largest first: `w` weeks, `d` days,
    /// `h` hours, `m` minutes, `s` seconds, and `y` for 365 days.
    ///
    /// # Errors
    /// [`Error::BadTtl`] if it is malformed or out of range.
    pub fn parse(input: &str) -> Result<Self> {
        let refuse = |why| {
            Err(Error::BadTtl {
                input: shortened(input),
                why,
            })
        };
        let mut total: u64 = 0;
        let mut last_unit = u64::MAX;
        let mut rest = input;
        if rest.is_empty() {
            return refuse("it is empty");
        }
        while !rest.is_empty() {
            let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
            if digits == 0 {
                return refuse("it is not a number with a unit");
            }
            let Ok(number) = rest[..digits].parse::<u64>() else {
                return refuse("the number is too large");
            };
            rest = &rest[digits..];
            let unit = match rest.bytes().next() {
                Some(b'y') => 365 * DAY,
                Some(b'w') => 7 * DAY,
                Some(b'd') => DAY,
                Some(b'h') => HOUR,
                Some(b'm') => MINUTE,
                Some(b's') => 1,
                Some(_) => return refuse("the unit is not one of y, w, d, h, m, s"),
                None => return refuse("the number has no unit"),
            };
            if unit >= last_unit {
                return refuse("units must go from large to small, each once");
            }
            last_unit = unit;
            rest = &rest[1..];
            let Some(sum) = number.checked_mul(unit).and_then(|n| total.checked_add(n)) else {
                return refuse("the number is too large");
            };
            total = sum;
        }
        match Ttl(total) {
            ttl if ttl < Self::MIN => refuse("it is shorter than one minute"),
            ttl if ttl > Self::MAX => refuse("it is longer than 100 years"),
            ttl => Ok(ttl),
        }
    }

    /// A number of seconds, brought into the range that a lifetime can have.
    #[must_use]
    pub const fn from_secs(seconds: u64) -> Self {
        if seconds < Self::MIN.0 {
            Self::MIN
        } else if seconds > Self::MAX.0 {
            Self::MAX
        } else {
            Ttl(seconds)
        }
    }

    /// A number of days of 24 hours, at most 36 500.
    #[must_use]
    pub const fn from_days(days: u32) -> Self {
        Self::from_secs(days as u64 * DAY)
    }

    /// The lifetime in seconds.
    #[must_use]
    pub const fn as_secs(self) -> u64 {
        self.0
    }

    pub(crate) fn duration(self) -> Duration {
        // At most 100 years, so it fits.
        Duration::seconds(i64::try_from(self.0).unwrap_or(i64::MAX))
    }
}

impl fmt::Display for Ttl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut left = self.0;
        for (unit, letter) in [(DAY, 'd'), (HOUR, 'h'), (MINUTE, 'm'), (1, 's')] {
            if left >= unit {
                write!(f, "{}{letter}", left / unit)?;
                left %= unit;
            }
        }
        Ok(())
    }
}

impl FromStr for Ttl {
    type Err = Error;
    fn from_str(s: &str) -> Result<Self> {
        Self::parse(s)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn malformed_lifetimes_are_refused() {
        for bad in [
            "", "35", "d", "35x", "35 d", "-1d", "1.5d", "0s", "59s", "1h1d", "1d1d",
            "99999999999999999999d", "101y", "١d", "1d12", "+1d",
        ] {
            assert!(Ttl::parse(bad).is_err(), "{bad:?} was accepted");
        }
    }

    proptest! {
        #[test]
        fn a_lifetime_reads_back_as_written(seconds in Ttl::MIN.0..=Ttl::MAX.0) {
            let ttl = Ttl::from_secs(seconds);
            prop_assert_eq!(Ttl::parse(&ttl.to_string()).unwrap(), ttl);
        }

        #[test]
        fn an_accepted_lifetime_is_within_bounds(input in "[0-9]{0,12}[ywdhms]{0,2}[0-9]{0,4}[ywdhms]?") {
            if let Ok(ttl) = Ttl::parse(&input) {
                prop_assert!(ttl >= Ttl::MIN && ttl <= Ttl::MAX);
            }
        }
    }
}
