//! What `alize top` shows: rows with their past, the order, the filter, and what a key does to them.

use std::cmp::Ordering;
use std::collections::{HashMap, VecDeque};

use alize_model::api::{ObservedConnection, ObservedRequest, TraceLine};
use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};
use serde::Serialize;

use super::super::args::View;
use super::super::trace::in_words;
use super::super::traffic::{Ends, Flow};
use super::retransmits::Retransmits;
use crate::style::{Paint, Tone, visible};
use crate::table::Align::{Left, Right};
use crate::table::{Cell, Table};
use crate::units::{count, percent, rate, seconds};

/// Looks that a row remembers.
const PAST: usize = 60;
/// Rows that are remembered in one view.
const ROWS: usize = 5000;
/// Requests that are remembered one by one.
const REQUESTS: usize = 1000;
/// Processes in one interval.
const PROCESSES: usize = 2000;

/// What the board wants after a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wish {
    Nothing,
    /// Other requests one by one.
    Follow,
    Quit,
}

/// Columns in their order; rows are sorted by one of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Column {
    Name,
    Rate,
    Errors,
    P50,
    P90,
    P99,
    Retransmits,
}

impl Column {
    pub(super) const ALL: [Self; 7] =
        [Self::Name, Self::Rate, Self::Errors, Self::P50, Self::P90, Self::P99, Self::Retransmits];

    /// Those that go first where there is no room for all.
    pub(super) const LEAST_FIRST: [Self; 6] =
        [Self::P90, Self::P50, Self::Retransmits, Self::P99, Self::Errors, Self::Rate];

    pub(super) fn title(self, view: View) -> &'static str {
        match self {
            Self::Name => match view {
                View::Services => "SERVICE",
                View::Endpoints => "ENDPOINT",
                View::Processes => "PROCESS",
            },
            Self::Rate => "REQUESTS/S",
            Self::Errors => "ERRORS",
            Self::P50 => "P50",
            Self::P90 => "P90",
            Self::P99 => "P99",
            Self::Retransmits => "RETRANS/S",
        }
    }

    fn next(self) -> Self {
        let place = Self::ALL.iter().position(|column| *column == self).unwrap_or(0);
        Self::ALL[(place + 1) % Self::ALL.len()]
    }
}

/// One line of the table: figures of the last interval.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Row {
    pub(super) name: String,
    pub(super) requests_per_second: f64,
    pub(super) error_share: f64,
    pub(super) p50: Option<f64>,
    pub(super) p90: Option<f64>,
    pub(super) p99: Option<f64>,
    /// Absent where nobody saw the connections.
    pub(super) retransmits_per_second: Option<f64>,
    #[serde(skip)]
    conditions: Conditions,
}

impl Row {
    fn new(
        name: String,
        conditions: Conditions,
        flow: &Flow,
        retransmits: &Retransmits,
        seconds: f64,
    ) -> Self {
        let per_second = |count: u64| count as f64 / seconds.max(1e-3);
        Self {
            retransmits_per_second: retransmits.get(&name).copied().map(per_second),
            name,
            requests_per_second: per_second(flow.count),
            error_share: flow.errors as f64 / flow.count.max(1) as f64,
            p50: flow.quantile(0.5),
            p90: flow.quantile(0.9),
            p99: flow.quantile(0.99),
            conditions,
        }
    }

    pub(super) fn shown(&self, column: Column) -> String {
        let time = |value: Option<f64>| value.map(seconds).unwrap_or_default();
        match column {
            Column::Name => visible(&self.name),
            Column::Rate => rate(self.requests_per_second),
            Column::Errors => percent(self.error_share),
            Column::P50 => time(self.p50),
            Column::P90 => time(self.p90),
            Column::P99 => time(self.p99),
            Column::Retransmits => self.retransmits_per_second.map(rate).unwrap_or_default(),
        }
    }

    /// Large figures come first.
    fn compare(&self, other: &Self, column: Column) -> Ordering {
        let figure = |row: &Self| match column {
            Column::Name => 0.0,
            Column::Rate => row.requests_per_second,
            Column::Errors => row.error_share,
            Column::P50 => row.p50.unwrap_or(0.0),
            Column::P90 => row.p90.unwrap_or(0.0),
            Column::P99 => row.p99.unwrap_or(0.0),
            // None is more than nobody knows.
            Column::Retransmits => row.retransmits_per_second.unwrap_or(-1.0),
        };
        figure(other).total_cmp(&figure(self)).then_with(|| self.name.cmp(&other.name))
    }
}

