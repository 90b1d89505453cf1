use std::io;
use std::net::{SocketAddr, TcpStream};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::Result;
use tungstenite::{Message, WebSocket};

use super::dial::Dial;
use super::download::bytes;
use super::stream::{each_line, take};
use super::{Speech, tell};
use crate::Tally;
use crate::tally::Answer;

/// WebSockets to a server that echoes.
#[derive(Debug, clap::Args)]
pub struct Websocket {
    target: SocketAddr,
    /// WebSockets over which frames go all the time
    #[arg(long, default_value_t = 0)]
    busy: u32,
    /// WebSockets that are kept, and used at each line of standard input
    #[arg(long, default_value_t = 0)]
    idle: u32,
    #[arg(long, default_value_t = 60.0)]
    timeout: f64,
}

/// Sizes of frames: below, at and above what is read at once.
const SIZES: [usize; 4] = [1, 125, 16 * 1024, 70_000];

struct Chat {
    socket: WebSocket<TcpStream>,
    peer: SocketAddr,
}

impl Websocket {
    pub(super) fn run(self) -> Result<()> {
        let dial =
            Dial { target: self.target, speech: Speech::Http, limit: Duration::from_secs_f64(self.timeout) };
        let (seen, ending, numbers) =
            (Mutex::new(Tally::default()), AtomicBool::new(false), AtomicU64::new(1));
        let mut opened = Tally::default();
        let mut open = |count: u32| -> Vec<Chat> {
            let one = |_| {
                let begin = Instant::now();
                let mut chat = Chat::open(&dial);
                let outcome = match &mut chat {
                    Ok(chat) => chat.exchange(numbers.fetch_add(1, Ordering::Relaxed)),
                    Err(error) => Err(error.kind().into()),
                };
                opened.record(outcome, None, begin.elapsed());
                chat.ok()
            };
            (0..count).filter_map(one).collect()
        };
        let (busy, mut idle) = (open(self.busy), open(self.idle));
        tell(&opened)?;
        std::thread::scope(|scope| {
            for mut chat in busy {
                scope.spawn({
                    let (seen, ending, numbers) = (&seen, &ending, &numbers);
                    move || {
                        while !ending.load(Ordering::Relaxed) {
                            let begin = Instant::now();
                            let outcome = chat.exchange(numbers.fetch_add(1, Ordering::Relaxed));
                            let broken = outcome.is_err();
                            if let Ok(mut seen) = seen.lock() {
                                seen.record(outcome, None, begin.elapsed());
                            }
                            if broken {
                                break;
                            }
                        }
                    }
                });
            }
            let told = each_line(|| {
                let mut tally = take(&seen);
                tally.add(ask_all(&mut idle, &numbers));
                tell(&tally)
            });
            ending.store(true, Ordering::Relaxed);
            told
        })?;
        tell(&take(&seen))
    }
}

/// Sends over all, then reads from all: thousands of waits at once take as long as one.
fn ask_all(idle: &mut [Chat], numbers: &AtomicU64) -> Tally {
    let begin = Instant::now();
    let mut tally = Tally::default();
    let mut send = |chat: &mut Chat| {
        let sent = bytes(numbers.fetch_add(1, Ordering::Relaxed), SIZES[1]);
        chat.send(&sent).map(|()| sent)
    };
    let sent: Vec<_> = idle.iter_mut().map(&mut send).collect();
    for (chat, sent) in idle.iter_mut().zip(sent) {
        let outcome = sent.and_then(|sent| chat.hear(&sent));
        tally.record(outcome, None, begin.elapsed());
    }
    tally
}

fn failed(error: tungstenite::Error) -> io::Error {
    match error {
        tungstenite::Error::Io(error) => error,
        error => io::Error::other(error),
    }
}

impl Chat {
    fn open(dial: &Dial) -> io::Result<Self> {
        let stream = dial.connect(None)?;
        stream.set_nodelay(true)?;
        let peer = stream.peer_addr()?;
        let (socket, _) = tungstenite::client("ws://shop/chat", stream)
            .inspect_err(|error| eprintln!("no WebSocket: {error}"))
            .map_err(io::Error::other)?;
        Ok(Self { socket, peer })
    }

    /// A frame there and back.
    fn exchange(&mut self, number: u64) -> io::Result<Answer> {
        let sent = bytes(number, SIZES[number as usize % SIZES.len()]);
        self.send(&sent)?;
        self.hear(&sent)
    }

    fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.socket.send(Message::Binary(bytes.to_vec().into())).map_err(failed)
    }

    fn hear(&mut self, sent: &[u8]) -> io::Result<Answer> {
        let back = self.socket.read().map_err(failed)?;
        if back.into_data() == sent {
            Ok(Answer { name: "frame".into(), peer: self.peer })
        } else {
            Err(io::ErrorKind::InvalidData.into())
        }
    }
}
