//! The server that all paths lead to: nginx from the system, or a built-in one where there is none.

use std::fs;
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddrV4, TcpListener, TcpStream};
use std::os::fd::{AsRawFd, RawFd};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};
use rustix::net::{AddressFamily, SocketFlags, SocketType, sockopt};

use super::place::open_files;

/// Where it listens.
pub(crate) const PORT: u16 = 8080;
/// Lengths of bodies that it has, in bytes: `/<length>`.
pub(crate) const SIZES: [usize; 4] = [23, 1_024, 65_536, 1_048_576];

/// What stands at a place of every body: a period that no buffer size divides, so that bytes out of place are seen.
pub(crate) fn byte_at(place: u64) -> u8 {
    b'a' + (place % 23) as u8
}

pub(crate) fn body(length: usize) -> Vec<u8> {
    (0..length as u64).map(byte_at).collect()
}

/// Writes the files that nginx serves, and its configuration.
pub(crate) fn nginx_configuration(folder: &Path, workers: usize, log: Option<&Path>) -> Result<PathBuf> {
    let root = folder.join("origin");
    fs::create_dir_all(&root).with_context(|| format!("cannot make {}", root.display()))?;
    for size in SIZES {
        fs::write(root.join(size.to_string()), body(size))?;
    }
    let small = SIZES[0];
    let text = String::from_utf8(body(small)).unwrap_or_default();
    let (folder, root) = (folder.display(), root.display());
    let log = log.map_or_else(|| "off".to_owned(), |path| path.display().to_string());
    let files = open_files();
    let configuration = format!(
        "daemon off;\nuser root;\npid {folder}/origin.pid;\nerror_log {folder}/origin-error.log;\n\
         worker_processes {workers};\nworker_rlimit_nofile {files};\n\
         events {{ worker_connections {files}; multi_accept on; }}\n\
         http {{\n  access_log {log};\n  sendfile on;\n  tcp_nopush on;\n  tcp_nodelay on;\n\
         \x20 keepalive_requests 1000000000;\n  keepalive_timeout 3600s;\n  client_header_timeout 3600s;\n\
         \x20 large_client_header_buffers 8 64k;\n  open_file_cache max=64;\n\
         \x20 client_body_temp_path {folder};\n  proxy_temp_path {folder};\n  fastcgi_temp_path {folder};\n\
         \x20 uwsgi_temp_path {folder};\n  scgi_temp_path {folder};\n\
         \x20 server {{\n    listen {PORT} backlog=4096 reuseport;\n    root {root};\n\
         \x20   location = /{small} {{ return 200 \"{text}\"; }}\n  }}\n}}\n"
    );
    let path = Path::new(&folder.to_string()).join("origin.conf");
    fs::write(&path, configuration).with_context(|| format!("cannot write {}", path.display()))?;
    Ok(path)
}

/// The built-in server. Serves until standard input ends, and says at the end of its life how many requests it had.
pub(crate) fn run() -> Result<()> {
    rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL))?;
    let mut server = Server::new()?;
    println!("ready");
    io::stdout().flush()?;
    server.serve()
}

struct Server {
    epoll: rustix::fd::OwnedFd,
    listener: TcpListener,
    /// By number of the file descriptor.
    open: Vec<Option<Open>>,
    responses: Vec<(String, Vec<u8>)>,
}

/// A connection: what of a request has come, and what of a response has to go.
struct Open {
    stream: TcpStream,
    request: Vec<u8>,
    /// Number of the response, and how much of it is out.
    sending: Option<(usize, usize)>,
}

