use std::io::{self, BufReader, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use anyhow::Result;

use super::dial::{Dial, line};
use super::stream::each_line;
use super::{Speech, tell};
use crate::Tally;
use crate::tally::Answer;

#[derive(Debug, clap::Args)]
pub struct Hold {
    target: SocketAddr,
    /// Connections to open
    #[arg(long, default_value_t = 1)]
    count: u32,
    /// All are asked at once: on a busy machine thousands of server threads take their time
    #[arg(long, default_value_t = 60.0)]
    timeout: f64,
}

struct Held {
    answer: Answer,
    stream: BufReader<TcpStream>,
}

impl Hold {
    pub(super) fn run(self) -> Result<()> {
        let limit = Duration::from_secs_f64(self.timeout);
        let dial = Dial { target: self.target, speech: Speech::Line, limit };
        let mut tally = Tally::default();
        let mut held = Vec::new();
        for _ in 0..self.count {
            let begin = Instant::now();
            let outcome = dial.connect(None).and_then(|stream| dial.listen(stream));
            let outcome = outcome.map(|(answer, stream)| {
                held.push(Held { answer: answer.clone(), stream });
                answer
            });
            tally.record(outcome, None, begin.elapsed());
        }
        tell(&tally)?;
        each_line(|| tell(&ask_all(&mut held)))
    }
}

/// Sends over all connections, then reads from all; each must give back what went in.
fn ask_all(held: &mut [Held]) -> Tally {
    let begin = Instant::now();
    let mut tally = Tally::default();
    let sent: Vec<io::Result<()>> =
        held.iter_mut().map(|one| one.stream.get_mut().write_all(b"again\n")).collect();
    for (one, sent) in held.iter_mut().zip(sent) {
        let heard = sent.and_then(|()| line(&mut one.stream));
        let outcome = heard.and_then(|text| match text.as_str() {
            "again" => Ok(one.answer.clone()),
            _ => Err(io::ErrorKind::InvalidData.into()),
        });
        tally.record(outcome, None, begin.elapsed());
    }
    tally
}
