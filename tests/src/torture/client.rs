//! The torture's clients.

use std::net::{Shutdown, SocketAddr, TcpStream};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Result;
use rustix::net::sockopt::set_socket_linger;

use super::plan::{Down, Ending, Manner, Plan, Up};
use super::talk::{Broken, Framing, Head, Talk};
use super::{Book, Failure, Kind, Pattern, now};

/// Nothing takes longer, not even on a machine that does other things too.
const PATIENCE: Duration = Duration::from_secs(30);

#[derive(Debug, clap::Args)]
pub struct Torment {
    /// The service
    target: SocketAddr,
    /// Requests to send at least
    #[arg(long)]
    requests: u64,
    /// Go on until this file exists
    #[arg(long)]
    until: Option<PathBuf>,
    /// Connections at once; every other one is of a blocking socket
    #[arg(long, default_value_t = 16)]
    threads: u64,
    /// Where chance begins
    #[arg(long)]
    seed: u64,
}

/// A connection that is looked after: it is ended when its request has hung for too long.
#[derive(Debug, Default)]
struct Watched {
    since: u64,
    stream: Option<TcpStream>,
    hung: bool,
}

impl Torment {
    pub(crate) fn run(self) -> Result<()> {
        let left = AtomicU64::new(self.requests);
        let watched: Vec<_> = (0..self.threads).map(|_| Arc::new(Mutex::new(Watched::default()))).collect();
        let ended = AtomicU64::new(0);
        let mut book = Book::default();
        std::thread::scope(|scope| {
            let threads: Vec<_> = watched
                .iter()
                .zip(0..)
                .map(|(watched, number)| {
                    let (left, ended, options) = (&left, &ended, &self);
                    let watched = Arc::clone(watched);
                    scope.spawn(move || {
                        let book = Client::new(options, number, watched).torment(left);
                        ended.fetch_add(1, Ordering::Relaxed);
                        book
                    })
                })
                .collect();
            while ended.load(Ordering::Relaxed) < self.threads {
                watched.iter().for_each(|watched| look_after(watched));
                std::thread::sleep(Duration::from_millis(100));
            }
            for thread in threads {
                book.add(thread.join().expect("a client does not panic"));
            }
        });
        let text = serde_json::to_string(&book)?;
        use std::io::Write;
        writeln!(std::io::stdout().lock(), "{text}")?;
        Ok(())
    }
}

fn look_after(watched: &Mutex<Watched>) {
    let mut watched = watched.lock().unwrap_or_else(PoisonError::into_inner);
    let overdue = watched.since > 0 && now().saturating_sub(watched.since) > PATIENCE.as_nanos() as u64;
    if overdue && let Some(stream) = watched.stream.take() {
        watched.hung = true;
        let _ = stream.shutdown(Shutdown::Both);
    }
}

struct Client<'a> {
    options: &'a Torment,
    blocking: bool,
    watched: Arc<Mutex<Watched>>,
    random: fastrand::Rng,
    nonce: u64,
    book: Book,
}

struct Open {
    talk: Talk,
    connected: u64,
    /// What was asked before.
    before: String,
}

/// What became of a request.
enum Outcome {
    /// The connection goes on.
    Right,
    /// The connection has ended, as it should.
    RightAndOver,
    GivenUp,
    Failed(Kind, String),
}

impl<'a> Client<'a> {
    fn new(options: &'a Torment, number: u64, watched: Arc<Mutex<Watched>>) -> Self {
        let seed = options.seed << 8 | number;
        Self {
            options,
            blocking: number.is_multiple_of(2),
            watched,
            random: fastrand::Rng::with_seed(seed),
            nonce: seed << 32,
            book: Book::default(),
        }
    }