/// Which requests belong to a row.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Conditions {
    service: Option<String>,
    endpoint: Option<std::net::SocketAddr>,
    pid: Option<u32>,
}

/// Requests of one row as they come.
pub(super) struct Live {
    pub(super) name: String,
    conditions: Conditions,
    pub(super) requests: VecDeque<Box<ObservedRequest>>,
}

#[derive(Default)]
struct Process {
    flow: Flow,
    pid: Option<u32>,
}

/// The connections that a process has made since they are looked at.
#[derive(Default)]
struct Sockets {
    /// In this interval.
    retransmits: u64,
    /// Looks without an event or a request; those of a process that has ended come to nothing but this.
    quiet: usize,
}

/// All that is shown.
pub(super) struct Board {
    pub(super) view: View,
    pub(super) sort: Column,
    pub(super) reversed: bool,
    pub(super) filter: String,
    /// Keys are letters of the filter.
    pub(super) typing: bool,
    pub(super) paused: bool,
    pub(super) selected: usize,
    pub(super) live: Option<Live>,
    /// What was not counted, and why.
    pub(super) remark: String,
    rows: Vec<Row>,
    past: HashMap<String, VecDeque<u64>>,
    processes: HashMap<String, Process>,
    /// By process, while the view is of processes.
    sockets: HashMap<u32, Sockets>,
}

impl Board {
    pub(super) fn new(view: View) -> Self {
        Self {
            view,
            sort: Column::Rate,
            reversed: false,
            filter: String::new(),
            typing: false,
            paused: false,
            selected: 0,
            live: None,
            remark: String::new(),
            rows: Vec::new(),
            past: HashMap::new(),
            processes: HashMap::new(),
            sockets: HashMap::new(),
        }
    }

    pub(super) fn is_live(&self) -> bool {
        self.live.is_some()
    }

    /// What the agent should be asked for one by one; `None`: nothing.
    pub(super) fn conditions(&self) -> Option<Vec<(&'static str, String)>> {
        let Some(live) = &self.live else {
            return (self.view == View::Processes).then(|| vec![("kinds", "http,tcp".to_owned())]);
        };
        let service = live.conditions.service.clone().map(|service| ("service", service));
        let pid = live.conditions.pid.map(|pid| ("pid", pid.to_string()));
        Some(service.into_iter().chain(pid).collect())
    }

    /// Whether the agent should be asked what it counted for services.
    pub(super) fn counts_services(&self) -> bool {
        self.view != View::Processes && !self.is_live()
    }

    /// What went on in the last interval of so many seconds; `retransmits` are those of services and endpoints.
    pub(super) fn look(&mut self, flows: &[(Ends, Flow)], retransmits: Retransmits, seconds: f64) {
        let processes = std::mem::take(&mut self.processes);
        let retransmits = match self.view {
            View::Processes => self.retransmits_of(&processes),
            _ => retransmits,
        };
        if self.paused {
            return;
        }
        let seen: u64 = processes.values().map(|process| process.flow.count).sum();
        let all: u64 = flows.iter().map(|(_, flow)| flow.count).sum();
        let mut seconds = seconds;
        if self.view == View::Processes && self.live.is_none() && seen > 0 {
            self.remark.clear();
            // The agent's figures are of all requests; those of processes are of as many as were let through.
            if all > seen + seen / 10 {
                seconds *= seen as f64 / all as f64;
                self.remark = format!("estimated from {} of {} requests", count(seen), count(all));
            }
        }
        let rows = match self.view {
            View::Processes => of_processes(processes),
            view => of_flows(view, flows),
        };
        self.rows = rows
            .into_iter()
            .map(|(name, (conditions, flow))| Row::new(name, conditions, &flow, &retransmits, seconds))
            .collect();
        self.remember(&retransmits, seconds);
    }

    /// Ends the interval for the sockets of all processes.
    fn retransmits_of(&mut self, processes: &HashMap<String, Process>) -> Retransmits {
        let of = |process: &Process| Some(self.sockets.get(&process.pid?)?.retransmits);
        let retransmits =
            processes.iter().filter_map(|(name, process)| Some((name.clone(), of(process)?))).collect();
        self.sockets.retain(|_, sockets| {
            *sockets = Sockets { retransmits: 0, quiet: sockets.quiet + 1 };
            sockets.quiet <= PAST
        });
        retransmits
    }

