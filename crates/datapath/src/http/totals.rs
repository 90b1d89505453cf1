//! How many bytes a process has read from a socket and written to it, asked of TCP: the process may be gone.
#![allow(unsafe_code)]

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd};

/// The first fields of `struct tcp_info` (include/uapi/linux/tcp.h), up to those that Linux 4.1 added.
#[repr(C)]
struct TcpInfo {
    /// The first byte is the state.
    before: [u64; 15],
    bytes_acked: u64,
    bytes_received: u64,
}

/// States in which the peer has sent its end, which TCP counts as a byte (include/net/tcp_states.h).
const ENDED: [u8; 3] = [8, 9, 11];

/// Bytes that whoever holds the accepted connection has read from it and written to it, as long as it has not sent an end.
/// Neither SYN counts on the accepting side.
pub fn socket_totals(socket: impl AsFd) -> io::Result<(u64, u64)> {
    let unsent = queue(&socket, libc::TIOCOUTQ)?;
    let unread = queue(&socket, libc::FIONREAD)?;
    let mut info = MaybeUninit::<TcpInfo>::zeroed();
    let mut size = size_of::<TcpInfo>() as libc::socklen_t;
    // SAFETY: the kernel writes at most `size` bytes into the struct, of which every bit pattern is a value.
    let (done, info) = unsafe {
        let done = libc::getsockopt(
            socket.as_fd().as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_INFO,
            info.as_mut_ptr().cast(),
            &mut size,
        );
        (done, info.assume_init())
    };
    if done != 0 {
        return Err(io::Error::last_os_error());
    }
    let end = u64::from(ENDED.contains(&info.before[0].to_ne_bytes()[0]));
    Ok((info.bytes_received.saturating_sub(unread + end), info.bytes_acked + unsent))
}

fn queue(socket: impl AsFd, request: libc::Ioctl) -> io::Result<u64> {
    let mut bytes: libc::c_int = 0;
    // SAFETY: the kernel writes one int.
    match unsafe { libc::ioctl(socket.as_fd().as_raw_fd(), request, &raw mut bytes) } {
        0 => Ok(u64::from(bytes.unsigned_abs())),
        _ => Err(io::Error::last_os_error()),
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream};
    use std::thread;
    use std::time::Duration;

    use super::*;

    #[test]
    fn what_was_read_and_written_is_known_to_the_byte() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (mut front, _) = listener.accept().unwrap();
        assert_eq!(socket_totals(&front).unwrap(), (0, 0));
        client.write_all(&[1; 1000]).unwrap();
        front.read_exact(&mut [0; 600]).unwrap();
        assert_eq!(socket_totals(&front).unwrap(), (600, 0), "what waits to be read does not count");
        front.write_all(&[2; 250]).unwrap();
        assert_eq!(socket_totals(&front).unwrap(), (600, 250));
        front.read_exact(&mut [0; 400]).unwrap();
        // More than the client takes: what waits to be sent counts.
        front.set_nonblocking(true).unwrap();
        let mut written = 250;
        while let Ok(more) = front.write(&[3; 65_536]) {
            written += more as u64;
        }
        thread::sleep(Duration::from_millis(300));
        assert_eq!(socket_totals(&front).unwrap(), (1000, written));
        client.shutdown(std::net::Shutdown::Write).unwrap();
        thread::sleep(Duration::from_millis(50));
        assert_eq!(socket_totals(&front).unwrap(), (1000, written), "its end is no byte");
    }
}
