//! DNS queries, a line each.

use alize_model::api::ObservedLookup;

use super::connections::owner;
use crate::style::{Paint, Tone, visible};
use crate::units::utc;

pub(super) fn line(lookup: &ObservedLookup, paint: Paint) -> String {
    let time = utc(lookup.time).get(11..).unwrap_or_default().to_owned();
    let (pid, comm) = owner(lookup.client.as_ref());
    let code = lookup.code.as_deref().unwrap_or("no response");
    let name = match lookup.name.as_str() {
        // The root has no name but its dot.
        "" => ".".to_owned(),
        name => format!("{}{}", visible(name), if lookup.name_cut { "..." } else { "" }),
    };
    let transport = if lookup.transport == "tcp" { " over TCP" } else { "" };
    let truncated = if lookup.truncated { ", truncated" } else { "" };
    let repeated = if lookup.repeated { ", repeated" } else { "" };
    format!(
        "{}  {pid:>7}  {comm:<15}  ->  {:<28}  DNS {} {name}  {}  {} answers  {:.3} ms{transport}{truncated}{repeated}\n",
        paint.tone(Tone::Faint, &time),
        lookup.server.to_string(),
        visible(&lookup.query_type),
        paint.tone(tone(lookup), &visible(code)),
        lookup.answers,
        lookup.latency * 1e3,
    )
}

fn tone(lookup: &ObservedLookup) -> Tone {
    match lookup.code.as_deref() {
        Some("NOERROR") => Tone::Good,
        Some("NXDOMAIN") => Tone::Caution,
        _ => Tone::Bad,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_tells_name_type_code_and_latency() {
        let lookup = ObservedLookup {
            time: 1_700_000_000.25,
            client: None,
            client_address: ([127, 0, 0, 1], 40_000).into(),
            server: ([127, 0, 0, 53], 53).into(),
            name: "no\u{1b}such.example".into(),
            name_cut: false,
            query_type: "AAAA".into(),
            code: Some("NXDOMAIN".into()),
            answers: 0,
            latency: 0.001_5,
            transport: "udp".into(),
            truncated: false,
            repeated: true,
        };
        assert_eq!(
            line(&lookup, Paint::PLAIN),
            "22:13:20.250Z        -  -                ->  127.0.0.53:53                 DNS AAAA no\u{fffd}such.example  \
             NXDOMAIN  0 answers  1.500 ms, repeated\n"
        );
        let root = ObservedLookup { name: String::new(), query_type: "NS".into(), ..lookup };
        assert!(line(&root, Paint::PLAIN).contains("  DNS NS .  NXDOMAIN  "));
    }
}
