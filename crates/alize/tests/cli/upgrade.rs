//! Bundles on the command line: made, signed, refused, put in force and taken back, with and without an agent.

use crate::real::{Host, json, mesh, server};

/// The bundle of the binary under another version: its objects, taken apart and built anew.
fn other_version(host: &Host, version: &str) -> String {
    let (whole, objects, other) = (
        host.folder.path("whole.bundle"),
        host.folder.path("objects"),
        host.folder.path(&format!("{version}.bundle")),
    );
    assert_eq!(host.alize(&["bundle", "build", &whole]).code, 0);
    let facts = json(&host.alize(&["bundle", "inspect", &whole, "-o", "json"]));
    let bytes = std::fs::read(&whole).unwrap();
    let manifest = u32::from_le_bytes(bytes[16..20].try_into().unwrap()) as usize;
    let mut at = 24 + manifest;
    std::fs::create_dir_all(&objects).unwrap();
    for object in facts["objects"].as_array().unwrap() {
        let size = object["size"].as_u64().unwrap() as usize;
        let name = object["name"].as_str().unwrap();
        std::fs::write(format!("{objects}/{name}.bpf.o"), &bytes[at..at + size]).unwrap();
        at += size;
    }
    assert_eq!(at, bytes.len());
    let built = host.alize(&[
        "bundle",
        "build",
        &other,
        "--objects",
        &objects,
        "--bundle-version",
        version,
        "--build",
        "a test",
    ]);
    assert_eq!(built.code, 0, "{}", built.err);
    other
}

#[test]
fn programs_are_replaced_and_come_back() {
    let mut host = Host::new("upgrade");
    let file = host.folder.file("mesh.yaml", mesh(&[server("one")]));
    let (keys, key) = (host.folder.path("keys"), host.folder.path("release.key"));
    std::fs::create_dir_all(&keys).unwrap();
    let other = other_version(&host, "9.9.9");
    assert!(host.alize(&["bundle", "inspect", &other]).out.contains("nobody: it is not signed"));
    let unsigned = host.alize(&["bundle", "verify", &other, "--keys", &keys]);
    assert_eq!(unsigned.code, 3);
    assert!(unsigned.err.contains("not signed"), "{}", unsigned.err);

    host.start_with(&file, &["--keys", &keys]);
    let embedded = json(&host.alize(&["version", "-o", "json"]))["version"].as_str().unwrap().to_owned();
    let (bpffs, run_dir, kept) = (host.bpffs(), host.run_dir(), host.bundles());
    let place = ["--bpffs", &bpffs, "--run-dir", &run_dir, "--bundles", &kept];
    let versions = |host: &Host| {
        json(&host.alize(&["programs", "--versions", "--bpffs", &bpffs, "--bundles", &kept, "-o", "json"]))
    };
    let in_force = |host: &Host| {
        let running = versions(host)["running"].clone();
        assert_eq!(running.as_array().map(Vec::len), Some(1), "{running}");
        running[0]["version"].as_str().unwrap().to_owned()
    };
    assert_eq!(in_force(&host), embedded);

    let refused = host.alize(&["upgrade", &other]);
    assert_eq!(refused.code, 1, "{}", refused.out);
    assert!(refused.err.contains("not signed"), "{}", refused.err);
    assert_eq!(host.alize(&["bundle", "key", &key]).code, 0);
    assert_eq!(host.alize(&["bundle", "sign", &other, "--key", &key]).code, 0);
    let stranger = host.alize(&["upgrade", &other]);
    assert!(stranger.err.contains("not trusted here"), "{}", stranger.err);
    std::fs::copy(format!("{key}.pub"), format!("{keys}/release.pub")).unwrap();
    assert_eq!(host.alize(&["bundle", "verify", &other, "--keys", &keys]).code, 0);
    // The agent has read its keys when it started.
    host.end("-TERM");
    host.start_with(&file, &["--keys", &keys]);

    let done = host.alize(&["upgrade", &other]);
    assert_eq!(done.code, 0, "{}", done.err);
    for words in ["self-test", "switch", "kernel programs of 9.9.9", "in place of "] {
        assert!(done.out.contains(words), "{words}: {}", done.out);
    }
    assert_eq!((in_force(&host).as_str(), host.dial().as_deref()), ("9.9.9", Ok("one")));
    let mut altered = std::fs::read(&other).unwrap();
    let last = altered.len() - 100;
    altered[last] ^= 1;
    let bad = host.folder.path("altered.bundle");
    std::fs::write(&bad, altered).unwrap();
    let refused = host.alize(&["upgrade", &bad]);
    assert_eq!(refused.code, 3);
    assert!(refused.err.contains("was altered"), "{}", refused.err);

    // Chosen by hand: the next start of the same binary keeps it.
    host.end("-KILL");
    assert_eq!(host.dial().as_deref(), Ok("one"));
    host.start_with(&file, &["--keys", &keys]);
    assert_eq!(in_force(&host), "9.9.9");
    let back = host.alize(&["rollback"]);
    assert_eq!(back.code, 0, "{}", back.err);
    assert_eq!((in_force(&host), host.dial().as_deref()), (embedded.clone(), Ok("one")));
    assert_eq!(versions(&host)["kept"].as_array().map(Vec::len), Some(2));
    let text = host.alize(&["programs", "--versions", "--bpffs", &bpffs, "--bundles", &kept]).out;
    assert!(text.contains("IN FORCE") && text.contains("a test") && text.contains("runs"), "{text}");
    let none = host.alize(&["rollback", "3.2.1"]);
    assert_eq!(none.code, 1);
    assert!(none.err.contains("9.9.9"), "{}", none.err);

    // Without an agent the command does it itself.
    host.end("-KILL");
    let alone = host.alize(&[&["rollback", "9.9.9"], &place[..]].concat());
    assert_eq!(alone.code, 0, "{}", alone.err);
    assert_eq!((in_force(&host).as_str(), host.dial().as_deref()), ("9.9.9", Ok("one")));
    assert_eq!(host.alize(&[&["upgrade"], &place[..]].concat()).code, 0);
    assert_eq!(in_force(&host), embedded);
    host.start_with(&file, &["--keys", &keys, "--bundle", &other]);
    assert_eq!((in_force(&host).as_str(), host.dial().as_deref()), ("9.9.9", Ok("one")));
}

