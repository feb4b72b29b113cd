//! Points in time as the audit log writes them: UTC, RFC 3339, to the millisecond. Pure but for `now`.

use std::fmt;
use std::str::FromStr;
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use crate::path::escape;
use crate::timespan::TimeSpan;

const DAY: i64 = 86_400_000;

/// A point in time, in milliseconds since 1970-01-01 00:00 UTC.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct UtcTime(pub i64);

impl UtcTime {
    /// What the wall clock says.
    #[must_use]
    pub fn now() -> Self {
        let now = SystemTime::now();
        let since = |a: SystemTime, b: SystemTime| a.duration_since(b).ok().and_then(|d| i64::try_from(d.as_millis()).ok());
        Self(since(now, UNIX_EPOCH).or_else(|| since(UNIX_EPOCH, now).map(|ms| -ms)).unwrap_or_default())
    }

    /// Reads what a person writes: `2026-04-01T12:00:00Z`, `2026-04-01` (its first moment, UTC), or `2h` for two hours
    /// before `now`.
    ///
    /// # Errors
    /// One sentence with the accepted forms.
    pub fn parse_when(text: &str, now: Self) -> Result<Self, String> {
        if let Ok(TimeSpan(ago)) = text.parse() {
            return Ok(Self(now.0.saturating_sub(i64::try_from(ago.as_millis()).unwrap_or(i64::MAX))));
        }
        text.parse().or_else(|_| date(text.as_bytes()).map(|days| Self(days * DAY)).ok_or(())).map_err(|()| {
            format!(
                "`{}` is not a point in time; write \"2026-04-01\", \"2026-04-01T12:00:00Z\" or, for so long ago, \"2h\"",
                escape(text)
            )
        })
    }

    /// `2026-04-01T12:00:00Z`: to the second, for tables.
    #[must_use]
    pub fn seconds(&self) -> String {
        let text = self.to_string();
        format!("{}Z", text.split_once('.').map_or(text.as_str(), |(seconds, _)| seconds))
    }
}

/// Days since 1970-01-01 of a date of the Gregorian calendar. Years begin in March here, so that the leap day is the
/// last one; an era is 400 years, after which everything repeats.
fn days_from_civil(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    era * 146_097 + day_of_era - 719_468
}

/// The way back: `(year, month, day)`.
fn civil_from_days(days: i64) -> (i64, i64, i64) {
    let days = days + 719_468;
    let era = days.div_euclid(146_097);
    let day_of_era = days.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    (era * 400 + year_of_era + i64::from(month <= 2), month, day)
}

/// `YYYY-MM-DD` as days since 1970-01-01.
fn date(text: &[u8]) -> Option<i64> {
    let [y @ .., b'-', m1, m2, b'-', d1, d2] = text else { return None };
    let (year, month, day) = (number(y, 4)?, number(&[*m1, *m2], 2)?, number(&[*d1, *d2], 2)?);
    let days = days_from_civil(year, month, day);
    // A day that does not exist comes back as another one.
    (civil_from_days(days) == (year, month, day)).then_some(days)
}

/// `HH:MM:SS` in milliseconds; a leap second counts as the next one.
fn time_of_day(text: &[u8]) -> Option<i64> {
    let [h1, h2, b':', m1, m2, b':', s1, s2] = text else { return None };
    let (hour, minute, second) = (number(&[*h1, *h2], 2)?, number(&[*m1, *m2], 2)?, number(&[*s1, *s2], 2)?);
    (hour < 24 && minute < 60 && second <= 60).then_some(((hour * 60 + minute) * 60 + second) * 1000)
}

/// What follows the seconds: a fraction, if any, in whole milliseconds, and the zone in milliseconds east of UTC.
fn fraction_and_zone(text: &[u8]) -> Option<(i64, i64)> {
    let (fraction, zone) = match text {
        [b'.', rest @ ..] => rest.split_at(rest.iter().take_while(|b| b.is_ascii_digit()).count()),
        _ => (&b"0"[..], text),
    };
    if fraction.is_empty() {
        return None;
    }
    let milliseconds: i64 = [100, 10, 1].iter().zip(fraction).map(|(weight, digit)| weight * i64::from(digit - b'0')).sum();
    let zone = match zone {
        b"Z" | b"z" => 0,
        [sign @ (b'+' | b'-'), h1, h2, b':', m1, m2] => {
            let east = (number(&[*h1, *h2], 2)? * 60 + number(&[*m1, *m2], 2)?) * 60_000;
            if *sign == b'+' { east } else { -east }
        }
        _ => return None,
    };
    Some((milliseconds, zone))
}

fn number(digits: &[u8], length: usize) -> Option<i64> {
    let plain = digits.len() == length && digits.iter().all(u8::is_ascii_digit);
    plain.then(|| digits.iter().fold(0, |sum, digit| sum * 10 + i64::from(digit - b'0')))
}

