//! How far the run is: one line that is written over on a terminal, lines in a log.

use std::cell::Cell;
use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

const WIDTH: usize = 24;
/// Between two lines of a log.
const PAUSE: Duration = Duration::from_secs(5);

pub(crate) struct Progress {
    terminal: bool,
    said: Cell<Option<Instant>>,
    start: Instant,
    /// Where the current part begins and ends, of the whole.
    span: Cell<(f64, f64)>,
}

impl Progress {
    pub(crate) fn new() -> Self {
        let terminal = std::io::stderr().is_terminal();
        Self { terminal, said: Cell::new(None), start: Instant::now(), span: Cell::new((0.0, 1.0)) }
    }

    /// What follows is so much of the whole.
    pub(crate) fn span(&self, span: (f64, f64)) {
        self.span.set(span);
    }

    /// The current part in two, the first of which is so much of it.
    pub(crate) fn split(&self, share: f64) -> ((f64, f64), (f64, f64)) {
        let (from, to) = self.span.get();
        let middle = from + (to - from) * share;
        ((from, middle), (middle, to))
    }

    pub(crate) fn step(&self, what: &str) {
        self.show(self.span.get().0, what);
    }

    /// `done` of `all` in round `round` of `rounds`.
    pub(crate) fn part(&self, what: &str, round: usize, rounds: usize, done: usize, all: usize) {
        let (from, to) = self.span.get();
        let share = (round as f64 + done as f64 / all.max(1) as f64) / rounds.max(1) as f64;
        self.show(from + (to - from) * share, what);
    }

    fn show(&self, share: f64, what: &str) {
        let mut error = std::io::stderr().lock();
        let seconds = self.start.elapsed().as_secs();
        if self.terminal {
            let full = (share * WIDTH as f64).round() as usize;
            let (done, rest) = ("█".repeat(full.min(WIDTH)), "░".repeat(WIDTH.saturating_sub(full)));
            let what: String = what.chars().take(70).collect();
            let _ = write!(error, "\r\x1b[K{done}{rest} {:3.0} %  {seconds:3} s  {what}", share * 100.0);
            let _ = error.flush();
        } else if self.said.get().is_none_or(|said| said.elapsed() >= PAUSE) {
            self.said.set(Some(Instant::now()));
            let _ = writeln!(error, "{:3.0} %  {seconds:3} s  {what}", share * 100.0);
        }
    }

    /// A line that stays.
    pub(crate) fn say(&self, line: &str) {
        let clear = if self.terminal { "\r\x1b[K" } else { "" };
        let _ = writeln!(std::io::stderr().lock(), "{clear}{line}");
    }

    pub(crate) fn end(&self) {
        if self.terminal {
            let _ = write!(std::io::stderr().lock(), "\r\x1b[K");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_of_a_part_are_inside_it() {
        let progress = Progress::new();
        progress.span((0.2, 0.6));
        let (first, second) = progress.split(0.75);
        assert!((first.1 - 0.5).abs() < 1e-9 && first.1 == second.0);
        assert_eq!((first.0, second.1), (0.2, 0.6));
    }
}
