//! From the text of one value to the value: numbers, durations, addresses, words. Pure, no positions.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use crate::http::{FieldName, FieldValue, Fraction, Pattern};

use super::keys::Word;

/// Why a text is no such value, and what to write instead where that is known.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Refusal {
    /// Goes after the value: `is out of range`.
    pub(crate) problem: String,
    pub(crate) help: Option<String>,
}

impl Refusal {
    pub(crate) fn new(problem: impl Into<String>, help: impl Into<String>) -> Self {
        Self { problem: problem.into(), help: Some(help.into()) }
    }
}

/// The range of a whole number.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Whole {
    pub(crate) min: u64,
    pub(crate) max: u64,
}

impl Whole {
    /// Reads decimal digits; a number that does not fit in `T` is out of range too.
    pub(crate) fn read<T: TryFrom<u64>>(self, text: &str) -> Result<T, Refusal> {
        let digits = text.strip_prefix('-').unwrap_or(text);
        let Whole { min, max } = self;
        if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
            return Err(Refusal::new("is no whole number", format!("write a number from {min} to {max}")));
        }
        // YAML 1.1 reads 010 as 8, YAML 1.2 as 10.
        if digits.len() > 1 && digits.starts_with('0') {
            return Err(Refusal::new("begins with 0", "leave the zeros out"));
        }
        let value = text.parse().ok().filter(|value| (min..=max).contains(value));
        value.and_then(|value| T::try_from(value).ok()).ok_or_else(|| self.out_of_range())
    }

    fn out_of_range(self) -> Refusal {
        Refusal::new("is out of range", format!("allowed: {} to {}", self.min, self.max))
    }
}

/// The range of a duration.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Lapse {
    pub(crate) min: Duration,
    pub(crate) max: Duration,
}

impl Lapse {
    pub(crate) fn read(self, text: &str) -> Result<Duration, Refusal> {
        let Lapse { min, max } = self;
        let unit_at = text.bytes().take_while(u8::is_ascii_digit).count();
        let (digits, unit) = text.split_at(unit_at);
        if digits.is_empty() {
            return Err(Refusal::new("is no duration", format!("write one such as {}", show(min))));
        }
        let milliseconds: u64 = match unit {
            "ms" => 1,
            "s" => 1_000,
            "m" => 60_000,
            "h" => 3_600_000,
            "" => return Err(Refusal::new("has no unit", format!("write {}s for seconds", shorten(digits)))),
            _ => return Err(Refusal::new("is no duration", "one number and one unit: ms, s, m or h")),
        };
        let value = digits.parse::<u64>().ok().and_then(|count| count.checked_mul(milliseconds));
        match value.map(Duration::from_millis) {
            Some(value) if (min..=max).contains(&value) => Ok(value),
            _ => Err(Refusal::new("is out of range", format!("allowed: {} to {}", show(min), show(max)))),
        }
    }
}

/// A duration as the file spells it: in the largest unit that needs no fraction.
pub(crate) fn show(duration: Duration) -> String {
    let milliseconds = duration.as_millis();
    match milliseconds {
        0 => "0s".into(),
        _ if milliseconds.is_multiple_of(3_600_000) => format!("{}h", milliseconds / 3_600_000),
        _ if milliseconds.is_multiple_of(60_000) => format!("{}m", milliseconds / 60_000),
        _ if milliseconds.is_multiple_of(1_000) => format!("{}s", milliseconds / 1_000),
        _ => format!("{milliseconds}ms"),
    }
}

/// Values that one word each names.
pub(crate) trait Choice: Copy + 'static {
    const WORDS: &'static [Word];
    /// In the order of the words.
    const VALUES: &'static [Self];

    fn read(text: &str) -> Result<Self, Refusal> {
        let named = Self::WORDS.iter().zip(Self::VALUES).find(|(word, _)| word.text == text);
        named.map(|(_, value)| *value).ok_or_else(|| Self::refuse(text))
    }

    fn refuse(text: &str) -> Refusal {
        let words: Vec<_> = Self::WORDS.iter().map(|word| word.text).collect();
        let help = match nearest(text, &words) {
            Some(word) => format!("did you mean {word}? allowed: {}", words.join(", ")),
            None => format!("allowed: {}", words.join(", ")),
        };
        Refusal::new("is not known", help)
    }
}

