//! How one proxy takes the place of another without a connection lost.
//!
//! The successor connects to `<instance>.proxy.handover`, a socket of packets that carry descriptors. The old proxy sends
//! the state, the control socket and the listeners, and goes on serving. When the successor says that it can serve, the old
//! one stops accepting, lets go of the kernel side, and says so: from there on the place is the successor's. Then it sends each
//! front connection as it comes to rest. A successor that fails before its word has changed nothing.

pub(crate) mod hex;
mod packet;

use std::fs::File;
use std::io::{self, Read, Seek, Write};
use std::net::TcpListener as StdListener;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixListener as StdUnixListener;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use alize_model::control::ProxyState;
use bytes::BytesMut;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::net::UnixListener;
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout, timeout_at};

use crate::front::{Front, Leaving, Origin, Tunnel, tunnel};
use crate::kernel::Netns;
use crate::listen::Doors;
use crate::proxy::{Phase, Proxy};
use crate::route::Plan;
use crate::socket::{Socket, of_another};
use packet::Sockets;
pub(crate) use packet::{Door, Packets};

/// Bytes in a packet: twice the unread bytes of a front, which are at most its longest head.
const LONGEST: usize = 512 * 1024;

/// How long each side waits for a word of the other.
const PATIENCE: Duration = Duration::from_secs(10);

/// What is said, beside the descriptors.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
enum Word {
    /// First; with the state as a file and the control socket.
    Offer { version: String },
    /// With listeners, in this order.
    Listeners { netns: Vec<Netns> },
    /// All listeners were sent.
    Complete,
    /// From the successor: it can serve, and takes tunnels if it is not of an earlier version.
    Serving {
        #[serde(default)]
        tunnels: bool,
    },
    /// The successor has the place.
    Yours,
    /// With one front connection.
    Front(Box<FrontRecord>),
    /// There are no more.
    End,
}

/// A front connection at rest.
#[derive(Debug, Serialize, Deserialize)]
struct FrontRecord {
    origin: Origin,
    read: u64,
    written: u64,
    /// What was read and not used, in hexadecimal digits.
    unread: String,
    /// What the connection became; its second descriptor is that of the endpoint.
    #[serde(default)]
    tunnel: Option<tunnel::Record>,
}

/// Where successors ask.
pub(crate) fn path(run_dir: &Path, instance: &str) -> PathBuf {
    run_dir.join(format!("{instance}.proxy.handover"))
}

/// What a successor gets at once; the front connections follow.
pub(crate) struct Taken {
    pub(crate) state: Plan,
    pub(crate) control: StdUnixListener,
    pub(crate) listeners: Vec<(Netns, StdListener)>,
    ancestor: Ancestor,
}

/// The old proxy, as its successor sees it.
pub(crate) struct Ancestor(Packets);

/// Asks the proxy that runs for its place; `None` if none runs.
pub(crate) async fn take(path: &Path) -> Result<Option<Taken>, String> {
    let Ok(packets) = Packets::connect(path, LONGEST) else { return Ok(None) };
    timeout(PATIENCE, take_from(packets)).await.map_err(|_| "it was silent for 10 s".to_owned())?.map(Some)
}

async fn take_from(packets: Packets) -> Result<Taken, String> {
    let (mut offer, mut listeners) = (None, Vec::new());
    loop {
        let (word, sockets) = receive::<Word>(&packets).await?.ok_or("it ended within the handover")?;
        match word {
            Word::Offer { version } => {
                tracing::info!(%version, "taking the place of the proxy that runs");
                let [state, control] =
                    <[OwnedFd; 2]>::try_from(sockets).map_err(|_| "descriptors are missing")?;
                offer = Some((read_state(File::from(state))?, StdUnixListener::from(control)));
            }
            Word::Listeners { netns } if netns.len() == sockets.len() => {
                listeners.extend(netns.into_iter().zip(sockets.into_iter().map(StdListener::from)));
            }
            Word::Complete => break,
            other => return Err(format!("it said {other:?} where listeners belong")),
        }
    }
    let (state, control) = offer.ok_or("it offered nothing")?;
    Ok(Taken { state, control, listeners, ancestor: Ancestor(packets) })
}

