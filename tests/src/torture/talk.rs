//! HTTP/1.1 over a socket, from either end: strict about what it reads, and at pains to say how it ended.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::Pattern;

/// How the reading of a message ended early.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Broken {
    /// The connection ended before its first byte.
    Before,
    /// Or later.
    Within(String),
    /// It is no message.
    Malformed(String),
    /// A byte of the body is not the one that belongs there, at this place.
    Wrong(u64),
}

/// A connection, and what was read of it and not used.
#[derive(Debug)]
pub(super) struct Talk {
    stream: TcpStream,
    unread: Vec<u8>,
    blocking: bool,
    /// Reads of a blocking socket that found nothing.
    pub(super) spurious: u64,
    /// What the last failing system call said.
    pub(super) said: Option<io::ErrorKind>,
    /// The pause before each read, for readers that are slow.
    pub(super) slow: Option<Duration>,
}

/// A head, names in lower case.
#[derive(Debug)]
pub(super) struct Head {
    pub(super) first: String,
    fields: Vec<(String, String)>,
}

impl Head {
    pub(super) fn field(&self, name: &str) -> Option<&str> {
        self.fields.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    pub(super) fn word(&self, number: usize) -> &str {
        self.first.split(' ').nth(number).unwrap_or_default()
    }
}

/// Where a body ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Framing {
    Length(u64),
    Chunked,
    UntilClose,
}

impl Talk {
    pub(super) fn new(stream: TcpStream, blocking: bool) -> io::Result<Self> {
        stream.set_nodelay(true)?;
        stream.set_nonblocking(!blocking)?;
        Ok(Self { stream, unread: Vec::new(), blocking, spurious: 0, said: None, slow: None })
    }

    pub(super) fn stream(&self) -> &TcpStream {
        &self.stream
    }

    pub(super) fn write(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            match self.stream.write(bytes) {
                Ok(written) => bytes = &bytes[written..],
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.wait(PollFlags::OUT)?,
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn wait(&self, what: PollFlags) -> io::Result<()> {
        let second = Timespec { tv_sec: 1, tv_nsec: 0 };
        poll(&mut [PollFd::new(&self.stream, what)], Some(&second))?;
        Ok(())
    }

    /// Reads more; `false` at the end of the connection, however that came.
    pub(super) fn more(&mut self) -> bool {
        let mut some = [0; 32 * 1024];
        let most = if self.slow.is_some() { 2048 } else { some.len() };
        if let Some(pause) = self.slow {
            std::thread::sleep(pause);
        }
        loop {
            match self.stream.read(&mut some[..most]) {
                Ok(0) => return false,
                Ok(length) => {
                    self.unread.extend_from_slice(&some[..length]);
                    return true;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.spurious += u64::from(self.blocking);
                    if let Err(error) = self.wait(PollFlags::IN) {
                        self.said = Some(error.kind());
                        return false;
                    }
                }
                Err(error) => {
                    self.said = Some(error.kind());
                    return false;
                }
            }
        }
    }

    /// Reads `length` bytes, whatever they are.
    pub(super) fn skip(&mut self, length: usize) {
        while self.unread.len() < length && self.more() {}
        self.unread.drain(..length.min(self.unread.len()));
    }

    pub(super) fn has_unread(&self) -> bool {
        !self.unread.is_empty()
    }

    fn within(&self, what: &str) -> Broken {
        Broken::Within(format!("within {what}, {:?}", self.said))
    }

    pub(super) fn head(&mut self) -> Result<Head, Broken> {
        let end = loop {
            if let Some(end) = self.unread.windows(4).position(|window| window == b"\r\n\r\n") {
                break end;
            }
            if self.unread.len() > 16 * 1024 {
                return Err(Broken::Malformed("a head without end".into()));
            }
            if !self.more() {
                return Err(if self.has_unread() { self.within("the head") } else { Broken::Before });
            }
        };
        let text = String::from_utf8_lossy(&self.unread[..end]).into_owned();
        self.unread.drain(..end + 4);
        let mut lines = text.split("\r\n");
        let first = lines.next().unwrap_or_default().to_owned();
        let fields = lines.map(|line| {
            let (name, value) = line.split_once(':').ok_or_else(|| Broken::Malformed(text.clone()))?;
            Ok((name.to_ascii_lowercase(), value.trim().to_owned()))
        });
        let fields = fields.collect::<Result<Vec<_>, Broken>>()?;
        if !first.contains("HTTP/1.1") {
            return Err(Broken::Malformed(text));
        }
        Ok(Head { first, fields })
    }

    /// Reads a body and compares it; how long it was.
    pub(super) fn body(&mut self, framing: Framing, pattern: &mut Pattern) -> Result<u64, Broken> {
        match framing {
            Framing::Length(length) => self.exactly(length, 0, pattern).map(|()| length),
            Framing::UntilClose => {
                let mut read = 0;
                loop {
                    self.compare(self.unread.len(), &mut read, pattern)?;
                    if !self.more() {
                        break;
                    }
                }
                if self.said.is_some() { Err(self.within("a body without length")) } else { Ok(read) }
            }
            Framing::Chunked => {
                let mut read = 0;
                loop {
                    let line = self.line()?;
                    let size = u64::from_str_radix(&line, 16)
                        .map_err(|_| Broken::Malformed(format!("chunk size {line:?}")))?;
                    if size == 0 {
                        let last = self.line()?;
                        let malformed = || Broken::Malformed(format!("{last:?} after the last chunk"));
                        return last.is_empty().then_some(read).ok_or_else(malformed);
                    }
                    self.exactly(size, read, pattern)?;
                    read += size;
                    let end = self.line()?;
                    if !end.is_empty() {
                        return Err(Broken::Malformed(format!("{end:?} after a chunk")));
                    }
                }
            }
        }
    }

    fn line(&mut self) -> Result<String, Broken> {
        loop {
            if let Some(end) = self.unread.windows(2).position(|window| window == b"\r\n") {
                let line = String::from_utf8_lossy(&self.unread[..end]).into_owned();
                self.unread.drain(..end + 2);
                return Ok(line);
            }
            if self.unread.len() > 100 {
                return Err(Broken::Malformed("a line without end in a chunked body".into()));
            }
            if !self.more() {
                return Err(self.within("a chunked body"));
            }
        }
    }

    fn exactly(&mut self, length: u64, before: u64, pattern: &mut Pattern) -> Result<(), Broken> {
        let mut read = before;
        while read < before + length {
            let some = self.unread.len().min((before + length - read) as usize);
            self.compare(some, &mut read, pattern)?;
            if read < before + length && !self.more() {
                return Err(self.within(&format!("a body, after {read} bytes")));
            }
        }
        Ok(())
    }

    fn compare(&mut self, length: usize, read: &mut u64, pattern: &mut Pattern) -> Result<(), Broken> {
        if !pattern.matches(&self.unread[..length]) {
            return Err(Broken::Wrong(*read));
        }
        self.unread.drain(..length);
        *read += length as u64;
        Ok(())
    }
}
