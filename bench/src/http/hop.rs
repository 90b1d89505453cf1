//! Services that call each other: each answers once the next has answered it. One thread, one epoll, any number of them.

use std::collections::HashMap;
use std::io::{self, Read, Write};
use std::net::{SocketAddrV4, TcpListener, TcpStream};

use anyhow::{Context, Result, bail};
use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};
use rustix::fd::OwnedFd;

use super::load::connection::{self, Progress, Response};
use super::origin::{SIZES, body, listen};

/// Standard input: its end is the end of the process.
const INPUT: u64 = 0;

/// Each word is a service: `LISTEN=NEXT,HOST`, or `LISTEN=` for the last of a chain.
pub(crate) fn run(words: &[String]) -> Result<()> {
    rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL))?;
    super::load::ready_namespace();
    let services = words.iter().map(|word| Service::parse(word)).collect::<Result<Vec<_>>>()?;
    let mut hops = Hops::new(services)?;
    println!("ready");
    io::stdout().flush()?;
    hops.serve()
}

struct Service {
    listener: TcpListener,
    next: Option<(SocketAddrV4, String)>,
    /// Connections to the next that nothing uses.
    idle: Vec<u64>,
}

impl Service {
    fn parse(word: &str) -> Result<Self> {
        let (own, next) = word.split_once('=').with_context(|| format!("{word} is no LISTEN=NEXT,HOST"))?;
        let next = match next.split_once(',') {
            Some((address, host)) => {
                let request =
                    format!("GET /{} HTTP/1.1\r\nHost: {host}\r\nUser-Agent: alize-bench\r\n\r\n", SIZES[0]);
                Some((address.parse().with_context(|| format!("{address} is no address"))?, request))
            }
            None => None,
        };
        let own = own.parse().with_context(|| format!("{own} is no address"))?;
        Ok(Self { listener: listen(own)?, next, idle: Vec::new() })
    }
}

enum Socket {
    Listener(usize),
    /// From a caller.
    Inbound {
        service: usize,
        stream: TcpStream,
        request: Vec<u8>,
    },
    /// To the next service, for a caller.
    Outbound {
        service: usize,
        socket: OwnedFd,
        response: Response,
        caller: Option<u64>,
        open: bool,
    },
}

struct Hops {
    epoll: OwnedFd,
    services: Vec<Service>,
    sockets: HashMap<u64, Socket>,
    next_key: u64,
    answer: Vec<u8>,
    buffer: Vec<u8>,
}

impl Hops {
    fn new(services: Vec<Service>) -> Result<Self> {
        let epoll = epoll::create(CreateFlags::CLOEXEC)?;
        epoll::add(&epoll, io::stdin(), EventData::new_u64(INPUT), EventFlags::IN)?;
        let mut answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", SIZES[0]).into_bytes();
        answer.extend(body(SIZES[0]));
        let mut hops = Self {
            epoll,
            services,
            sockets: HashMap::new(),
            next_key: INPUT + 1,
            answer,
            buffer: vec![0; 16 * 1024],
        };
        for place in 0..hops.services.len() {
            let key = hops.key();
            let listener = &hops.services[place].listener;
            epoll::add(&hops.epoll, listener, EventData::new_u64(key), EventFlags::IN)?;
            hops.sockets.insert(key, Socket::Listener(place));
        }
        Ok(hops)
    }

    fn key(&mut self) -> u64 {
        let key = self.next_key;
        self.next_key += 1;
        key
    }

    fn serve(&mut self) -> Result<()> {
        let mut events: Vec<Event> = Vec::with_capacity(256);
        loop {
            match epoll::wait(&self.epoll, rustix::buffer::spare_capacity(&mut events), None) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
            for event in events.drain(..) {
                let key = event.data.u64();
                if key == INPUT {
                    return Ok(());
                }
                // An error is the end of its connection, and of the caller's that waits for it.
                if let Err(error) = self.happened(key) {
                    eprintln!("hop: {error:#}");
                    self.drop_socket(key);
                }
            }
        }
    }

