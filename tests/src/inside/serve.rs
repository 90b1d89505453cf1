use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};

use anyhow::{Context, Result};

#[derive(Debug, clap::Args)]
pub struct Serve {
    /// What to answer
    name: String,
    /// Where to take connections
    #[arg(long)]
    tcp: Vec<SocketAddr>,
    /// Where to take datagrams
    #[arg(long)]
    udp: Vec<SocketAddr>,
}

/// A thread only copies a few bytes; a thousand of them must cost little.
const STACK: usize = 64 * 1024;

impl Serve {
    pub(super) fn run(self) -> Result<()> {
        let listeners = self.tcp.iter().map(|address| {
            TcpListener::bind(address).with_context(|| format!("cannot listen at tcp {address}"))
        });
        let listeners = listeners.collect::<Result<Vec<_>>>()?;
        let sockets = self.udp.iter().map(|address| {
            UdpSocket::bind(address).with_context(|| format!("cannot listen at udp {address}"))
        });
        let sockets = sockets.collect::<Result<Vec<_>>>()?;
        let name = self.name.as_str();
        std::thread::scope(|scope| {
            for listener in &listeners {
                scope.spawn(move || accept(listener, name));
            }
            for socket in &sockets {
                scope.spawn(move || reply(socket, name));
            }
        });
        Ok(())
    }
}

fn accept(listener: &TcpListener, name: &str) {
    loop {
        let Ok((stream, _)) = listener.accept() else { continue };
        let name = name.to_owned();
        let thread = std::thread::Builder::new().stack_size(STACK).spawn(move || converse(stream, &name));
        if let Err(error) = thread {
            eprintln!("{error}");
        }
    }
}

/// Says the name, then echoes until the caller hangs up.
fn converse(mut stream: TcpStream, name: &str) -> io::Result<()> {
    stream.set_nodelay(true)?;
    stream.write_all(format!("{name}\n").as_bytes())?;
    let mut buffer = [0; 4096];
    loop {
        match stream.read(&mut buffer)? {
            0 => return Ok(()),
            length => stream.write_all(&buffer[..length])?,
        }
    }
}

fn reply(socket: &UdpSocket, name: &str) {
    let mut buffer = [0; 4096];
    loop {
        let Ok((length, peer)) = socket.recv_from(&mut buffer) else { continue };
        let answer = [name.as_bytes(), b"\n", &buffer[..length]].concat();
        let _ = socket.send_to(&answer, peer);
    }
}
