//! Files that users name: reading them, and showing what is wrong with them.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use alize_agent::{LARGEST, refusal, text_of};
use alize_model::{Diagnostic, Position, Severity};

use crate::style::{Paint, Tone, visible};

/// This much of a long source line is shown.
const LINE_SHOWN: usize = 120;

/// A file's text and what remarks call it.
pub(crate) struct Text {
    pub(crate) name: String,
    pub(crate) text: String,
}

/// Reads `path`, or standard input when it is `-`; otherwise says why not, in the form of every other remark.
pub(crate) fn read(path: &Path) -> Result<Text, Diagnostic> {
    let name = path.display().to_string();
    let bytes = match path.as_os_str() == "-" {
        true => read_all(io::stdin().lock()),
        false => File::open(path).and_then(read_all),
    };
    let bytes = bytes.map_err(|error| refusal(&name, format!("cannot read it: {error}")))?;
    text_of(&name, bytes).map(|text| Text { name, text })
}

/// All of `file`, or just more than is taken: an endless file ends too.
fn read_all(file: impl Read) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    file.take(LARGEST as u64 + 1).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// `diagnostic` on one line.
pub(crate) fn line(diagnostic: &Diagnostic, paint: Paint) -> String {
    let (word, tone) = match diagnostic.severity {
        Severity::Error => ("error:", Tone::Bad),
        Severity::Warning => ("warning:", Tone::Caution),
    };
    // The severity is the first such word after the place.
    visible(&diagnostic.to_string()).replacen(word, &paint.tone(tone, word), 1)
}

/// `diagnostic` with the line of `text` it is about and a mark under the place.
pub(crate) fn excerpt(diagnostic: &Diagnostic, text: &str, paint: Paint) -> String {
    let first = line(diagnostic, paint);
    let Position { line: number, column } = diagnostic.position;
    let Some(source) = text.lines().nth(number.saturating_sub(1) as usize) else { return first };
    // A parser may point just past the end of a line, never further.
    let column = (column.saturating_sub(1) as usize).min(source.chars().count());
    let skipped = if column < LINE_SHOWN { 0 } else { column - LINE_SHOWN / 2 };
    let shown: String = source.chars().skip(skipped).take(LINE_SHOWN).collect();
    let gutter = paint.tone(Tone::Faint, &format!("{number:>5} | "));
    let blank = paint.tone(Tone::Faint, "      | ");
    let before = " ".repeat(column - skipped);
    format!("{first}\n{gutter}{}\n{blank}{before}{}", visible(&shown), paint.tone(Tone::Bad, "^"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error_at(line: u32, column: u32) -> Diagnostic {
        let position = Position { line, column };
        let message = "unknown key \"wieght\"".to_owned();
        let help = Some("did you mean \"weight\"?".to_owned());
        Diagnostic { severity: Severity::Error, file: "mesh.yaml".into(), position, message, help }
    }

    #[test]
    fn an_excerpt_points_at_the_place() {
        assert_eq!(
            excerpt(&error_at(2, 3), "services:\n  wieght: 3\n", Paint::PLAIN),
            "mesh.yaml:2:3: error: unknown key \"wieght\" (did you mean \"weight\"?)\n\
             \u{20}   2 |   wieght: 3\n\
             \u{20}     |   ^"
        );
    }

    #[test]
    fn an_excerpt_of_a_long_line_shows_the_part_that_matters() {
        let text = format!("{}wieght{}", "x".repeat(100_000), "y".repeat(100_000));
        let shown = excerpt(&error_at(1, 100_001), &text, Paint::PLAIN);
        let lines: Vec<&str> = shown.lines().collect();
        assert!(lines[1].len() < 200, "{}", lines[1].len());
        let mark = lines[2].find('^').expect("a mark");
        assert!(lines[1][mark..].starts_with("wieght"), "{shown}");
    }

    #[test]
    fn a_place_outside_of_the_text_shows_no_line() {
        for text in ["", "\n\n", "short"] {
            assert_eq!(excerpt(&error_at(9, 9), text, Paint::PLAIN).lines().count(), 1);
        }
        assert!(excerpt(&error_at(1, u32::MAX), "short", Paint::PLAIN).contains("wieght"));
    }

    #[test]
    fn nothing_in_a_file_acts_on_the_terminal() {
        let shown = excerpt(&error_at(1, 1), "\u{1b}]0;owned\u{7}\u{9b}2J", Paint::PLAIN);
        assert!(shown.chars().all(|c| c == '\n' || !c.is_control()), "{shown:?}");
    }
}