macro_rules! choice {
    ($type:ident: $($variant:ident $text:literal $about:literal;)+) => {
        impl Choice for $type {
            const WORDS: &'static [Word] = &[$(Word { text: $text, about: $about }),+];
            const VALUES: &'static [Self] = &[$($type::$variant),+];
        }
    };
}
pub(crate) use choice;

/// The candidate that `text` was probably meant to be.
pub(crate) fn nearest<'a>(text: &str, candidates: &[&'a str]) -> Option<&'a str> {
    const LONGEST: usize = 40;
    if text.len() > LONGEST {
        return None;
    }
    let text = text.to_ascii_lowercase().replace('_', "-");
    let (distance, best) = candidates
        .iter()
        .map(|candidate| (strsim::damerau_levenshtein(&text, candidate), *candidate))
        .min_by_key(|(distance, _)| *distance)?;
    // A third of the letters may be wrong: `protocl`, `wieght`, `leastconnections`; not `foo` for `mode`.
    (distance <= best.len().div_ceil(3)).then_some(best)
}

pub(crate) fn boolean(text: &str) -> Result<bool, Refusal> {
    match text {
        "true" => Ok(true),
        "false" => Ok(false),
        _ if ["true", "yes", "on", "y", "1"].contains(&&*text.to_ascii_lowercase()) => {
            Err(Refusal::new("is neither true nor false", "write true"))
        }
        _ if ["false", "no", "off", "n", "0"].contains(&&*text.to_ascii_lowercase()) => {
            Err(Refusal::new("is neither true nor false", "write false"))
        }
        _ => Err(Refusal::new("is neither true nor false", "write true or false")),
    }
}

/// An IP address with a port above 0; IPv6 is neither v4-mapped nor scoped.
pub(crate) fn address(text: &str) -> Result<SocketAddr, Refusal> {
    let Ok(address) = text.parse::<SocketAddr>() else {
        return Err(refuse_address(text));
    };
    if let SocketAddr::V6(v6) = address {
        if v6.scope_id() != 0 {
            return Err(Refusal::new(
                "has a scope",
                "the kernel's tables know no scopes: use an address that needs none",
            ));
        }
        if let Some(v4) = v6.ip().to_ipv4_mapped() {
            let plain = SocketAddr::new(IpAddr::V4(v4), v6.port());
            return Err(Refusal::new("is IPv4 written as IPv6", format!("write {plain}")));
        }
    }
    match address.port() {
        0 => Err(Refusal::new("has port 0", "allowed: 1 to 65535")),
        // Flow labels were dropped with the scope.
        _ => Ok(SocketAddr::new(address.ip(), address.port())),
    }
}

fn refuse_address(text: &str) -> Refusal {
    let bare = text.strip_prefix('[').and_then(|t| t.strip_suffix(']')).unwrap_or(text);
    match bare.parse() {
        Ok(IpAddr::V4(ip)) => return Refusal::new("has no port", format!("write {ip}:80 for port 80")),
        Ok(IpAddr::V6(ip)) => {
            return Refusal::new("has no port", format!("write [{ip}]:80 for port 80, in quotes"));
        }
        Err(_) => {}
    }
    let Some((host, port)) = text.rsplit_once(':') else {
        return Refusal::new("is no IP address with a port", "write 10.0.0.1:80 or \"[fd00::1]:80\"");
    };
    let all_digits = !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit());
    if all_digits && port.parse::<u16>().is_err() {
        return Refusal::new("has a port that is out of range", "allowed: 1 to 65535");
    }
    if host.bytes().any(|b| b.is_ascii_alphabetic()) && !host.contains(':') {
        return Refusal::new("is no IP address", "names are not looked up: write the IP address");
    }
    Refusal::new("is no IP address with a port", "write 10.0.0.1:80 or \"[fd00::1]:80\"")
}

/// A path in origin form (RFC 9112, 3.2.1).
pub(crate) fn path(text: &str) -> Result<&str, Refusal> {
    const LONGEST: usize = 1024;
    if !text.starts_with('/') {
        return Err(Refusal::new("is no path", "begin it with /"));
    }
    if text.len() > LONGEST {
        return Err(Refusal::new("is too long", format!("at most {LONGEST} bytes")));
    }
    match text.chars().find(|c| !c.is_ascii_graphic() || *c == '#') {
        Some(bad) => Err(Refusal::new(
            format!("holds {bad:?}"),
            "visible ASCII without # only: write others percent-encoded",
        )),
        None => Ok(text),
    }
}

