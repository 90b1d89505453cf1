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
use crate::table::cut;
use crate::units::rate;

const KEYS: &str =
    "1 services  2 endpoints  3 processes  s sort  r reverse  / filter  Enter requests  p pause  q quit";
const PAST: &str = "LAST MINUTE";
/// The widest name.
const NAME: usize = 60;
/// The narrowest figure: most have a unit.
const FIGURE: usize = 8;
/// Characters of the mark at the column by which rows are sorted.
const MARK: usize = 2;
const LIVE_KEYS: &str = "Esc back  p pause  q quit";
/// Eight heights of a bar.
const BARS: [char; 8] =
    ['\u{2581}', '\u{2582}', '\u{2583}', '\u{2584}', '\u{2585}', '\u{2586}', '\u{2587}', '\u{2588}'];

pub(super) fn draw(frame: &mut Frame<'_>, board: &mut Board, coloured: bool) {
    let [head, body, foot] =
        Layout::vertical([Constraint::Length(2), Constraint::Min(1), Constraint::Length(1)])
            .areas(frame.area());
    let width = usize::from(frame.area().width);
    frame.render_widget(Paragraph::new(title(board, width)), head);
    match &board.live {
        Some(live) => draw_live(frame, body, live, coloured),
        None => draw_table(frame, body, board, coloured),
    }
    let keys = match (board.typing, &board.live) {
        (true, _) => format!("filter: {}_  Enter keep  Esc clear", board.filter),
        (false, Some(_)) => LIVE_KEYS.to_owned(),
        (false, None) => KEYS.to_owned(),
    };
    frame.render_widget(
        Paragraph::new(cut(&keys, width)).style(Style::new().add_modifier(Modifier::DIM)),
        foot,
    );
}

fn title(board: &Board, width: usize) -> Vec<Line<'static>> {
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
    vec![Line::styled(cut(&text, width), bold), Line::raw(cut(&board.remark, width))]
}

fn draw_table(frame: &mut Frame<'_>, area: Rect, board: &mut Board, coloured: bool) {
    let rows = board.rows();
    board.selected = board.selected.min(rows.len().saturating_sub(1));
    let shown: Vec<_> = rows.iter().map(|row| Column::ALL.map(|column| row.shown(column))).collect();
    let Fit { columns, past } = fit(board, &shown, area.width.into());
    let bold = Style::new().add_modifier(Modifier::BOLD);
    let set = |texts: &[String]| -> Vec<Cell<'static>> {
        columns.iter().map(|&(column, width)| aligned(&texts[column as usize], column, width)).collect()
    };
    let mut titles = set(&Column::ALL.map(|column| title_of(board, column)));
    titles.extend((past > 0).then(|| Cell::from(PAST)));
    let lines = rows.iter().zip(&shown).map(|(row, texts)| {
        let mut cells = set(texts);
        cells.extend((past > 0).then(|| Cell::from(sparkline(&board.past(&row.name), past))));
        let tone = if row.error_share > 0.0 { Tone::Bad } else { Tone::Plain };
        Row::new(cells).style(style(tone, coloured))
    });
    let widths = columns.iter().map(|&(_, width)| width).chain((past > 0).then_some(past));
    let widths = widths.map(|width| Constraint::Length(u16::try_from(width).unwrap_or(u16::MAX)));
    let chosen = Style::new().add_modifier(Modifier::REVERSED);
    let table = Table::new(lines, widths)
        .header(Row::new(titles).style(bold))
        .column_spacing(1)
        .row_highlight_style(chosen);
    let mut state = TableState::new().with_selected((!rows.is_empty()).then_some(board.selected));
    frame.render_stateful_widget(table, area, &mut state);
}

/// What of the table is shown, and how wide. Names may be cut; figures are shown whole or not at all.
struct Fit {
    columns: Vec<(Column, usize)>,
    /// Of the past; 0: it is not shown.
    past: usize,
}

