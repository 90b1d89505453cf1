//! Opening, adopting, refusing, unloading.

mod world;

use std::fs;
use std::io::{Read, Write};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use alize_datapath::{DataPath, Error, Opened, Options, unload};
use alize_model::Budgets;
use world::{TcpServer, World, apply, dial, service};

fn endpoint(host: u8) -> SocketAddr {
    SocketAddr::from(([10, 77, 0, host], 80))
}

/// Every entry of a pinned map, as bpftool shows it.
fn dump(data_path: &DataPath, map: &str) -> String {
    let path = data_path.pins().join("maps").join(map);
    let output =
        std::process::Command::new("bpftool").args(["-j", "map", "dump", "pinned"]).arg(path).output();
    let output = output.expect("bpftool is installed");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

const TABLES: [&str; 6] = ["frontends", "services", "service_names", "endpoints", "slots", "endpoint_load"];

#[test]
fn a_restarted_agent_goes_on_with_the_same_numbers_and_writes_nothing() {
    let world = World::new("adopt");
    let mut data_path = world.open();
    let server = TcpServer::start("127.0.0.1:0");
    let first = service("gone", "127.77.0.9:80", "", &[endpoint(9)]);
    let text = service("web", "127.77.0.1:80", "balance: round-robin,", &[server.address])
        + &service(
            "two",
            "127.77.0.2:80",
            "affinity: 5s, balance: least-connections,",
            &[endpoint(1), endpoint(2)],
        )
        + &service(
            "six",
            "[fd00:77::1]:80",
            "balance: {maglev: {table-size: 251}},",
            &["[fd00::5]:80".parse().unwrap()],
        )
        + &service("dns", "127.77.0.1:53", "protocol: udp, mode: shadow,", &[endpoint(1)])
        + &service("look", "127.77.0.3:80", "mode: observe,", &[endpoint(1)]);
    apply(&mut data_path, &first);
    apply(&mut data_path, &text);
    data_path.settle().unwrap();
    let (mut stream, _) = dial("127.77.0.1:80").unwrap();
    let names = ["web", "two", "six", "dns", "look"];
    let numbers = names.map(|name| data_path.service_id(name).unwrap());
    let endpoints = numbers.map(|number| data_path.endpoints(number));
    let usage = data_path.usage();
    let before = TABLES.map(|map| dump(&data_path, map));
    drop(data_path);

    assert_eq!(dial("127.77.0.1:80").unwrap().1, server.address, "nobody needs the agent");
    let mut data_path = world.open_as(Opened::Adopted { services: 5, endpoints: 6 });
    assert_eq!(names.map(|name| data_path.service_id(name).unwrap()), numbers);
    assert_eq!(data_path.service_id("gone"), None);
    assert_eq!(numbers.map(|number| data_path.endpoints(number)), endpoints);
    assert_eq!(data_path.usage(), usage);
    let applied = apply(&mut data_path, &text);
    assert_eq!((applied.added, applied.changed, applied.removed, applied.unchanged), (0, 0, 0, 5));
    for (map, before) in TABLES.iter().zip(before).filter(|(map, _)| **map != "endpoint_load") {
        assert_eq!(dump(&data_path, map), before, "{map}");
    }
    stream.write_all(b"on").unwrap();
    stream.read_exact(&mut [0; 2]).unwrap();
    let traffic = data_path.counters().unwrap().services[&numbers[0]].0;
    assert_eq!((traffic.connections, traffic.open), (2, 1), "counters go on too");
}

#[test]
fn what_changed_while_the_agent_was_away_is_mended() {
    let world = World::new("mend");
    let mut data_path = world.open();
    let servers = [TcpServer::start("127.0.0.1:0"), TcpServer::start("127.0.0.1:0")];
    apply(
        &mut data_path,
        &(service("web", "127.77.0.1:80", "", &[servers[0].address])
            + &service("old", "127.77.0.2:80", "", &[endpoint(1)])),
    );
    let number = data_path.service_id("web").unwrap();
    drop(data_path);
    let mut data_path = world.open_as(Opened::Adopted { services: 2, endpoints: 2 });
    let applied = apply(
        &mut data_path,
        &(service("web", "127.77.0.1:80", "", &[servers[1].address])
            + &service("new", "127.77.0.2:80", "", &[servers[0].address])),
    );
    assert_eq!((applied.added, applied.changed, applied.removed, applied.unchanged), (1, 1, 1, 0));
    assert_eq!(data_path.service_id("web"), Some(number));
    assert_eq!(dial("127.77.0.1:80").unwrap().1, servers[1].address);
    assert_eq!(dial("127.77.0.2:80").unwrap().1, servers[0].address);
    data_path.settle().unwrap();
    assert_eq!(
        data_path.usage(),
        alize_model::api::Usage { services: 2, frontends: 2, endpoints: 2, slots: 2 }
    );
}

#[test]
fn a_removed_service_that_still_has_connections_survives_restarts() {
    let world = World::new("ghost");
    let mut data_path = world.open();
    let server = TcpServer::start("127.0.0.1:0");
    apply(&mut data_path, &service("web", "127.77.0.1:80", "", &[server.address]));
    let (stream, _) = dial("127.77.0.1:80").unwrap();
    let keep = service("keep", "127.77.0.2:80", "", &[endpoint(1)]);
    apply(&mut data_path, &keep);
    data_path.settle().unwrap();
    drop(data_path);
    let mut data_path = world.open_as(Opened::Adopted { services: 1, endpoints: 1 });
    assert_eq!(apply(&mut data_path, &keep).unchanged, 1);
    data_path.settle().unwrap();
    assert_eq!(data_path.usage().endpoints, 2, "the number waits for the connection");
    drop(stream);
    world::eventually("the number is free", || {
        data_path.settle().unwrap();
        data_path.usage().endpoints == 1 && data_path.usage().services == 1
    });
}

#[test]
fn no_connect_fails_while_agents_come_and_go() {
    let world = World::new("restarts");
    let server = TcpServer::start("127.0.0.1:0");
    let text = service("web", "127.77.0.1:80", "", &[server.address]);
    apply(&mut world.open(), &text);
    let stop = AtomicBool::new(false);
    let (dials, restarts) = std::thread::scope(|scope| {
        let client = scope.spawn(|| {
            let mut dials = 0;
            while !stop.load(Ordering::Relaxed) {
                dial("127.77.0.1:80").expect("no connect fails");
                dials += 1;
            }
            dials
        });
        let (start, mut restarts) = (Instant::now(), 0);
        while restarts < 3 || start.elapsed() < Duration::from_secs(1) {
            apply(&mut world.open_as(Opened::Adopted { services: 1, endpoints: 1 }), &text);
            restarts += 1;
        }
        stop.store(true, Ordering::Relaxed);
        (client.join().unwrap(), restarts)
    });
    assert!(dials > 10 * restarts, "{dials} connects while {restarts} agents came and went");
}

#[test]
fn unload_leaves_nothing_and_cuts_nothing() {
    let world = World::new("unload");
    let mut data_path = world.open();
    let server = TcpServer::start("127.0.0.1:0");
    apply(&mut data_path, &service("web", "127.77.0.1:80", "", &[server.address]));
    let (mut stream, _) = dial("127.77.0.1:80").unwrap();

    let refused = unload(&world.options).expect_err("an agent holds the lock");
    assert!(matches!(refused, Error::AgentRunning { pid, .. } if pid == std::process::id()), "{refused}");
    drop(data_path);
    let unloaded = unload(&world.options).unwrap();
    assert_eq!((unloaded.links, unloaded.maps > 10), (11, true), "{unloaded:?}");
    assert_eq!(world.pins(), Vec::<std::path::PathBuf>::new());
    assert!(dial("127.77.0.1:80").is_err());
    stream.write_all(b"on").unwrap();
    stream.read_exact(&mut [0; 2]).unwrap();
    let again = unload(&world.options).unwrap();
    assert_eq!((again.links, again.maps), (0, 0));
}

#[test]
fn a_second_agent_is_told_who_runs() {
    let world = World::new("second");
    let data_path = world.open();
    let text = open_error(&world.options);
    assert!(
        text.contains(&format!("process {}", std::process::id())) && text.contains("--instance"),
        "{text}"
    );
    drop(data_path);
    world.open_as(Opened::Adopted { services: 0, endpoints: 0 });
}

fn open_error(options: &Options) -> String {
    match DataPath::open(options) {
        Ok(_) => panic!("opening must be refused"),
        Err(error) => error.to_string(),
    }
}

/// As agents in two containers would that share bpffs and cgroups.
#[test]
fn agents_with_different_run_folders_meet_at_the_pins() {
    let world = World::new("meet");
    let mut data_path = world.open();
    let server = TcpServer::start("127.0.0.1:0");
    apply(&mut data_path, &service("web", "127.77.0.1:80", "", &[server.address]));
    let elsewhere = Options { run_dir: world.options.run_dir.join("elsewhere"), ..world.options.clone() };
    let refusals = [open_error(&elsewhere), unload(&elsewhere).expect_err("it is in use").to_string()];
    for text in refusals {
        assert!(text.contains("--run-dir") && text.contains(&world.options.instance), "{text}");
    }
    dial("127.77.0.1:80").unwrap();
    drop(data_path);
    let (data_path, opened) = DataPath::open(&elsewhere).map_err(|error| error.to_string()).unwrap();
    assert_eq!(opened, Opened::Adopted { services: 1, endpoints: 1 });
    drop(data_path);
}

#[test]
fn a_full_disk_keeps_nobody_from_unloading() {
    let world = World::new("full");
    drop(world.open());
    let full = Full::mount(world.options.run_dir.join("full"));
    let unloaded = unload(&Options { run_dir: full.0.clone(), ..world.options.clone() });
    assert_eq!(unloaded.map(|unloaded| unloaded.links).map_err(|error| error.to_string()), Ok(11));
}

/// A file system without a free byte.
struct Full(std::path::PathBuf);

impl Full {
    fn mount(folder: std::path::PathBuf) -> Self {
        fs::create_dir_all(&folder).unwrap();
        let mut mount = std::process::Command::new("mount");
        let mounted = mount.args(["-t", "tmpfs", "-o", "size=4k", "full"]).arg(&folder).status().unwrap();
        assert!(mounted.success(), "mount {}", folder.display());
        let full = Self(folder);
        fs::write(full.0.join("bytes"), [1; 4096]).unwrap();
        assert!(fs::write(full.0.join("more"), [1]).is_err(), "it is not full");
        full
    }
}

impl Drop for Full {
    fn drop(&mut self) {
        let _ = std::process::Command::new("umount").arg(&self.0).status();
    }
}

#[test]
fn another_instance_keeps_off_cgroups_that_overlap() {
    let world = World::new("overlap");
    let (inner, sibling) = (world.cgroup().join("inner"), world.cgroup().join("sibling"));
    fs::create_dir(&inner).unwrap();
    fs::create_dir(&sibling).unwrap();
    let of = |instance: &str, cgroup: &std::path::Path| Options {
        instance: format!("{}-{instance}", world.options.instance),
        cgroups: vec![cgroup.to_owned()],
        ..world.options.clone()
    };
    let first = DataPath::open(&of("first", &inner)).map_err(|error| error.to_string()).unwrap();
    for cgroup in [&inner, world.cgroup()] {
        let text = open_error(&of("second", cgroup));
        let named = text.contains(&format!("{}-first", world.options.instance));
        assert!(named && text.contains(inner.to_str().unwrap()), "{text}");
    }
    let second = DataPath::open(&of("second", &sibling)).map_err(|error| error.to_string()).unwrap();
    drop((first, second));
    let below = inner.join("below");
    fs::create_dir(&below).unwrap();
    assert!(open_error(&of("third", &below)).contains("-first"), "also when the other's agent is away");
    fs::remove_dir(&below).unwrap();
    for instance in ["first", "second"] {
        unload(&of(instance, &inner)).unwrap();
    }
}

#[test]
fn the_set_of_cgroups_may_change() {
    let world = World::new("cgroups");
    let (one, two) = (world.cgroup().join("one"), world.cgroup().join("two"));
    fs::create_dir(&one).unwrap();
    fs::create_dir(&two).unwrap();
    let with = |cgroups: &[&std::path::PathBuf]| Options {
        cgroups: cgroups.iter().map(|&cgroup| cgroup.clone()).collect(),
        ..world.options.clone()
    };
    let server = TcpServer::start("127.0.0.1:0");
    let text = service("web", "127.77.0.1:80", "", &[server.address]);
    let reached = |cgroups: &[&std::path::PathBuf]| {
        let (mut data_path, _) = DataPath::open(&with(cgroups)).map_err(|error| error.to_string()).unwrap();
        apply(&mut data_path, &text);
        let reached = [&one, &two].map(|cgroup| {
            world::join(cgroup);
            dial("127.77.0.1:80").is_ok()
        });
        world::join(world.cgroup());
        reached
    };
    assert_eq!(reached(&[&one]), [true, false]);
    assert_eq!(reached(&[&one, &two]), [true, true]);
    assert_eq!(reached(&[&two]), [false, true]);
    assert_eq!(
        reached(&[&two, &world.cgroup().to_owned(), &one]),
        [true, true],
        "an inner one is part of the outer"
    );
    let links =
        fs::read_dir(world.pins().iter().find(|path| path.ends_with("links")).unwrap()).unwrap().count();
    assert_eq!(links, 11, "one link a program: nobody is balanced twice");
}

#[test]
fn other_sizes_need_an_unload() {
    let world = World::new("sizes");
    drop(world.open());
    let budgets = Budgets { endpoints: 2048, ..world.options.budgets };
    let text = open_error(&Options { budgets, ..world.options.clone() });
    assert!(text.contains("1024") && text.contains("2048") && text.contains("alize unload"), "{text}");
    let text = open_error(&Options { budgets: Budgets { slots: 0, ..budgets }, ..world.options.clone() });
    assert_eq!(text, "--max-slots is 0; 1 to 16777216 is possible");
}

#[test]
fn pins_of_another_version_are_left_alone() {
    let world = World::new("version");
    let folder = world.options.bpffs.join("alize").join(&world.options.instance).join("v999");
    fs::create_dir_all(&folder).unwrap();
    let text = open_error(&world.options);
    assert!(text.contains("v999") && text.contains("alize unload"), "{text}");
    unload(&world.options).unwrap();
    drop(world.open());
}

#[test]
fn what_is_wrong_with_the_surroundings_is_said() {
    let world = World::new("surroundings");
    let bad = |change: &dyn Fn(&mut Options)| {
        let mut options = world.options.clone();
        change(&mut options);
        open_error(&options)
    };
    let text = bad(&|options| options.cgroups = vec!["/proc".into()]);
    assert!(text.starts_with("/proc is not a folder of cgroup v2: it lies on another file system"), "{text}");
    let text = bad(&|options| options.cgroups = vec!["/nowhere".into()]);
    assert!(text.starts_with("/nowhere is not a folder of cgroup v2: No such file"), "{text}");
    let text = bad(&|options| options.bpffs = "/nowhere".into());
    assert!(
        text.starts_with("no bpffs at /nowhere: No such file") && text.contains("mount -t bpf"),
        "{text}"
    );
    for hidden in ["/proc", "/sys/fs", env!("CARGO_MANIFEST_DIR")] {
        let text = bad(&|options| options.bpffs = hidden.into());
        assert!(text.starts_with(&format!("no bpffs at {hidden}: it holds other files")), "{text}");
        assert!(fs::read_dir(hidden).unwrap().next().is_some(), "nothing was mounted over it");
    }
    let text = bad(&|options| options.instance = "a.b".into());
    assert!(text.starts_with("\"a.b\" cannot name an instance"), "{text}");
    assert_eq!(world.pins(), Vec::<std::path::PathBuf>::new(), "nothing is left of a start that was refused");
}

#[test]
fn bpffs_is_mounted_on_an_empty_folder() {
    let world = World::new("mount");
    let folder = world.options.run_dir.join("bpf");
    fs::create_dir_all(&folder).unwrap();
    let options = Options { bpffs: folder.clone(), ..world.options.clone() };
    let opened =
        DataPath::open(&options).map(|(data_path, _)| data_path.pins()).map_err(|error| error.to_string());
    let pinned =
        opened.as_ref().is_ok_and(|pins| pins.starts_with(&folder) && pins.join("maps/services").exists());
    let unloaded = unload(&options).map_err(|error| error.to_string());
    let unmounted = std::process::Command::new("umount").arg(&folder).status().unwrap();
    assert!(pinned && unmounted.success(), "{opened:?} {unloaded:?}");
}

#[test]
fn programs_and_memory_are_told() {
    let world = World::new("programs");
    let data_path = world.open();
    let programs = data_path.programs();
    let names: Vec<&str> = programs.iter().map(|program| program.name.as_str()).collect();
    for name in ["alize_connect4", "alize_connect6", "alize_sockops", "alize_sweep", "alize_terminate_tcp"] {
        assert!(names.contains(&name), "{names:?}");
    }
    assert!(programs.iter().all(|program| program.id > 0 && program.off.is_none()));
    // 65,536 slots of 8 bytes alone.
    assert!(data_path.kernel_memory() > 524_288, "{}", data_path.kernel_memory());
    assert_eq!(data_path.budgets(), world.options.budgets);
}

#[test]
fn a_program_that_shares_its_hook_with_nobody_is_named() {
    let world = World::new("foreign");
    let folder = world.options.bpffs.join(&world.options.instance);
    let run = |arguments: &[&std::ffi::OsStr]| {
        let output =
            std::process::Command::new("bpftool").args(arguments).output().expect("bpftool is installed");
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    };
    let object = concat!(env!("OUT_DIR"), "/getpeername.bpf.o");
    let program = folder.join("alize_getpeername4");
    run(&["prog".as_ref(), "loadall".as_ref(), object.as_ref(), folder.as_ref()]);
    let hook = ["cgroup".as_ref(), "attach".as_ref(), world.cgroup().as_ref(), "getpeername4".as_ref()];
    run(&[&hook[..], &["pinned".as_ref(), program.as_ref()]].concat());
    let text = open_error(&world.options);
    fs::remove_dir_all(&folder).unwrap();
    assert!(text.contains("holds the hook") && text.contains("alize_getpeer"), "{text}");
    assert!(text.contains(world.cgroup().to_str().unwrap()), "{text}");
    assert_eq!(world.pins(), Vec::<std::path::PathBuf>::new(), "nothing is left of a start that failed");
}

/// Set for the process that changes things until it is killed.
const CHANGER: &str = "ALIZE_TEST_CHANGER";

#[test]
fn an_agent_killed_in_the_middle_of_a_change_leaves_nothing_half_done() {
    if let Ok(instance) = std::env::var(CHANGER) {
        return change_until_killed(&instance);
    }
    let world = World::new("killed");
    drop(world.open());
    let servers: Vec<_> = (0..3).map(|_| TcpServer::start("127.0.0.1:0")).collect();
    let addresses: Vec<SocketAddr> = servers.iter().map(|server| server.address).collect();
    let ports: Vec<String> = addresses.iter().map(|address| address.port().to_string()).collect();
    for round in 0..12 {
        let mut changer = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "an_agent_killed_in_the_middle_of_a_change_leaves_nothing_half_done"])
            .env(
                CHANGER,
                format!("{};{};{}", world.options.instance, world.cgroup().display(), ports.join(",")),
            )
            .stdout(std::process::Stdio::null())
            .spawn()
            .unwrap();
        let ready = world.options.run_dir.join("ready");
        world::eventually("the other process changes things", || ready.exists());
        std::thread::sleep(Duration::from_micros(1000 + 1700 * round));
        changer.kill().unwrap();
        changer.wait().unwrap();
        fs::remove_file(&ready).unwrap();

        let steady = dial("127.77.0.1:80").expect("the steady service is there").1;
        assert!(addresses.contains(&steady));
        let (mut data_path, opened) =
            DataPath::open(&world.options).map_err(|error| error.to_string()).unwrap();
        assert!(matches!(opened, Opened::Adopted { services, .. } if services > 0), "{opened:?}");
        let text = service("steady", "127.77.0.1:80", "", &addresses[..1]);
        apply(&mut data_path, &text);
        data_path.settle().unwrap();
        data_path.settle().unwrap();
        let only = alize_model::api::Usage { services: 1, frontends: 1, endpoints: 1, slots: 1 };
        assert_eq!(data_path.usage(), only, "round {round}: nothing leaks");
        assert_eq!(dial("127.77.0.1:80").unwrap().1, addresses[0]);
    }
}

