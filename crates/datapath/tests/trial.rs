//! Two versions of the programs at once: the new one for a cgroup or for a share of addresses, with counters of its own, until it
//! is promoted or given up. No connection is lost, and each is counted once.

#![expect(clippy::print_stdout, reason = "figures are for people")]

mod versions;
mod world;

use std::collections::HashSet;

use alize_datapath::bundle::Bundle;
use alize_datapath::{DataPath, Error, HookCounts, Scope};
use versions::*;
use world::{Below, World, apply, dial, eventually};

/// The same objects under another name.
fn next(folder: &Folder) -> Bundle {
    built(folder, "2.0.0", &[], &[])
}

fn hook(data_path: &DataPath, program: &str) -> HookCounts {
    let trial = data_path.trial().unwrap().expect("a version is on trial");
    assert_eq!(trial.version.as_deref(), Some("2.0.0"));
    trial.hooks.into_iter().find(|hook| hook.program == program).expect("the hook ran")
}

/// How many there were, and how many of them have ended.
fn connections(data_path: &DataPath, name: &str) -> (u64, u64) {
    let id = data_path.service_id(name).unwrap();
    // Without a connection there is no counter.
    let counters = data_path.counters().unwrap();
    let traffic = counters.services.get(&id).map(|(traffic, _)| *traffic).unwrap_or_default();
    (traffic.connections, traffic.connections - traffic.open)
}

fn no_gate_is_left(world: &World) {
    let left: Vec<String> = world.pins().iter().map(|pin| pin.display().to_string()).collect();
    let of_trial = |pin: &String| ["lanes_", "canary_", "alize_meter_"].iter().any(|part| pin.contains(part));
    assert!(!left.iter().any(of_trial), "{left:?}");
}

#[test]
fn a_subtree_has_the_new_version_and_nobody_else() {
    let world = World::new("trial-cgroup");
    let (folder, servers) = (Folder::new("trial-cgroup"), servers());
    let two = next(&folder);
    let own = Bundle::embedded().unwrap().manifest().version.clone();
    let mut data_path = world.open();
    apply(&mut data_path, &services(&servers));
    let below = Below::new(&world);
    let before = connections(&data_path, "web");
    let scope = Scope { cgroup: Some(below.0.clone()), share: 0 };
    let begun = data_path.try_out(&two, &scope, None).unwrap_or_else(|error| panic!("{error}"));
    assert!(begun.steps.iter().any(|step| step.name == "gates"), "{:?}", begun.steps);
    assert!(matches!(data_path.try_out(&two, &scope, None), Err(Error::TrialRuns { .. })));
    assert_eq!(running(&world.options), HashSet::from([own.clone()]), "all others have what they had");

    let outside: Vec<_> = (0..30).map(|_| dial("127.77.0.1:80").unwrap().0).collect();
    let mut inside: Vec<_> =
        below.inside(&world, || (0..20).map(|_| dial("127.77.0.1:80").unwrap().0).collect());
    let refused = below.inside(&world, || {
        apply(&mut data_path, &(services(&servers) + &world::service("empty", "127.77.0.8:80", "", &[])));
        dial("127.77.0.8:80").is_err()
    });
    assert!(refused);
    let connect = hook(&data_path, "alize_connect4");
    assert_eq!((connect.old.calls, connect.old.refused), (30, 0));
    assert_eq!((connect.new.calls, connect.new.refused), (21, 1));
    assert!(connect.old.timed > 0 && connect.new.timed > 0 && connect.new.time_ns > 0, "{connect:?}");
    let sockops = hook(&data_path, "alize_sockops");
    assert!(sockops.old.calls > 0 && sockops.new.calls > 0, "{sockops:?}");
    println!("{connect:?}\n{sockops:?}");
    assert_eq!(connections(&data_path, "web").0 - before.0, 50, "each is counted once");
    // The version that saw a connection begin sees its end, whoever closes it from where.
    drop(outside);
    drop(inside.split_off(10));
    eventually("40 ends", || connections(&data_path, "web").1 - before.1 == 40);

    let title = data_path.abort().unwrap();
    assert!(title.starts_with("2.0.0"), "{title}");
    assert!(matches!(data_path.abort(), Err(Error::NoTrial)) && data_path.trial().unwrap().is_none());
    assert_eq!(running(&world.options), HashSet::from([own]));
    no_gate_is_left(&world);
    drop(inside);
    eventually("50 ends", || connections(&data_path, "web").1 - before.1 == 50);
}

#[test]
fn a_share_has_it_then_all() {
    let world = World::new("trial-share");
    let (folder, servers) = (Folder::new("trial-share"), servers());
    let two = next(&folder);
    let mut data_path = world.open();
    apply(&mut data_path, &services(&servers));
    let begin = |data_path: &mut DataPath| {
        data_path.try_out(&two, &Scope { cgroup: None, share: 100 }, None).unwrap();
        for _ in 0..50 {
            drop(dial(ADDRESSES[0]).unwrap());
        }
        let connect = hook(data_path, "alize_connect4");
        assert!(connect.new.calls >= 50 && connect.new.refused == 0, "{connect:?}");
        apply(data_path, &services(&servers[..2]));
        apply(data_path, &services(&servers));
    };
    Load::during(&ADDRESSES, || {
        begin(&mut data_path);
        data_path.abort().unwrap();
        no_gate_is_left(&world);
        // The agent ends: the kernel goes on with both versions, and who starts next has one.
        begin(&mut data_path);
        drop(data_path);
        assert_eq!(alize_datapath::trial(&world.options).unwrap().unwrap().share, 100);
        for _ in 0..50 {
            drop(dial(ADDRESSES[0]).unwrap());
        }
        let connect = alize_datapath::trial(&world.options).unwrap().unwrap().hooks.remove(0);
        assert!(connect.new.calls > 0, "{connect:?}");
        let (mut data_path, _) = DataPath::open(&world.options).unwrap();
        no_gate_is_left(&world);
        begin(&mut data_path);
        assert_eq!(data_path.promote().unwrap().version, "2.0.0");
        no_gate_is_left(&world);
    });
    assert_eq!(running(&world.options), HashSet::from(["2.0.0".to_owned()]));
}

#[test]
fn another_layout_cannot_be_tried() {
    let world = World::new("trial-layout");
    let (folder, servers) = (Folder::new("trial-layout"), servers());
    let mut data_path = world.open();
    apply(&mut data_path, &services(&servers));
    let error =
        data_path.try_out(&version_two(&folder), &Scope { cgroup: None, share: 1 }, None).unwrap_err();
    assert!(
        error.to_string().contains("at step plan") && error.to_string().contains("another layout"),
        "{error}"
    );
    fault(Some("gates:alize_sendmsg4=error"));
    let error = data_path.try_out(&next(&folder), &Scope { cgroup: None, share: 1 }, None).unwrap_err();
    fault(None);
    assert!(error.to_string().contains("at step gates"), "{error}");
    no_gate_is_left(&world);
    assert!(data_path.trial().unwrap().is_none());
    dial(ADDRESSES[0]).unwrap();
}