/// With the agent and without, and also where a bundle has nothing that observes.
#[test]
fn what_observes_is_of_the_version_in_force() {
    let mut host = Host::new("upgrade-observe");
    let file = host.folder.file("mesh.yaml", mesh(&[server("one")]));
    let next = other_version(&host, "9.9.9");
    let (objects, older) = (host.folder.path("objects"), host.folder.path("older.bundle"));
    for object in std::fs::read_dir(&objects).unwrap().flatten() {
        let name = object.file_name().to_string_lossy().into_owned();
        if name.starts_with("observe") || name == "http_told.bpf.o" {
            std::fs::remove_file(object.path()).unwrap();
        }
    }
    let build = ["bundle", "build", &older, "--objects", &objects, "--bundle-version", "0.0.9"];
    assert_eq!(host.alize(&build).code, 0);
    assert!(host.alize(&["bundle", "inspect", &older]).out.contains("observing  it has no programs for it"));
    assert!(host.alize(&["bundle", "inspect", &next]).out.contains("observing  by programs of its own"));

    let flags = ["--allow-unsigned", "--observe", "always"];
    host.start_with(&file, &flags);
    let own = json(&host.alize(&["version", "-o", "json"]))["version"].as_str().unwrap().to_owned();
    let (bpffs, run_dir, kept) = (host.bpffs(), host.run_dir(), host.bundles());
    let place = ["--bpffs", &bpffs, "--run-dir", &run_dir, "--bundles", &kept];
    let told = |host: &Host, more: &[&str]| {
        host.alize(&[&["programs", "--versions", "--bpffs", &bpffs, "--bundles", &kept], more].concat())
    };
    let in_force = |host: &Host| {
        let told = json(&told(host, &["-o", "json"]));
        let one = |what: &str| {
            assert_eq!(told[what].as_array().map(Vec::len), Some(1), "{told}");
            told[what][0]["version"].as_str().unwrap().to_owned()
        };
        assert!(told["observing"][0]["programs"]["alize_observe_egress"].is_number(), "{told}");
        (one("running"), one("observing"))
    };
    let both = |version: &str| (version.to_owned(), version.to_owned());
    assert_eq!(in_force(&host), both(&own));
    assert_eq!(host.alize(&["upgrade", &next]).code, 0);
    assert_eq!(in_force(&host), both("9.9.9"));
    assert_eq!(host.alize(&["rollback"]).code, 0);
    assert_eq!(in_force(&host), both(&own));
    assert_eq!(host.alize(&["upgrade", &older]).code, 0);
    assert_eq!(in_force(&host), ("0.0.9".into(), own.clone()));
    let text = told(&host, &[]).out;
    assert!(text.contains("which observe") && text.contains("has no programs that observe"), "{text}");
    assert_eq!(host.dial().as_deref(), Ok("one"));

    host.end("-KILL");
    for (version, expected) in [("9.9.9", both("9.9.9")), ("0.0.9", ("0.0.9".into(), own.clone()))] {
        let done = host.alize(&[&["rollback", version], &place[..]].concat());
        assert_eq!(done.code, 0, "{}", done.err);
        assert_eq!(in_force(&host), expected, "by nobody's agent");
    }
    // The next agent goes on with what was chosen.
    host.start_with(&file, &flags);
    assert_eq!(in_force(&host), ("0.0.9".into(), own));
}