    fn torment(mut self, left: &AtomicU64) -> Book {
        let mut open = None;
        while self.goes_on(left) {
            let Some(mut line) = open.take().or_else(|| self.connect()) else { continue };
            let keep = match self.random.u8(..) {
                0..8 => self.pipeline(&mut line),
                _ => {
                    let plan = self.draw();
                    self.one(&mut line, &plan)
                }
            };
            let spurious = line.talk.spurious;
            if spurious > 0 {
                *self.book.spurious.entry("reading".into()).or_default() += spurious;
                line.talk.spurious = 0;
            }
            if keep && self.random.u8(..) > 3 {
                open = Some(line);
            }
        }
        self.book
    }

    fn goes_on(&self, left: &AtomicU64) -> bool {
        let more =
            left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).is_ok();
        more || self.options.until.as_ref().is_some_and(|file| !file.exists())
    }

    fn draw(&mut self) -> Plan {
        self.nonce += 1;
        self.book.requests += 1;
        Plan::draw(self.nonce, &mut self.random)
    }

    fn connect(&mut self) -> Option<Open> {
        let began = now();
        let stream = match TcpStream::connect_timeout(&self.options.target, PATIENCE) {
            Ok(stream) => stream,
            Err(error) => {
                self.fail(Kind::Refused, 0, format!("{error}"), began, began);
                std::thread::sleep(Duration::from_millis(5));
                return None;
            }
        };
        self.book.connections += 1;
        let watched = stream.try_clone().ok()?;
        let talk = Talk::new(stream, self.blocking).ok()?;
        *self.watched.lock().unwrap_or_else(PoisonError::into_inner) =
            Watched { stream: Some(watched), ..Watched::default() };
        Some(Open { talk, connected: now(), before: "nothing".into() })
    }

    fn fail(&mut self, kind: Kind, nonce: u64, what: String, connected: u64, began: u64) {
        if matches!(kind, Kind::Hung | Kind::Wrong | Kind::MixedUp | Kind::Malformed | Kind::MadeWhole) {
            eprintln!("GRAVE {kind:?} {nonce:x} {what}");
        }
        self.book.failures.push(Failure { kind, nonce, what, connected, began, ended: now() });
    }

    fn watch(&self, since: u64) -> bool {
        let mut watched = self.watched.lock().unwrap_or_else(PoisonError::into_inner);
        watched.since = since;
        watched.hung
    }

    /// Sends one request and reads its response; whether the connection goes on.
    fn one(&mut self, open: &mut Open, plan: &Plan) -> bool {
        let began = now();
        self.watch(began);
        let outcome = self.exchange(&mut open.talk, plan);
        let hung = self.watch(0);
        let outcome = match outcome {
            Outcome::Failed(_, what) if hung => Outcome::Failed(Kind::Hung, what),
            outcome => outcome,
        };
        self.enter(open, plan, began, outcome)
    }

    fn enter(&mut self, open: &mut Open, plan: &Plan, began: u64, outcome: Outcome) -> bool {
        match outcome {
            Outcome::Right | Outcome::RightAndOver => {
                *self.book.right.entry(plan.name()).or_default() += 1;
            }
            Outcome::GivenUp => self.book.given_up += 1,
            Outcome::Failed(ref kind, ref what) => {
                let age = (began - open.connected) / 1_000_000;
                let (before, blocking) = (&open.before, self.blocking);
                let what =
                    format!("{plan}: {what}; connected for {age} ms, blocking: {blocking}, after {before}");
                self.fail(kind.clone(), plan.nonce, what, open.connected, began);
            }
        }
        open.before = plan.to_string();
        matches!(outcome, Outcome::Right)
    }

    /// Several requests at once.
    fn pipeline(&mut self, open: &mut Open) -> bool {
        let count = self.random.usize(2..7);
        let plans: Vec<Plan> = (0..count)
            .map(|_| {
                let Plan { nonce, size, status, proxied, .. } = self.draw();
                Plan {
                    nonce,
                    size: size % 2000,
                    status: if status == 204 { 200 } else { status },
                    proxied,
                    ..Plan::default()
                }
            })
            .collect();
        let began = now();
        self.watch(began);
        let text: String = plans.iter().map(Plan::head).collect();
        let mut goes_on = self.send(&mut open.talk, text.as_bytes(), true).is_ok();
        for (place, plan) in plans.iter().enumerate() {
            if !goes_on {
                self.book.given_up += (plans.len() - place) as u64;
                break;
            }
            let outcome = self.hear(&mut open.talk, plan);
            let hung = self.watch(began);
            let outcome = match outcome {
                Outcome::Failed(_, what) if hung => Outcome::Failed(Kind::Hung, what),
                Outcome::Failed(kind, what) => {
                    Outcome::Failed(kind, format!("{place} of {count} pipelined: {what}"))
                }
                outcome => outcome,
            };
            goes_on = self.enter(open, plan, began, outcome);
        }
        self.watch(0);
        goes_on
    }

    fn send(&mut self, talk: &mut Talk, bytes: &[u8], pieces: bool) -> std::io::Result<()> {
        if !pieces {
            return talk.write(bytes);
        }
        let mut rest = bytes;
        let mut number = 0;
        while !rest.is_empty() {
            number += 1;
            let most = [10, 200, 2_000, 30_000][self.random.usize(..4)];
            let length = if number > 20 { rest.len() } else { self.random.usize(1..=most) };
            let (piece, more) = rest.split_at(length.min(rest.len()));
            talk.write(piece)?;
            rest = more;
            if self.random.u8(..) < 64 {
                std::thread::sleep(Duration::from_micros(self.random.u64(..3000)));
            }
        }
        Ok(())
    }

    fn body(&mut self, plan: &Plan) -> Vec<u8> {
        let mut pattern = Pattern::new(plan.nonce);
        match plan.up {
            Up::Nothing => Vec::new(),
            Up::Length(length) => pattern.take(length as usize),
            Up::Chunked(length) => {
                let mut bytes = Vec::new();
                let mut left = length as usize;
                while left > 0 {
                    let some = left.min(self.random.usize(1..20_000));
                    bytes.extend_from_slice(format!("{some:x}\r\n").as_bytes());
                    bytes.extend(pattern.take(some));
                    bytes.extend_from_slice(b"\r\n");
                    left -= some;
                }
                bytes.extend_from_slice(b"0\r\n\r\n");
                bytes
            }
        }
    }

    fn exchange(&mut self, talk: &mut Talk, plan: &Plan) -> Outcome {
        let body = self.body(plan);
        self.book.bytes += body.len() as u64;
        let whole = [plan.head().as_bytes(), &body].concat();
        if plan.manner == Manner::AbortRequest {
            let cut = self.random.usize(1..whole.len());
            let _ = talk.write(&whole[..cut]);
            return self.give_up(talk);
        }
        // A write that fails is told by the response, or by its absence.
        let sent = self.send(talk, &whole, plan.manner == Manner::Pieces);
        match plan.manner {
            Manner::AbortWaiting => return self.give_up(talk),
            Manner::AbortResponse => {
                if !talk.has_unread() {
                    talk.more();
                }
                return self.give_up(talk);
            }
            Manner::HalfClose => drop(talk.stream().shutdown(Shutdown::Write)),
            Manner::SlowReader => talk.slow = Some(Duration::from_micros(500)),
            Manner::Whole | Manner::Pieces | Manner::AbortRequest => {}
        }
        let before = talk.spurious;
        let outcome = self.hear(talk, plan);
        talk.slow = None;
        if plan.manner == Manner::HalfClose {
            let found = talk.spurious - before;
            talk.spurious = before;
            *self.book.spurious.entry("half closed".into()).or_default() += found;
            if matches!(outcome, Outcome::Right) {
                return match talk.more() {
                    false => Outcome::RightAndOver,
                    true => Outcome::Failed(Kind::Malformed, "more after the response".into()),
                };
            }
        }
        match (outcome, sent) {
            (Outcome::Failed(kind, what), Err(error)) => {
                Outcome::Failed(kind, format!("{what}; sending: {error}"))
            }
            (outcome, _) => outcome,
        }
    }

    fn give_up(&mut self, talk: &Talk) -> Outcome {
        // With a reset, or with an orderly end.
        if self.random.bool() {
            let _ = set_socket_linger(talk.stream(), Some(Duration::ZERO));
        }
        Outcome::GivenUp
    }

    /// Reads the response and judges it.
    fn hear(&mut self, talk: &mut Talk, plan: &Plan) -> Outcome {
        let head = match talk.head() {
            Ok(head) => head,
            Err(broken) => return failed(broken, plan, None),
        };
        let status: u16 = head.word(1).parse().unwrap_or(0);
        let Some(nonce) = head.field("x-nonce") else { return self.answered(talk, &head, status, plan) };
        if nonce != format!("{:x}", plan.nonce) {
            return Outcome::Failed(Kind::MixedUp, format!("{head:?}"));
        }
        let got = head.field("x-got").unwrap_or_default();
        let wanted = match plan.up {
            _ if plan.early => "early".to_owned(),
            Up::Nothing => "right 0".to_owned(),
            Up::Length(length) | Up::Chunked(length) => format!("right {length}"),
        };
        if status != plan.status || got != wanted {
            return Outcome::Failed(Kind::Wrong, format!("{head:?} instead of {wanted:?}"));
        }
        let read = match framing(&head, plan) {
            Err(what) => return Outcome::Failed(Kind::Malformed, what),
            Ok(None) => 0,
            Ok(Some(framing)) => match talk.body(framing, &mut Pattern::new(!plan.nonce)) {
                Ok(read) => read,
                Err(broken) => return failed(broken, plan, Some(&head)),
            },
        };
        self.book.bytes += read;
        if plan.ending == Ending::DieWithin {
            return Outcome::Failed(Kind::MadeWhole, format!("{read} bytes"));
        }
        if !plan.bodiless() && read != plan.size {
            return Outcome::Failed(Kind::Wrong, format!("{read} bytes of {}", plan.size));
        }
        let over = head.field("connection").is_some_and(|value| value.eq_ignore_ascii_case("close"));
        if over { Outcome::RightAndOver } else { Outcome::Right }
    }

    /// The mesh itself has answered.
    fn answered(&mut self, talk: &mut Talk, head: &Head, status: u16, plan: &Plan) -> Outcome {
        let reason = head.field("x-alize-reason").unwrap_or("none").to_owned();
        // Its text is for people, and the connection may go on.
        let length = head.field("content-length").and_then(|length| length.parse().ok()).unwrap_or(0);
        talk.skip(length);
        if plan.ending == Ending::DieBefore && (status, reason.as_str()) == (502, "endpoint-closed") {
            return Outcome::RightAndOver;
        }
        Outcome::Failed(Kind::Answered { status, reason }, String::new())
    }
}

