//! Where desired state comes from: a file that is watched, and text that is handed over.

use std::cell::Cell;
use std::fs::{self, File};
use std::io::{self, Read};
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use alize_model::{Diagnostic, HostFacts, Position, Severity};
use rustix::fs::inotify::{self, CreateFlags, ReadFlags, WatchFlags};
use serde::{Deserialize, Serialize};
use tokio::io::unix::AsyncFd;
use tokio::time::{Instant, timeout_at};
use tracing::warn;

/// The largest text that is taken, in bytes: about 20 times the largest mesh that the default budgets allow.
pub const LARGEST: usize = 64 << 20;

/// Editors and `kubelet` make several changes in a row; the state is read when they have paused for so long.
pub(crate) const PAUSE: Duration = Duration::from_millis(50);

/// Which text a path led to: equal identities mean that nothing was written or replaced.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Identity {
    path: PathBuf,
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
}

impl Identity {
    fn new(path: &Path, metadata: &fs::Metadata) -> Self {
        Self {
            path: std::path::absolute(path).unwrap_or_else(|_| path.to_owned()),
            device: metadata.dev(),
            inode: metadata.ino(),
            size: metadata.len(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
        }
    }

    /// Of what `path` leads to now; none when it leads nowhere.
    pub(crate) fn of(path: &Path) -> Option<Self> {
        fs::metadata(path).ok().map(|metadata| Self::new(path, &metadata))
    }
}

/// Text that was read, and which text it was.
pub(crate) struct Text {
    pub(crate) text: String,
    pub(crate) identity: Identity,
}

/// Why a file gave no text.
pub(crate) enum Unreadable {
    /// The system refused.
    Io(io::Error),
    /// The file was read and cannot be a configuration.
    Refused(Diagnostic),
}

/// Reads the file at `path` whole.
pub(crate) fn read(path: &Path) -> Result<Text, Unreadable> {
    let name = path.display().to_string();
    // Opening a FIFO would wait for a writer; so look first.
    let metadata = fs::metadata(path).map_err(Unreadable::Io)?;
    if !metadata.is_file() {
        let kind = kind_of_file(metadata.file_type());
        return Err(Unreadable::Refused(refusal(&name, format!("this is {kind}, not a file"))));
    }
    let file = File::open(path).map_err(Unreadable::Io)?;
    let metadata = file.metadata().map_err(Unreadable::Io)?;
    let mut bytes = Vec::with_capacity(metadata.len().min(LARGEST as u64) as usize + 1);
    file.take(LARGEST as u64 + 1).read_to_end(&mut bytes).map_err(Unreadable::Io)?;
    let text = text_of(&name, bytes).map_err(Unreadable::Refused)?;
    Ok(Text { text, identity: Identity::new(path, &metadata) })
}

fn kind_of_file(kind: fs::FileType) -> &'static str {
    match kind {
        _ if kind.is_dir() => "a folder",
        _ if kind.is_fifo() => "a pipe",
        _ if kind.is_socket() => "a socket",
        _ => "a device",
    }
}

/// Takes bytes as text, or says what is wrong with them.
pub fn text_of(name: &str, bytes: Vec<u8>) -> Result<String, Diagnostic> {
    if bytes.len() > LARGEST {
        return Err(refusal(name, format!("the file is larger than {} MiB", LARGEST >> 20)));
    }
    String::from_utf8(bytes).map_err(|error| {
        let valid = error.utf8_error().valid_up_to();
        let bytes = error.as_bytes();
        Diagnostic {
            position: position_of(bytes, valid),
            help: Some("save the file as UTF-8".into()),
            ..refusal(name, format!("byte {:#04x} is not UTF-8", bytes[valid]))
        }
    })
}

/// The place behind the first `length` bytes, which are UTF-8.
fn position_of(bytes: &[u8], length: usize) -> Position {
    let before = &bytes[..length];
    let line_start = before.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
    let is_character_start = |byte: &&u8| **byte & 0xc0 != 0x80;
    Position {
        line: 1 + before.iter().filter(|byte| **byte == b'\n').count() as u32,
        column: 1 + before[line_start..].iter().filter(is_character_start).count() as u32,
    }
}

/// A remark about a file as a whole.
pub fn refusal(name: &str, message: String) -> Diagnostic {
    Diagnostic {
        severity: Severity::Error,
        file: name.to_owned(),
        position: Position { line: 1, column: 1 },
        message,
        help: None,
    }
}