impl Server {
    fn new() -> Result<Self> {
        let listener = listen(SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, PORT))?;
        let epoll = epoll::create(CreateFlags::CLOEXEC)?;
        epoll::add(&epoll, &listener, key(listener.as_raw_fd()), EventFlags::IN)?;
        let response = |size: usize| {
            let mut bytes = format!("HTTP/1.1 200 OK\r\nContent-Length: {size}\r\n\r\n").into_bytes();
            bytes.extend(body(size));
            (format!("/{size}"), bytes)
        };
        let mut responses: Vec<_> = SIZES.into_iter().map(response).collect();
        responses.push((String::new(), b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n".to_vec()));
        Ok(Self { epoll, listener, open: Vec::new(), responses })
    }

    fn serve(&mut self) -> Result<()> {
        let stdin = io::stdin();
        epoll::add(&self.epoll, &stdin, key(stdin.as_raw_fd()), EventFlags::IN)?;
        let mut events: Vec<Event> = Vec::with_capacity(256);
        loop {
            match epoll::wait(&self.epoll, rustix::buffer::spare_capacity(&mut events), None) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
            for event in events.drain(..) {
                let number = event.data.u64() as RawFd;
                if number == stdin.as_raw_fd() {
                    return Ok(());
                } else if number == self.listener.as_raw_fd() {
                    self.accept()?;
                } else if self.go_on(number as usize).is_err() {
                    self.open[number as usize] = None;
                }
            }
        }
    }

    fn accept(&mut self) -> Result<()> {
        while let Ok((stream, _)) = self.listener.accept() {
            stream.set_nonblocking(true)?;
            stream.set_nodelay(true)?;
            let number = stream.as_raw_fd();
            epoll::add(&self.epoll, &stream, key(number), EventFlags::IN)?;
            let place = number as usize;
            if self.open.len() <= place {
                self.open.resize_with(place + 1, || None);
            }
            self.open[place] = Some(Open { stream, request: Vec::new(), sending: None });
        }
        Ok(())
    }

    /// Reads what came, answers what is complete, one request at a time. An error is the end of the connection.
    fn go_on(&mut self, place: usize) -> Result<()> {
        let Some(Some(open)) = self.open.get_mut(place) else { return Ok(()) };
        if open.sending.is_none() {
            let mut bytes = [0; 16 * 1024];
            match open.stream.read(&mut bytes) {
                Ok(0) => anyhow::bail!("closed"),
                Ok(read) => open.request.extend_from_slice(&bytes[..read]),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error.into()),
            }
            if !open.request.ends_with(b"\r\n\r\n") {
                anyhow::ensure!(open.request.len() < 128 * 1024, "the head is too long");
                return Ok(());
            }
            let path = open.request.split(|byte| *byte == b' ').nth(1).unwrap_or_default();
            let found = self.responses.iter().position(|(known, _)| known.as_bytes() == path);
            open.sending = Some((found.unwrap_or(self.responses.len() - 1), 0));
            open.request.clear();
        }
        let Some((number, mut sent)) = open.sending else { return Ok(()) };
        let response = &self.responses[number].1;
        while sent < response.len() {
            match open.stream.write(&response[sent..]) {
                Ok(more) => sent += more,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(error.into()),
            }
        }
        let (sending, wanted) = match sent < response.len() {
            true => (Some((number, sent)), EventFlags::OUT),
            false => (None, EventFlags::IN),
        };
        if (open.sending.is_some_and(|(_, before)| before > 0)) || sending.is_some() {
            epoll::modify(&self.epoll, &open.stream, key(place as RawFd), wanted)?;
        }
        open.sending = sending;
        Ok(())
    }
}

fn key(number: RawFd) -> EventData {
    EventData::new_u64(number as u64)
}

/// A listener that does not block.
pub(crate) fn listen(address: SocketAddrV4) -> Result<TcpListener> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(AddressFamily::INET, SocketType::STREAM, flags, None)?;
    sockopt::set_socket_reuseaddr(&socket, true)?;
    rustix::net::bind(&socket, &address).with_context(|| format!("cannot listen on {address}"))?;
    rustix::net::listen(&socket, 4096)?;
    Ok(TcpListener::from(socket))
}