    /// Rows that were quiet stay for as long as their past is shown.
    fn remember(&mut self, retransmits: &Retransmits, seconds: f64) {
        let now: HashMap<&str, u64> =
            self.rows.iter().map(|row| (row.name.as_str(), row.requests_per_second.ceil() as u64)).collect();
        self.past.retain(|name, past| {
            past.push_back(now.get(name.as_str()).copied().unwrap_or(0));
            if past.len() > PAST {
                past.pop_front();
            }
            past.iter().any(|rate| *rate > 0)
        });
        for (name, rate) in now {
            if !self.past.contains_key(name) && self.past.len() < ROWS {
                self.past.insert(name.to_owned(), VecDeque::from([rate]));
            }
        }
        let quiet: Vec<String> = self.past.keys().filter(|name| !self.has_row(name)).cloned().collect();
        for name in quiet {
            let conditions = Conditions::default();
            self.rows.push(Row::new(name, conditions, &Flow::default(), retransmits, seconds));
        }
    }

    fn has_row(&self, name: &str) -> bool {
        self.rows.iter().any(|row| row.name == name)
    }

    /// A request, or what is missing.
    pub(super) fn take(&mut self, line: &TraceLine) {
        let request = match line {
            TraceLine::Request(request) => request,
            TraceLine::Tcp(event) => return self.take_event(event),
            TraceLine::Dns(_) => return,
            TraceLine::Lost(lost) => {
                if self.live.is_some() {
                    self.remark = in_words(lost);
                }
                return;
            }
        };
        if let Some(live) = &mut self.live {
            if !self.paused && live.conditions.endpoint.is_none_or(|endpoint| endpoint == request.endpoint) {
                live.requests.push_front(request.clone());
                live.requests.truncate(REQUESTS);
            }
            return;
        }
        let name = process_name(request);
        if self.processes.len() < PROCESSES || self.processes.contains_key(&name) {
            let process = self.processes.entry(name).or_default();
            process.pid = request.client.as_ref().and_then(|client| client.pid);
            process.flow.add_request(request);
            if let Some(sockets) = process.pid.and_then(|pid| self.sockets.get_mut(&pid)) {
                sockets.quiet = 0;
            }
        }
    }

    /// As the counters of services: of connections that were made by the process, not of those that it took.
    fn take_event(&mut self, event: &ObservedConnection) {
        let Some(pid) = event.owner.as_ref().and_then(|owner| owner.pid) else { return };
        if event.side == "client" && (self.sockets.len() < ROWS || self.sockets.contains_key(&pid)) {
            let sockets = self.sockets.entry(pid).or_default();
            sockets.quiet = 0;
            sockets.retransmits += u64::from(event.event == "retransmit");
        }
    }

    /// Rows that pass the filter, in order.
    pub(super) fn rows(&self) -> Vec<Row> {
        let mut rows: Vec<Row> =
            self.rows.iter().filter(|row| row.name.contains(&self.filter)).cloned().collect();
        rows.sort_by(|a, b| {
            let order = a.compare(b, self.sort);
            if self.reversed { order.reverse() } else { order }
        });
        rows
    }

    /// Requests a second in the last intervals, oldest first.
    pub(super) fn past(&self, name: &str) -> Vec<u64> {
        self.past.get(name).map(|past| past.iter().copied().collect()).unwrap_or_default()
    }

    pub(super) fn table(&self, paint: Paint, width: Option<usize>) -> String {
        let columns = Column::ALL
            .map(|column| (column.title(self.view), if column == Column::Name { Left } else { Right }));
        let mut table = Table::new(&columns);
        for row in self.rows() {
            let cell = |column| {
                let bad = column == Column::Errors && row.error_share > 0.0;
                Cell::new(row.shown(column), if bad { Tone::Bad } else { Tone::Plain })
            };
            table.row(Column::ALL.map(cell).to_vec());
        }
        table.render(paint, width)
    }

