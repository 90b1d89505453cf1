//! Aligned columns for people. Nothing is ever cut off; a column that says nothing is left out.

use crate::style::{Paint, Tone, visible};

/// Between two columns.
const GAP: &str = "  ";
/// The last column is wrapped only if this much of it fits beside the others.
const NARROWEST: usize = 20;

/// How a column is set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Align {
    Left,
    Right,
}

/// Text and how it looks.
#[derive(Clone, Debug)]
pub(crate) struct Cell {
    text: String,
    tone: Tone,
}

impl Cell {
    pub(crate) fn new(text: impl Into<String>, tone: Tone) -> Self {
        Self { text: visible(&text.into()), tone }
    }
}

impl<T: Into<String>> From<T> for Cell {
    fn from(text: T) -> Self {
        Self::new(text, Tone::Plain)
    }
}

/// Rows under a header. An empty cell says: nothing to say, and shows as `-`.
#[derive(Debug)]
pub(crate) struct Table {
    columns: Vec<(&'static str, Align)>,
    rows: Vec<Vec<Cell>>,
}

impl Table {
    pub(crate) fn new(columns: &[(&'static str, Align)]) -> Self {
        Self { columns: columns.to_vec(), rows: Vec::new() }
    }

    /// Adds a row, which has a cell for every column.
    pub(crate) fn row(&mut self, cells: Vec<Cell>) {
        debug_assert_eq!(cells.len(), self.columns.len());
        self.rows.push(cells);
    }

    /// The table, each line ending in a newline; a last column of words is wrapped at `width`, if there is one.
    pub(crate) fn render(&self, paint: Paint, width: Option<usize>) -> String {
        let shown: Vec<usize> =
            (0..self.columns.len()).filter(|&column| self.says_something(column)).collect();
        let widths: Vec<usize> = shown.iter().map(|&column| self.width(column)).collect();
        let before_last: usize = widths.iter().rev().skip(1).map(|width| width + GAP.len()).sum();
        let wrap = width.map(|width| width.saturating_sub(before_last)).filter(|&room| room >= NARROWEST);

        let header: Vec<Cell> =
            self.columns.iter().map(|(title, _)| Cell::new(*title, Tone::Heading)).collect();
        let mut text = String::new();
        for row in std::iter::once(&header).chain(&self.rows) {
            let mut line = String::new();
            for (place, (&column, &width)) in shown.iter().zip(&widths).enumerate() {
                let last = place + 1 == shown.len();
                if place > 0 {
                    line.push_str(GAP);
                }
                self.set(&mut line, &row[column], column, width, paint, last.then_some((wrap, before_last)));
            }
            text.push_str(line.trim_end());
            text.push('\n');
        }
        text
    }

    /// Appends one cell; `last` is how to wrap it when it is the last of its line.
    fn set(
        &self,
        line: &mut String,
        cell: &Cell,
        column: usize,
        width: usize,
        paint: Paint,
        last: Option<(Option<usize>, usize)>,
    ) {
        let text = if cell.text.is_empty() { "-" } else { &cell.text };
        let padding = " ".repeat(width - length(text));
        match (self.columns[column].1, last) {
            (Align::Right, _) => line.push_str(&format!("{padding}{}", paint.tone(cell.tone, text))),
            (Align::Left, None) => line.push_str(&format!("{}{padding}", paint.tone(cell.tone, text))),
            (Align::Left, Some((None, _))) => line.push_str(&paint.tone(cell.tone, text)),
            (Align::Left, Some((Some(room), indent))) => {
                let wrapped = wrapped(text, room).join(&format!("\n{}", " ".repeat(indent)));
                line.push_str(&paint.tone(cell.tone, &wrapped));
            }
        }
    }

    fn says_something(&self, column: usize) -> bool {
        self.rows.is_empty() || self.rows.iter().any(|row| !row[column].text.is_empty())
    }

    fn width(&self, column: usize) -> usize {
        let cells = self.rows.iter().map(|row| length(&row[column].text).max(1));
        cells.chain([length(self.columns[column].0)]).max().unwrap_or(0)
    }
}

/// Names, addresses and figures are ASCII; labels may be more, and a character is taken as one column.
fn length(text: &str) -> usize {
    text.chars().count()
}

/// `text` broken between words into lines of at most `room` characters; longer words stay whole.
pub(crate) fn wrapped(text: &str, room: usize) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for word in text.split(' ') {
        match lines.last_mut() {
            Some(line) if length(line) + 1 + length(word) <= room => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(word.to_owned()),
        }
    }
    lines
}

/// `text` in at most `room` characters: what does not fit is cut off on the right, between words where it can be, so that
/// no figure loses digits.
pub(crate) fn cut(text: &str, room: usize) -> String {
    if length(text) <= room {
        return text.to_owned();
    }
    // One is for the ellipsis; the next tells whether a word ends there.
    let begin: String = text.chars().take(room).collect();
    let Some((last, _)) = begin.char_indices().next_back() else { return String::new() };
    let kept = begin.rfind(' ').map_or(&begin[..last], |space| begin[..space].trim_end());
    format!("{kept}\u{2026}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_cut_says_so_and_ends_with_a_word() {
        let shown = [20, 8, 7, 5, 1, 0].map(|room| cut("web 1.23 ms", room));
        assert_eq!(shown, ["web 1.23 ms", "web\u{2026}", "web\u{2026}", "web\u{2026}", "\u{2026}", ""]);
        assert_eq!(cut("web 1.23 ms", 9), "web 1.23\u{2026}");
        assert_eq!(cut("sch\u{f6}ne-gr\u{fc}\u{df}e", 5), "sch\u{f6}\u{2026}");
    }

    fn table() -> Table {
        let mut table = Table::new(&[
            ("NAME", Align::Left),
            ("OPEN", Align::Right),
            ("EMPTY", Align::Left),
            ("REASON", Align::Left),
        ]);
        table.row(vec!["a-rather-long-name".into(), "7".into(), "".into(), "".into()]);
        table.row(vec!["b".into(), "12.3k".into(), "".into(), "connection refused 3 times in a row".into()]);
        table
    }

    #[test]
    fn columns_are_aligned_and_empty_ones_left_out() {
        assert_eq!(
            table().render(Paint::PLAIN, None),
            "NAME                 OPEN  REASON\n\
             a-rather-long-name      7  -\n\
             b                   12.3k  connection refused 3 times in a row\n"
        );
    }

    #[test]
    fn the_last_column_wraps_under_itself() {
        assert_eq!(
            table().render(Paint::PLAIN, Some(50)),
            "NAME                 OPEN  REASON\n\
             a-rather-long-name      7  -\n\
             b                   12.3k  connection refused 3\n\
             \u{20}                          times in a row\n"
        );
    }

    #[test]
    fn a_narrow_terminal_wraps_itself() {
        assert_eq!(table().render(Paint::PLAIN, Some(30)), table().render(Paint::PLAIN, None));
    }

    #[test]
    fn colour_does_not_move_columns() {
        let mut table = Table::new(&[("STATE", Align::Left), ("N", Align::Right)]);
        table.row(vec![Cell::new("ok", Tone::Good), "1".into()]);
        let coloured = table.render(Paint::COLOURED, None);
        assert!(coloured.contains("\u{1b}["));
        let mut plain = String::new();
        let mut escape = false;
        for c in coloured.chars() {
            match (escape, c) {
                (false, '\u{1b}') => escape = true,
                (true, 'm') => escape = false,
                (true, _) => {}
                (false, c) => plain.push(c),
            }
        }
        assert_eq!(plain, table.render(Paint::PLAIN, None));
    }

    #[test]
    fn a_table_without_rows_still_has_its_header() {
        assert_eq!(
            Table::new(&[("A", Align::Left), ("B", Align::Right)]).render(Paint::PLAIN, None),
            "A  B\n"
        );
    }
}
