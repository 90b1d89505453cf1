//! An upgrade that fails, in whatever way: what ran before goes on, the error names step and cause, nothing is left behind, and
//! the next upgrade works.

#![expect(clippy::print_stdout, reason = "outcomes are for people")]

mod versions;
mod world;

use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use alize_datapath::DataPath;
use alize_datapath::bundle::Bundle;
use versions::*;
use world::{World, apply};

/// Not a test: what the next one kills. It upgrades an instance that its environment names.
#[test]
#[ignore = "run by the test below, in a process of its own"]
fn killed() {
    versions::upgrade_as_told();
}

#[test]
fn what_fails_leaves_what_ran() {
    let world = World::new("fails");
    let (folder, servers) = (Folder::new("fails"), servers());
    let one = Bundle::embedded().unwrap();
    let mut data_path = world.open();
    apply(&mut data_path, &services(&servers));
    let own = HashSet::from([one.manifest().version.clone()]);
    // A helper that no kernel has; a record on sockets that is another; programs that send nobody anywhere.
    let set_retval =
        ("alize/sock_addr.h", "	bpf_set_retval(-ERRNO_ECONNREFUSED);", "	((long (*)(int))9999)(0);");
    let refused = built(&folder, "2.1.0", &[set_retval], &["connect"]);
    let mode = "	__u16 mode; /* enum mode, of the decision";
    let longer = format!("	__u16 more[4];\n{mode}");
    let fixed = built(&folder, "2.2.0", &[("alize/abi.h", mode, &longer)], &all());
    let nowhere = ("alize/decide.h", "	decision->number = number;", "	decision->number = NONE;");
    let idle = built(&folder, "2.3.0", &[nowhere], &["connect"]);
    let two = version_two(&folder);
    Load::during(&ADDRESSES, || {
        for (bundle, step, why) in [
            (&refused, "at step load", "helper number 9999"),
            (&fixed, "at step plan", "map connections"),
            (&idle, "at step self-test", "a connect to a service with an endpoint fails"),
        ] {
            let error = data_path.upgrade(bundle, None).unwrap_err().to_string();
            assert!(error.contains(step) && (error.contains(why) || error.contains("9999")), "{error}");
            assert!(error.contains("what ran before goes on: 0."), "{error}");
            assert_eq!(running(&world.options), own);
        }
        for step in STEPS.into_iter().filter(|step| *step != "pins").chain(["switch:alize_sendmsg4"]) {
            fault(Some(&format!("{step}=error")));
            let error = data_path.upgrade(&two, None).unwrap_err().to_string();
            fault(None);
            assert!(error.contains(&format!("at step {}", step.split(':').next().unwrap())), "{error}");
            assert_eq!(running(&world.options), own, "{step}");
            apply(&mut data_path, &services(&servers[..2]));
            apply(&mut data_path, &services(&servers));
        }
    });
    nothing_is_left(&world);
    data_path.upgrade(&two, None).unwrap();
}

/// How a process of its own is told to upgrade the world to a bundle.
fn told(world: &World, bundle: &Path) -> Command {
    let options = &world.options;
    let place = [
        options.instance.clone(),
        options.run_dir.display().to_string(),
        world.cgroup().display().to_string(),
        bundle.display().to_string(),
    ];
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "killed", "--ignored", "--nocapture"]).env("ALIZE_KILLED", place.join("\n"));
    command
}