    fn drop_socket(&mut self, key: u64) {
        match self.sockets.remove(&key) {
            Some(Socket::Outbound { service, caller, .. }) => {
                self.services[service].idle.retain(|idle| *idle != key);
                if let Some(caller) = caller {
                    self.sockets.remove(&caller);
                }
            }
            Some(Socket::Listener(place)) => {
                self.sockets.insert(key, Socket::Listener(place));
            }
            Some(Socket::Inbound { .. }) | None => {}
        }
    }

    fn happened(&mut self, key: u64) -> Result<()> {
        match self.sockets.get_mut(&key) {
            Some(Socket::Listener(place)) => {
                let place = *place;
                self.accept(place)
            }
            Some(Socket::Inbound { service, stream, request }) => {
                let service = *service;
                match stream.read(&mut self.buffer) {
                    Ok(0) => {
                        self.sockets.remove(&key);
                        return Ok(());
                    }
                    Ok(read) => request.extend_from_slice(&self.buffer[..read]),
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                    Err(error) => return Err(error).context("read a request"),
                }
                if !request.ends_with(b"\r\n\r\n") {
                    return Ok(());
                }
                request.clear();
                if self.services[service].next.is_some() { self.call(service, key) } else { self.reply(key) }
            }
            Some(Socket::Outbound { .. }) => self.outbound(key),
            None => Ok(()),
        }
    }

    fn accept(&mut self, service: usize) -> Result<()> {
        while let Ok((stream, _)) = self.services[service].listener.accept() {
            stream.set_nonblocking(true)?;
            stream.set_nodelay(true)?;
            let key = self.key();
            epoll::add(&self.epoll, &stream, EventData::new_u64(key), EventFlags::IN)?;
            self.sockets.insert(key, Socket::Inbound { service, stream, request: Vec::new() });
        }
        Ok(())
    }

    /// Asks the next service for `caller`.
    fn call(&mut self, service: usize, caller: u64) -> Result<()> {
        let Some((address, request)) = &self.services[service].next else { bail!("no next service") };
        let (address, request) = (*address, request.clone());
        if let Some(key) = self.services[service].idle.pop()
            && let Some(Socket::Outbound { socket, caller: whose, .. }) = self.sockets.get_mut(&key)
        {
            *whose = Some(caller);
            return connection::send(socket, request.as_bytes());
        }
        let socket = connection::open(address)?;
        let key = self.key();
        epoll::add(&self.epoll, &socket, EventData::new_u64(key), EventFlags::OUT)?;
        let outbound = Socket::Outbound {
            service,
            socket,
            response: Response::default(),
            caller: Some(caller),
            open: false,
        };
        self.sockets.insert(key, outbound);
        Ok(())
    }

    fn outbound(&mut self, key: u64) -> Result<()> {
        let Some(Socket::Outbound { service, socket, response, caller, open }) = self.sockets.get_mut(&key)
        else {
            return Ok(());
        };
        if !*open {
            connection::connected(socket)?;
            epoll::modify(&self.epoll, &*socket, EventData::new_u64(key), EventFlags::IN)?;
            *open = true;
            let request = self.services[*service].next.as_ref().map(|(_, request)| request.as_bytes());
            return connection::send(socket, request.unwrap_or_default());
        }
        let Some(whom) = *caller else {
            if !connection::idle(socket)? {
                self.drop_socket(key);
            }
            return Ok(());
        };
        if response.read(socket, &mut self.buffer, SIZES[0] as u64)? == Progress::More {
            return Ok(());
        }
        *caller = None;
        let service = *service;
        self.services[service].idle.push(key);
        self.reply(whom)
    }

    fn reply(&mut self, key: u64) -> Result<()> {
        let Some(Socket::Inbound { stream, .. }) = self.sockets.get_mut(&key) else { return Ok(()) };
        if let Err(error) = stream.write_all(&self.answer) {
            eprintln!("hop: cannot answer: {error}");
            self.sockets.remove(&key);
        }
        Ok(())
    }
}
