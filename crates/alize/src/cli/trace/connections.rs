//! What happens to TCP connections, a line each.

use alize_model::api::{ObservedConnection, Peer};

use crate::style::{Paint, Tone, visible};
use crate::units::utc;

/// Above lines of connections and queries: where they go, and what is told of them.
pub(super) fn head(remote: &str, what: &str) -> String {
    format!("{:<13}  {:>7}  {:<15}  ->  {remote:<28}  {what}", "TIME", "PID", "COMM")
}

pub(super) fn line(event: &ObservedConnection, paint: Paint) -> String {
    let time = utc(event.time).get(11..).unwrap_or_default().to_owned();
    let (pid, comm) = owner(event.owner.as_ref());
    let arrow = if event.side == "server" { "<-" } else { "->" };
    let what = match &event.reason {
        Some(reason) => format!("{} ({})", visible(&event.event), visible(reason)),
        None => visible(&event.event),
    };
    let service = event.service.as_deref().map(|name| format!("{}/", visible(name))).unwrap_or_default();
    format!(
        "{}  {pid:>7}  {comm:<15}  {arrow}  {:<28}  TCP {}{}\n",
        paint.tone(Tone::Faint, &time),
        format!("{service}{}", event.remote),
        paint.tone(tone(event), &what),
        figures(event)
    )
}

fn figures(event: &ObservedConnection) -> String {
    let mut figures = String::new();
    if let Some(duration) = event.duration {
        figures += &format!("  {:.3} ms", duration * 1e3);
    }
    if event.event == "closed" {
        figures += &format!("  sent {} B  received {} B", event.bytes_sent, event.bytes_received);
    }
    if event.retransmits > 0 {
        figures += &format!("  retransmits {}", event.retransmits);
    }
    if let Some(rtt) = event.rtt {
        figures += &format!("  rtt {:.3} ms", rtt * 1e3);
    }
    figures
}

fn tone(event: &ObservedConnection) -> Tone {
    match (event.event.as_str(), &event.reason) {
        ("failed", _) => Tone::Bad,
        ("retransmit", _) | (_, Some(_)) => Tone::Caution,
        ("connected" | "accepted", None) => Tone::Good,
        _ => Tone::Plain,
    }
}

/// Process and name, as far as they are known.
pub(super) fn owner(peer: Option<&Peer>) -> (String, String) {
    let pid = peer.and_then(|peer| peer.pid).map_or_else(|| "-".to_owned(), |pid| pid.to_string());
    let name = peer.map_or("-", |peer| peer.comm.as_deref().unwrap_or(&peer.workload.name));
    (pid, visible(name))
}

#[cfg(test)]
mod tests {
    use super::super::tests::connection;
    use super::*;

    #[test]
    fn an_end_tells_why_and_how_much() {
        let event = connection();
        assert_eq!(
            head("SERVICE/REMOTE", "EVENT"),
            "TIME               PID  COMM             ->  SERVICE/REMOTE                EVENT"
        );
        assert_eq!(
            line(&event, Paint::PLAIN),
            "22:13:20.250Z        -  -                ->  web/127.0.0.1:80              TCP closed (reset-received)  \
             1500.000 ms  sent 7 B  received 9 B  retransmits 2  rtt 0.050 ms\n"
        );
    }
}
