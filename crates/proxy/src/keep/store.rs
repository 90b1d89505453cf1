//! Holds descriptors for proxies, and gives those of one that is gone to the next.

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::{Arc, Mutex, Weak};
use std::time::{Duration, Instant};

use super::{Kept, LONGEST, Orphan, Word, path};
use crate::back::lock;
use crate::handover::{Door, Packets, receive, send};
use crate::run::raise_file_limit;

/// How long what a proxy has left waits for the next one: then its clients are to hear that nobody is there.
const WAITING: Duration = Duration::from_secs(30);

/// Within which the last words of a process that is gone are read.
const HEARING: Duration = Duration::from_secs(2);

/// Keeps the sockets of an instance's proxies beyond their deaths. It lives in the process that starts them.
pub struct Store {
    door: Door,
    shared: Arc<Mutex<Shared>>,
}

#[derive(Default)]
struct Shared {
    /// Processes with which there are conversations.
    peers: Vec<i32>,
    orphans: Vec<Orphan>,
    /// The proxy that came last.
    newest: Weak<Packets>,
}

impl Store {
    /// Listens in `run_dir`, in place of a store that ended.
    pub fn listen(run_dir: &Path, instance: &str) -> io::Result<Self> {
        std::fs::create_dir_all(run_dir)?;
        raise_file_limit();
        Ok(Self { door: Door::listen(&path(run_dir, instance), LONGEST)?, shared: Arc::default() })
    }

    /// Keeps what it is given, for as long as this runs.
    pub async fn serve(self) {
        loop {
            match self.door.accept().await {
                Ok(packets) => drop(tokio::spawn(converse(Arc::new(packets), Arc::clone(&self.shared)))),
                Err(error) => {
                    tracing::warn!(%error, "cannot hear of connections to keep; check the limit of open files");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        }
    }
}

/// With one proxy, until it is gone.
async fn converse(packets: Arc<Packets>, shared: Arc<Mutex<Shared>>) {
    let pid = packets.peer().unwrap_or_default();
    {
        let mut shared = lock(&shared);
        shared.newest = Arc::downgrade(&packets);
        shared.peers.push(pid);
    }
    others_are_heard(&shared).await;
    give(&packets, &shared).await;
    let mut entries: HashMap<u64, (Kept, OwnedFd)> = HashMap::new();
    loop {
        match receive::<Word>(&packets).await {
            Ok(Some((Word::Keep { id, kept }, sockets))) => {
                entries.extend(sockets.into_iter().next().map(|socket| (id, (kept, socket))));
            }
            Ok(Some((Word::Drop { id }, _))) => drop(entries.remove(&id)),
            Ok(Some((Word::Farewell, _))) => entries.clear(),
            Ok(Some((Word::Orphan { .. } | Word::End, _))) | Err(_) | Ok(None) => break,
        }
    }
    drop(packets);
    lock(&shared).peers.retain(|peer| *peer != pid);
    if entries.is_empty() {
        return;
    }
    tracing::info!(sockets = entries.len(), "a proxy is gone: its connections wait for the next one");
    let newest = {
        let mut shared = lock(&shared);
        shared.orphans.extend(entries.into_values());
        shared.newest.upgrade()
    };
    if let Some(newest) = newest {
        give(&newest, &shared).await;
    }
    tokio::time::sleep(WAITING).await;
    let late = std::mem::take(&mut lock(&shared).orphans);
    if !late.is_empty() {
        tracing::warn!(
            sockets = late.len(),
            "no proxy came for the connections of the one before: they are cut"
        );
    }
}

/// What a process that is gone has said last may not have been read yet: its connections would come too late.
async fn others_are_heard(shared: &Mutex<Shared>) {
    let is_gone = |pid: &i32| !Path::new(&format!("/proc/{pid}/fd/0")).exists();
    let end = Instant::now() + HEARING;
    while lock(shared).peers.iter().any(is_gone) && Instant::now() < end {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

/// Gives a proxy all that is left of others.
async fn give(packets: &Packets, shared: &Mutex<Shared>) {
    loop {
        let orphan = lock(shared).orphans.pop();
        let Some((kept, socket)) = orphan else { break };
        if send(packets, &Word::Orphan { kept }, &[socket.as_fd()]).await.is_err() {
            lock(shared).orphans.push((kept, socket));
            return;
        }
    }
    let _ = send(packets, &Word::End, &[]).await;
}
