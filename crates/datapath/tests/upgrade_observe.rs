//! Upgrades while HTTP is observed: the programs that look are part of the bundle, and change with the others. What servers have
//! logged is what was counted, whatever fails on the way.
//!
//! Needs root, nginx, curl, dnsmasq, dig and openssl.

#![expect(clippy::print_stdout, reason = "figures are for people")]

mod http;
mod versions;
mod world;

use std::collections::{HashMap, HashSet};
use std::io::Write;
use std::net::{SocketAddr, TcpStream};
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use alize_datapath::bundle::{Bundle, Store};
use alize_datapath::observe::{Filter, Kinds, Limits, Observer, Protocol};
use alize_datapath::{DataPath, Error, Scope, observing_bundles};
use http::{Server, counted, nginx, read_responses, run, traced};
use versions::*;
use world::{World, apply, eventually};

/// Not a test: what one below kills.
#[test]
#[ignore = "run by a test below, in a process of its own"]
fn killed() {
    versions::upgrade_as_told();
}

/// Counters of requests that grew behind, and another state of connections.
const OTHER_LAYOUT: [(&str, &str, &str); 2] = [
    (
        "observe/abi.h",
        "	__u64 buckets[LATENCY_BUCKETS]; /* of latency_ns */\n};",
        "	__u64 buckets[LATENCY_BUCKETS];\n	__u64 not_yet_used;\n};",
    ),
    (
        "observe/conversation.h",
        "	struct pending first; /*",
        "	__u64 not_yet_used;\n	struct pending first; /*",
    ),
];

/// The objects of this tree, with one more program in `object`: it calls a helper that no kernel has.
fn refused(folder: &Folder, object: &str) -> Bundle {
    let section = match object {
        "http_told" => "sk_msg",
        "observe_tls" => "uprobe",
        _ => "cgroup_skb/egress",
    };
    let license = "char LICENSE[] SEC(\"license\")";
    let more = format!(
        "SEC(\"{section}\")\nint alize_no_helper(void *ctx)\n{{\n	((long (*)(int))9999)(0);\n	return 1;\n}}\n\n{license}"
    );
    built(
        folder,
        &format!("3.{}.0", object.len()),
        &[(&format!("{object}.bpf.c"), license, &more)],
        &[object],
    )
}

/// The same layouts and other programs.
fn two(folder: &Folder) -> Bundle {
    built(folder, "2.0.0", &[], &[])
}

fn observer(world: &World, data_path: &DataPath) -> Observer {
    Observer::open(&world.options, &Limits::default(), &data_path.in_force())
        .unwrap_or_else(|error| panic!("{error}"))
}

/// Versions of what observes, and its programs.
fn observing(world: &World) -> (HashSet<String>, HashSet<String>) {
    let mut programs = HashSet::new();
    let mut versions = HashSet::new();
    for each in observing_bundles(&world.options).unwrap() {
        versions.insert(each.version.unwrap_or_else(|| "unknown".into()));
        programs.extend(each.programs.into_keys());
    }
    (versions, programs)
}

fn is_observed_by(world: &World, version: &str) {
    let (versions, programs) = observing(world);
    assert_eq!(versions, HashSet::from([version.to_owned()]));
    for program in
        ["alize_observe_egress", "alize_observe_ingress", "alize_observe_release", "alize_observe_tcp"]
    {
        assert!(programs.contains(program), "{programs:?}");
    }
    for program in ["alize_http_told", "alize_http_told_back"] {
        assert!(programs.contains(program), "{programs:?}");
    }
}

/// Clients that ask one request after the other, over connections that stay and over new ones; each has its answer before the
/// next, and before it ends.
struct Asking {
    stop: AtomicBool,
    asked: AtomicU64,
}

impl Asking {
    fn during<T>(server: SocketAddr, work: impl FnOnce() -> T) -> (T, u64) {
        let asking = Self { stop: AtomicBool::new(false), asked: AtomicU64::new(0) };
        let result = thread::scope(|scope| {
            for kept in [true, true, true, false] {
                let asking = &asking;
                scope.spawn(move || asking.ask(server, kept));
            }
            let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(work));
            asking.stop.store(true, Ordering::Relaxed);
            result
        });
        let asked = asking.asked.load(Ordering::Relaxed);
        assert!(asked > 100, "{asked} requests");
        (result.unwrap_or_else(|panic| std::panic::resume_unwind(panic)), asked)
    }

    fn ask(&self, server: SocketAddr, kept: bool) {
        let mut stream = TcpStream::connect(server).unwrap();
        while !self.stop.load(Ordering::Relaxed) {
            if !kept {
                stream = TcpStream::connect(server).unwrap();
            }
            ask(&mut stream, "/answer/asked");
            self.asked.fetch_add(1, Ordering::Relaxed);
            // The machine is others' too.
            thread::sleep(Duration::from_micros(200));
        }
    }
}

