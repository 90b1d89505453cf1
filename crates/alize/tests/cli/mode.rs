//! `alize mode` and `alize shadow report`: from observe to enforce and back, with real connects.

use std::time::{Duration, Instant};

use crate::real::{Host, SERVICE, json, mesh, server};

/// Of the loopback, so that what is not balanced is refused there and leaves the machine by no way.
const LOCAL: &str = "127.77.9.1";

#[test]
fn a_mode_is_one_word_and_survives_the_agent() {
    let mut host = Host::new("mode");
    let (one, two) = (server("one"), server("two"));
    let text =
        mesh(&[one, two]).replace(SERVICE, LOCAL).replace("address:", "balance: round-robin\n    address:");
    let file = host.folder.file("mesh.yaml", &text);
    host.start_with(&file, &[]);
    assert!(host.dial_at(LOCAL).is_ok());
    assert!(host.alize(&["mode"]).out.starts_with("no mode is set by hand"));

    let changed = host.alize(&["mode", "web", "shadow"]);
    assert_eq!(changed.code, 0, "{}", changed.err);
    assert!(changed.out.contains("shadow now; it was enforce; this overrides the file"), "{}", changed.out);
    assert!(host.dial_at(LOCAL).is_err(), "nobody is at the service's own address");
    let kept = json(&host.alize(&["mode", "web", "-o", "json"]));
    assert_eq!((&kept[0]["mode"], &kept[0]["override"]["declared"]), (&"shadow".into(), &"enforce".into()));
    assert!(host.alize(&["services"]).out.contains("shadow (by hand)"));

    host.end("-KILL");
    assert!(host.dial_at(LOCAL).is_err());
    host.start_with(&file, &[]);
    assert!(host.dial_at(LOCAL).is_err(), "it survives the agent");
    // A new file does not end it, for it is not the file's.
    std::fs::write(&file, text.replace("round-robin", "weighted-random")).unwrap();
    assert_eq!(host.alize(&["apply"]).code, 0);
    assert!(host.dial_at(LOCAL).is_err());

    let reports = json(&host.alize(&["shadow", "report", "-o", "json"]));
    let report = &reports[0];
    assert_eq!(report["readiness"], "ready", "{report}");
    assert_eq!(report["would"]["balanced"], 4, "{report}");
    assert_eq!(report["seen"]["connections"], 4, "{report}");
    assert!(report["verdict"].as_str().unwrap().contains("failed where they were dialled to"), "{report}");
    let shares: u64 =
        report["endpoints"].as_array().unwrap().iter().map(|each| each["would"].as_u64().unwrap()).sum();
    assert_eq!(shares, 4);
    let text = host.alize(&["shadow", "report", "web"]).out;
    assert!(text.contains("Ready: ") && text.contains("WOULD GET"), "{text}");

    let tried = host.alize(&["mode", "web", "enforce", "--until", "1500ms"]);
    assert!(tried.out.contains("the file holds again, which says enforce"), "{} {}", tried.out, tried.err);
    assert!(host.dial_at(LOCAL).is_ok());
    assert_eq!(host.alize(&["mode", "web", "observe", "--until", "1s"]).code, 0);
    assert!(host.dial_at(LOCAL).is_err());
    let begun = Instant::now();
    while host.dial_at(LOCAL).is_err() {
        assert!(begun.elapsed() < Duration::from_secs(20), "the time is over, and the mode still holds");
        std::thread::sleep(Duration::from_millis(50));
    }
    assert!(host.alize(&["mode"]).out.starts_with("no mode is set by hand"));

    assert_eq!(host.alize(&["mode", "web", "observe"]).code, 0);
    let back = host.alize(&["mode", "web", "file"]);
    assert!(back.out.contains("enforce now; it was observe; the file says the same"), "{}", back.out);
    assert!(host.dial_at(LOCAL).is_ok());
    let unknown = host.alize(&["mode", "wbe", "observe"]);
    assert_eq!(unknown.code, 1);
    assert!(unknown.err.contains("\"wbe\""), "{}", unknown.err);
    assert_eq!(host.alize(&["mode", "web", "off"]).code, 2);

    // What was set ends with the data path.
    assert_eq!(host.alize(&["mode", "web", "observe"]).code, 0);
    host.end("-TERM");
    assert_eq!(host.unload().code, 0);
    host.start_with(&file, &[]);
    assert!(host.dial_at(LOCAL).is_ok());
}
