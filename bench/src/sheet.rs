//! Rows under a heading: aligned text for a terminal, Markdown for documents.

use std::fmt::Write as _;

use serde::Serialize;

#[derive(Clone, Debug, Serialize)]
pub(crate) struct Sheet {
    pub(crate) title: String,
    pub(crate) note: Option<String>,
    pub(crate) head: Vec<&'static str>,
    pub(crate) rows: Vec<Vec<String>>,
}

impl Sheet {
    pub(crate) fn aligned(&self, text: &mut String) {
        let _ = writeln!(text, "\n{}", self.title);
        if let Some(note) = &self.note {
            let _ = writeln!(text, "  ({note})");
        }
        let widths: Vec<usize> = (0..self.head.len()).map(|column| self.width(column)).collect();
        let head: Vec<String> = self.head.iter().map(|&name| name.to_owned()).collect();
        for row in std::iter::once(&head).chain(&self.rows) {
            let mut line = String::from(" ");
            for (column, cell) in row.iter().enumerate() {
                let pad = " ".repeat(widths[column] - cell.chars().count());
                // Names and sentences to the left, figures to the right.
                let left = column == 0 || self.head[column].is_empty() || column + 1 == row.len();
                let _ = if left { write!(line, " {cell}{pad} ") } else { write!(line, " {pad}{cell} ") };
            }
            let _ = writeln!(text, "{}", line.trim_end());
        }
    }

    fn width(&self, column: usize) -> usize {
        let cells = self.rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count());
        cells.chain([self.head[column].chars().count()]).max().unwrap_or(0)
    }

    /// `level` is the heading's, as `###`.
    pub(crate) fn markdown(&self, text: &mut String, level: &str) {
        let _ = writeln!(text, "\n{level} {}", self.title);
        if let Some(note) = &self.note {
            let _ = writeln!(text, "\n{note}.");
        }
        let rule: Vec<&str> =
            (0..self.head.len()).map(|column| if column == 0 { "---" } else { "--:" }).collect();
        let _ = writeln!(text, "\n| {} |\n|{}|", self.head.join(" | "), rule.join("|"));
        for row in &self.rows {
            let cells: Vec<String> = row.iter().map(|cell| cell.replace('|', "\\|")).collect();
            let _ = writeln!(text, "| {} |", cells.join(" | "));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up() {
        let rows = vec![
            vec!["Alizé".into(), "1".into(), "a".into()],
            vec!["iptables".into(), "1,000".into(), "b".into()],
        ];
        let mut text = String::new();
        let sheet = Sheet { title: String::new(), note: None, head: vec!["", "n", "why"], rows };
        sheet.aligned(&mut text);
        let lengths: Vec<usize> = text.lines().skip(2).map(|line| line.chars().count()).collect();
        assert_eq!(lengths[1], lengths[2], "{text}");
    }
}
