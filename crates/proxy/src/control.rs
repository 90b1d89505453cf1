//! The control socket: one JSON object a line, as `alize_model::control` has them.

use std::borrow::Cow;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use alize_model::control::{FromProxy, Hello, ToProxy};
use serde::Deserialize;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use crate::proxy::Proxy;
use crate::route::Plan;

/// The longest line: a state of 100,000 services.
const LONGEST: u64 = 256 * 1024 * 1024;

/// Takes agents' connections. Asked to drain, it says for how long. Its end is the end of all conversations.
pub(crate) async fn serve(proxy: Arc<Proxy>, listener: Arc<UnixListener>, drain: mpsc::Sender<Duration>) {
    let mut newest = JoinSet::new();
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!(%error, "cannot accept an agent; check the limit of open files");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        // The newest connection is the one that counts: an agent that was replaced says nothing more.
        newest.shutdown().await;
        let (proxy, drain) = (Arc::clone(&proxy), drain.clone());
        newest.spawn(async move {
            if let Err(error) = converse(&proxy, stream, &drain).await {
                tracing::debug!(%error, "an agent's connection ended");
            }
        });
    }
}

async fn converse(proxy: &Arc<Proxy>, stream: UnixStream, drain: &mpsc::Sender<Duration>) -> io::Result<()> {
    let (reader, mut writer) = stream.into_split();
    let hello = Hello {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        pid: std::process::id(),
        generation: proxy.mesh().generation,
    };
    say(&mut writer, &FromProxy::Hello(hello)).await?;
    let mut reader = BufReader::with_capacity(4096, reader);
    loop {
        // Made anew each time: the memory of a large state is not kept.
        let mut line = Vec::new();
        (&mut reader).take(LONGEST).read_until(b'\n', &mut line).await?;
        if line.last() != Some(&b'\n') {
            let cut = !line.is_empty();
            return if cut { Err(io::Error::other("the line has no end")) } else { Ok(()) };
        }
        match read(&line) {
            Err(error) => say(&mut writer, &FromProxy::Error { error }).await?,
            Ok(Request::Drain(deadline)) => {
                let _ = drain.send(deadline).await;
            }
            Ok(request) => {
                drop(line);
                say(&mut writer, &answer(proxy, request)).await?;
            }
        }
    }
}

/// A [`ToProxy`] as it is read: a state never is in memory as it was sent.
#[derive(Debug)]
pub(crate) enum Request {
    State(Plan),
    Counters,
    Handover,
    Drain(Duration),
}

/// Reads one line of an agent.
pub(crate) fn read(line: &[u8]) -> Result<Request, String> {
    #[derive(Deserialize)]
    struct Kind<'a> {
        #[serde(borrow)]
        kind: Cow<'a, str>,
    }
    let read = || {
        let Kind { kind } = serde_json::from_slice(line)?;
        if kind == "state" {
            return serde_json::from_slice(line).map(Request::State);
        }
        serde_json::from_slice(line).map(|word| match word {
            ToProxy::State(state) => Request::State(state.into()),
            ToProxy::Counters => Request::Counters,
            ToProxy::Handover => Request::Handover,
            ToProxy::Drain { deadline } => Request::Drain(deadline),
        })
    };
    read().map_err(|error: serde_json::Error| {
        format!("cannot read a message to the proxy: {error}; check that agent and proxy are of one version")
    })
}

fn answer(proxy: &Proxy, request: Request) -> FromProxy {
    let state = |proxy: &Proxy| FromProxy::State { generation: proxy.mesh().generation };
    match request {
        Request::State(wanted) => match proxy.apply(wanted) {
            Ok(()) => state(proxy),
            Err(error) => FromProxy::Error { error },
        },
        Request::Counters => FromProxy::Counters(proxy.counters()),
        // The successor asks for itself, on a socket that carries descriptors; the agent only has to start it.
        Request::Handover | Request::Drain(_) => state(proxy),
    }
}

async fn say(writer: &mut (impl AsyncWriteExt + Unpin), word: &FromProxy) -> io::Result<()> {
    let mut line = serde_json::to_vec(word).map_err(io::Error::other)?;
    line.push(b'\n');
    writer.write_all(&line).await
}
