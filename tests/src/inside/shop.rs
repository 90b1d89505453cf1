use std::io::{self, BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::{Context, Result};

use super::download::bytes;

/// A shop that tells who served what. `GET /once/ID` answers its name and the ID, and is counted; `GET /bytes/SEED/LENGTH` answers
/// bytes that the asker can make as well; `GET /served` answers how often `/once/` was asked for.
#[derive(Debug, clap::Args)]
pub struct Shop {
    /// What to answer
    name: String,
    /// Where to serve HTTP
    #[arg(long)]
    http: Vec<SocketAddr>,
    /// Where to serve WebSocket: frames are echoed
    #[arg(long)]
    websocket: Vec<SocketAddr>,
}

/// There is a thread for each connection, and thousands of those.
const STACK: usize = 256 * 1024;

impl Shop {
    pub(super) fn run(self) -> Result<()> {
        let listen = |address: &SocketAddr| {
            TcpListener::bind(address).with_context(|| format!("cannot listen at {address}"))
        };
        let http = self.http.iter().map(listen).collect::<Result<Vec<_>>>()?;
        let websocket = self.websocket.iter().map(listen).collect::<Result<Vec<_>>>()?;
        let (name, served) = (self.name.as_str(), AtomicU64::new(0));
        let served = &served;
        std::thread::scope(|scope| {
            let take = |listener: TcpListener, what: &'static (dyn Fn(TcpStream, &str, &AtomicU64) -> io::Result<()> + Sync)| {
                loop {
                    let Ok((stream, _)) = listener.accept() else { continue };
                    let thread = std::thread::Builder::new().stack_size(STACK);
                    if let Err(error) = thread.spawn_scoped(scope, move || what(stream, name, served)) {
                        eprintln!("{error}");
                    }
                }
            };
            let mut takers = Vec::new();
            takers.extend(http.into_iter().map(|listener| scope.spawn(move || take(listener, &serve))));
            takers.extend(websocket.into_iter().map(|listener| scope.spawn(move || take(listener, &echo))));
        });
        Ok(())
    }
}

fn serve(stream: TcpStream, name: &str, served: &AtomicU64) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut reader = BufReader::with_capacity(2048, stream);
    while let Some(path) = request(&mut reader)? {
        let body = answer(&path, name, served).ok_or(io::ErrorKind::InvalidData)?;
        let mut response =
            format!("HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: {}\r\n\r\n", body.len())
                .into_bytes();
        response.extend(body);
        reader.get_mut().write_all(&response)?;
    }
    Ok(())
}

/// The path of the next request; `None` at the end.
fn request(reader: &mut BufReader<TcpStream>) -> io::Result<Option<String>> {
    let mut path = None;
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line)? == 0 {
            return Ok(None);
        }
        if line == "\r\n" {
            return path.map(Some).ok_or_else(|| io::ErrorKind::InvalidData.into());
        }
        if path.is_none() {
            path = line.split(' ').nth(1).map(str::to_owned);
        }
    }
}

fn answer(path: &str, name: &str, served: &AtomicU64) -> Option<Vec<u8>> {
    let mut parts = path.trim_start_matches('/').split('/');
    match parts.next()? {
        "once" => {
            served.fetch_add(1, Ordering::Relaxed);
            Some(format!("{name} {}\n", parts.next()?).into_bytes())
        }
        "bytes" => Some(bytes(parts.next()?.parse().ok()?, parts.next()?.parse().ok()?)),
        "served" => Some(format!("{}\n", served.load(Ordering::Relaxed)).into_bytes()),
        _ => None,
    }
}

fn echo(stream: TcpStream, _: &str, _: &AtomicU64) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut socket = tungstenite::accept(stream).map_err(io::Error::other)?;
    loop {
        let message = socket.read().map_err(io::Error::other)?;
        if message.is_binary() {
            socket.send(message).map_err(io::Error::other)?;
        }
    }
}