/// One service is always there, whatever its endpoints; others come, go and change.
fn change_until_killed(arguments: &str) {
    let mut arguments = arguments.split(';');
    let mut next = || arguments.next().unwrap();
    let (instance, cgroup) = (next().to_owned(), std::path::PathBuf::from(next()));
    let ports: Vec<u16> = next().split(',').map(|port| port.parse().unwrap()).collect();
    let options = Options {
        run_dir: std::env::temp_dir().join(&instance),
        instance,
        bpffs: "/sys/fs/bpf".into(),
        cgroups: vec![cgroup],
        budgets: World::BUDGETS,
    };
    let (mut data_path, _) = DataPath::open(&options).map_err(|error| error.to_string()).unwrap();
    let servers: Vec<SocketAddr> = ports.into_iter().map(|port| ([127, 0, 0, 1], port).into()).collect();
    for round in 0..u32::MAX {
        let first = round as usize % servers.len();
        let mut text = service("steady", "127.77.0.1:80", "", &servers[..=first]);
        for at in 0..8u8 {
            let name = format!("s{}", (u32::from(at) + round) % 11);
            let address = format!("127.77.1.{}:80", (u32::from(at) * 3 + round) % 29 + 1);
            let endpoints = [endpoint(at + 1), endpoint(10 + (round % 200) as u8)];
            text += &service(&name, &address, "balance: round-robin,", &endpoints);
        }
        match world::try_apply(&mut data_path, &text) {
            Ok(_) | Err(Error::Budget { .. }) => {}
            Err(error) => panic!("{error}"),
        }
        if round == 0 {
            fs::write(options.run_dir.join("ready"), "").unwrap();
        }
        if round % 7 == 0 {
            data_path.settle().unwrap();
        }
    }
}
