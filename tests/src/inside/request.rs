use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::Result;

use super::dial::Dial;
use super::download::bytes;
use super::stream::{each_line, take};
use super::{Speech, tell};
use crate::Tally;
use crate::tally::Answer;

/// Asks a [`super::shop::Shop`]. No request is asked a second time, whatever happens.
#[derive(Debug, clap::Args)]
pub struct Request {
    target: SocketAddr,
    /// Callers that keep their connection
    #[arg(long, default_value_t = 0)]
    kept: u32,
    /// Callers with a new connection for each request
    #[arg(long, default_value_t = 0)]
    fresh: u32,
    /// Callers that download a megabyte and compare it, over a kept connection
    #[arg(long, default_value_t = 0)]
    downloads: u32,
    /// Connections that are kept and asked over at each line of standard input
    #[arg(long, default_value_t = 0)]
    idle: u32,
    #[arg(long, default_value_t = 60.0)]
    timeout: f64,
}

const MEGABYTE: usize = 1 << 20;

/// What one caller does.
#[derive(Clone, Copy)]
enum Habit {
    Kept,
    Fresh,
    Downloads,
}

struct Caller<'a> {
    dial: Dial,
    numbers: &'a AtomicU64,
    connection: Option<(BufReader<TcpStream>, SocketAddr)>,
}

impl Request {
    pub(super) fn run(self) -> Result<()> {
        let dial =
            Dial { target: self.target, speech: Speech::Http, limit: Duration::from_secs_f64(self.timeout) };
        let (seen, ending, numbers) =
            (Mutex::new(Tally::default()), AtomicBool::new(false), AtomicU64::new(1));
        let new = || Caller { dial, numbers: &numbers, connection: None };
        let mut idle: Vec<Caller<'_>> = (0..self.idle).map(|_| new()).collect();
        if self.idle > 0 {
            tell(&ask_all(&mut idle))?;
        }
        let habits =
            [(Habit::Kept, self.kept), (Habit::Fresh, self.fresh), (Habit::Downloads, self.downloads)];
        std::thread::scope(|scope| {
            for (habit, count) in habits {
                for _ in 0..count {
                    let mut caller = new();
                    let (seen, ending) = (&seen, &ending);
                    scope.spawn(move || {
                        while !ending.load(Ordering::Relaxed) {
                            let begin = Instant::now();
                            let outcome = caller.call(habit);
                            if let Ok(mut seen) = seen.lock() {
                                seen.record(outcome, None, begin.elapsed());
                            }
                        }
                    });
                }
            }
            let told = each_line(|| {
                let mut tally = take(&seen);
                tally.add(ask_all(&mut idle));
                tell(&tally)
            });
            ending.store(true, Ordering::Relaxed);
            told
        })?;
        tell(&take(&seen))
    }
}

/// Asks over all connections, then hears from all: thousands of waits at once take as long as one.
fn ask_all(idle: &mut [Caller<'_>]) -> Tally {
    let begin = Instant::now();
    let mut tally = Tally::default();
    let asked: Vec<_> = idle.iter_mut().map(Caller::ask).collect();
    for (caller, asked) in idle.iter_mut().zip(asked) {
        let outcome = asked.and_then(|number| caller.hear(number));
        tally.record(outcome, None, begin.elapsed());
    }
    tally
}

impl Caller<'_> {
    fn call(&mut self, habit: Habit) -> io::Result<Answer> {
        let number = self.numbers.fetch_add(1, Ordering::Relaxed);
        let outcome = match habit {
            Habit::Kept | Habit::Fresh => self.once(number),
            Habit::Downloads => self.download(number),
        };
        // A connection that failed is not used again; the failure is told.
        if outcome.is_err() || matches!(habit, Habit::Fresh) {
            self.connection = None;
        }
        outcome
    }

    /// Sends a request that is this connection's only one; its number.
    fn ask(&mut self) -> io::Result<u64> {
        let number = self.numbers.fetch_add(1, Ordering::Relaxed);
        self.send(&format!("/once/{number}"))?;
        Ok(number)
    }

    fn hear(&mut self, number: u64) -> io::Result<Answer> {
        let (reader, peer) = self.connection.as_mut().ok_or(io::ErrorKind::NotConnected)?;
        let (body, peer) = (body(reader)?, *peer);
        let text = String::from_utf8(body).map_err(|_| io::ErrorKind::InvalidData)?;
        match text.trim_end().split_once(' ') {
            Some((name, back)) if back == number.to_string() => Ok(Answer { name: name.to_owned(), peer }),
            _ => Err(io::ErrorKind::InvalidData.into()),
        }
    }

    fn once(&mut self, number: u64) -> io::Result<Answer> {
        self.send(&format!("/once/{number}"))?;
        self.hear(number)
    }

    fn download(&mut self, number: u64) -> io::Result<Answer> {
        self.send(&format!("/bytes/{number}/{MEGABYTE}"))?;
        let (reader, peer) = self.connection.as_mut().ok_or(io::ErrorKind::NotConnected)?;
        let (body, peer) = (body(reader)?, *peer);
        if body == bytes(number, MEGABYTE) {
            Ok(Answer { name: "megabyte".into(), peer })
        } else {
            Err(io::ErrorKind::InvalidData.into())
        }
    }

    fn send(&mut self, path: &str) -> io::Result<()> {
        let (reader, _) = match &mut self.connection {
            Some(connection) => connection,
            empty => {
                let stream = self.dial.connect(None)?;
                stream.set_nodelay(true)?;
                let peer = stream.peer_addr()?;
                empty.insert((BufReader::with_capacity(2048, stream), peer))
            }
        };
        // At once: the kernel leaves heads that come in pieces to the proxy.
        reader.get_mut().write_all(format!("GET {path} HTTP/1.1\r\nHost: shop\r\n\r\n").as_bytes())
    }
}

/// The body of a response with status 200.
fn body(reader: &mut BufReader<TcpStream>) -> io::Result<Vec<u8>> {
    let mut length = None;
    let mut first = true;
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line)? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        if std::mem::take(&mut first) && !line.starts_with("HTTP/1.1 200 ") {
            return Err(io::Error::other(line));
        }
        if line == "\r\n" {
            break;
        }
        if let Some((name, value)) = line.split_once(':')
            && name.eq_ignore_ascii_case("content-length")
        {
            length = value.trim().parse().ok();
        }
    }
    let mut body = vec![0; length.ok_or(io::ErrorKind::InvalidData)?];
    reader.read_exact(&mut body)?;
    Ok(body)
}