    pub(super) fn press(&mut self, key: KeyEvent) -> Wish {
        if key.modifiers.contains(KeyModifiers::CONTROL) {
            return if key.code == KeyCode::Char('c') { Wish::Quit } else { Wish::Nothing };
        }
        if self.typing {
            self.type_filter(key.code);
            return Wish::Nothing;
        }
        match key.code {
            KeyCode::Char('q') => return Wish::Quit,
            KeyCode::Char('1') => return self.show(View::Services),
            KeyCode::Char('2') => return self.show(View::Endpoints),
            KeyCode::Char('3') => return self.show(View::Processes),
            KeyCode::Tab => {
                return self.show(match self.view {
                    View::Services => View::Endpoints,
                    View::Endpoints => View::Processes,
                    View::Processes => View::Services,
                });
            }
            KeyCode::Enter if self.live.is_none() => return self.drill_down(),
            KeyCode::Esc | KeyCode::Backspace => return self.go_back(),
            KeyCode::Up | KeyCode::Char('k') => self.selected = self.selected.saturating_sub(1),
            KeyCode::Down | KeyCode::Char('j') => self.selected += 1,
            KeyCode::Home => self.selected = 0,
            KeyCode::PageUp => self.selected = self.selected.saturating_sub(10),
            KeyCode::PageDown => self.selected += 10,
            KeyCode::Char('s') => self.sort = self.sort.next(),
            KeyCode::Char('r') => self.reversed = !self.reversed,
            KeyCode::Char('p') => self.paused = !self.paused,
            KeyCode::Char('/') => self.typing = true,
            _ => {}
        }
        self.selected = self.selected.min(self.rows().len().saturating_sub(1));
        Wish::Nothing
    }

    fn type_filter(&mut self, code: KeyCode) {
        match code {
            KeyCode::Enter => self.typing = false,
            KeyCode::Esc => {
                self.typing = false;
                self.filter.clear();
            }
            KeyCode::Backspace => drop(self.filter.pop()),
            KeyCode::Char(letter) if self.filter.len() < 100 => self.filter.push(letter),
            _ => {}
        }
        self.selected = 0;
    }

    fn show(&mut self, view: View) -> Wish {
        let filter = std::mem::take(&mut self.filter);
        *self = Self { filter, sort: self.sort, reversed: self.reversed, ..Self::new(view) };
        Wish::Follow
    }

    fn drill_down(&mut self) -> Wish {
        let rows = self.rows();
        let Some(row) = rows.get(self.selected) else { return Wish::Nothing };
        let (name, conditions) = (row.name.clone(), row.conditions.clone());
        // A quiet row does not tell whose it is.
        if conditions == Conditions::default() {
            return Wish::Nothing;
        }
        self.remark.clear();
        self.live = Some(Live { name, conditions, requests: VecDeque::new() });
        Wish::Follow
    }

    fn go_back(&mut self) -> Wish {
        if self.live.take().is_some() {
            self.remark.clear();
            return Wish::Follow;
        }
        self.filter.clear();
        Wish::Nothing
    }
}

type Rows = HashMap<String, (Conditions, Flow)>;

fn of_flows(view: View, flows: &[(Ends, Flow)]) -> Rows {
    let mut rows = Rows::new();
    for (ends, flow) in flows {
        let conditions = Conditions {
            service: ends.service.clone(),
            endpoint: (view == View::Endpoints || ends.service.is_none()).then_some(ends.endpoint),
            pid: None,
        };
        let name = match (view, &ends.service) {
            (View::Services, Some(service)) => service.clone(),
            (_, Some(service)) => format!("{service}/{}", ends.endpoint),
            (_, None) => format!("-/{}", ends.endpoint),
        };
        rows.entry(name).or_insert_with(|| (conditions, Flow::default())).1.add(flow);
    }
    rows
}

fn of_processes(processes: HashMap<String, Process>) -> Rows {
    let rows = processes.into_iter().map(|(name, process)| {
        (name, (Conditions { pid: process.pid, ..Conditions::default() }, process.flow))
    });
    rows.collect()
}

/// `4711 curl (shop.service)`.
fn process_name(request: &ObservedRequest) -> String {
    let Some(client) = &request.client else {
        return format!("elsewhere {}", request.client_address.ip());
    };
    let pid = client.pid.map_or_else(|| "-".to_owned(), |pid| pid.to_string());
    let comm = client.comm.as_deref().unwrap_or("-");
    format!("{pid} {comm} ({})", client.workload.name)
}

#[cfg(test)]
mod tests {
    use super::super::super::trace::tests::{connection, request};
    use super::super::super::traffic::between;
    use super::super::super::traffic::tests::report;
    use super::*;

    fn board(view: View) -> Board {
        let mut board = Board::new(view);
        let sent_again = Retransmits::from([("web".into(), 25)]);
        board.look(&between(&report(0, 0), &report(90, 10)), sent_again, 10.0);
        board
    }

