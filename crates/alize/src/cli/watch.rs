//! `alize watch`: events as they come, across restarts of the agent.

use std::time::Duration;

use alize_model::api::Event;

use super::args::WatchArgs;
use super::live::output_closed;
use crate::client::{Client, Error, Lines};
use crate::failure::Failure;
use crate::output::Output;
use crate::style::{Paint, Tone, visible};
use crate::units::utc;

/// Between two attempts to reach an agent that has gone.
const RETRY: Duration = Duration::from_millis(500);

pub(crate) async fn watch(client: &Client, args: WatchArgs, output: Output) -> Result<(), Failure> {
    tokio::select! {
        ended = follow(client, args.recent, output) => ended,
        () = output_closed() => Err(Failure::OutputClosed),
    }
}

/// Only an agent that was there may be waited for: a wrong socket or instance is an error at once.
async fn follow(client: &Client, recent: u32, output: Output) -> Result<(), Failure> {
    let mut events = client.events(recent).await?;
    loop {
        while let Some(event) = events.next().await? {
            output.item(&event, || line(&event, output.paint))?;
        }
        output.remark("the agent has gone; waiting for it");
        events = again(client).await?;
        output.remark("connected again");
    }
}

async fn again(client: &Client) -> Result<Lines<Event>, Failure> {
    loop {
        tokio::time::sleep(RETRY).await;
        match client.events(0).await {
            Ok(events) => return Ok(events),
            // It may be starting: its socket may be missing, or accept and break off.
            Err(
                Error::Absent { .. } | Error::Connect { .. } | Error::Garbled { .. } | Error::Silent { .. },
            ) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

fn line(event: &Event, paint: Paint) -> String {
    let mut line = format!("{}  {}", paint.tone(Tone::Faint, &utc(event.time)), kind(&event.kind, paint));
    if let Some(service) = &event.service {
        line.push_str(&format!("  {}", visible(service)));
    }
    if let Some(endpoint) = event.endpoint {
        line.push_str(&format!("  {endpoint}"));
    }
    line.push_str(&format!("  {}", visible(&event.message)));
    match (&event.comm, event.pid) {
        (Some(comm), Some(pid)) => line.push_str(&format!(" ({}, pid {pid})", visible(comm))),
        (None, Some(pid)) => line.push_str(&format!(" (pid {pid})")),
        _ => {}
    }
    line + "\n"
}

fn kind(kind: &str, paint: Paint) -> String {
    let tone = match kind {
        "refused" | "connect-failed" => Tone::Bad,
        "health" | "ejection" => Tone::Caution,
        _ => Tone::Plain,
    };
    // The longest kind is `connect-failed`.
    paint.tone(tone, &format!("{:<14}", visible(kind)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_one_line_that_does_not_act_on_the_terminal() {
        let event = Event {
            time: 1_700_000_000.25,
            kind: "refused".into(),
            service: Some("web".into()),
            endpoint: None,
            message: "no endpoint is usable".into(),
            pid: Some(42),
            comm: Some("cu\u{1b}[2Jrl\n".into()),
        };
        let shown = line(&event, Paint::PLAIN);
        assert_eq!(
            shown,
            "2023-11-14T22:13:20.250Z  refused         web  no endpoint is usable (cu\u{fffd}[2Jrl\u{fffd}, pid 42)\n"
        );
    }
}