fn ask(stream: &mut TcpStream, path: &str) {
    stream.write_all(format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n").as_bytes()).unwrap();
    read_responses(stream, 1);
}

/// Each request that nginx has logged was counted, once, but for those that served to join a connection again.
fn all_are_counted(observer: &Observer, server: &Server, joined: u64) {
    let begun = Instant::now();
    let logged = || server.logged().values().sum::<u64>();
    loop {
        let (seen, tallies) = (sum(observer, server), observer.tallies().unwrap());
        if logged() == seen + joined && tallies.get("unseen-exchange") == Some(joined) {
            let unfollowed = tallies.unfollowed.iter().filter(|(name, _)| joined == 0 || *name != "joined");
            assert_eq!(unfollowed.map(|(_, count)| count).sum::<u64>(), 0, "{tallies:?}");
            break;
        }
        assert!(begun.elapsed() < Duration::from_secs(10), "{} logged, {seen} seen, {tallies:?}", logged());
        thread::sleep(Duration::from_millis(20));
    }
    if joined == 0 {
        assert_eq!(server.logged(), counted(observer, server.address));
    }
}

fn sum(observer: &Observer, server: &Server) -> u64 {
    counted(observer, server.address).values().sum()
}

#[test]
fn every_request_is_counted_once_over_upgrades_and_back() {
    let world = World::new("observe-upgrades");
    let (folder, server) = (Folder::new("observe-upgrades"), nginx("upgrades"));
    let (one, two) = (Bundle::embedded().unwrap(), two(&folder));
    let store = Store::new(&folder.0.join("kept"), 3);
    let mut data_path = world.open();
    let mut observer = observer(&world, &data_path);
    let own = one.manifest().version.clone();
    is_observed_by(&world, &own);
    store.keep(&one).unwrap();
    let ((), asked) = Asking::during(server.address, || {
        for _ in 0..4 {
            let keeping = keeping(store.folder());
            let upgraded = data_path.upgrade(&two, Some(&keeping)).unwrap_or_else(|error| panic!("{error}"));
            assert!(
                upgraded.steps.iter().any(|step| step.done.contains("a request observed")),
                "{upgraded:?}"
            );
            is_observed_by(&world, "2.0.0");
            // The way back is that of `alize rollback`.
            let back = store.earlier(None, Some(two.digest())).unwrap();
            data_path.upgrade(&back, Some(&keeping)).unwrap_or_else(|error| panic!("{error}"));
            is_observed_by(&world, &own);
        }
    });
    observer.poll(&mut |_| {}).unwrap();
    all_are_counted(&observer, &server, 0);
    println!("{asked} requests over 8 upgrades, all counted");
    // The agent ends and comes again: it goes on with what is at work.
    let before = observing_bundles(&world.options).unwrap();
    let since = [Protocol::Http1, Protocol::Http2].map(|protocol| observer.counting_since(protocol));
    drop((observer, data_path));
    let (data_path, ..) = DataPath::open_bundle(&world.options, &one).unwrap();
    let observer = self::observer(&world, &data_path);
    assert_eq!(observer.counting_since(Protocol::Http1), since[0], "the kernel has gone on");
    assert!(observer.counting_since(Protocol::Http2) > since[1], "this process counts anew");
    assert_eq!(observing_bundles(&world.options).unwrap().len(), before.len());
    all_are_counted(&observer, &server, 0);
}

/// What is counted between the copy and the switch, and what was under way on a connection then, is lost, and nothing else.
#[test]
fn another_layout_keeps_what_was_counted() {
    let world = World::new("observe-layout");
    let (folder, server) = (Folder::new("observe-layout"), nginx("layout"));
    let one = Bundle::embedded().unwrap();
    let grown = built(&folder, "2.1.0", &OTHER_LAYOUT, &OBSERVING);
    let mut data_path = world.open();
    let mut observer = observer(&world, &data_path);
    let since = observer.counting_since(Protocol::Http1);
    let mut kept = TcpStream::connect(server.address).unwrap();
    ask(&mut kept, "/answer/kept");
    for (joined, bundle) in (0..).zip([&grown, &one, &grown]) {
        all_are_counted(&observer, &server, joined);
        let upgraded = data_path.upgrade(bundle, None).unwrap_or_else(|error| panic!("{error}"));
        let plan = &upgraded.steps[0].done;
        assert!(plan.contains("series") && plan.contains("conversations"), "{plan}");
        let carried = &upgraded.steps.iter().find(|step| step.name == "carry-over").unwrap().done;
        assert!(carried.contains("conversations: begins empty"), "{carried}");
        assert!(carried.contains("series: ") && !carried.contains("series: 0"), "{carried}");
        observer.poll(&mut |_| {}).unwrap();
        all_are_counted(&observer, &server, joined);
        assert_eq!(observer.counting_since(Protocol::Http1), since, "the counts of before are among them");
        // A connection of before is followed again; its first exchange is the proof that it is one.
        ask(&mut kept, "/answer/kept");
        ask(&mut kept, "/answer/kept");
        all_are_counted(&observer, &server, joined + 1);
    }
    drop(kept);
    let before = sum(&observer, &server);
    let (window, asked) = Asking::during(server.address, || {
        thread::sleep(Duration::from_millis(300));
        let upgraded = data_path.upgrade(&one, None).unwrap();
        thread::sleep(Duration::from_millis(300));
        let lasted = |name: &str| upgraded.steps.iter().find(|step| step.name == name).unwrap().seconds;
        lasted("carry-over") + lasted("note") + lasted("switch")
    });
    observer.poll(&mut |_| {}).unwrap();
    let logged = || server.logged().values().sum::<u64>();
    eventually("nginx has logged all", || logged() == before + 3 + asked);
    let lost = before + asked - sum(&observer, &server);
    let joined = observer.tallies().unwrap().get("unseen-exchange").unwrap() - 3;
    println!("{lost} of {asked} requests are not counted, {joined} of them to join; {:.1} ms", window * 1e3);
    assert!((1..=4).contains(&joined), "one a connection that stays: {joined}");
    assert!(lost < asked / 4, "{lost} of {asked}");
}

#[test]
fn what_fails_leaves_what_observed() {
    let world = World::new("observe-fails");
    let (folder, server) = (Folder::new("observe-fails"), nginx("fails"));
    let one = Bundle::embedded().unwrap();
    let own = one.manifest().version.clone();
    let mut data_path = world.open();
    // Nobody observes: the kernel would have taken what is in force, so it is refused all the same.
    let error = data_path.upgrade(&refused(&folder, "observe"), None).unwrap_err().to_string();
    assert!(error.contains("at step self-test") && error.contains("9999"), "{error}");

    let mut observer = observer(&world, &data_path);
    let ((), _) = Asking::during(server.address, || {
        for (object, step) in [
            ("observe", "load"),
            ("observe_release", "load"),
            ("http_told", "load"),
            ("observe_tls", "self-test"),
        ] {
            let error = data_path.upgrade(&refused(&folder, object), None).unwrap_err().to_string();
            assert!(error.contains(&format!("at step {step}")), "{object}: {error}");
            assert!(error.contains("9999") && error.contains("what ran before goes on: 0."), "{error}");
            is_observed_by(&world, &own);
            assert_eq!(running(&world.options), HashSet::from([own.clone()]));
        }
        let (grown, two) = (built(&folder, "2.1.0", &OTHER_LAYOUT, &OBSERVING), two(&folder));
        let fails = |data_path: &mut DataPath, bundle: &Bundle, step: &str| {
            fault(Some(&format!("{step}=error")));
            let error = data_path.upgrade(bundle, None).unwrap_err().to_string();
            fault(None);
            assert!(error.contains(&format!("at step {}", step.split(':').next().unwrap())), "{error}");
            is_observed_by(&world, &own);
        };
        for step in ["plan", "load", "self-test", "carry-over", "note", "switch"] {
            fails(&mut data_path, &grown, step);
        }
        for program in ["alize_observe_ingress", "alize_observe_tcp", "alize_http_told"] {
            fails(&mut data_path, &two, &format!("switch:{program}"));
        }
        observer.poll(&mut |_| {}).unwrap();
    });
    all_are_counted(&observer, &server, 0);
    data_path.upgrade(&two(&folder), None).unwrap();
    is_observed_by(&world, "2.0.0");
}

#[test]
fn killed_at_every_step_it_is_observed_on() {
    let world = World::new("observe-killed");
    let (folder, server) = (Folder::new("observe-killed"), nginx("killed"));
    let one = Bundle::embedded().unwrap();
    let own = one.manifest().version.clone();
    let data_path = world.open();
    drop(observer(&world, &data_path));
    drop(data_path);
    let path = folder.0.join("two.bundle");
    std::fs::write(&path, two(&folder).bytes()).unwrap();
    let keeping = keeping(&world.options.run_dir.join("bundles"));
    let ((), asked) = Asking::during(server.address, || {
        let places =
            ["switch:alize_observe_egress", "switch:alize_observe_release", "switch:alize_http_told"];
        for step in ["keep"].into_iter().chain(STEPS).chain(places) {
            let place = [
                world.options.instance.clone(),
                world.options.run_dir.display().to_string(),
                world.cgroup().display().to_string(),
                path.display().to_string(),
            ];
            let status = Command::new(std::env::current_exe().unwrap())
                .args(["--exact", "killed", "--ignored", "--nocapture"])
                .env("ALIZE_KILLED", place.join("\n"))
                .env("ALIZE_FAULT", format!("{step}=kill"))
                .status()
                .unwrap();
            use std::os::unix::process::ExitStatusExt;
            assert_eq!(status.signal(), Some(9), "{step}: {status}");
            let (versions, _) = observing(&world);
            let both = HashSet::from(["2.0.0".to_owned(), own.clone()]);
            assert!(!versions.is_empty() && versions.is_subset(&both), "{step}: {versions:?}");
            alize_datapath::upgrade_pinned(&world.options, &one, &keeping)
                .unwrap_or_else(|error| panic!("{error}"));
            is_observed_by(&world, &own);
        }
    });
    let (data_path, ..) = DataPath::open_bundle(&world.options, &one).unwrap();
    all_are_counted(&observer(&world, &data_path), &server, 0);
    println!("{asked} requests over 10 killed upgrades, all counted");
}

/// A bundle of before: this binary's programs observe while it is in force, unless they would misread its maps.
#[test]
fn an_older_bundle_is_observed_by_this_binary() {
    let world = World::new("observe-older");
    let (folder, server) = (Folder::new("observe-older"), nginx("older"));
    let own = Bundle::embedded().unwrap().manifest().version.clone();
    let older = without_observers(&folder, "0.0.1", &[], &[]);
    assert!(!older.observes() && Bundle::embedded().unwrap().observes());
    let mut data_path = world.open();
    let mut observer = observer(&world, &data_path);
    let ((), _) = Asking::during(server.address, || {
        data_path.upgrade(&older, None).unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(running(&world.options), HashSet::from(["0.0.1".to_owned()]));
        is_observed_by(&world, &own);
        observer.poll(&mut |_| {}).unwrap();
    });
    all_are_counted(&observer, &server, 0);
    // With another layout of a map that they read they do not stay at work.
    let noted = ("http/abi.h", "	__u64 used; /* requests so far */", "	__u64 used;\n	__u64 not_yet_used;");
    let apart = without_observers(&folder, "0.0.3", &[noted], &ALL);
    let error = data_path.upgrade(&apart, None).unwrap_err().to_string();
    assert!(error.contains("at step plan") && error.contains("map http_slots"), "{error}");
    is_observed_by(&world, &own);
    drop((observer, data_path));
    // And do not come to work, and say why.
    let (mut data_path, ..) = DataPath::open_bundle(&world.options, &older).unwrap();
    Observer::detach(&world.options, &data_path.in_force()).unwrap();
    assert!(observing_bundles(&world.options).unwrap().is_empty());
    drop(data_path);
    alize_datapath::unload(&world.options).unwrap();
    let mode = "	__u16 mode; /* enum mode, of the decision";
    let longer = format!("	__u16 more[4];\n{mode}");
    let moved = without_observers(&folder, "0.0.2", &[("alize/abi.h", mode, &longer)], &ALL);
    (data_path, ..) = DataPath::open_bundle(&world.options, &moved).unwrap();
    let error = Observer::open(&world.options, &Limits::default(), &data_path.in_force()).err().unwrap();
    assert!(error.to_string().contains("cannot observe with observe"), "{error}");
}

/// What is loaded only while somebody asks is of the bundle in force too, before an upgrade and after it.
#[test]
fn what_is_asked_for_is_of_the_bundle_in_force() {
    let world = World::new("observe-asked");
    let folder = Folder::new("observe-asked");
    let (one, two) = (Bundle::embedded().unwrap(), two(&folder));
    let mut data_path = world.open();
    let mut observer = observer(&world, &data_path);
    let filter = Filter { kinds: Kinds { requests: false, tcp: false, dns: true }, ..Filter::default() };
    let trace = observer.start_trace(&filter).unwrap();
    let dns = "alize_observe_dns_egress".to_owned();
    let of = |program: &String| {
        let all = observing_bundles(&world.options).unwrap();
        all.into_iter().find(|each| each.programs.contains_key(program)).and_then(|each| each.version)
    };
    assert_eq!(of(&dns), Some(one.manifest().version.clone()));
    data_path.upgrade(&two, None).unwrap();
    observer.poll(&mut |_| {}).unwrap();
    assert_eq!(of(&dns), Some("2.0.0".to_owned()));
    observer.stop_trace(trace).unwrap();
    assert_eq!(of(&dns), None);
    let trace = observer.start_trace(&filter).unwrap();
    assert_eq!(of(&dns), Some("2.0.0".to_owned()));
    observer.stop_trace(trace).unwrap();
    // And who observes from now on only does so with its programs.
    Observer::detach(&world.options, &data_path.in_force()).unwrap();
    drop(observer);
    let mut observer = self::observer(&world, &data_path);
    is_observed_by(&world, "2.0.0");
    observer.start_trace(&Filter::default()).unwrap();
    let server = nginx("asked");
    run("curl", &["-s", "-o", "/dev/null", &format!("http://{}/answer", server.address)]);
    assert_eq!(traced(&mut observer).len(), 1);
}

/// A trial leaves what observes alone until it is promoted.
#[test]
fn a_promotion_observes_with_the_new_version() {
    let world = World::new("observe-trial");
    let (folder, server) = (Folder::new("observe-trial"), nginx("trial"));
    let two = two(&folder);
    let own = Bundle::embedded().unwrap().manifest().version.clone();
    let mut data_path = world.open();
    let mut observer = observer(&world, &data_path);
    let servers = servers();
    apply(&mut data_path, &services(&servers));
    let scope = Scope { cgroup: None, share: 50 };
    let ((), _) = Asking::during(server.address, || {
        data_path.try_out(&two, &scope, None).unwrap_or_else(|error| panic!("{error}"));
        is_observed_by(&world, &own);
        data_path.abort().unwrap();
        is_observed_by(&world, &own);
        data_path.try_out(&two, &scope, None).unwrap();
        fault(Some("switch:alize_observe_tcp=error"));
        let error = data_path.promote().unwrap_err();
        fault(None);
        assert!(matches!(error, Error::Upgrade { .. }), "{error}");
        is_observed_by(&world, &own);
        assert!(data_path.trial().unwrap().is_some(), "the trial goes on");
        data_path.promote().unwrap();
        is_observed_by(&world, "2.0.0");
        observer.poll(&mut |_| {}).unwrap();
    });
    assert_eq!(running(&world.options), HashSet::from(["2.0.0".to_owned()]));
    all_are_counted(&observer, &server, 0);
}

/// What the kernel keeps by these names is what the manifest says.
#[test]
fn a_bundle_tells_of_what_observes() {
    let bundle = Bundle::embedded().unwrap();
    let objects: HashMap<&str, usize> = bundle
        .manifest()
        .objects
        .iter()
        .map(|object| (object.name.as_str(), object.programs.len()))
        .collect();
    for object in OBSERVING {
        assert!(objects[object] > 0, "{object}");
    }
    assert!(bundle.manifest().maps.iter().any(|map| map.name == "series" && map.layout.len() == 64));
    assert!(!objects.contains_key("observe_emit"), "a test's own");
}
