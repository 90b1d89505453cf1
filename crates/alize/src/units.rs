//! Figures for people: three significant digits and a unit.

use std::time::Duration;

/// A count: `0`, `999`, `1.23k`, `45.6M`.
pub(crate) fn count(value: u64) -> String {
    match value {
        0..1_000 => value.to_string(),
        _ => scaled(value as f64, 1000.0, &["", "k", "M", "G", "T", "P", "E"]),
    }
}

/// A size: `0 B`, `1.5 KiB`.
pub(crate) fn bytes(value: u64) -> String {
    match value {
        0..1_024 => format!("{value} B"),
        _ => scaled(value as f64, 1024.0, &[" B", " KiB", " MiB", " GiB", " TiB", " PiB", " EiB"]),
    }
}

/// Something per second: `0`, `3.2`, `1.23k`.
pub(crate) fn rate(value: f64) -> String {
    match value {
        0.0 => "0".into(),
        v if v < 0.095 => "<0.1".into(),
        v if v < 9.95 => format!("{v:.1}"),
        v => scaled(v, 1000.0, &["", "k", "M", "G"]),
    }
}

/// Seconds of a measurement: `85 us`, `1.23 ms`, `4.5 s`.
pub(crate) fn seconds(value: f64) -> String {
    match value {
        v if v < 0.000_999_5 => format!("{:.0} us", v * 1e6),
        v if v < 0.999_5 => format!("{} ms", significant(v * 1e3)),
        v => format!("{} s", significant(v)),
    }
}

/// How long ago or for how long, in its two largest units: `45 s`, `3 min 20 s`, `2 d 4 h`.
pub(crate) fn age(age: Duration) -> String {
    let seconds = age.as_secs();
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86_400);
    let two = |large: u64, unit: &str, small: u64, small_unit: &str| match small {
        0 => format!("{large} {unit}"),
        _ => format!("{large} {unit} {small} {small_unit}"),
    };
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3600 => two(minutes, "min", seconds % 60, "s"),
        3600..86_400 => two(hours, "h", minutes % 60, "min"),
        _ => two(days, "d", hours % 24, "h"),
    }
}

/// A part of one: `0 %`, `<0.1 %`, `33.3 %`, `100 %`.
pub(crate) fn percent(part: f64) -> String {
    match part * 100.0 {
        0.0 => "0 %".into(),
        p if p < 0.05 => "<0.1 %".into(),
        p if p >= 99.95 => "100 %".into(),
        p => format!("{p:.1} %"),
    }
}

/// Seconds since the Unix epoch as date and time, RFC 3339: `2026-11-23T00:40:05.123Z`.
pub(crate) fn utc(time: f64) -> String {
    // Beyond the year 9999 the form has no place; negative and not-a-number become 0.
    let milliseconds = (time.min(253_402_300_799.0) * 1000.0).max(0.0) as u64;
    let (days, rest) = (milliseconds / 86_400_000, milliseconds % 86_400_000);
    let (year, month, day) = date(days);
    let (hour, minute, second) = (rest / 3_600_000, rest / 60_000 % 60, rest / 1000 % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{:03}Z", rest % 1000)
}

/// Year, month and day of a day counted from 1970-01-01. Years begin in March here, so that the leap day is their
/// last; 400 of them have 146,097 days.
fn date(days: u64) -> (u64, u64, u64) {
    let days = days + 719_468; // from 0000-03-01
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month + 2) / 5 + 1;
    let (month, next_year) = if month < 10 { (month + 3, 0) } else { (month - 9, 1) };
    (400 * era + year_of_era + next_year, month, day)
}

fn scaled(mut value: f64, step: f64, units: &[&str]) -> String {
    let mut unit = 0;
    // 999.5 would be shown as 1000.
    while value >= step - 0.5 && unit + 1 < units.len() {
        value /= step;
        unit += 1;
    }
    format!("{}{}", significant(value), units[unit])
}

/// Three significant digits, no digit after the point from 100 on.
fn significant(value: f64) -> String {
    match value {
        v if v < 9.995 => format!("{v:.2}"),
        v if v < 99.95 => format!("{v:.1}"),
        v => format!("{v:.0}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts() {
        let shown = [0, 7, 999, 1_000, 1_234, 12_345, 999_499, 999_500, 1_000_000, u64::MAX].map(count);
        assert_eq!(shown, ["0", "7", "999", "1.00k", "1.23k", "12.3k", "999k", "1.00M", "1.00M", "18.4E"]);
    }

    #[test]
    fn sizes() {
        let shown = [0, 1_023, 1_024, 1_536, 1_048_575, 1 << 20, u64::MAX].map(bytes);
        assert_eq!(shown, ["0 B", "1023 B", "1.00 KiB", "1.50 KiB", "1.00 MiB", "1.00 MiB", "16.0 EiB"]);
    }

    #[test]
    fn rates() {
        let shown = [0.0, 0.01, 0.25, 9.94, 9.96, 123.4, 999.4, 999.6, 18_922.0].map(rate);
        assert_eq!(shown, ["0", "<0.1", "0.2", "9.9", "9.96", "123", "999", "1.00k", "18.9k"]);
    }

    #[test]
    fn measurements() {
        let shown = [0.0, 0.000_085, 0.000_999_4, 0.000_999_6, 0.001_234, 0.45, 0.999_6, 12.0].map(seconds);
        assert_eq!(shown, ["0 us", "85 us", "999 us", "1.00 ms", "1.23 ms", "450 ms", "1.00 s", "12.0 s"]);
    }

    #[test]
    fn ages() {
        let shown = [0, 59, 60, 61, 3_600, 3_660, 86_400, 200_000].map(|s| age(Duration::from_secs(s)));
        assert_eq!(shown, ["0 s", "59 s", "1 min", "1 min 1 s", "1 h", "1 h 1 min", "1 d", "2 d 7 h"]);
    }

    #[test]
    fn dates() {
        let shown =
            [-1.0, 0.0, 951_782_400.5, 1_709_164_800.0, 4_107_542_399.999, f64::NAN, f64::MAX].map(utc);
        let expected = [
            "1970-01-01T00:00:00.000Z",
            "1970-01-01T00:00:00.000Z",
            "2000-02-29T00:00:00.500Z",
            "2024-02-29T00:00:00.000Z",
            "2100-02-28T23:59:59.999Z",
            "9999-12-31T23:59:59.000Z",
            "9999-12-31T23:59:59.000Z",
        ];
        assert_eq!(shown, expected);
    }

    #[test]
    fn parts() {
        let shown = [0.0, 0.000_1, 0.333_33, 0.9, 0.999_9, 1.0].map(percent);
        assert_eq!(shown, ["0 %", "<0.1 %", "33.3 %", "90.0 %", "100 %", "100 %"]);
    }
}
