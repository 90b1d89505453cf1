//! Looking at services once, or again and again with rates.

use std::collections::HashMap;
use std::io::{self, IsTerminal};
use std::net::SocketAddr;
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
    earlier: HashMap<&'a str, &'a ServiceStatus>,
    /// How long ago; `None`: there is nothing to compare with.
    pub(crate) seconds: Option<f64>,
}

impl<'a> View<'a> {
    fn now(services: &'a [ServiceStatus]) -> Self {
        Self { services, earlier: HashMap::new(), seconds: None }
    }

    fn since(services: &'a [ServiceStatus], earlier: &'a [ServiceStatus], seconds: f64) -> Self {
        let earlier = earlier.iter().map(|service| (service.name.as_str(), service)).collect();
        Self { services, earlier, seconds: Some(seconds) }
    }

    /// How much a counter of `service` grew; all of it, if there is nothing to compare with.
    pub(crate) fn growth(&self, service: &ServiceStatus, value: fn(&ServiceStatus) -> u64) -> u64 {
        let earlier = self.earlier.get(service.name.as_str());
        // Counters begin again when the maps are made again.
        value(service).saturating_sub(earlier.map_or(0, |earlier| value(earlier)))
    }

    /// The endpoints of `service` a moment ago. An address alone is not enough: it may have been removed and given back.
    pub(crate) fn endpoints_before(&self, service: &ServiceStatus) -> EndpointsBefore<'a> {
        let earlier = self.earlier.get(service.name.as_str()).map_or(&[][..], |earlier| &earlier.endpoints);
        EndpointsBefore(earlier.iter().map(|endpoint| ((endpoint.id, endpoint.address), endpoint)).collect())
    }
}

/// The endpoints of one service a moment ago.
pub(crate) struct EndpointsBefore<'a>(HashMap<(u32, SocketAddr), &'a EndpointStatus>);

impl EndpointsBefore<'_> {
    /// How much a counter of `endpoint` grew.
    pub(crate) fn growth(&self, endpoint: &EndpointStatus, value: fn(&EndpointStatus) -> u64) -> u64 {
        let earlier = self.0.get(&(endpoint.id, endpoint.address));
        value(endpoint).saturating_sub(earlier.map_or(0, |earlier| value(earlier)))
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
        let view = View::now(&earlier.0);
        return output.answer(&select(&earlier.0), || table(&view));
    };
    for _ in 0..args.count.unwrap_or(u32::MAX) {
        pause(interval).await?;
        let now = (fetch(client, args).await?, Instant::now());
        let seconds = now.1.duration_since(earlier.1).as_secs_f64();
        let view = View::since(&now.0, &earlier.0, seconds);
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