/// What a check has to know of this machine, as it is now.
///
/// Without the right to ask, no address counts as local: the check then takes more than it should, and says so.
pub fn host_facts() -> HostFacts {
    let interfaces = match nix::ifaddrs::getifaddrs() {
        Ok(interfaces) => interfaces,
        Err(error) => {
            warn!(
                "cannot list the addresses of this machine's interfaces: {error}; none is checked against the file"
            );
            return HostFacts::default();
        }
    };
    let local_addresses = interfaces.filter_map(|interface| {
        let address = interface.address?;
        let ip = match (address.as_sockaddr_in(), address.as_sockaddr_in6()) {
            (Some(v4), _) => v4.ip().into(),
            (_, Some(v6)) => v6.ip().into(),
            _ => return None,
        };
        Some((ip, interface.interface_name))
    });
    HostFacts { local_addresses: local_addresses.collect() }
}

/// Tells when the file at a path may have changed.
///
/// Folders are watched, not the file: editors replace it, and a ConfigMap swaps a symbolic link beside it. Two folders
/// count: the one that the path names, and the one that holds what it leads to.
pub(crate) struct Watch {
    path: PathBuf,
    inotify: AsyncFd<OwnedFd>,
    /// Something changed; when it will have been quiet for long enough.
    quiet_at: Cell<Option<Instant>>,
}

impl Watch {
    pub(crate) fn new(path: &Path) -> io::Result<Self> {
        let inotify = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?;
        let watch = Self { path: path.to_owned(), inotify: readiness(inotify)?, quiet_at: Cell::default() };
        watch.renew();
        Ok(watch)
    }

    /// Watches the folders that count now; naming one twice changes nothing. A folder that cannot be watched is no
    /// error: the agent looks at the file now and then in any case.
    pub(crate) fn renew(&self) {
        let target = fs::canonicalize(&self.path).ok();
        for path in [Some(self.path.as_path()), target.as_deref()].into_iter().flatten() {
            // CREATE only for links: a new file is empty until CLOSE_WRITE.
            let flags = WatchFlags::CLOSE_WRITE
                | WatchFlags::CREATE
                | WatchFlags::MOVED_TO
                | WatchFlags::MOVED_FROM
                | WatchFlags::DELETE
                | WatchFlags::ONLYDIR;
            let _ = inotify::add_watch(self.inotify.get_ref(), folder_of(path), flags);
        }
    }

    /// Returns when something changed in the folders that may concern the file, and it has been quiet since. May be
    /// dropped and called again: what it has seen is kept.
    pub(crate) async fn changed(&self) {
        loop {
            let concerns = match self.quiet_at.get() {
                None => self.next_change().await,
                Some(at) => match timeout_at(at, self.next_change()).await {
                    Ok(_) => true,
                    Err(_) => break,
                },
            };
            if concerns {
                self.quiet_at.set(Some(Instant::now() + PAUSE));
            }
        }
        self.quiet_at.set(None);
        self.renew();
    }

    /// Waits for the next events; whether one of them may concern the file.
    async fn next_change(&self) -> bool {
        let Ok(mut ready) = self.inotify.readable().await else {
            return std::future::pending().await;
        };
        ready.clear_ready();
        let mut concerns = false;
        let mut buffer = [MaybeUninit::uninit(); 2048];
        let mut reader = inotify::Reader::new(self.inotify.get_ref(), &mut buffer);
        while let Ok(event) = reader.next() {
            let only_created = event.events() == ReadFlags::CREATE;
            concerns |= !only_created || self.path.is_symlink();
        }
        concerns
    }
}

/// Hands `fd` to the runtime.
#[expect(
    deprecated,
    reason = "an OwnedFd keeps its number for life, which `new` cannot know of every type; \
                               what replaces it is unsafe"
)]
pub(crate) fn readiness(fd: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    AsyncFd::new(fd)
}