#[test]
fn a_version_is_tried_by_some_first() {
    let mut host = Host::new("trial");
    let file = host.folder.file("mesh.yaml", mesh(&[server("one")]));
    let other = other_version(&host, "9.9.9");
    host.start_with(&file, &["--allow-unsigned"]);
    let none = host.alize(&["upgrade", "--trial"]);
    assert!(none.code == 1 && none.err.contains("no version is on trial"), "{}", none.err);
    assert_eq!(host.alize(&["upgrade", &other, "--promote"]).code, 2, "one or the other");
    let begun = host.alize(&["upgrade", &other, "--share", "100", "--max-errors", "0"]);
    assert_eq!(begun.code, 0, "{}", begun.err);
    assert!(begun.out.contains("9.9.9") && begun.out.contains("100 % of the addresses"), "{}", begun.out);
    for _ in 0..20 {
        assert_eq!(host.dial().as_deref(), Ok("one"));
    }
    let trial = json(&host.alize(&["upgrade", "--trial", "-o", "json"]));
    let hooks = trial["hooks"].as_array().expect("hooks");
    let connect = hooks.iter().find(|hook| hook["program"] == "alize_connect4").expect("it ran");
    assert!(connect["new"]["calls"].as_u64() >= Some(20) && connect["new"]["refused"] == 0, "{connect}");
    assert!(connect["new"]["time_ns"].as_u64() > Some(0), "{connect}");
    let text = host.alize(&["upgrade", "--trial"]).out;
    assert!(text.contains("TIME/CALL") && text.contains("given up after more than 0 errors"), "{text}");
    let status = host.alize(&["status"]).out;
    assert!(status.contains("on trial       9.9.9 for 100 % of the addresses"), "{status}");
    let (bpffs, kept) = (host.bpffs(), host.bundles());
    let place = ["programs", "--versions", "--bpffs", &bpffs, "--bundles", &kept];
    let both = json(&host.alize(&[&place[..], &["-o", "json"]].concat()));
    assert_eq!(
        (&both["trial"]["version"], both["running"].as_array().map(Vec::len)),
        (&"9.9.9".into(), Some(1))
    );
    assert!(host.alize(&place).out.contains("9.9.9 is on trial"));
    let aborted = host.alize(&["upgrade", "--abort"]);
    assert!(aborted.code == 0 && aborted.out.contains("was given up"), "{}{}", aborted.out, aborted.err);
    assert_eq!(host.dial().as_deref(), Ok("one"));

    // By the rule, without a word.
    let begun = host.alize(&["upgrade", &other, "--share", "100", "--promote-after", "1s"]);
    assert_eq!(begun.code, 0, "{}", begun.err);
    let since = std::time::Instant::now();
    while host.alize(&["upgrade", "--trial"]).code == 0 {
        assert_eq!(host.dial().as_deref(), Ok("one"));
        assert!(since.elapsed() < std::time::Duration::from_secs(20), "it is not promoted");
        std::thread::sleep(std::time::Duration::from_millis(100));
    }
    let versions = json(&host.alize(&[&place[..], &["-o", "json"]].concat()));
    assert_eq!(versions["running"].as_array().map(Vec::len), Some(1), "{versions}");
    assert_eq!(
        (&versions["running"][0]["version"], &versions["trial"]),
        (&"9.9.9".into(), &serde_json::Value::Null)
    );
    assert_eq!(host.dial().as_deref(), Ok("one"));
}
