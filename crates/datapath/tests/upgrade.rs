//! Two versions of the programs, both built from this tree: one with another map layout. Nothing that is open is lost on the
//! way there and back, whatever fails on it.

#![expect(clippy::print_stdout, reason = "figures are for people")]

mod versions;
mod world;

use std::collections::HashSet;
use std::fs;
use std::thread;
use std::time::Duration;

use alize_datapath::bundle::{Bundle, Refused, SecretKey, Store, Trust};
use alize_datapath::{DataPath, Error, Options, inspect};
use versions::*;
use world::{World, apply, dial, service};

fn connections(data_path: &DataPath, name: &str) -> u64 {
    let id = data_path.service_id(name).unwrap();
    data_path.counters().unwrap().services[&id].0.connections
}

#[test]
fn another_layout_is_carried_over_there_and_back() {
    let world = World::new("layout");
    let (folder, servers) = (Folder::new("layout"), servers());
    let two = version_two(&folder);
    let one = Bundle::embedded().unwrap();
    let mut data_path = world.open();
    apply(&mut data_path, &services(&servers));
    let stays_at = dial(ADDRESSES[1]).unwrap().1;
    Load::during(&ADDRESSES, || {
        for bundle in [&two, &one, &two] {
            let before = connections(&data_path, "web");
            let upgraded = data_path.upgrade(bundle, None).unwrap_or_else(|error| panic!("{error}"));
            let names: Vec<&str> = upgraded.steps.iter().map(|step| step.name).collect();
            assert_eq!(names, STEPS);
            let plan = &upgraded.steps[0].done;
            assert!(plan.contains("affinity") && plan.contains("endpoint_traffic"), "{plan}");
            assert_eq!(running(&world.options), HashSet::from([bundle.manifest().version.clone()]));
            assert!(connections(&data_path, "web") >= before, "counters go on");
            assert_eq!(dial(ADDRESSES[1]).unwrap().1, stays_at, "who was where is carried over");
            // Changes go on, and none of them moves the client that stays.
            let more = service("more", "127.77.0.9:80", "", &[servers[0].address]);
            apply(&mut data_path, &(services(&servers) + &more));
            apply(&mut data_path, &services(&servers));
        }
    });
    drop(data_path);
    assert_eq!(running(&world.options), HashSet::from(["2.0.0".into()]), "it goes on without the agent");

    // Who simply starts a binary with another bundle upgrades too.
    Load::during(&ADDRESSES, || {
        let (mut data_path, _, steps) = DataPath::open_bundle(&world.options, &one).unwrap();
        assert!(steps.iter().any(|step| step.name == "self-test" && step.done.contains("real connects")));
        assert_eq!(apply(&mut data_path, &services(&servers)).unchanged, 3, "the tables are what they were");
    });
    assert_eq!(running(&world.options), HashSet::from([one.manifest().version.clone()]));
}

/// So many times there and back; `ALIZE_CYCLES` for more.
const CYCLES: usize = 4;

#[test]
fn nothing_grows_over_upgrades() {
    let world = World::new("cycles");
    let (folder, servers) = (Folder::new("cycles"), servers());
    let (one, two) = (Bundle::embedded().unwrap(), version_two(&folder));
    let mut data_path = world.open();
    apply(&mut data_path, &services(&servers));
    let files = || fs::read_dir("/proc/self/fd").unwrap().count();
    let resident = || {
        let statm = fs::read_to_string("/proc/self/statm").unwrap();
        statm.split(' ').nth(1).unwrap().parse::<usize>().unwrap() * 4
    };
    let kernel = |options: &Options| {
        let seen = inspect::inspect(options).unwrap();
        let links: usize = seen.programs.iter().map(|program| program.attached.len()).sum();
        (seen.programs.len(), seen.maps.len(), links)
    };
    let cycles = std::env::var("ALIZE_CYCLES").ok().and_then(|text| text.parse().ok()).unwrap_or(CYCLES);
    // The first round makes what stays: the map of origins, the heap's own reserves.
    for bundle in [&two, &one, &two, &one] {
        data_path.upgrade(bundle, None).unwrap();
    }
    let mut before = (kernel(&world.options), 0);
    before.1 = files();
    let (resident_before, mut slowest) = (resident(), 0.0f64);
    Load::during(&ADDRESSES, || {
        for _ in 0..cycles {
            for bundle in [&two, &one] {
                let upgraded = data_path.upgrade(bundle, None).unwrap();
                let switch = upgraded.steps.iter().find(|step| step.name == "switch").unwrap();
                slowest = slowest.max(switch.seconds);
            }
        }
    });
    // Programs and maps that nothing holds are freed after a grace period.
    world::eventually("the kernel has freed what was replaced", || kernel(&world.options) == before.0);
    let grown = resident().saturating_sub(resident_before);
    println!(
        "{cycles} cycles: {:?} programs, maps, links; {grown} KiB more resident; slowest switch {:.1} ms",
        before.0,
        slowest * 1e3
    );
    // The servers of the load, which are in this process too, close theirs a moment after it has ended.
    world::eventually("as many file descriptors are open as before", || files() == before.1);
    // Threads of the servers for each connection have stacks of their own.
    assert!(grown < 16 * 1024, "{grown} KiB");
}

