//! `alize top`: HTTP live on the terminal. What is shown is worked out in [`board`] and drawn in [`screen`]; here are
//! the clock, the keys and the agent.

mod board;
mod retransmits;
mod screen;

use std::io::{self, IsTerminal};
use std::time::{Duration, Instant};

use alize_model::api::{ServiceStatus, TraceLine, TrafficReport};
use ratatui::crossterm::event::{self, Event, KeyEvent, KeyEventKind};
use ratatui::{DefaultTerminal, Terminal};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tokio::time::{MissedTickBehavior, interval};

use super::args::TopArgs;
use super::live::output_closed;
use super::traffic::between;
use crate::client::{Client, Lines};
use crate::failure::Failure;
use crate::output::Output;
use board::{Board, Wish};

/// Requests and events of connections a second from which processes are counted.
const SAMPLE: u32 = 2000;
/// Requests a second that are shown one by one.
const SHOWN: u32 = 200;
/// How long the thread that reads keys may go on after the end.
const KEYS: Duration = Duration::from_millis(100);

pub(crate) async fn top(client: &Client, args: &TopArgs, output: Output) -> Result<(), Failure> {
    if args.once {
        return once(client, args, output).await;
    }
    if !io::stdout().is_terminal() || !io::stdin().is_terminal() {
        let error = anyhow::anyhow!("alize top needs a terminal; use --once to print one table");
        return Err(Failure::Other(error));
    }
    let board = Board::new(args.view);
    let counted = Counted::now(client, &board).await?;
    let mut screen = Screen::open()?;
    let coloured = output.paint.is_coloured();
    let mut session = Session { client, board, coloured, counted, lines: None };
    session.run(&mut screen.terminal, args.interval).await
}

/// What the agent had counted at a moment.
struct Counted {
    traffic: TrafficReport,
    /// Empty where the board has no use for it: it costs the agent a look at all sockets.
    services: Vec<ServiceStatus>,
}

impl Counted {
    async fn now(client: &Client, board: &Board) -> Result<Self, Failure> {
        let traffic = client.traffic().await?;
        let services = if board.counts_services() { client.services().await? } else { Vec::new() };
        Ok(Self { traffic, services })
    }

    /// Shows what went on since `earlier`.
    fn show(&self, earlier: &Self, board: &mut Board) {
        let flows = between(&earlier.traffic, &self.traffic);
        let retransmits = retransmits::between(&earlier.services, &self.services);
        board.look(&flows, retransmits, self.traffic.time - earlier.traffic.time);
    }
}

/// Asks for what the board needs one by one, if anything.
async fn follow(client: &Client, board: &Board) -> Result<Option<Lines<TraceLine>>, Failure> {
    let Some(mut conditions) = board.conditions() else { return Ok(None) };
    let limit = if board.is_live() { SHOWN } else { SAMPLE };
    conditions.push(("rate_limit", limit.to_string()));
    Ok(Some(client.trace(&conditions).await?))
}

/// The table of one interval.
async fn once(client: &Client, args: &TopArgs, output: Output) -> Result<(), Failure> {
    let mut board = Board::new(args.view);
    let earlier = Counted::now(client, &board).await?;
    let mut lines = follow(client, &board).await?;
    let pause = tokio::time::sleep(args.interval);
    tokio::pin!(pause);
    loop {
        tokio::select! {
            () = &mut pause => break,
            () = output_closed() => return Err(Failure::OutputClosed),
            line = next(&mut lines) => match line? {
                Some(line) => board.take(&line),
                None => lines = None,
            },
        }
    }
    Counted::now(client, &board).await?.show(&earlier, &mut board);
    let rows = board.rows();
    output.answer(&rows, || board.table(output.paint, output.width()))
}

/// The terminal in the state that the program needs; given back as it was, however this ends.
struct Screen {
    terminal: DefaultTerminal,
}

