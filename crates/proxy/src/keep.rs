//! Connections outlive the proxy's own death: whoever starts it holds a second descriptor of each.
//!
//! The agent runs a [`Store`]. The proxy tells it of its listeners, of connections of clients that are not short, and of
//! connections to endpoints that the kernel routes over, each with its descriptor; and again of each that ends. When a proxy
//! is gone without a farewell, the next one gets all of it: connections wait in the listeners, the kernel goes on
//! routing over what it has, and a client's connection goes on if TCP says that nothing was in the dead process's
//! hands (see [`crate::Kernel::rests`]). Without a store, or with one that dies at the same time, the sockets die.

mod store;

use std::collections::HashMap;
use std::fmt;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Weak;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use alize_datapath::http::Slot;
use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, timeout, timeout_at};

use crate::front::Origin;
use crate::handover::{Packets, receive, send};
use crate::kernel::Netns;

pub use store::Store;

/// Bytes in a packet, which is one word.
const LONGEST: usize = 4096;
/// How long the store may take to hand over what it has.
const PATIENCE: Duration = Duration::from_secs(5);
/// The wait before a store that is gone is looked for again: the agent is being restarted.
const AGAIN: Duration = Duration::from_millis(500);

/// A socket that is kept.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "what", rename_all = "kebab-case")]
pub(crate) enum Kept {
    /// Where clients of a namespace connect.
    Listener { netns: Netns },
    /// A client's connection.
    Front { origin: Origin },
    /// A connection to an endpoint, which the kernel may lend.
    Back(KeptBack),
}

/// See [`Kept::Back`].
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct KeptBack {
    pub(crate) slot: Slot,
    pub(crate) netns: Netns,
    pub(crate) endpoint: u32,
    /// Cookie of the socket, if the kernel sends out of it.
    pub(crate) remote: Option<u64>,
}

/// What proxy and store say, the proxy the first three.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
enum Word {
    /// With a descriptor.
    Keep { id: u64, kept: Kept },
    /// It has ended.
    Drop { id: u64 },
    /// What is left ends with this process.
    Farewell,
    /// With a descriptor: from a proxy that is gone.
    Orphan { kept: Kept },
    /// There are no more now.
    End,
}

/// Where the store listens.
fn path(run_dir: &Path, instance: &str) -> PathBuf {
    run_dir.join(format!("{instance}.proxy.kept"))
}

/// A socket of a proxy that is gone.
pub(crate) type Orphan = (Kept, OwnedFd);

/// Something with a descriptor, as long as it lives.
type Source = Weak<dyn AsFd + Send + Sync>;

enum Order {
    Keep(u64, Kept, Source),
    Drop(u64),
    Farewell(oneshot::Sender<()>),
}

/// The proxy's side.
#[derive(Debug)]
pub(crate) struct Keeping {
    orders: mpsc::UnboundedSender<Order>,
    next: AtomicU64,
}

/// The store has a descriptor as long as this lives.
pub(crate) struct Ticket {
    id: u64,
    orders: mpsc::UnboundedSender<Order>,
}

impl fmt::Debug for Ticket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Ticket({})", self.id)
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        let _ = self.orders.send(Order::Drop(self.id));
    }
}

impl Keeping {
    /// Goes to the store of the instance whenever there is one. What that has of a proxy that is gone goes to `late`.
    pub(crate) fn start(
        run_dir: &Path,
        instance: &str,
        packets: Option<Packets>,
        late: impl Fn(Orphan) + Send + 'static,
    ) -> Self {
        let (orders, receiver) = mpsc::unbounded_channel();
        let path = path(run_dir, instance);
        tokio::spawn(Task { path, orders: receiver, records: HashMap::new(), late }.run(packets));
        Self { orders, next: AtomicU64::new(1) }
    }

    pub(crate) fn keep(&self, kept: Kept, source: Source) -> Ticket {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let _ = self.orders.send(Order::Keep(id, kept, source));
        Ticket { id, orders: self.orders.clone() }
    }

