//! The picture of a board: a head, a table or requests, and the keys.

use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::Line;
use ratatui::widgets::{Cell, Paragraph, Row, Table, TableState};

use super::super::args::View;
use super::super::trace::{Columns, status_tone};
use super::board::{Board, Column, Live};
use crate::style::{Paint, Tone};
use crate::units::rate;

const KEYS: &str =
    "1 services  2 endpoints  3 processes  s sort  r reverse  / filter  Enter requests  p pause  q quit";
const LIVE_KEYS: &str = "Esc back  p pause  q quit";
/// Eight heights of a bar.
const BARS: [char; 8] =
    ['\u{2581}', '\u{2582}', '\u{2583}', '\u{2584}', '\u{2585}', '\u{2586}', '\u{2587}', '\u{2588}'];

pub(super) fn draw(frame: &mut Frame<'_>, board: &mut Board, coloured: bool) {
    let [head, body, foot] =
        Layout::vertical([Constraint::Length(2), Constraint::Min(1), Constraint::Length(1)])
            .areas(frame.area());
    frame.render_widget(Paragraph::new(title(board)), head);
    match &board.live {
        Some(live) => draw_live(frame, body, live, coloured),
        None => draw_table(frame, body, board, coloured),
    }
    let keys = match (board.typing, &board.live) {
        (true, _) => format!("filter: {}_  Enter keep  Esc clear", board.filter),
        (false, Some(_)) => LIVE_KEYS.to_owned(),
        (false, None) => KEYS.to_owned(),
    };
    frame.render_widget(Paragraph::new(keys).style(Style::new().add_modifier(Modifier::DIM)), foot);
}

fn title(board: &Board) -> Vec<Line<'static>> {
    let what = match board.view {
        View::Services => "services",
        View::Endpoints => "endpoints",
        View::Processes => "processes",
    };
    let what = board.live.as_ref().map_or(what.to_owned(), |live| format!("requests of {}", live.name));
    let rows = board.rows();
    let all: f64 = rows.iter().map(|row| row.requests_per_second).sum();
    let mut text = format!("alize top: {what}");
    if board.live.is_none() {
        text.push_str(&format!("  {} rows, {}/s", rows.len(), rate(all)));
    }
    if !board.filter.is_empty() {
        text.push_str(&format!("  filter {:?}", board.filter));
    }
    if board.paused {
        text.push_str("  paused");
    }
    let bold = Style::new().add_modifier(Modifier::BOLD);
    vec![Line::styled(text, bold), Line::raw(board.remark.clone())]
}

fn draw_table(frame: &mut Frame<'_>, area: Rect, board: &mut Board, coloured: bool) {
    let rows = board.rows();
    board.selected = board.selected.min(rows.len().saturating_sub(1));
    let bold = Style::new().add_modifier(Modifier::BOLD);
    let titles = Column::ALL.map(|column| {
        let mark = match (board.sort == column, board.reversed) {
            (true, false) => " v",
            (true, true) => " ^",
            (false, _) => "",
        };
        aligned(format!("{}{mark}", column.title(board.view)), column)
    });
    let header = Row::new(titles.into_iter().chain([Cell::from("LAST MINUTE")])).style(bold);
    let lines = rows.iter().map(|row| {
        let cells = Column::ALL.map(|column| aligned(row.shown(column), column));
        let past = Cell::from(sparkline(&board.past(&row.name)));
        let tone = if row.error_share > 0.0 { Tone::Bad } else { Tone::Plain };
        Row::new(cells.into_iter().chain([past])).style(style(tone, coloured))
    });
    let longest = rows.iter().map(|row| row.name.chars().count()).max().unwrap_or(0).clamp(16, 60);
    let figure = Constraint::Length(12);
    let widths = [
        Constraint::Length(longest as u16),
        figure,
        Constraint::Length(9),
        Constraint::Length(9),
        Constraint::Length(9),
        Constraint::Length(9),
        Constraint::Fill(1),
    ];
    let chosen = Style::new().add_modifier(Modifier::REVERSED);
    let table = Table::new(lines, widths).header(header).column_spacing(1).row_highlight_style(chosen);
    let mut state = TableState::new().with_selected((!rows.is_empty()).then_some(board.selected));
    frame.render_stateful_widget(table, area, &mut state);
}

fn aligned(text: String, column: Column) -> Cell<'static> {
    let line = Line::raw(text);
    Cell::from(if column == Column::Name { line } else { line.right_aligned() })
}

fn draw_live(frame: &mut Frame<'_>, area: Rect, live: &Live, coloured: bool) {
    let shown: Vec<_> = live.requests.iter().take(usize::from(area.height)).collect();
    let mut columns = Columns::new();
    shown.iter().for_each(|request| columns.fit(request));
    let mut lines = vec![Line::styled(columns.head(), Style::new().add_modifier(Modifier::BOLD))];
    lines.extend(shown.iter().map(|request| {
        let text = columns.line(request, Paint::PLAIN);
        // Colour is for what went wrong.
        let tone = match status_tone(request.status) {
            tone @ (Tone::Bad | Tone::Caution) => tone,
            _ => Tone::Plain,
        };
        Line::styled(text.trim_end().to_owned(), style(tone, coloured))
    }));
    frame.render_widget(Paragraph::new(lines), area);
}

fn style(tone: Tone, coloured: bool) -> Style {
    match (tone, coloured) {
        (Tone::Bad, true) => Style::new().fg(Color::Red),
        (Tone::Caution, true) => Style::new().fg(Color::Yellow),
        (Tone::Bad, false) => Style::new().add_modifier(Modifier::BOLD),
        _ => Style::new(),
    }
}

/// The newest is on the right.
fn sparkline(past: &[u64]) -> String {
    let most = past.iter().copied().max().unwrap_or(0).max(1);
    let bar = |rate: &u64| match rate {
        0 => ' ',
        rate => BARS[(rate.saturating_mul(8).div_ceil(most) as usize).clamp(1, 8) - 1],
    };
    past.iter().map(bar).collect()
}

#[cfg(test)]
mod tests {
    use ratatui::Terminal;
    use ratatui::backend::TestBackend;

    use super::super::super::traffic::between;
    use super::super::super::traffic::tests::report;
    use super::*;

    fn drawn(width: u16, height: u16) -> String {
        let mut board = Board::new(View::Services);
        board.look(&between(&report(0, 0), &report(90, 10)), 10.0);
        let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
        terminal.draw(|frame| draw(frame, &mut board, false)).unwrap();
        let buffer = terminal.backend().buffer().clone();
        buffer.content().iter().map(|cell| cell.symbol()).collect()
    }

    #[test]
    fn a_row_shows_rate_errors_and_past() {
        let shown = drawn(120, 8);
        for part in
            ["alize top: services  1 rows, 10.0/s", "REQUESTS/S v", "web", "10.0 %", "\u{2588}", "q quit"]
        {
            assert!(shown.contains(part), "{part} is missing in {shown}");
        }
    }

    #[test]
    fn no_size_is_too_small() {
        for (width, height) in [(1, 1), (2, 3), (20, 2), (300, 1), (1, 50)] {
            drawn(width, height);
        }
    }

    #[test]
    fn bars_are_as_high_as_the_highest_says() {
        assert_eq!(sparkline(&[0, 1, 4, 8]), " \u{2581}\u{2584}\u{2588}");
        assert_eq!(sparkline(&[u64::MAX / 8, 0]), "\u{2588} ");
        assert_eq!(sparkline(&[]), "");
    }
}
