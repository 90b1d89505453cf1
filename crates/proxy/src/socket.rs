//! A TCP socket that costs nothing while nothing happens on it, and knows how many bytes went through it.

use std::collections::VecDeque;
use std::fmt;
use std::io::{self, IoSlice};
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes, BytesMut};
use rustix::net::RecvFlags;
use tokio::io::Interest;
use tokio::net::TcpStream;

/// Smaller pieces are copied together rather than handed to the kernel one by one.
const SMALL: usize = 1024;
/// Pieces handed to the kernel at once.
const PIECES: usize = 16;

/// A connection that another process has made or accepted.
pub(crate) fn of_another(socket: OwnedFd) -> io::Result<TcpStream> {
    let stream = std::net::TcpStream::from(socket);
    stream.set_nonblocking(true)?;
    TcpStream::from_std(stream)
}

/// Bytes that wait to be written.
#[derive(Debug, Default)]
pub(crate) struct Out {
    queue: VecDeque<Bytes>,
    tail: BytesMut,
}

impl Out {
    /// Adds `data` behind what waits.
    pub(crate) fn push(&mut self, data: Bytes) {
        if data.len() < SMALL {
            self.tail.extend_from_slice(&data);
        } else {
            self.seal();
            self.queue.push_back(data);
        }
    }

    /// Adds a short line.
    pub(crate) fn line(&mut self, line: fmt::Arguments<'_>) {
        let _ = fmt::Write::write_fmt(&mut self.tail, line);
    }

    /// Where heads are written to.
    pub(crate) fn tail(&mut self) -> &mut BytesMut {
        &mut self.tail
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.queue.is_empty() && self.tail.is_empty()
    }

    /// Bytes that wait.
    pub(crate) fn len(&self) -> usize {
        self.queue.iter().map(Bytes::len).sum::<usize>() + self.tail.len()
    }

    fn seal(&mut self) {
        if !self.tail.is_empty() {
            self.queue.push_back(self.tail.split().freeze());
        }
    }

    fn wrote(&mut self, mut size: usize) {
        while size > 0 {
            let Some(first) = self.queue.front_mut() else { return };
            let step = first.len().min(size);
            first.advance(step);
            size -= step;
            if first.is_empty() {
                self.queue.pop_front();
            }
        }
        if self.queue.is_empty() {
            // An empty queue holds no memory: many connections wait.
            *self = Self::default();
        }
    }

    /// All of it, for tests and fuzzing.
    pub(crate) fn collect(mut self) -> Vec<u8> {
        self.seal();
        self.queue.iter().flat_map(|piece| piece.iter().copied()).collect()
    }
}

/// The socket. Reading and writing need no `&mut`, so that a front's socket can be written by whose turn it is.
#[derive(Debug)]
pub(crate) struct Socket {
    stream: TcpStream,
    read: AtomicU64,
    written: AtomicU64,
    /// It ends with a reset.
    is_cut: AtomicBool,
}

impl Socket {
    pub(crate) fn new(stream: TcpStream) -> Self {
        let _ = stream.set_nodelay(true);
        Self::with_totals(stream, 0, 0)
    }

    /// As it was in another process, that read and wrote so many bytes.
    pub(crate) fn with_totals(stream: TcpStream, read: u64, written: u64) -> Self {
        let (read, written) = (AtomicU64::new(read), AtomicU64::new(written));
        Self { stream, read, written, is_cut: AtomicBool::new(false) }
    }

    pub(crate) fn stream(&self) -> &TcpStream {
        &self.stream
    }

    pub(crate) fn into_stream(self) -> TcpStream {
        self.stream
    }

    /// Bytes read and written, in total.
    pub(crate) fn totals(&self) -> (u64, u64) {
        (self.read.load(Ordering::Relaxed), self.written.load(Ordering::Relaxed))
    }

    pub(crate) fn count_read(&self, size: usize) {
        self.read.fetch_add(size as u64, Ordering::Relaxed);
    }

    pub(crate) fn count_written(&self, size: usize) {
        self.written.fetch_add(size as u64, Ordering::Relaxed);
    }

    /// Reads up to `size` bytes behind what `buffer` holds; room is made only when bytes are there. 0 is the end.
    pub(crate) fn poll_read(
        &self,
        cx: &mut Context<'_>,
        buffer: &mut BytesMut,
        size: usize,
    ) -> Poll<io::Result<usize>> {
        loop {
            ready!(self.stream.poll_read_ready(cx))?;
            if let Some(read) = self.try_read(buffer, size)? {
                return Poll::Ready(Ok(read));
            }
        }
    }

    /// Reads what is there; `None` if nothing is.
    pub(crate) fn try_read(&self, buffer: &mut BytesMut, size: usize) -> io::Result<Option<usize>> {
        buffer.reserve(size);
        match self.stream.try_read_buf(buffer) {
            Ok(read) => {
                self.count_read(read);
                Ok(Some(read))
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                if buffer.is_empty() {
                    *buffer = BytesMut::new();
                }
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    /// Ready when the peer has reset the connection. An end in order is none: the peer may wait for its response. What it
    /// sends is left unread.
    pub(crate) fn poll_reset(&self, cx: &mut Context<'_>) -> Poll<()> {
        let flags = RecvFlags::PEEK | RecvFlags::DONTWAIT;
        let peek = || Ok(rustix::net::recv(&self.stream, &mut [0; 1], flags)?);
        while self.stream.poll_read_ready(cx).is_ready() {
            match self.stream.try_io(Interest::READABLE, peek) {
                Ok(_) => return Poll::Pending,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(_) => return Poll::Ready(()),
            }
        }
        Poll::Pending
    }

    /// Writes all of `out`.
    pub(crate) fn poll_write(&self, cx: &mut Context<'_>, out: &mut Out) -> Poll<io::Result<()>> {
        out.seal();
        while !out.queue.is_empty() {
            ready!(self.stream.poll_write_ready(cx))?;
            let mut pieces = [IoSlice::new(&[]); PIECES];
            let count = out.queue.len().min(PIECES);
            for (piece, data) in pieces.iter_mut().zip(&out.queue) {
                *piece = IoSlice::new(data);
            }
            match self.stream.try_write_vectored(&pieces[..count]) {
                Ok(written) => {
                    self.count_written(written);
                    out.wrote(written);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Takes no more bytes: whoever waits for some sees the end.
    pub(crate) fn shutdown_read(&self) {
        let _ = rustix::net::shutdown(&self.stream, rustix::net::Shutdown::Read);
    }

    /// Tells the peer that nothing follows.
    pub(crate) fn shutdown_write(&self) {
        let _ = rustix::net::shutdown(&self.stream, rustix::net::Shutdown::Write);
    }

    /// Ends the connection so that the peer cannot take what it got for complete. Whoever sleeps on it wakes, and drops
    /// it; it must not be shut down for writing, since an end in order would go before the reset.
    pub(crate) fn reset(&self) {
        self.is_cut.store(true, Ordering::Relaxed);
        let _ = rustix::net::sockopt::set_socket_linger(&self.stream, Some(std::time::Duration::ZERO));
        self.shutdown_read();
    }

    /// Ends the connection for everybody who has a descriptor of it.
    pub(crate) fn end(&self) {
        let _ = match self.is_cut.load(Ordering::Relaxed) {
            // Sends a reset at once, where closing waits for the last descriptor.
            true => rustix::net::connect_unspec(&self.stream),
            false => rustix::net::shutdown(&self.stream, rustix::net::Shutdown::Both),
        };
    }
}