fn folder_of(path: &Path) -> &Path {
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    struct Folder(PathBuf);

    impl Folder {
        fn new(name: &str) -> Self {
            let path = std::env::temp_dir().join(format!("alize-source-{name}-{}", std::process::id()));
            fs::create_dir_all(&path).unwrap();
            Self(path)
        }

        fn file(&self, name: &str, text: &str) -> PathBuf {
            let path = self.0.join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(&path, text).unwrap();
            path
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    fn refused(result: Result<Text, Unreadable>) -> String {
        match result {
            Err(Unreadable::Refused(diagnostic)) => diagnostic.to_string(),
            Err(Unreadable::Io(error)) => panic!("{error}"),
            Ok(text) => panic!("taken: {}", text.text),
        }
    }

    #[test]
    fn text_that_is_none_is_refused_with_its_place() {
        let error = text_of("m.yaml", b"a: 1\nb\xc3\xa4: \xff\n".to_vec()).unwrap_err();
        assert_eq!(error.to_string(), "m.yaml:2:5: error: byte 0xff is not UTF-8 (save the file as UTF-8)");
        assert_eq!(text_of("m.yaml", b"a: \xc3\xa4".to_vec()).unwrap(), "a: ä");
        let error = text_of("m.yaml", vec![b' '; LARGEST + 1]).unwrap_err();
        assert_eq!(error.to_string(), "m.yaml:1:1: error: the file is larger than 64 MiB");
    }

    #[test]
    fn what_is_no_file_is_refused() {
        let folder = Folder::new("kinds");
        assert!(refused(read(&folder.0)).ends_with("this is a folder, not a file"));
        let pipe = folder.0.join("pipe");
        rustix::fs::mknodat(rustix::fs::CWD, &pipe, rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap();
        assert!(refused(read(&pipe)).ends_with("this is a pipe, not a file"));
        assert!(refused(read(Path::new("/dev/zero"))).ends_with("this is a device, not a file"));
        assert!(matches!(read(&folder.0.join("none")), Err(Unreadable::Io(_))));
    }

    #[test]
    fn identity_follows_content_and_replacement() {
        let folder = Folder::new("identity");
        let path = folder.file("m.yaml", "a");
        let first = Identity::of(&path).unwrap();
        assert_eq!(Identity::of(&path), Some(first.clone()));
        let other = folder.file("other", "a");
        fs::rename(other, &path).unwrap();
        let second = Identity::of(&path).unwrap();
        assert_ne!(first, second);
        fs::write(&path, "longer").unwrap();
        assert_ne!(Identity::of(&path), Some(second));
        fs::remove_file(&path).unwrap();
        assert_eq!(Identity::of(&path), None);
    }

    /// What editors, `cp`, and `kubelet` do is seen; a file that is only begun is not.
    #[tokio::test]
    async fn every_way_of_replacing_a_file_is_seen() {
        let folder = Folder::new("watch");
        let path = folder.file("m.yaml", "a");
        let elsewhere = folder.file("elsewhere/real.yaml", "a");
        let link = folder.0.join("link.yaml");
        symlink(&elsewhere, &link).unwrap();
        let within = Duration::from_secs(5);
        let seen = async |watch: &Watch, what: &str| {
            tokio::time::timeout(within, watch.changed())
                .await
                .unwrap_or_else(|_| panic!("{what} was not seen"));
        };

        let watch = Watch::new(&path).unwrap();
        fs::write(&path, "b").unwrap();
        seen(&watch, "a write in place").await;
        fs::rename(folder.file("m.yaml~", "c"), &path).unwrap();
        seen(&watch, "a rename").await;
        fs::remove_file(&path).unwrap();
        seen(&watch, "a removal").await;

        let begun = File::create(&path).unwrap();
        let quiet = tokio::time::timeout(Duration::from_millis(300), watch.changed()).await;
        assert!(quiet.is_err(), "an empty file that is still open is not read");
        drop(begun);
        seen(&watch, "the end of writing").await;

        let watch = Watch::new(&link).unwrap();
        fs::write(&elsewhere, "d").unwrap();
        seen(&watch, "a write behind the link").await;
        symlink(&path, folder.0.join("link.new")).unwrap();
        fs::rename(folder.0.join("link.new"), &link).unwrap();
        seen(&watch, "a swap of the link").await;
        assert_eq!(Identity::of(&link).unwrap().inode, Identity::of(&path).unwrap().inode);
    }
    /// The agent waits for several things at once; a request in between must not cost the change.
    #[tokio::test]
    async fn a_wait_that_was_broken_off_loses_nothing() {
        let folder = Folder::new("watch-broken-off");
        let path = folder.file("m.yaml", "a");
        let watch = Watch::new(&path).unwrap();
        fs::write(&path, "b").unwrap();
        for _ in 0..3 {
            let broken_off = tokio::time::timeout(PAUSE / 10, watch.changed()).await;
            assert!(broken_off.is_err(), "it must wait until it is quiet");
        }
        tokio::time::timeout(Duration::from_secs(5), watch.changed()).await.expect("the change was lost");
    }
}
