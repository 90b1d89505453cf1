use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use anyhow::Result;

use super::{any, tell};
use crate::Tally;
use crate::tally::Answer;

#[derive(Debug, clap::Args)]
pub struct Datagram {
    target: SocketAddr,
    /// Datagrams, one after the other
    #[arg(long, default_value_t = 1)]
    count: u32,
    /// Connect the socket, instead of naming the target with each datagram
    #[arg(long)]
    connected: bool,
    /// Send all from one socket, instead of from one socket each
    #[arg(long)]
    one_socket: bool,
    /// Milliseconds between two datagrams
    #[arg(long, default_value_t = 0)]
    pause: u64,
    #[arg(long, default_value_t = 2.0)]
    timeout: f64,
}

impl Datagram {
    pub(super) fn run(self) -> Result<()> {
        let mut tally = Tally::default();
        let mut kept = None;
        for number in 0..self.count {
            let begin = Instant::now();
            let outcome = self.send(number, &mut kept);
            tally.record(outcome, None, begin.elapsed());
            std::thread::sleep(Duration::from_millis(self.pause));
        }
        tell(&tally)
    }

    fn send(&self, number: u32, kept: &mut Option<UdpSocket>) -> io::Result<Answer> {
        let socket = match kept.take() {
            Some(socket) => socket,
            None => self.socket()?,
        };
        let answer = self.ask(&socket, number);
        if self.one_socket {
            *kept = Some(socket);
        }
        answer
    }

    fn socket(&self) -> io::Result<UdpSocket> {
        let socket = UdpSocket::bind(any(self.target))?;
        socket.set_read_timeout(Some(Duration::from_secs_f64(self.timeout)))?;
        if self.connected {
            socket.connect(self.target)?;
        }
        Ok(socket)
    }

    fn ask(&self, socket: &UdpSocket, number: u32) -> io::Result<Answer> {
        let question = format!("datagram {number}");
        let mut buffer = [0; 512];
        let (length, peer) = if self.connected {
            socket.send(question.as_bytes())?;
            (socket.recv(&mut buffer)?, socket.peer_addr()?)
        } else {
            socket.send_to(question.as_bytes(), self.target)?;
            socket.recv_from(&mut buffer)?
        };
        let text = String::from_utf8_lossy(&buffer[..length]);
        match text.split_once('\n') {
            Some((name, echo)) if echo == question => Ok(Answer { name: name.to_owned(), peer }),
            _ => Err(io::ErrorKind::InvalidData.into()),
        }
    }
}