    /// What is left ends with this process: nobody is to get it.
    pub(crate) async fn farewell(&self) {
        let (sender, done) = oneshot::channel();
        if self.orders.send(Order::Farewell(sender)).is_ok() {
            let _ = timeout(PATIENCE, done).await;
        }
    }
}

/// All that the store has of proxies that are gone, until it says that this is all, and the way to it.
pub(crate) async fn inherit(run_dir: &Path, instance: &str) -> (Option<Packets>, Vec<Orphan>) {
    let Ok(packets) = Packets::connect(&path(run_dir, instance), LONGEST) else { return (None, Vec::new()) };
    let mut orphans = Vec::new();
    let end = Instant::now() + PATIENCE;
    loop {
        match timeout_at(end, receive::<Word>(&packets)).await {
            Ok(Ok(Some((Word::Orphan { kept }, sockets)))) => {
                orphans.extend(sockets.into_iter().next().map(|socket| (kept, socket)));
            }
            Ok(Ok(Some((Word::End, _)))) => return (Some(packets), orphans),
            other => {
                tracing::warn!(?other, "the agent does not hand over the connections of the proxy before");
                return (None, orphans);
            }
        }
    }
}

struct Task<L> {
    path: PathBuf,
    orders: mpsc::UnboundedReceiver<Order>,
    records: HashMap<u64, (Kept, Source)>,
    late: L,
}

impl<L: Fn(Orphan)> Task<L> {
    /// Until nobody gives orders any more.
    async fn run(mut self, mut packets: Option<Packets>) {
        loop {
            packets = packets.or_else(|| Packets::connect(&self.path, LONGEST).ok());
            let there = match packets.take() {
                Some(packets) => self.converse(packets).await,
                None => self.wait().await,
            };
            if !there {
                return;
            }
        }
    }

    /// Takes orders until the store is gone. False: there will be no more.
    async fn converse(&mut self, packets: Packets) -> bool {
        let known: Vec<u64> = self.records.keys().copied().collect();
        for id in known {
            if !self.tell(&packets, id).await {
                return true;
            }
        }
        loop {
            tokio::select! {
                order = self.orders.recv() => {
                    let goes_on = match order {
                        None => return false,
                        Some(Order::Keep(id, kept, source)) => {
                            self.records.insert(id, (kept, source));
                            self.tell(&packets, id).await
                        }
                        Some(Order::Drop(id)) => {
                            self.records.remove(&id);
                            send(&packets, &Word::Drop { id }, &[]).await.is_ok()
                        }
                        Some(Order::Farewell(done)) => {
                            let _ = send(&packets, &Word::Farewell, &[]).await;
                            let _ = done.send(());
                            return false;
                        }
                    };
                    if !goes_on {
                        return true;
                    }
                }
                heard = receive::<Word>(&packets) => match heard {
                    Ok(Some((Word::Orphan { kept }, sockets))) => {
                        sockets.into_iter().next().into_iter().for_each(|socket| (self.late)((kept, socket)));
                    }
                    Ok(Some(_)) => {}
                    Ok(None) | Err(_) => return true,
                },
            }
        }
    }

    /// Gives the store what `id` stands for; false: there is none.
    async fn tell(&mut self, packets: &Packets, id: u64) -> bool {
        let Some((kept, source)) = self.records.get(&id) else { return true };
        // What has ended meanwhile is followed by an order to drop it.
        let Some(source) = source.upgrade() else { return true };
        send(packets, &Word::Keep { id, kept: *kept }, &[source.as_fd()]).await.is_ok()
    }

    /// Takes orders for a moment in which there is no store. False: there will be no more.
    async fn wait(&mut self) -> bool {
        let end = Instant::now() + AGAIN;
        loop {
            match timeout_at(end, self.orders.recv()).await {
                Err(_) => return true,
                Ok(Some(Order::Keep(id, kept, source))) => drop(self.records.insert(id, (kept, source))),
                Ok(Some(Order::Drop(id))) => drop(self.records.remove(&id)),
                Ok(Some(Order::Farewell(_)) | None) => return false,
            }
        }
    }
}
