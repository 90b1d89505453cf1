//! Looking at services once, or again and again with rates.

use std::io::{self, IsTerminal};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use alize_model::api::{EndpointStatus, ServiceStatus, Traffic};
use serde::Serialize;
use tokio::io::Interest;
use tokio::net::unix::pipe;

use super::args::{Form, LookArgs};
use crate::client::Client;
use crate::failure::Failure;
use crate::output::{Output, print};

/// Moves to the upper left corner and clears the screen from there.
const HOME: &str = "\u{1b}[H\u{1b}[J";

/// Services now, and what they were a moment ago.
pub(crate) struct View<'a> {
    pub(crate) services: &'a [ServiceStatus],
    pub(crate) earlier: Option<Earlier<'a>>,
}

/// What [`View`] compares with.
#[derive(Clone, Copy)]
pub(crate) struct Earlier<'a> {
    services: &'a [ServiceStatus],
    /// How long ago.
    seconds: f64,
}

impl View<'_> {
    /// The same service a moment ago.
    pub(crate) fn before(&self, service: &ServiceStatus) -> Option<Before<'_>> {
        let earlier = self.earlier?;
        // Both are sorted by name, but that is the agent's promise, not ours.
        let found = earlier.services.iter().find(|before| before.name == service.name)?;
        Some(Before { service: found, seconds: earlier.seconds })
    }
}

/// One service a moment ago.
#[derive(Clone, Copy)]
pub(crate) struct Before<'a> {
    pub(crate) service: &'a ServiceStatus,
    pub(crate) seconds: f64,
}

impl<'a> Before<'a> {
    /// The same endpoint a moment ago.
    pub(crate) fn endpoint(&self, endpoint: &EndpointStatus) -> Option<&'a EndpointStatus> {
        self.service
            .endpoints
            .iter()
            .find(|before| (before.id, before.address) == (endpoint.id, endpoint.address))
    }

    /// How fast a counter grew.
    pub(crate) fn rate(&self, now: u64, before: u64) -> f64 {
        // Counters begin again when the maps are made again.
        now.saturating_sub(before) as f64 / self.seconds
    }
}

/// Connects that failed, for whatever reason.
pub(crate) fn failed(traffic: &Traffic) -> u64 {
    traffic.failures.values().sum()
}

/// Shows what `args` ask for, once or until the user has seen enough.
pub(crate) async fn look<T: Serialize>(
    client: &Client,
    args: &LookArgs,
    output: Output,
    select: impl Fn(&[ServiceStatus]) -> T,
    table: impl Fn(&View<'_>) -> String,
) -> Result<(), Failure> {
    let mut earlier = (fetch(client, args).await?, Instant::now());
    let Some(interval) = args.watch else {
        let view = View { services: &earlier.0, earlier: None };
        return output.answer(&select(&earlier.0), || table(&view));
    };
    for _ in 0..args.count.unwrap_or(u32::MAX) {
        pause(interval).await?;
        let now = (fetch(client, args).await?, Instant::now());
        let seconds = now.1.duration_since(earlier.1).as_secs_f64();
        let view = View { services: &now.0, earlier: Some(Earlier { services: &earlier.0, seconds }) };
        match output.form() {
            Form::Table if io::stdout().is_terminal() => print(&format!("{HOME}{}", table(&view)))?,
            Form::Table => print(&format!("{}\n", table(&view)))?,
            Form::Json | Form::Yaml => output.item(&select(&now.0), String::new)?,
        }
        earlier = now;
    }
    Ok(())
}

async fn fetch(client: &Client, args: &LookArgs) -> Result<Vec<ServiceStatus>, Failure> {
    Ok(match &args.service {
        Some(name) => vec![client.service(name).await?],
        None => client.services().await?,
    })
}

async fn pause(interval: Duration) -> Result<(), Failure> {
    tokio::select! {
        () = tokio::time::sleep(interval) => Ok(()),
        () = output_closed() => Err(Failure::OutputClosed),
    }
}

/// Ends when the reader of a pipe that is our standard output goes away; never for a file or a terminal that stays.
pub(crate) async fn output_closed() {
    // Files cannot be waited for (EPERM from epoll), and cannot be closed by a reader either.
    if let Ok(watched) = watched_output() {
        let _ = watched.ready(Interest::ERROR).await;
        return;
    }
    std::future::pending().await
}

/// Standard output as something to wait for. Unchecked, because the checked way makes the pipe non-blocking, for all
/// processes that share it.
fn watched_output() -> io::Result<pipe::Sender> {
    let output = io::stdout().as_fd().try_clone_to_owned()?;
    pipe::Sender::from_file_unchecked(output.into())
}
