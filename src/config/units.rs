//! Durations as people write them.
#![forbid(unsafe_code)]

use std::time::Duration;

/// Units of time, longest first, in milliseconds. PostgreSQL's names.
const TIME_UNITS: [(&str, u64); 5] =
    [("d", 86_400_000), ("h", 3_600_000), ("min", 60_000), ("s", 1_000), ("ms", 1)];

/// Why a text is not a duration.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UnitError {
    /// A number with nothing behind it.
    #[error("a unit is missing; did you mean \"{number}s\"?")]
    NoUnit {
        /// The number.
        number: String,
    },
    /// A unit that is none of ours.
    #[error("`{0}` is not a unit")]
    UnknownUnit(String),
    /// No number where one must stand.
    #[error("a number is missing")]
    NoNumber,
    /// More than 64 bits hold.
    #[error("the number is too large")]
    TooLarge,
}

/// Reads `30s`, `5min`, `500ms`, `1h`, `1d`, `2h 30min`, and `0`.
pub fn parse_duration(text: &str) -> Result<Duration, UnitError> {
    let mut rest = text.trim();
    if rest == "0" {
        return Ok(Duration::ZERO);
    }
    if rest.is_empty() {
        return Err(UnitError::NoNumber);
    }
    let mut sum = 0u64;
    while !rest.is_empty() {
        let (millis, after) = parse_part(rest)?;
        sum = sum.checked_add(millis).ok_or(UnitError::TooLarge)?;
        rest = after.trim_start();
    }
    Ok(Duration::from_millis(sum))
}

/// Writes a duration as [`parse_duration`] reads it; what is below a millisecond is dropped.
pub fn format_duration(duration: Duration) -> String {
    let mut rest = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    if rest == 0 {
        return "0s".to_owned();
    }
    let mut parts = Vec::new();
    for (unit, factor) in TIME_UNITS {
        if rest >= factor {
            parts.push(format!("{}{unit}", rest / factor));
            rest %= factor;
        }
    }
    parts.join(" ")
}

/// Reads a number and its unit: milliseconds, and what follows.
fn parse_part(text: &str) -> Result<(u64, &str), UnitError> {
    let (number, after) = split_where(text, |it| !it.is_ascii_digit());
    if number.is_empty() {
        return Err(UnitError::NoNumber);
    }
    let (unit, after) = split_where(after.trim_start(), |it| it.is_ascii_digit() || it.is_whitespace());
    if unit.is_empty() {
        return Err(UnitError::NoUnit { number: number.to_owned() });
    }
    let factor = TIME_UNITS.iter().find(|(name, _)| *name == unit).map(|(_, factor)| *factor);
    let factor = factor.ok_or_else(|| UnitError::UnknownUnit(unit.to_owned()))?;
    let number: u64 = number.parse().map_err(|_| UnitError::TooLarge)?;
    Ok((number.checked_mul(factor).ok_or(UnitError::TooLarge)?, after))
}

fn split_where(text: &str, stop: impl Fn(char) -> bool) -> (&str, &str) {
    text.split_at(text.find(stop).unwrap_or(text.len()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn durations_are_read_as_people_write_them() {
        let cases = [
            ("30s", 30_000),
            ("5min", 300_000),
            ("500ms", 500),
            ("1h", 3_600_000),
            ("1d", 86_400_000),
            ("2h 30min", 9_000_000),
            ("1h30min", 5_400_000),
            (" 10 s ", 10_000),
            ("0", 0),
            ("0s", 0),
        ];
        for (text, millis) in cases {
            assert_eq!(parse_duration(text), Ok(Duration::from_millis(millis)), "{text}");
        }
    }

    #[test]
    fn what_is_no_duration_is_refused_with_a_reason() {
        let cases = [
            ("30", "a unit is missing; did you mean \"30s\"?"),
            ("1h 30", "a unit is missing; did you mean \"30s\"?"),
            ("5m", "`m` is not a unit"),
            ("5 minutes", "`minutes` is not a unit"),
            ("1.5s", "`.` is not a unit"),
            ("-1s", "a number is missing"),
            ("", "a number is missing"),
            ("s", "a number is missing"),
            ("99999999999999999999s", "the number is too large"),
            ("9999999999999999999d", "the number is too large"),
        ];
        for (text, message) in cases {
            assert_eq!(parse_duration(text).unwrap_err().to_string(), message, "{text}");
        }
    }

    proptest! {
        #[test]
        fn a_duration_survives_writing_and_reading(millis in 0u64..u64::MAX / 2) {
            let duration = Duration::from_millis(millis);
            prop_assert_eq!(parse_duration(&format_duration(duration)), Ok(duration));
        }

        #[test]
        fn no_text_makes_the_parser_panic(text in "\\PC*") {
            let _ = parse_duration(&text);
        }
    }
}
