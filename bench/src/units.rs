//! Figures for people.

/// `87 ns`, `12.4 µs`, `1.25 ms`.
pub(crate) fn nanoseconds(value: f64) -> String {
    match value {
        v if v < 1e3 => format!("{v:.0} ns"),
        v if v < 1e5 => format!("{:.1} µs", v / 1e3),
        v if v < 1e6 => format!("{:.0} µs", v / 1e3),
        v if v < 1e9 => format!("{:.2} ms", v / 1e6),
        v => format!("{:.2} s", v / 1e9),
    }
}

pub(crate) fn seconds(value: f64) -> String {
    nanoseconds(value * 1e9)
}

/// In units of 1,024, as the kernel counts.
pub(crate) fn bytes(value: u64) -> String {
    const UNITS: [&str; 4] = ["B", "KiB", "MiB", "GiB"];
    let mut shown = value as f64;
    let mut unit = 0;
    while shown >= 1024.0 && unit + 1 < UNITS.len() {
        shown /= 1024.0;
        unit += 1;
    }
    if unit == 0 { format!("{value} B") } else { format!("{shown:.1} {}", UNITS[unit]) }
}

/// `10,000`.
pub(crate) fn thousands(value: u64) -> String {
    let digits = value.to_string();
    let mut text = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_for_people() {
        assert_eq!(thousands(1), "1");
        assert_eq!(thousands(999), "999");
        assert_eq!(thousands(1_234_567), "1,234,567");
        assert_eq!(nanoseconds(87.4), "87 ns");
        assert_eq!(nanoseconds(12_440.0), "12.4 µs");
        assert_eq!(seconds(19.337), "19.34 s");
        assert_eq!(bytes(8 << 20), "8.0 MiB");
        assert_eq!(bytes(12), "12 B");
    }
}