fn framing(head: &Head, plan: &Plan) -> Result<Option<Framing>, String> {
    if plan.bodiless() {
        return Ok(None);
    }
    match (head.field("transfer-encoding"), head.field("content-length")) {
        (Some("chunked"), None) => Ok(Some(Framing::Chunked)),
        (None, Some(length)) if plan.down == Down::Length => match length.parse() {
            Ok(length) if length == plan.size => Ok(Some(Framing::Length(length))),
            _ => Err(format!("a length of {length}")),
        },
        (None, None) => Ok(Some(Framing::UntilClose)),
        other => Err(format!("framing {other:?}")),
    }
}

fn failed(broken: Broken, plan: &Plan, head: Option<&Head>) -> Outcome {
    let what = format!("{broken:?}, {head:?}");
    let kind = match broken {
        // It is what was asked for: an answer that is not whole, and does not look whole.
        Broken::Within(_) if plan.ending == Ending::DieWithin => return Outcome::RightAndOver,
        Broken::Before if plan.ending == Ending::DieWithin => return Outcome::RightAndOver,
        Broken::Before => Kind::Cut,
        Broken::Within(_) => Kind::CutWithin,
        Broken::Malformed(_) => Kind::Malformed,
        Broken::Wrong(_) => Kind::Wrong,
    };
    Outcome::Failed(kind, what)
}