fn read_state(mut file: File) -> Result<Plan, String> {
    let mut text = Vec::new();
    file.rewind().and_then(|()| file.read_to_end(&mut text)).map_err(|error| error.to_string())?;
    serde_json::from_slice(&text).map_err(|error| format!("its state cannot be read: {error}"))
}

/// The next word, with its descriptors; `None` at the end.
pub(crate) async fn receive<W: DeserializeOwned>(packets: &Packets) -> Result<Option<(W, Sockets)>, String> {
    match packets.receive().await {
        Ok(Some((text, sockets))) => match serde_json::from_slice(&text) {
            Ok(word) => Ok(Some((word, sockets))),
            Err(error) => Err(format!("a packet cannot be read: {error}")),
        },
        Ok(None) => Ok(None),
        Err(error) => Err(error.to_string()),
    }
}

impl Taken {
    pub(crate) fn split(self) -> (Plan, StdUnixListener, Vec<(Netns, StdListener)>, Ancestor) {
        (self.state, self.control, self.listeners, self.ancestor)
    }
}

impl Ancestor {
    /// Says that the successor can serve, and waits until the place is its own.
    pub(crate) async fn take_place(&self) -> Result<(), String> {
        send(&self.0, &Word::Serving { tunnels: true }, &[]).await?;
        let heard = timeout(PATIENCE, receive(&self.0)).await;
        match heard.map_err(|_| "it did not let go within 10 s".to_owned())?? {
            Some((Word::Yours, _)) => Ok(()),
            Some((other, _)) => Err(format!("it said {other:?} where it should let go")),
            // What it had is nobody's now.
            None => Ok(()),
        }
    }

    /// Takes front connections in as long as they come.
    pub(crate) async fn take_fronts(self, doors: Arc<Doors>) {
        let mut count = 0_u64;
        loop {
            match receive(&self.0).await {
                Ok(Some((Word::Front(record), sockets))) => match front(*record, sockets) {
                    Ok(front) => {
                        count += 1;
                        doors.live(front);
                    }
                    Err(error) => tracing::warn!(%error, "a connection could not be taken over"),
                },
                Ok(Some((Word::End, _)) | None) => break,
                Ok(Some((other, _))) => tracing::warn!(?other, "unexpected word of the old proxy"),
                Err(error) => {
                    tracing::warn!(%error, "the old proxy cannot be understood");
                    break;
                }
            }
        }
        tracing::info!(connections = count, "took over from the old proxy");
    }
}

fn front(record: FrontRecord, sockets: Sockets) -> io::Result<Arc<Front>> {
    let mut sockets = sockets.into_iter();
    let mut next = || {
        let missing = "its descriptor is missing; check the limit of open files";
        of_another(sockets.next().ok_or_else(|| io::Error::other(missing))?)
    };
    let unreadable = || io::Error::other("its unread bytes are no hexadecimal digits");
    let socket = Socket::with_totals(next()?, record.read, record.written);
    let unread = hex::read(&record.unread).ok_or_else(unreadable)?;
    let front = Front::new(socket, record.origin, BytesMut::from(unread.as_slice()));
    if let Some(record) = record.tunnel {
        let back = Socket::new(next()?);
        front.set_tunnel(Tunnel::from_parts(&record, back).ok_or_else(unreadable)?);
    }
    Ok(front)
}

/// Waits for successors.
pub(crate) struct Successors {
    listener: Door,
    path: PathBuf,
}

impl Successors {
    /// Listens at `path`, in place of a proxy that ended or is about to.
    pub(crate) fn listen(path: PathBuf) -> io::Result<Self> {
        Ok(Self { listener: Door::listen(&path, LONGEST)?, path })
    }