impl FromStr for UtcTime {
    type Err = ();

    /// Reads RFC 3339, with any offset.
    fn from_str(text: &str) -> Result<Self, ()> {
        let parse = |text: &[u8]| {
            let (day, rest) = text.split_at_checked(10)?;
            let (separator, rest) = rest.split_first()?;
            let (clock, rest) = rest.split_at_checked(8)?;
            let (milliseconds, zone) = fraction_and_zone(rest)?;
            matches!(separator, b'T' | b't' | b' ').then_some(Self(date(day)? * DAY + time_of_day(clock)? + milliseconds - zone))
        };
        parse(text.as_bytes()).ok_or(())
    }
}

impl fmt::Display for UtcTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (year, month, day) = civil_from_days(self.0.div_euclid(DAY));
        let ms = self.0.rem_euclid(DAY);
        let (hour, minute, second) = (ms / 3_600_000, ms / 60_000 % 60, ms / 1000 % 60);
        write!(f, "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{:03}Z", ms % 1000)
    }
}

impl Serialize for UtcTime {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for UtcTime {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        String::deserialize(d)?.parse().map_err(|()| de::Error::custom("not an RFC 3339 time"))
    }
}

#[cfg(test)]
mod tests {
    use super::{DAY, UtcTime, civil_from_days, days_from_civil};

    #[test]
    fn known_dates() {
        for (date, days) in [
            ((1970, 1, 1), 0),
            ((1969, 12, 31), -1),
            ((2000, 2, 29), 11_016),
            ((2000, 3, 1), 11_017),
            ((1900, 2, 28), -25_509),
            ((1900, 3, 1), -25_508),
            ((2038, 1, 19), 24_855),
            ((1, 1, 1), -719_162),
        ] {
            assert_eq!(days_from_civil(date.0, date.1, date.2), days, "{date:?}");
            assert_eq!(civil_from_days(days), date);
        }
    }

    #[test]
    fn every_day_of_eight_centuries() {
        let mut previous = (1599, 12, 31);
        for days in days_from_civil(1600, 1, 1)..days_from_civil(2400, 1, 1) {
            let date = civil_from_days(days);
            assert_eq!(days_from_civil(date.0, date.1, date.2), days);
            assert!(date > previous && date.2 <= 31, "{date:?}");
            previous = date;
        }
        assert_eq!(previous, (2399, 12, 31));
    }

    #[test]
    fn reads_and_prints() {
        for (text, printed) in [
            ("2026-04-01T12:34:56Z", "2026-04-01T12:34:56.000Z"),
            ("2026-04-01T12:34:56.7899Z", "2026-04-01T12:34:56.789Z"),
            ("2026-04-01T12:34:56.5+02:00", "2026-04-01T10:34:56.500Z"),
            ("2026-04-01 00:00:00-01:30", "2026-04-01T01:30:00.000Z"),
            ("2016-12-31T23:59:60Z", "2017-01-01T00:00:00.000Z"),
            ("1969-12-31T23:59:59.999Z", "1969-12-31T23:59:59.999Z"),
        ] {
            assert_eq!(text.parse::<UtcTime>().unwrap().to_string(), printed);
        }
        assert_eq!(UtcTime(1_775_046_896_789).seconds(), "2026-04-01T12:34:56Z");
        assert!(UtcTime::now() > UtcTime(1_700_000_000_000));
        for bad in [
            "",
            "2026-04-01",
            "2026-04-01T12:34:56",
            "2026-04-01T12:34:56.Z",
            "2026-04-01T25:00:00Z",
            "2026-02-29T00:00:00Z",
            "2026-13-01T00:00:00Z",
            "26-04-01T00:00:00Z",
            "2026-04-01X00:00:00Z",
            "2026-04-01T12:34:56+2:00",
            "2026-04-01T12:34:56Zü",
            "+026-04-01T12:34:56Z",
        ] {
            assert!(bad.parse::<UtcTime>().is_err(), "{bad}");
        }
    }

    #[test]
    fn as_people_write_it() {
        let now = "2026-04-01T12:00:00Z".parse().unwrap();
        let when = |text| UtcTime::parse_when(text, now);
        assert_eq!(when("2h").unwrap().seconds(), "2026-04-01T10:00:00Z");
        assert_eq!(when("30m").unwrap().seconds(), "2026-04-01T11:30:00Z");
        assert_eq!(when("2026-03-31").unwrap().seconds(), "2026-03-31T00:00:00Z");
        assert_eq!(when("2026-03-31T01:00:00Z").unwrap(), UtcTime(when("2026-03-31").unwrap().0 + DAY / 24));
        for bad in ["yesterday", "2026-02-30", "2026-3-1", "20260301", "\u{1b}"] {
            let error = when(bad).unwrap_err();
            assert!(error.contains("is not a point in time") && !error.contains('\u{1b}'));
        }
    }
}
