//! What runs inside a world as a process of its own: the commands of `alize-world`.

mod connect;
mod datagram;
mod dial;
mod download;
mod enter;
mod hold;
mod request;
mod serve;
mod shop;
mod stream;
mod websocket;

use std::io::Write;
use std::net::SocketAddr;

use anyhow::Result;
use clap::Parser;

use crate::Tally;

/// Servers and clients for worlds.
#[derive(Debug, Parser)]
#[command(name = "alize-world")]
pub enum Command {
    /// Join a cgroup and a network namespace, then become PROGRAM
    Enter(enter::Enter),
    /// Answer every connection and datagram with a name, then echo
    Serve(serve::Serve),
    /// Serve HTTP, and WebSocket at another port; count what was asked for
    Shop(shop::Shop),
    /// Connect many times, one answer each, and tell what was seen
    Connect(connect::Connect),
    /// Connect until standard input ends; tell what was seen since the last time at each line of it
    Stream(stream::Stream),
    /// Send a megabyte again and again, and compare what is echoed, until standard input ends
    Download(download::Download),
    /// Open connections and keep them; ask over each at each line of standard input
    Hold(hold::Hold),
    /// Ask by HTTP until standard input ends, over kept and over new connections, each request once
    Request(request::Request),
    /// Keep WebSockets, send frames and compare the echo, until standard input ends
    Websocket(websocket::Websocket),
    /// Send datagrams and tell who answered from where
    Datagram(datagram::Datagram),
    /// Send requests of every kind, compare each byte that comes back, and tell what was seen
    Torment(crate::torture::client::Torment),
    /// Answer the requests of `torment`
    Origin(crate::torture::origin::Origin),
    /// Remove what killed tests have left
    Sweep,
}

impl Command {
    /// Does it.
    pub fn run(self) -> Result<()> {
        match self {
            Command::Enter(enter) => enter.run(),
            Command::Serve(serve) => serve.run(),
            Command::Shop(shop) => shop.run(),
            Command::Request(request) => request.run(),
            Command::Websocket(websocket) => websocket.run(),
            Command::Connect(connect) => connect.run(),
            Command::Stream(stream) => stream.run(),
            Command::Download(download) => download.run(),
            Command::Hold(hold) => hold.run(),
            Command::Datagram(datagram) => datagram.run(),
            Command::Torment(torment) => torment.run(),
            Command::Origin(origin) => origin.run(),
            Command::Sweep => crate::leftovers::sweep(),
        }
    }
}

/// How a server of a client tells its name.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Speech {
    /// The first line that it sends, unasked.
    #[default]
    Line,
    /// The body of its answer to `GET /`.
    Http,
}

/// Tells what was seen, on one line.
fn tell(tally: &Tally) -> Result<()> {
    let mut output = std::io::stdout().lock();
    serde_json::to_writer(&mut output, tally)?;
    output.write_all(b"\n")?;
    Ok(output.flush()?)
}

/// The unspecified address of the family of `address`.
fn any(address: SocketAddr) -> SocketAddr {
    match address {
        SocketAddr::V4(_) => SocketAddr::from(([0, 0, 0, 0], 0)),
        SocketAddr::V6(_) => SocketAddr::from(([0; 16], 0)),
    }
}
