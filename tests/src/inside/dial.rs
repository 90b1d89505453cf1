use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, connect, socket_with};

use super::Speech;
use crate::Tally;
use crate::tally::Answer;

/// One way of calling a server.
#[derive(Clone, Copy, Debug)]
pub(super) struct Dial {
    pub(super) target: SocketAddr,
    pub(super) speech: Speech,
    pub(super) limit: Duration,
}

impl Dial {
    /// Calls, hears the name, hangs up, and takes down what happened.
    pub(super) fn ask(&self, source: Option<IpAddr>, tally: &mut Tally) {
        let begin = Instant::now();
        let outcome = self.connect(source).and_then(|stream| self.listen(stream));
        tally.record(outcome.map(|(answer, _)| answer), source, begin.elapsed());
    }

    pub(super) fn connect(&self, source: Option<IpAddr>) -> io::Result<TcpStream> {
        let family = if self.target.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
        let socket = socket_with(family, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
        set_socket_timeout(&socket, Timeout::Send, Some(self.limit))?;
        set_socket_timeout(&socket, Timeout::Recv, Some(self.limit))?;
        if let Some(source) = source {
            bind(&socket, &SocketAddr::new(source, 0))?;
        }
        match connect(&socket, &self.target) {
            Ok(()) => Ok(socket.into()),
            // What SO_SNDTIMEO makes of a connect that takes too long.
            Err(rustix::io::Errno::INPROGRESS) => Err(io::ErrorKind::TimedOut.into()),
            Err(error) => Err(error.into()),
        }
    }

    /// Hears the server's name; the connection stays open.
    pub(super) fn listen(&self, stream: TcpStream) -> io::Result<(Answer, BufReader<TcpStream>)> {
        let peer = stream.peer_addr()?;
        let mut reader = BufReader::with_capacity(512, stream);
        let name = match self.speech {
            Speech::Line => line(&mut reader)?,
            Speech::Http => {
                reader.get_mut().write_all(b"GET / HTTP/1.0\r\nHost: service\r\n\r\n")?;
                let mut text = String::new();
                reader.read_to_string(&mut text)?;
                let complete = text.starts_with("HTTP/1.1 200 ") && text.ends_with('\n');
                let body = text.lines().last().filter(|_| complete);
                body.ok_or(io::ErrorKind::InvalidData)?.to_owned()
            }
        };
        Ok((Answer { name, peer }, reader))
    }
}

pub(super) fn line(reader: &mut impl BufRead) -> io::Result<String> {
    let mut line = String::new();
    reader.read_line(&mut line)?;
    match line.strip_suffix('\n') {
        Some(line) => Ok(line.to_owned()),
        None => Err(io::ErrorKind::UnexpectedEof.into()),
    }
}