    fn press(board: &mut Board, codes: &str) -> Wish {
        let code = |letter| match letter {
            '\n' => KeyCode::Enter,
            '\u{1b}' => KeyCode::Esc,
            letter => KeyCode::Char(letter),
        };
        let mut wish = Wish::Nothing;
        for letter in codes.chars() {
            wish = board.press(KeyEvent::new(code(letter), KeyModifiers::NONE));
        }
        wish
    }

    #[test]
    fn rows_are_of_the_last_interval_and_stay_while_their_past_does() {
        let mut board = board(View::Services);
        let shown = board.table(Paint::PLAIN, None);
        assert!(shown.starts_with("SERVICE  REQUESTS/S  ERRORS"), "{shown}");
        assert!(shown.contains("web            10.0  10.0 %"), "{shown}");
        assert!(shown.contains("  RETRANS/S\n") && shown.ends_with("        2.5\n"), "{shown}");
        board.look(&[], Retransmits::new(), 1.0);
        assert_eq!(board.past("web"), [10, 0]);
        assert_eq!(board.rows()[0].requests_per_second, 0.0);
        assert_eq!(board.rows()[0].retransmits_per_second, None, "nobody counted");
        for _ in 0..PAST {
            board.look(&[], Retransmits::new(), 1.0);
        }
        assert!(board.rows().is_empty());
    }

    #[test]
    fn keys_filter_sort_and_drill_down() {
        let mut board = board(View::Endpoints);
        assert_eq!(board.rows()[0].name, "web/127.0.0.1:8080");
        press(&mut board, "/nothing\n");
        assert!(board.rows().is_empty());
        assert_eq!(press(&mut board, "\n"), Wish::Nothing, "there is no row to look into");
        press(&mut board, "\u{1b}");
        assert_eq!(board.rows().len(), 1);
        press(&mut board, "s");
        assert_eq!(board.sort, Column::Errors);
        assert_eq!(press(&mut board, "\n"), Wish::Follow);
        assert_eq!(board.conditions(), Some(vec![("service", "web".to_owned())]));
        assert_eq!(press(&mut board, "\u{1b}"), Wish::Follow);
        assert_eq!(board.conditions(), None);
        assert_eq!(press(&mut board, "/q"), Wish::Nothing, "a letter of the filter");
        assert_eq!(press(&mut board, "\nq"), Wish::Quit);
    }

    #[test]
    fn processes_need_requests_one_by_one() {
        let mut board = Board::new(View::Services);
        assert_eq!(press(&mut board, "3"), Wish::Follow);
        assert_eq!(board.conditions(), Some(vec![("kinds", "http,tcp".to_owned())]));
        assert!(!board.counts_services());
    }

    fn event(event: &str, side: &str) -> TraceLine {
        TraceLine::Tcp(Box::new(ObservedConnection {
            event: event.into(),
            side: side.into(),
            owner: request().client,
            ..connection()
        }))
    }

    #[test]
    fn processes_have_the_retransmits_of_connections_that_were_seen() {
        let mut board = Board::new(View::Processes);
        let mut look = |lines: &[TraceLine]| {
            lines.iter().for_each(|line| board.take(line));
            board.take(&TraceLine::Request(Box::new(request())));
            board.look(&[], Retransmits::new(), 2.0);
            board.rows()[0].retransmits_per_second
        };
        assert_eq!(look(&[]), None, "the connection was there before");
        assert_eq!(look(&[event("retransmit", "server")]), None, "of one that it took");
        assert_eq!(look(&[event("connected", "client")]), Some(0.0));
        assert_eq!(look(&[event("retransmit", "client"), event("retransmit", "client")]), Some(1.0));
        assert_eq!(look(&[]), Some(0.0));
        for _ in 0..=PAST {
            board.look(&[], Retransmits::new(), 2.0);
        }
        assert!(board.sockets.is_empty());
    }

    #[test]
    fn rows_are_sorted_by_retransmits_and_what_is_not_known_comes_last() {
        let row = |name: &str, retransmits| Row {
            retransmits_per_second: retransmits,
            ..Row::new(name.into(), Conditions::default(), &Flow::default(), &Retransmits::new(), 1.0)
        };
        let mut board = Board::new(View::Services);
        board.rows = vec![row("unknown", None), row("none", Some(0.0)), row("many", Some(7.0))];
        press(&mut board, "sssss");
        assert_eq!(board.sort, Column::Retransmits);
        let names: Vec<String> = board.rows().into_iter().map(|row| row.name).collect();
        assert_eq!(names, ["many", "none", "unknown"]);
    }
}