    /// Serves until a successor has taken over; gives what it takes fronts by.
    pub(crate) async fn next(&self, proxy: &Proxy, doors: &Doors, control: &UnixListener) -> Heir {
        loop {
            let packets = match self.listener.accept().await {
                Ok(packets) => packets,
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a successor");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    continue;
                }
            };
            match timeout(PATIENCE, offer(&packets, proxy, doors, control)).await {
                Ok(Ok(tunnels)) => {
                    proxy.tunnels_leave.store(tunnels, Ordering::Relaxed);
                    return Heir(packets);
                }
                Ok(Err(error)) => tracing::warn!(%error, "a successor did not take over; serving on"),
                Err(_) => tracing::warn!("a successor was silent; serving on"),
            }
        }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

/// Says a word, with descriptors.
pub(crate) async fn send(
    packets: &Packets,
    word: &impl Serialize,
    sockets: &[rustix::fd::BorrowedFd<'_>],
) -> Result<(), String> {
    let text = serde_json::to_vec(word).map_err(|error| error.to_string())?;
    packets.send(&text, sockets).await.map_err(|error| error.to_string())
}

async fn offer(
    packets: &Packets,
    proxy: &Proxy,
    doors: &Doors,
    control: &UnixListener,
) -> Result<bool, String> {
    let state = state_file(&proxy.mesh().state()).map_err(|error| error.to_string())?;
    let version = env!("CARGO_PKG_VERSION").to_owned();
    send(packets, &Word::Offer { version }, &[state.as_fd(), control.as_fd()]).await?;
    for some in doors.listeners().chunks(packet::MOST_SOCKETS) {
        let netns = some.iter().map(|(netns, _)| *netns).collect();
        let sockets: Vec<_> = some.iter().map(|(_, listener)| listener.as_fd()).collect();
        send(packets, &Word::Listeners { netns }, &sockets).await?;
    }
    send(packets, &Word::Complete, &[]).await?;
    match receive(packets).await? {
        Some((Word::Serving { tunnels }, _)) => Ok(tunnels),
        Some((other, _)) => Err(format!("it said {other:?}")),
        None => Err("it ended".to_owned()),
    }
}

fn state_file(state: &ProxyState) -> io::Result<File> {
    let mut file = File::from(rustix::fs::memfd_create("alize-state", rustix::fs::MemfdFlags::CLOEXEC)?);
    file.write_all(&serde_json::to_vec(state).map_err(io::Error::other)?)?;
    Ok(file)
}

/// A successor that serves.
pub(crate) struct Heir(Packets);

impl Heir {
    /// Gives it the place, and the front connections as they come to rest, until there are none, at most until `deadline`.
    pub(crate) async fn give(
        self,
        doors: &Doors,
        leaving: &mut mpsc::UnboundedReceiver<Leaving>,
        deadline: Instant,
    ) {
        if let Err(error) = send(&self.0, &Word::Yours, &[]).await {
            tracing::warn!(%error, "the successor is gone");
        }
        doors.phase(Phase::HandingOver);
        let mut drained = std::pin::pin!(doors.drained(deadline));
        loop {
            tokio::select! {
                biased;
                Some(leaving) = leaving.recv() => self.give_one(&leaving.front).await,
                _ = drained.as_mut() => break,
            }
        }
        while let Ok(leaving) = leaving.try_recv() {
            self.give_one(&leaving.front).await;
        }
        let _ = timeout_at(Instant::now() + PATIENCE, send(&self.0, &Word::End, &[])).await;
    }

    async fn give_one(&self, front: &Front) {
        let (read, written) = front.socket.totals();
        let unread = hex::write(&front.unread());
        let (tunnel, back) = front.take_tunnel().map(Tunnel::into_parts).unzip();
        let record = FrontRecord { origin: front.origin, read, written, unread, tunnel };
        let word = Word::Front(Box::new(record));
        let mut sockets = vec![front.socket.stream().as_fd()];
        sockets.extend(back.iter().map(|back| back.stream().as_fd()));
        match send(&self.0, &word, &sockets).await {
            Ok(()) => front.give_away(),
            Err(error) => tracing::warn!(%error, "a connection could not be handed over"),
        }
    }
}