/// No draft of a map or of a bundle, nothing of a self-test.
fn nothing_is_left(world: &World) {
    let mut found = world.pins();
    for folder in [Path::new("/sys/fs/bpf"), &alize_datapath::cgroup2_root().unwrap()] {
        found.extend(fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()));
    }
    found.extend(
        fs::read_dir(world.options.run_dir.join("bundles"))
            .into_iter()
            .flatten()
            .map(|entry| entry.unwrap().path()),
    );
    // Others test themselves at the same time: theirs is left when their process is gone.
    let left = |path: &&PathBuf| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let tested =
            name.strip_prefix("alize-self-test-").is_some_and(|pid| !Path::new("/proc").join(pid).exists());
        name.ends_with("-draft") || name.ends_with(".new") || tested
    };
    let left: Vec<&PathBuf> = found.iter().filter(left).collect();
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn killed_at_every_step_old_or_new_is_in_force() {
    let world = World::new("killed");
    let (folder, servers) = (Folder::new("killed"), servers());
    let mut data_path = world.open();
    apply(&mut data_path, &services(&servers));
    drop(data_path);
    let two = folder.0.join("two.bundle");
    fs::write(&two, version_two(&folder).bytes()).unwrap();
    let one = Bundle::embedded().unwrap();
    let options = &world.options;
    let keeping = keeping(&options.run_dir.join("bundles"));
    Load::during(&ADDRESSES, || {
        for step in
            ["keep"].into_iter().chain(STEPS).chain(["switch:alize_getpeername6", "switch:alize_connect4"])
        {
            let status = told(&world, &two).env("ALIZE_FAULT", format!("{step}=kill")).status().unwrap();
            use std::os::unix::process::ExitStatusExt;
            assert_eq!(status.signal(), Some(9), "{step}: {status}");
            let versions = running(options);
            let both = HashSet::from(["2.0.0".to_owned(), one.manifest().version.clone()]);
            assert!(!versions.is_empty() && versions.is_subset(&both), "{step}: {versions:?}");
            // Whoever does it next has one version again, and the tables as they were.
            alize_datapath::upgrade_pinned(options, &one, &keeping).unwrap_or_else(|error| panic!("{error}"));
            assert_eq!(running(options), HashSet::from([one.manifest().version.clone()]), "{step}");
            nothing_is_left(&world);
            let (mut data_path, ..) =
                DataPath::open_bundle(options, &one).unwrap_or_else(|error| panic!("{error}"));
            assert_eq!(apply(&mut data_path, &services(&servers)).unchanged, 3, "{step}");
        }
    });
}

/// A file system of 64 KiB; a bundle has some hundreds.
struct Tiny(PathBuf);

impl Tiny {
    fn mount(path: PathBuf) -> Self {
        fs::create_dir_all(&path).unwrap();
        let done = Command::new("mount")
            .args(["-t", "tmpfs", "-o", "size=64k", "tiny"])
            .arg(&path)
            .status()
            .unwrap();
        assert!(done.success());
        Self(path)
    }
}

impl Drop for Tiny {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(&self.0).status();
    }
}

#[test]
fn where_a_disk_is_full_nothing_is_changed() {
    let world = World::new("full-disk");
    let (folder, servers) = (Folder::new("full-disk"), servers());
    let two = version_two(&folder);
    let mut data_path = world.open();
    apply(&mut data_path, &services(&servers));
    let before = running(&world.options);
    let tiny = Tiny::mount(folder.0.join("tiny"));
    Load::during(&ADDRESSES, || {
        let error = data_path.upgrade(&two, Some(&keeping(&tiny.0))).unwrap_err().to_string();
        assert!(error.contains("at step keep: cannot keep ") && error.contains("No space left"), "{error}");
        assert_eq!(running(&world.options), before);
        assert_eq!(fs::read_dir(&tiny.0).unwrap().count(), 0, "half a file");
        let room = folder.0.join("room");
        data_path.upgrade(&two, Some(&keeping(&room))).unwrap();
        assert_eq!(fs::read_dir(&room).unwrap().count(), 2, "the bundle, and that it was chosen");
    });
    nothing_is_left(&world);
}

#[test]
fn where_a_map_is_full_nothing_is_changed() {
    let world = World::new("full-map");
    let (folder, servers) = (Folder::new("full-map"), servers());
    let (one, two) = (Bundle::embedded().unwrap(), version_two(&folder));
    let mut data_path = world.open();
    apply(&mut data_path, &services(&servers));
    data_path.upgrade(&one, None).unwrap();
    let before = running(&world.options);
    let crowd = Crowd::in_the_way(&world);
    Load::during(&ADDRESSES, || {
        let error = data_path.upgrade(&two, None).unwrap_err().to_string();
        assert!(error.contains("at step note: ") && error.contains("program_origins"), "{error}");
        assert_eq!(running(&world.options), before);
        nothing_is_left(&world);
        drop(crowd);
        world::eventually("an upgrade where there is room again", || data_path.upgrade(&two, None).is_ok());
    });
}