impl Screen {
    fn open() -> Result<Self, Failure> {
        // It also gives the terminal back before a panic is told.
        let terminal = ratatui::try_init().map_err(Failure::of_output)?;
        Ok(Self { terminal })
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        ratatui::restore();
    }
}

struct Session<'a> {
    client: &'a Client,
    board: Board,
    coloured: bool,
    counted: Counted,
    /// One by one: requests of the chosen row, or a sample to count processes from.
    lines: Option<Lines<TraceLine>>,
}

impl Session<'_> {
    async fn run(&mut self, terminal: &mut DefaultTerminal, pause: Duration) -> Result<(), Failure> {
        let system = |error| Failure::Other(anyhow::Error::new(error).context("cannot listen to signals"));
        let mut terminate = signal(SignalKind::terminate()).map_err(system)?;
        let mut hang_up = signal(SignalKind::hangup()).map_err(system)?;
        let mut interrupt = signal(SignalKind::interrupt()).map_err(system)?;
        let mut keys = keys();
        let mut clock = interval(pause);
        clock.set_missed_tick_behavior(MissedTickBehavior::Delay);
        clock.tick().await;
        self.follow().await?;
        let mut drawn = Instant::now();
        self.draw(terminal)?;
        loop {
            tokio::select! {
                _ = terminate.recv() => return Ok(()),
                _ = hang_up.recv() => return Ok(()),
                _ = interrupt.recv() => return Ok(()),
                _ = clock.tick() => self.look().await?,
                event = keys.recv() => match event {
                    Some(Some(key)) => match self.board.press(key) {
                        Wish::Nothing => {}
                        Wish::Follow => self.follow().await?,
                        Wish::Quit => return Ok(()),
                    },
                    Some(None) => {}
                    None => return Ok(()),
                },
                line = next(&mut self.lines) => {
                    match line? {
                        Some(line) => self.board.take(&line),
                        None => self.lines = None,
                    }
                    // A flood of requests must not become a flood of pictures.
                    if drawn.elapsed() < KEYS || !self.board.is_live() {
                        continue;
                    }
                }
            }
            drawn = Instant::now();
            self.draw(terminal)?;
        }
    }

    async fn look(&mut self) -> Result<(), Failure> {
        let now = Counted::now(self.client, &self.board).await?;
        now.show(&self.counted, &mut self.board);
        self.counted = now;
        Ok(())
    }

    async fn follow(&mut self) -> Result<(), Failure> {
        // The one before is ended first: there are few places.
        self.lines = None;
        self.lines = follow(self.client, &self.board).await?;
        Ok(())
    }

    fn draw<B: ratatui::backend::Backend<Error = io::Error>>(
        &mut self,
        terminal: &mut Terminal<B>,
    ) -> Result<(), Failure> {
        terminal
            .draw(|frame| screen::draw(frame, &mut self.board, self.coloured))
            .map(drop)
            .map_err(Failure::of_output)
    }
}

async fn next(lines: &mut Option<Lines<TraceLine>>) -> Result<Option<TraceLine>, Failure> {
    match lines {
        Some(lines) => Ok(lines.next().await?),
        None => std::future::pending().await,
    }
}

/// Keys as they are pressed; `None` for everything else that calls for a new picture, such as another size.
fn keys() -> mpsc::Receiver<Option<KeyEvent>> {
    let (sender, receiver) = mpsc::channel(64);
    // Reading blocks, and the system has no better way to wait for a terminal and a signal at once.
    std::thread::spawn(move || {
        while !sender.is_closed() {
            let event = match event::poll(KEYS) {
                Ok(false) => continue,
                Ok(true) => event::read(),
                Err(error) => Err(error),
            };
            let pressed = match event {
                Ok(Event::Key(key)) if key.kind != KeyEventKind::Release => Some(key),
                Ok(_) => None,
                // The terminal has gone.
                Err(_) => return,
            };
            if sender.blocking_send(pressed).is_err() {
                return;
            }
        }
    });
    receiver
}