/// What a Host header may hold: a name or an address, with or without a port.
pub(crate) fn host(text: &str) -> Result<&str, Refusal> {
    const LONGEST: usize = 255;
    if text.is_empty() || text.len() > LONGEST {
        return Err(Refusal::new(format!("has {} bytes", text.len()), format!("1 to {LONGEST} bytes")));
    }
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_' | ':' | '[' | ']');
    match text.chars().find(|c| !allowed(*c)) {
        Some(bad) => Err(Refusal::new(format!("holds {bad:?}"), "a name such as web.internal, or name:port")),
        None => Ok(text),
    }
}

/// `200` or `200-399`.
pub(crate) fn statuses(text: &str, range: Whole) -> Result<(u16, u16), Refusal> {
    let (low, high) = text.split_once('-').unwrap_or((text, text));
    let refuse = || {
        let Whole { min, max } = range;
        Refusal::new("is no range of statuses", format!("write 200 or 200-399; allowed: {min} to {max}"))
    };
    let low: u16 = range.read(low).map_err(|_| refuse())?;
    let high: u16 = range.read(high).map_err(|_| refuse())?;
    if low > high {
        return Err(Refusal::new("is no range of statuses", format!("write {high}-{low}")));
    }
    Ok((low, high))
}

/// The name or the value of a label.
pub(crate) fn label(text: &str) -> Result<&str, Refusal> {
    const LONGEST: usize = 255;
    if text.is_empty() || text.len() > LONGEST {
        return Err(Refusal::new(format!("has {} bytes", text.len()), format!("1 to {LONGEST} bytes")));
    }
    match text.chars().find(|c| c.is_control()) {
        Some(bad) => Err(Refusal::new(format!("holds {bad:?}"), "leave control characters out")),
        None => Ok(text),
    }
}

/// A percentage with up to four decimals, in millionths of the whole.
pub(crate) fn percent(text: &str) -> Result<Fraction, Refusal> {
    let refuse = || Refusal::new("is no percentage", "a number from 0 to 100, with at most four decimals");
    let (whole, decimals) = text.split_once('.').unwrap_or((text, "0"));
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    if !digits(whole) || !digits(decimals) || decimals.len() > 4 {
        return Err(refuse());
    }
    let millionths = format!("{whole}{decimals:0<4}").parse::<u32>().map_err(|_| refuse())?;
    match Fraction::millionths(millionths) {
        fraction if fraction.as_millionths() == millionths => Ok(fraction),
        _ => Err(Refusal::new("is out of range", "allowed: 0 to 100")),
    }
}

/// The name of a header.
pub(crate) fn header_name(text: &str) -> Result<FieldName, Refusal> {
    let help = "letters, digits and !#$%&'*+-.^_`|~, such as x-beta";
    FieldName::new(text).map_err(|problem| Refusal::new(problem, help))
}

/// The value of a header.
pub(crate) fn header_value(text: &str) -> Result<FieldValue, Refusal> {
    FieldValue::new(text).map_err(|problem| Refusal::new(problem, "visible ASCII with spaces between"))
}

/// A regular expression.
pub(crate) fn regex(text: &str) -> Result<Pattern, Refusal> {
    Pattern::new(text).map_err(|problem| {
        let help = match problem.starts_with("is no") {
            true => {
                "the syntax is that of the regex crate: no look-around, no back-references, ASCII classes"
            }
            false => "write a shorter one, or several matches",
        };
        Refusal::new(problem, help)
    })
}

/// A text in a message: in quotes, whatever it holds, and never so long that the message drowns in it.
pub(crate) fn quote(text: &str) -> impl fmt::Display {
    format!("{:?}", shorten(text))
}

