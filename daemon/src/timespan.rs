//! Time spans as people write them: `500ms`, `2s`, `5m`, `1h` (a subset of systemd.time(7)). Pure.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// A length of time, written as one whole number with one unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct TimeSpan(pub Duration);

/// Unit suffixes with their length in milliseconds, longest suffix of a shared ending first.
const UNITS: [(&str, u64); 5] = [("ms", 1), ("s", 1000), ("m", 60_000), ("h", 3_600_000), ("d", 86_400_000)];

impl TimeSpan {
    /// So many milliseconds.
    #[must_use]
    pub const fn millis(ms: u64) -> Self {
        Self(Duration::from_millis(ms))
    }
}

impl FromStr for TimeSpan {
    type Err = String;

    fn from_str(s: &str) -> Result<Self, String> {
        let bad =
            || format!("`{s}` is not a time span; write a whole number and a unit: \"500ms\", \"2s\", \"5m\", \"1h\", \"1d\"");
        let digits = s.bytes().take_while(u8::is_ascii_digit).count();
        let (number, unit) = s.split_at(digits);
        let number: u64 = number.parse().map_err(|_| bad())?;
        let (_, factor) = UNITS.iter().find(|(name, _)| *name == unit).ok_or_else(bad)?;
        let ms = number
            .checked_mul(*factor)
            .filter(|ms| *ms <= 366 * 86_400_000)
            .ok_or_else(|| format!("`{s}` is longer than a year"))?;
        Ok(Self::millis(ms))
    }
}

impl fmt::Display for TimeSpan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ms = u64::try_from(self.0.as_millis()).unwrap_or(u64::MAX);
        match UNITS.iter().rev().find(|(_, factor)| ms != 0 && ms.is_multiple_of(*factor)) {
            Some((unit, factor)) => write!(f, "{}{unit}", ms / factor),
            None => write!(f, "{ms}ms"),
        }
    }
}

impl Serialize for TimeSpan {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for TimeSpan {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        String::deserialize(d)?.parse().map_err(de::Error::custom)
    }
}

#[cfg(feature = "schema")]
impl schemars::JsonSchema for TimeSpan {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "TimeSpan".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({
            "type": "string",
            "pattern": "^[0-9]+(ms|s|m|h|d)$",
            "description": "A whole number and a unit: 500ms, 2s, 5m, 1h, 1d."
        })
    }
}

#[cfg(test)]
mod tests {
    use super::TimeSpan;

    #[test]
    fn reads_and_prints() {
        for (text, ms) in [("500ms", 500), ("2s", 2000), ("5m", 300_000), ("1h", 3_600_000), ("0s", 0)] {
            assert_eq!(text.parse::<TimeSpan>().unwrap(), TimeSpan::millis(ms));
        }
        assert_eq!(TimeSpan::millis(1500).to_string(), "1500ms");
        assert_eq!(TimeSpan::millis(120_000).to_string(), "2m");
        for bad in ["", "5", "s", "-1s", "1.5s", "5 s", "1y", "400d", "99999999999999999999s"] {
            assert!(bad.parse::<TimeSpan>().is_err(), "{bad}");
        }
    }
}
