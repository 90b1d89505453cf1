//! The sockets that the agent answers on.

use std::fs;
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use tokio::net::{TcpListener, UnixListener};

use crate::Error;

/// Members of this group may use the API, if the group exists.
const GROUP: &str = "alize";

/// Listens on the unix socket at `path`, in place of what an agent that ended left there: whoever calls holds the
/// instance's lock.
///
/// The socket is made beside its place and moved there complete, so that nobody finds it with the wrong permissions.
pub(crate) fn api(path: &Path, mode: u32) -> Result<(UnixListener, SocketFile), Error> {
    let failed = |source| Error::Socket { path: path.to_owned(), source };
    if path.symlink_metadata().is_ok_and(|metadata| !is_socket(&metadata)) {
        return Err(failed(io::Error::other("something that is no socket is there already")));
    }
    let beside = path.with_extension("sock.new");
    let listen = || {
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder)?;
        }
        let _ = fs::remove_file(&beside);
        let listener = UnixListener::bind(&beside)?;
        if let Some(group) = group_id(&fs::read_to_string("/etc/group").unwrap_or_default()) {
            chown(&beside, None, Some(group))?;
        }
        fs::set_permissions(&beside, fs::Permissions::from_mode(mode))?;
        fs::rename(&beside, path)?;
        Ok(listener)
    };
    let listener = listen().map_err(|source| {
        let _ = fs::remove_file(&beside);
        failed(source)
    })?;
    Ok((listener, SocketFile(path.to_owned())))
}

fn is_socket(metadata: &fs::Metadata) -> bool {
    use std::os::unix::fs::FileTypeExt;
    metadata.file_type().is_socket()
}

/// The group's number in the text of `/etc/group`.
fn group_id(groups: &str) -> Option<u32> {
    let mut lines = groups.lines().map(|line| line.split(':'));
    lines.find_map(|mut fields| (fields.next()? == GROUP).then(|| fields.nth(1)?.parse().ok())?)
}

/// Removes the socket's file when dropped.
pub(crate) struct SocketFile(PathBuf);

impl Drop for SocketFile {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

/// An address in use may be that of the agent before, killed while a child of its was trying the kernel: the child holds the
/// listener a moment longer.
const RELEASED: Duration = Duration::from_secs(2);

/// Listens for scrapes.
pub(crate) async fn metrics(address: SocketAddr) -> Result<(TcpListener, SocketAddr), Error> {
    let failed = |source| Error::Metrics { address, source };
    let end = Instant::now() + RELEASED;
    let listener = loop {
        match TcpListener::bind(address).await {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse && Instant::now() < end => {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            bound => break bound.map_err(failed)?,
        }
    };
    let address = listener.local_addr().map_err(failed)?;
    Ok((listener, address))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_group_is_found_by_name() {
        let groups = "root:x:0:\nalized:x:1:\nalize:x:993:user\nother:x:5:\n";
        assert_eq!(group_id(groups), Some(993));
        assert_eq!(group_id("root:x:0:\nalize\nalize:x\n"), None);
        assert_eq!(group_id(""), None);
    }

    #[tokio::test]
    async fn a_stale_socket_is_replaced_and_nothing_else() {
        let folder = std::env::temp_dir().join(format!("alize-listen-{}", std::process::id()));
        let path = folder.join("x.sock");
        let (first, file) = api(&path, 0o600).unwrap();
        std::mem::forget(file);
        drop(first);
        assert!(path.exists(), "as after a crash");
        let (_second, file) = api(&path, 0o660).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o660);
        std::os::unix::net::UnixStream::connect(&path).unwrap();
        drop(file);
        assert!(!path.exists());
        fs::write(&path, "precious").unwrap();
        let error = api(&path, 0o660).err().unwrap().to_string();
        assert!(error.contains("no socket is there already"), "{error}");
        assert_eq!(fs::read_to_string(&path).unwrap(), "precious");
        fs::remove_dir_all(folder).unwrap();
    }
}