#[test]
fn what_nobody_vouches_for_is_refused() {
    let folder = Folder::new("trust");
    let path = |name: &str| folder.0.join(name);
    let key = SecretKey::make(&path("key")).unwrap();
    assert!(SecretKey::make(&path("key")).is_err(), "a key is not overwritten");
    let trusted = Trust::of_folder(&folder.0, false).unwrap();
    assert_eq!(trusted.keys, [key]);
    let anybody = Trust { keys: Vec::new(), allow_unsigned: true };
    let nobody = Trust::default();

    let mut bundle = Bundle::embedded().unwrap();
    assert!(matches!(bundle.check(&trusted), Err(Refused::Unsigned)));
    assert!(bundle.check(&anybody).is_ok());
    bundle.sign(&SecretKey::open(&path("key")).unwrap());
    assert!(bundle.check(&trusted).is_ok());
    assert!(matches!(bundle.check(&nobody), Err(Refused::Untrusted(by)) if by == key));

    let bytes = bundle.bytes();
    let again = Bundle::read(&bytes).unwrap();
    assert_eq!((again.digest(), again.signed_by()), (bundle.digest(), Some(key)));
    assert!(again.check(&trusted).is_ok());
    // Any byte that is another is noticed, allowed or not: in head, manifest, signature or objects.
    for at in (0..bytes.len()).step_by(bytes.len() / 300).chain([0, 15, 16, 20, 24]) {
        let mut altered = bytes.clone();
        altered[at] ^= 1;
        let taken = Bundle::read(&altered).and_then(|bundle| bundle.check(&trusted));
        assert!(taken.is_err(), "byte {at} of {}", bytes.len());
    }
    for cut in [0, 10, 24, 1000, bytes.len() - 1] {
        assert!(matches!(Bundle::read(&bytes[..cut]), Err(Refused::Form(_))), "cut at {cut}");
    }
    assert!(matches!(Bundle::read(&[&bytes[..], b"x"].concat()), Err(Refused::Form(_))));
}

#[test]
fn bundles_are_kept_for_the_way_back() {
    let folder = Folder::new("store");
    let store = Store::new(&folder.0.join("kept"), 2);
    assert!(store.list().unwrap().is_empty());
    let error = store.earlier(None, None).unwrap_err();
    assert!(matches!(error, Error::NoEarlierBundle { .. }), "{error}");
    let one = Bundle::embedded().unwrap();
    store.keep(&one).unwrap();
    let objects = folder.0.join("objects");
    fs::create_dir_all(&objects).unwrap();
    let version = |version: &str| built(&folder, version, &[], &[]);
    let two = version("2.0.0");
    thread::sleep(Duration::from_millis(20));
    store.keep(&two).unwrap();
    let back = store.earlier(None, Some(two.digest())).unwrap();
    assert_eq!(back.digest(), one.digest());
    assert_eq!(store.earlier(Some("2.0.0"), None).unwrap().digest(), two.digest());
    assert_eq!(store.earlier(Some(&one.digest().short()), None).unwrap().digest(), one.digest());
    assert!(store.earlier(Some("3.0.0"), None).unwrap_err().to_string().contains("2.0.0"));
    let kept: Vec<String> = store.list().unwrap().into_iter().map(|stored| stored.version).collect();
    assert_eq!(kept, ["2.0.0".to_owned(), one.manifest().version.clone()]);
    thread::sleep(Duration::from_millis(20));
    store.keep(&version("3.0.0")).unwrap();
    let kept: Vec<String> = store.list().unwrap().into_iter().map(|stored| stored.version).collect();
    assert_eq!(kept, ["3.0.0", "2.0.0"], "the oldest goes");
}
