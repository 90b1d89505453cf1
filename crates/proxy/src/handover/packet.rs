//! Packets with descriptors, over a unix socket of type SOCK_SEQPACKET.

use std::fs::{self, Permissions};
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Mutex;

use rustix::fd::BorrowedFd;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketAddrUnix, SocketFlags, SocketType, bind, connect, listen, recvmsg,
    sendmsg, socket_with,
};
use tokio::io::Interest;
use tokio::net::{UnixListener, UnixStream};

use crate::back::lock;

/// Descriptors in a packet; the kernel allows 253.
pub(super) const MOST_SOCKETS: usize = 64;

/// Descriptors that came with a packet.
pub(crate) type Sockets = Vec<OwnedFd>;

/// Where connections are taken from.
pub(crate) struct Door {
    listener: UnixListener,
    longest: usize,
}

impl Door {
    /// Listens at `path`, whatever was there; only root may connect. Packets have `longest` bytes at most.
    pub(crate) fn listen(path: &Path, longest: usize) -> io::Result<Self> {
        // A name of its own for each: agent and proxy may listen at the same moment.
        let mut beside = path.as_os_str().to_owned();
        beside.push(".new");
        let _ = fs::remove_file(&beside);
        let socket = socket()?;
        bind(&socket, &SocketAddrUnix::new(beside.as_os_str())?)?;
        fs::set_permissions(&beside, Permissions::from_mode(0o600))?;
        listen(&socket, 8)?;
        fs::rename(&beside, path)?;
        Ok(Self { listener: UnixListener::from_std(socket.into())?, longest })
    }

    pub(crate) async fn accept(&self) -> io::Result<Packets> {
        Ok(Packets::new(self.listener.accept().await?.0, self.longest))
    }
}

fn socket() -> io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    Ok(socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?)
}

/// A connection. To tokio it is a stream, but it is read and written by whole packets only.
pub(crate) struct Packets {
    stream: UnixStream,
    /// Where packets are read into: clearing it for each would cost more than all else.
    space: Mutex<Vec<u8>>,
    longest: usize,
}

impl Packets {
    fn new(stream: UnixStream, longest: usize) -> Self {
        Self { stream, space: Mutex::default(), longest }
    }

    pub(crate) fn connect(path: &Path, longest: usize) -> io::Result<Self> {
        let socket = socket()?;
        connect(&socket, &SocketAddrUnix::new(path)?)?;
        Ok(Self::new(UnixStream::from_std(socket.into())?, longest))
    }

    /// The process at the other end.
    pub(crate) fn peer(&self) -> Option<i32> {
        Some(rustix::net::sockopt::socket_peercred(&self.stream).ok()?.pid.as_raw_nonzero().get())
    }

    pub(super) async fn send(&self, text: &[u8], sockets: &[BorrowedFd<'_>]) -> io::Result<()> {
        let write = || {
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST_SOCKETS))];
            let mut control = SendAncillaryBuffer::new(&mut space);
            if !sockets.is_empty() {
                control.push(SendAncillaryMessage::ScmRights(sockets));
            }
            Ok(sendmsg(&self.stream, &[IoSlice::new(text)], &mut control, SendFlags::NOSIGNAL)?)
        };
        let sent = self.stream.async_io(Interest::WRITABLE, write).await?;
        if sent == text.len() { Ok(()) } else { Err(io::Error::other("a packet was cut")) }
    }

    /// The next packet; `None` at the end.
    pub(super) async fn receive(&self) -> io::Result<Option<(Vec<u8>, Sockets)>> {
        let read = || receive_now(&self.stream, &mut lock(&self.space), self.longest);
        self.stream.async_io(Interest::READABLE, read).await
    }
}

fn receive_now(
    socket: &UnixStream,
    text: &mut Vec<u8>,
    longest: usize,
) -> io::Result<Option<(Vec<u8>, Sockets)>> {
    text.resize(longest, 0);
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST_SOCKETS))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let message = recvmsg(socket, &mut [IoSliceMut::new(text)], &mut control, RecvFlags::CMSG_CLOEXEC)?;
    if message.bytes == 0 {
        return Ok(None);
    }
    let text = text[..message.bytes].to_vec();
    let sockets = control.drain().filter_map(|message| match message {
        RecvAncillaryMessage::ScmRights(sockets) => Some(sockets),
        _ => None,
    });
    Ok(Some((text, sockets.flatten().collect())))
}
