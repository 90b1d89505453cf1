//! The built-in server: as little as a server can do, so that what differs between subjects stands out.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddrV4, TcpListener, TcpStream};
use std::os::fd::{AsRawFd, RawFd};
use std::thread;

use anyhow::{Context, Result};
use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};
use rustix::net::{AddressFamily, SocketFlags, SocketType, sockopt};

use super::generator::{BODY, pin};
use super::layout::ENDPOINT_PORT;

/// Serves until standard input ends. One listener a thread, between which the kernel spreads connections.
pub(crate) fn run(threads: usize, cpu: Option<usize>) -> Result<()> {
    rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL))?;
    for _ in 0..threads {
        let server = Server::new()?;
        thread::spawn(move || pin(cpu).and_then(|()| server.serve()));
    }
    println!("ready");
    io::copy(&mut io::stdin(), &mut io::sink())?;
    Ok(())
}

struct Server {
    epoll: rustix::fd::OwnedFd,
    listener: TcpListener,
    /// By number of the file descriptor.
    open: Vec<Option<TcpStream>>,
    response: String,
}

impl Server {
    fn new() -> Result<Self> {
        let listener = listen().context("cannot listen")?;
        let epoll = epoll::create(CreateFlags::CLOEXEC)?;
        epoll::add(&epoll, &listener, key(listener.as_raw_fd()), EventFlags::IN)?;
        let response = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{BODY}", BODY.len());
        Ok(Self { epoll, listener, open: Vec::new(), response })
    }

    fn serve(mut self) -> Result<()> {
        let mut events: Vec<Event> = Vec::with_capacity(64);
        loop {
            match epoll::wait(&self.epoll, rustix::buffer::spare_capacity(&mut events), None) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
            for event in events.drain(..) {
                match event.data.u64() as RawFd {
                    listener if listener == self.listener.as_raw_fd() => self.accept()?,
                    connection => self.answer(connection as usize),
                }
            }
        }
    }

    fn accept(&mut self) -> Result<()> {
        while let Ok((stream, _)) = self.listener.accept() {
            stream.set_nonblocking(true)?;
            let number = stream.as_raw_fd();
            epoll::add(&self.epoll, &stream, key(number), EventFlags::IN)?;
            let place = number as usize;
            if self.open.len() <= place {
                self.open.resize_with(place + 1, || None);
            }
            self.open[place] = Some(stream);
        }
        Ok(())
    }

    /// A request of the generator is one small segment; whatever else comes is the end of the connection.
    fn answer(&mut self, place: usize) {
        let Some(entry) = self.open.get_mut(place) else { return };
        let Some(stream) = entry else { return };
        let mut request = [0; 1024];
        match stream.read(&mut request) {
            Ok(length) if request[..length].ends_with(b"\r\n\r\n") => {
                if stream.write_all(self.response.as_bytes()).is_err() {
                    *entry = None;
                }
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            _ => *entry = None,
        }
    }
}

fn key(number: RawFd) -> EventData {
    EventData::new_u64(number as u64)
}

fn listen() -> Result<TcpListener> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(AddressFamily::INET, SocketType::STREAM, flags, None)?;
    sockopt::set_socket_reuseaddr(&socket, true)?;
    sockopt::set_socket_reuseport(&socket, true)?;
    rustix::net::bind(&socket, &SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, ENDPOINT_PORT))?;
    rustix::net::listen(&socket, 1024)?;
    Ok(TcpListener::from(socket))
}