fn shorten(text: &str) -> std::borrow::Cow<'_, str> {
    const LONGEST: usize = 64;
    match text.char_indices().nth(LONGEST) {
        Some((end, _)) => format!("{}…", &text[..end]).into(),
        None => text.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RANGE: Whole = Whole { min: 0, max: 65_535 };
    const LAPSE: Lapse = Lapse { min: Duration::from_millis(100), max: Duration::from_secs(3600) };

    #[test]
    fn whole_numbers() {
        assert_eq!(RANGE.read::<u16>("0"), Ok(0));
        assert_eq!(RANGE.read::<u16>("65535"), Ok(65_535));
        for bad in ["65536", "-1", "99999999999999999999999", "-0"] {
            let refused = RANGE.read::<u16>(bad).unwrap_err();
            assert_eq!(refused.problem, "is out of range", "{bad}");
            assert_eq!(refused.help.as_deref(), Some("allowed: 0 to 65535"));
        }
        for bad in ["", "-", "+1", "1.0", "0x10", "1_000", "ten", "١"] {
            assert_eq!(RANGE.read::<u16>(bad).unwrap_err().problem, "is no whole number", "{bad}");
        }
        assert_eq!(RANGE.read::<u16>("010").unwrap_err().problem, "begins with 0");
        assert_eq!(Whole { min: 0, max: 1000 }.read::<u8>("300").unwrap_err().problem, "is out of range");
    }

    #[test]
    fn durations() {
        assert_eq!(LAPSE.read("100ms"), Ok(Duration::from_millis(100)));
        assert_eq!(LAPSE.read("1h"), Ok(Duration::from_secs(3600)));
        assert_eq!(LAPSE.read("5m"), Ok(Duration::from_secs(300)));
        for bad in ["99ms", "2h", "0s", "99999999999999999999s", "18446744073709551615h"] {
            assert_eq!(LAPSE.read(bad).unwrap_err().problem, "is out of range", "{bad}");
        }
        for bad in ["", "s", "-5s", "1.5s", "5 s", "1h30m", "5S", "5d"] {
            assert_eq!(LAPSE.read(bad).unwrap_err().problem, "is no duration", "{bad}");
        }
        assert_eq!(LAPSE.read("5").unwrap_err().help.as_deref(), Some("write 5s for seconds"));
    }

    #[test]
    fn a_shown_duration_reads_back() {
        let all = Lapse { min: Duration::ZERO, max: Duration::MAX };
        for milliseconds in [1, 999, 1_000, 1_500, 59_000, 60_000, 90_000, 3_600_000, 5_400_000, 65_535_000] {
            let duration = Duration::from_millis(milliseconds);
            assert_eq!(all.read(&show(duration)), Ok(duration));
        }
    }

    #[test]
    fn addresses() {
        assert_eq!(address("10.0.0.1:80"), Ok("10.0.0.1:80".parse().unwrap()));
        assert_eq!(address("[fd00::1]:80"), Ok("[fd00::1]:80".parse().unwrap()));
        let problem = |text| address(text).unwrap_err().problem;
        assert_eq!(problem("10.0.0.1"), "has no port");
        assert_eq!(problem("fd00::1"), "has no port");
        assert_eq!(problem("[fd00::1]"), "has no port");
        assert_eq!(problem("10.0.0.1:0"), "has port 0");
        assert_eq!(problem("10.0.0.1:65536"), "has a port that is out of range");
        assert_eq!(problem("web:80"), "is no IP address");
        assert_eq!(problem("[fe80::1%2]:80"), "has a scope");
        assert_eq!(problem("[::ffff:10.0.0.1]:80"), "is IPv4 written as IPv6");
        assert_eq!(problem("10.0.0.256:80"), "is no IP address with a port");
        assert_eq!(problem("10.0.0.1:"), "is no IP address with a port");
        assert_eq!(problem(""), "is no IP address with a port");
    }

    #[test]
    fn status_ranges() {
        let range = Whole { min: 100, max: 599 };
        assert_eq!(statuses("200", range), Ok((200, 200)));
        assert_eq!(statuses("200-399", range), Ok((200, 399)));
        assert_eq!(statuses("399-200", range).unwrap_err().help.as_deref(), Some("write 200-399"));
        for bad in ["", "-", "99", "600", "200-", "-200", "200-600", "2xx", "200-300-400"] {
            assert!(statuses(bad, range).is_err(), "{bad}");
        }
    }

    #[test]
    fn nearest_words() {
        assert_eq!(nearest("protocl", &["protocol", "mode"]), Some("protocol"));
        assert_eq!(nearest("max_ejected", &["max", "max-ejected"]), Some("max-ejected"));
        assert_eq!(nearest("foo", &["protocol", "mode"]), None);
        assert_eq!(nearest(&"x".repeat(1000), &["protocol"]), None);
        assert_eq!(nearest("", &[]), None);
    }
}