/// Programs of others, so many that the map of origins has no place left. The array holds them.
struct Crowd(#[expect(dead_code, reason = "held")] libbpf_rs::MapHandle);

impl Crowd {
    #[allow(unsafe_code)]
    fn in_the_way(world: &World) -> Self {
        use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};

        use libbpf_rs::{MapCore, MapFlags, MapHandle, MapType, Program, libbpf_sys};
        let origins = world.pins().into_iter().find(|pin| pin.ends_with("maps/program_origins")).unwrap();
        let origins = MapHandle::from_pinned_path(origins).unwrap();
        let options = libbpf_sys::bpf_map_create_opts {
            sz: size_of::<libbpf_sys::bpf_map_create_opts>() as libbpf_sys::size_t,
            ..Default::default()
        };
        // What the next upgrade would clear away is no crowd.
        for key in origins.keys().collect::<Vec<_>>() {
            let id = u32::from_ne_bytes(key.as_slice().try_into().unwrap());
            if Program::fd_from_id(id).is_err() {
                origins.delete(&key).unwrap();
            }
        }
        let most = origins.max_entries();
        let array = MapHandle::create(MapType::ProgArray, Some("crowd"), 4, 4, most, &options).unwrap();
        // r0 = 0; exit
        let code: [u64; 2] = [0xb7, 0x95];
        let value = vec![0u8; origins.value_size() as usize];
        for place in 0..most {
            // SAFETY: two instructions that live through the call.
            let fd = unsafe {
                libbpf_sys::bpf_prog_load(
                    libbpf_sys::BPF_PROG_TYPE_SOCKET_FILTER,
                    c"crowd".as_ptr(),
                    c"GPL".as_ptr(),
                    code.as_ptr().cast(),
                    2,
                    std::ptr::null_mut(),
                )
            };
            assert!(fd >= 0, "{}", std::io::Error::last_os_error());
            // SAFETY: the descriptor was just given to this process.
            let program = unsafe { OwnedFd::from_raw_fd(fd) };
            let number = program.as_raw_fd().to_ne_bytes();
            array.update(&place.to_ne_bytes(), &number, MapFlags::ANY).unwrap();
            let id = Program::id_from_fd(program.as_fd()).unwrap();
            // The last ones find no place: that is the point.
            let _ = origins.update(&id.to_ne_bytes(), &value, MapFlags::ANY);
        }
        Self(array)
    }
}

/// A cgroup that bounds memory, of version 1 or 2.
struct Bounded(PathBuf);

impl Bounded {
    fn new(bytes: u64) -> Self {
        let name = format!("alize-bounded-{}", std::process::id());
        let first = Path::new("/sys/fs/cgroup/memory");
        let (root, limit) = match first.join("memory.limit_in_bytes").exists() {
            true => (first.to_owned(), "memory.limit_in_bytes"),
            false => (alize_datapath::cgroup2_root().unwrap(), "memory.max"),
        };
        let folder = root.join(name);
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join(limit), bytes.to_string()).expect("a machine whose cgroups bound memory");
        Self(folder)
    }
}

impl Drop for Bounded {
    fn drop(&mut self) {
        world::eventually("the cgroup to be empty", || fs::remove_dir(&self.0).is_ok());
    }
}

#[test]
fn where_memory_is_short_what_ran_goes_on() {
    let world = World::new("no-memory");
    let (folder, servers) = (Folder::new("no-memory"), servers());
    let one = Bundle::embedded().unwrap();
    let mut data_path = world.open();
    apply(&mut data_path, &services(&servers));
    drop(data_path);
    let two = folder.0.join("two.bundle");
    fs::write(&two, version_two(&folder).bytes()).unwrap();
    let before = running(&world.options);
    let mut outcomes = Vec::new();
    Load::during(&ADDRESSES, || {
        // From far too little to just enough: the kernel refuses a map or a program, or kills the process.
        for mib in [6, 10, 14, 18, 24] {
            let bounded = Bounded::new(mib << 20);
            let procs = bounded.0.join("cgroup.procs").display().to_string();
            let inner = told(&world, &two);
            let mut command = Command::new("sh");
            command.args(["-c", "echo $$ > \"$0\" && exec \"$@\"", &procs]).arg(inner.get_program());
            command.args(inner.get_args());
            for (name, value) in inner.get_envs() {
                command.env(name, value.unwrap_or_default());
            }
            let output = command.output().unwrap();
            let failed = !output.status.success();
            let told = String::from_utf8_lossy(&output.stderr).lines().last().unwrap_or_default().to_owned();
            if failed {
                assert_eq!(running(&world.options), before, "{mib} MiB: {told}");
                assert!(output.status.code().is_none() || told.contains("at step "), "{mib} MiB: {told}");
            }
            outcomes.push((mib, output.status.to_string(), told));
            alize_datapath::upgrade_pinned(
                &world.options,
                &one,
                &keeping(&world.options.run_dir.join("bundles")),
            )
            .unwrap_or_else(|error| panic!("{error}"));
            nothing_is_left(&world);
        }
    });
    println!("{outcomes:#?}");
    assert!(
        outcomes.iter().any(|(_, status, _)| !status.contains("status: 0")),
        "memory was never short: {outcomes:?}"
    );
}