fn fit(board: &Board, shown: &[[String; Column::ALL.len()]], room: usize) -> Fit {
    let length = |text: &str| text.chars().count();
    let width = |column: Column| {
        let cells = shown.iter().map(|texts| length(&texts[column as usize]));
        // With room for the mark of the order, so that columns stay where they are when it moves.
        cells.chain([length(column.title(board.view)) + MARK]).max().unwrap_or(0)
    };
    let name = width(Column::Name).min(NAME);
    let mut columns: Vec<(Column, usize)> =
        Column::ALL.into_iter().skip(1).map(|column| (column, width(column).max(FIGURE))).collect();
    let taken = |columns: &[(Column, usize)]| columns.iter().map(|(_, width)| width + 1).sum::<usize>();
    // What rows are sorted by goes last.
    let least_first = Column::LEAST_FIRST.into_iter().filter(|column| *column != board.sort);
    for least in least_first.chain([board.sort]) {
        if name.min(room / 3) + taken(&columns) <= room {
            break;
        }
        columns.retain(|(column, _)| *column != least);
    }
    let left = room.saturating_sub(taken(&columns));
    let name = name.min(left);
    columns.insert(0, (Column::Name, name));
    let past = left.saturating_sub(name + 1);
    Fit { columns, past: if past < PAST.len() { 0 } else { past } }
}

fn title_of(board: &Board, column: Column) -> String {
    let mark = match (board.sort == column, board.reversed) {
        (true, false) => " v",
        (true, true) => " ^",
        (false, _) => "",
    };
    format!("{}{mark}", column.title(board.view))
}

/// Nothing to say shows as `-`, as it does in tables elsewhere.
fn aligned(text: &str, column: Column, width: usize) -> Cell<'static> {
    let line = Line::raw(cut(if text.is_empty() { "-" } else { text }, width));
    Cell::from(if column == Column::Name { line } else { line.right_aligned() })
}

fn draw_live(frame: &mut Frame<'_>, area: Rect, live: &Live, coloured: bool) {
    let shown: Vec<_> = live.requests.iter().take(usize::from(area.height)).collect();
    let mut columns = Columns::new();
    shown.iter().for_each(|request| columns.fit(request));
    let room = usize::from(area.width);
    let bold = Style::new().add_modifier(Modifier::BOLD);
    let mut lines = vec![Line::styled(cut(&columns.head(), room), bold)];
    lines.extend(shown.iter().map(|request| {
        let text = columns.line(request, Paint::PLAIN);
        // Colour is for what went wrong.
        let tone = match status_tone(request.status) {
            tone @ (Tone::Bad | Tone::Caution) => tone,
            _ => Tone::Plain,
        };
        Line::styled(cut(text.trim_end(), room), style(tone, coloured))
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

/// The last `room` of them; the newest is on the right.
fn sparkline(past: &[u64], room: usize) -> String {
    let past = &past[past.len().saturating_sub(room)..];
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
    use super::super::retransmits::Retransmits;
    use super::*;

    fn drawn(width: u16, height: u16) -> String {
        let mut board = Board::new(View::Services);
        let sent_again = Retransmits::from([("web".into(), 3)]);
        board.look(&between(&report(0, 0), &report(90, 10)), sent_again, 10.0);
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

    fn lines(width: u16) -> Vec<String> {
        let shown: Vec<char> = drawn(width, 6).chars().collect();
        shown.chunks(width.into()).map(|line| line.iter().collect::<String>().trim_end().to_owned()).collect()
    }

    #[test]
    fn a_figure_is_whole_or_not_there() {
        let all = lines(120);
        for width in 1..120 {
            for (line, all) in lines(width)[..4].iter().zip(&all) {
                let whole: Vec<&str> = all.split_whitespace().collect();
                for word in line.split_whitespace().filter(|word| !word.contains('\u{2026}')) {
                    assert!(whole.contains(&word), "{width}: {word:?} of {line:?}");
                }
            }
        }
        assert_eq!(
            lines(40)[2..4],
            ["SERVICE   REQUESTS/S v   ERRORS      P99", "web               10.0   10.0 %  4.64 ms"]
        );
        assert_eq!(lines(20)[2..4], ["SERVICE REQUESTS/S v", "web             10.0"]);
        assert_eq!(lines(8)[2..4], ["SERVICE", "web"]);
    }

    #[test]
    fn bars_are_as_high_as_the_highest_says() {
        assert_eq!(sparkline(&[0, 1, 4, 8], 60), " \u{2581}\u{2584}\u{2588}");
        assert_eq!(sparkline(&[u64::MAX / 8, 0], 60), "\u{2588} ");
        assert_eq!(sparkline(&[8, 1, 2], 2), "\u{2584}\u{2588}");
        assert_eq!(sparkline(&[], 60), "");
    }
}
