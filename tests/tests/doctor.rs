//! What people hear when the kernel refuses a program, and what a report of the machine holds.

use std::collections::BTreeMap;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use alize_tests::mesh::{endpoint, endpoints, file, service, web};
use alize_tests::servers::at;
use alize_tests::{Agent, AgentOptions, Kind, World};
use anyhow::{Context, Result, ensure};
use serde_json::Value;

fn address() -> SocketAddr {
    at([10, 96, 0, 10], 80)
}

fn alize(arguments: &[&str]) -> Result<Output> {
    Command::new(alize_tests::place::binary("alize")?).args(arguments).output().context("cannot start alize")
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap_or_default()
}

/// The programs of this binary, but for the calls of helper `from` in one object, which are of a helper that no kernel has.
fn bundle_with_a_refused_object(folder: &Path, altered: &str, from: u8) -> Result<PathBuf> {
    let (whole, objects, made) =
        (folder.join("whole"), folder.join("objects"), folder.join("altered.bundle"));
    let must = |arguments: &[&str]| -> Result<String> {
        let output = alize(arguments)?;
        ensure!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        Ok(String::from_utf8(output.stdout)?)
    };
    must(&["bundle", "build", text(&whole)])?;
    let facts: Value = serde_json::from_str(&must(&["bundle", "inspect", text(&whole), "-o", "json"])?)?;
    let bytes = fs::read(&whole)?;
    let mut at = 24 + u32::from_le_bytes(bytes[16..20].try_into()?) as usize;
    fs::create_dir_all(&objects)?;
    for object in facts["objects"].as_array().context("objects")? {
        let (size, name) = (object["size"].as_u64().context("size")? as usize, object["name"].as_str());
        let name = name.context("name")?;
        let mut object = bytes[at..at + size].to_vec();
        at += size;
        if name == altered {
            // `call FROM` becomes `call 9999`.
            let calls =
                replace(&mut object, &[0x85, 0, 0, 0, from, 0, 0, 0], &[0x85, 0, 0, 0, 0x0f, 0x27, 0, 0]);
            ensure!(calls > 0, "{altered} does not call helper {from}");
        }
        fs::write(objects.join(format!("{name}.bpf.o")), object)?;
    }
    must(&["bundle", "build", text(&made), "--objects", text(&objects), "--bundle-version", "9.9.9"])?;
    Ok(made)
}

fn replace(bytes: &mut [u8], from: &[u8; 8], to: &[u8; 8]) -> usize {
    let places: Vec<usize> =
        bytes.windows(8).enumerate().filter(|(_, window)| window == from).map(|(at, _)| at).collect();
    places.iter().for_each(|&at| bytes[at..at + 8].copy_from_slice(to));
    places.len()
}

/// All files of a folder, by their names.
fn unpacked(archive: &Path) -> Result<BTreeMap<String, String>> {
    let folder = archive.with_extension("unpacked");
    fs::create_dir_all(&folder)?;
    let status = Command::new("tar").arg("-xzf").arg(archive).arg("-C").arg(&folder).status()?;
    ensure!(status.success(), "tar cannot unpack {}", archive.display());
    let mut files = BTreeMap::new();
    let mut waiting = vec![folder.clone()];
    while let Some(path) = waiting.pop() {
        match path.is_dir() {
            true => waiting.extend(fs::read_dir(&path)?.flatten().map(|entry| entry.path())),
            false => {
                let name = path.strip_prefix(&folder)?.display().to_string();
                files.insert(name, String::from_utf8_lossy(&fs::read(&path)?).into_owned());
            }
        }
    }
    Ok(files)
}

#[test]
fn a_refused_program_costs_one_feature_and_is_explained() -> Result<()> {
    let world = World::new("refused")?;
    let servers = world.fleet(Kind::Name, &["a"], 7000)?;
    // Helper 107 is bpf_sk_storage_get(), by which getpeername() finds what was dialled.
    let bundle = bundle_with_a_refused_object(world.folder(), "getpeername", 107)?;
    let options = AgentOptions::flags(&["--bundle", text(&bundle), "--allow-unsigned"]);
    let mut agent = Agent::start_with(&world, &web(address(), &[], &endpoints([servers[0].v4])), &options)?;

    // The agent goes on without it, and what it was for is as without a mesh.
    let tally = world.meshed("client")?.connect(address(), 5)?;
    assert_eq!((tally.of("a"), tally.peers), (5, BTreeMap::from([(servers[0].v4, 5)])));

    let log = world.run_dir().join(format!("refused/{}.getpeername.log", world.instance()));
    let status = agent.run(&["status"])?;
    for part in [
        "getpeername: off: getpeername() shows the endpoint's address, not the service's",
        "this kernel has no helper number 9999",
        text(&log),
    ] {
        assert!(status.contains(part), "{part:?} is not in {status}");
    }
    let told = agent.process().log();
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease")?;
    for part in [
        "the kernel refuses program alize_getpeername4 of object getpeername",
        "why       this kernel has no helper number 9999",
        "getpeername.bpf.c:",
        &format!("kernel    Linux {}", kernel.trim()),
        "off       getpeername() shows the endpoint's address",
        &format!("whole log {}", log.display()),
    ] {
        assert!(told.contains(part), "{part:?} is not in {told}");
    }
    let whole = fs::read_to_string(&log)?;
    assert!(whole.contains("alize_getpeername4") && whole.contains("9999"), "{whole}");

    let report = world.folder().join("report.tar.gz");
    agent.run(&[
        "doctor",
        "--report",
        text(&report),
        "--cgroup",
        text(world.mesh().path()),
        "--bpffs",
        text(&world.bpffs()),
    ])?;
    let files = unpacked(&report)?;
    assert_eq!(files.get(&format!("refused/{}.getpeername.log", world.instance())), Some(&whole));
    Ok(())
}

#[test]
fn a_report_tells_of_the_machine_and_nothing_of_its_secrets() -> Result<()> {
    let world = World::new("report")?;
    let servers = world.fleet(Kind::Nginx, &["hush-server"], 7000)?;
    let labelled = endpoint(servers[0].v4, &["labels: {team: hush-label}"]);
    let text_of_file = file(&[service("hush-service", address(), &[], &[labelled])]);
    let mut agent = Agent::start_with(&world, &text_of_file, &AgentOptions::flags(&["--observe", "always"]))?;
    let client = world.meshed("client")?;
    let url = format!("http://{}/hush-path?token=hush-token", address());
    let arguments =
        ["-sS", "--max-time", "10", "-H", "Authorization: Bearer hush-header", "-d", "hush-body", &url];
    client.run("curl", &arguments)?;
    let secret = "hush-";
    assert!(agent.run(&["services"])?.contains(secret), "what is looked for is there to be found");

    let (cgroup, bpffs) = (world.mesh().path().to_owned(), world.bpffs());
    let place = ["--cgroup", text(&cgroup), "--bpffs", text(&bpffs)];
    let report = world.folder().join("report.tar.gz");
    agent.run(&[&["doctor", "--report", text(&report)][..], &place].concat())?;
    let files = unpacked(&report)?;
    let names: Vec<&str> = files.keys().map(String::as_str).collect();
    for name in ["doctor.json", "doctor.txt", "kernel.txt", "programs.json", "status.json", "verifier.log"] {
        assert!(names.contains(&name), "{name} is not among {names:?}");
    }
    for (name, content) in &files {
        assert!(!content.is_empty(), "{name} is empty");
        assert!(!content.contains(secret), "{name} holds a secret: {content}");
        assert!(!content.contains(&servers[0].v4.ip().to_string()), "{name} holds an endpoint: {content}");
    }
    let programs: Value = serde_json::from_str(&files["programs.json"])?;
    let named = |list: &str, name: &str| {
        programs[list].as_array().is_some_and(|all| all.iter().any(|entry| entry["name"] == name))
    };
    assert!(named("programs", "alize_connect4") && named("programs", "alize_observe_egress"));
    assert!(named("maps", "services") && programs["memory"].as_u64() > Some(0));
    let status: Value = serde_json::from_str(&files["status.json"])?;
    assert!(status["anomalies"].is_object() && status["version"].is_string(), "{status}");
    assert!(agent.process().ended()?.is_none());
    Ok(())
}

#[test]
fn the_doctor_answers_programs_too() -> Result<()> {
    let world = World::new("doctor-json")?;
    let (cgroup, bpffs) = (world.mesh().path().to_owned(), world.bpffs());
    let well = alize(&["doctor", "-o", "json", "--cgroup", text(&cgroup), "--bpffs", text(&bpffs)])?;
    let answer: Value = serde_json::from_slice(&well.stdout)?;
    assert_eq!((well.status.code(), &answer["possible"]), (Some(0), &Value::Bool(true)), "{answer}");
    let findings = answer["findings"].as_array().context("findings")?;
    let state = |name: &str| findings.iter().find(|finding| finding["name"] == name).map(|f| &f["state"]);
    for name in [
        "kernel",
        "BTF",
        "JIT",
        "BPF LSM",
        "cgroup v2",
        "bpffs",
        "memory limit",
        "clock",
        "systemd",
        "containers",
        "bpftool",
        "objdump",
        "building from source",
        "tool chain",
        "balancing at connect()",
        "HTTP observed",
        "HTTP in the kernel",
        "TCP traced",
        "DNS traced",
    ] {
        let known = ["on", "degraded", "off", "unknown"];
        assert!(state(name).and_then(Value::as_str).is_some_and(|state| known.contains(&state)), "{name}");
    }
    for finding in findings.iter().filter(|finding| finding["state"] == "off") {
        assert!(finding["detail"].as_str().is_some_and(|why| !why.is_empty()), "{finding}");
    }
    assert!(findings.iter().any(|finding| finding["area"] == "neighbour"));

    let ill = alize(&["doctor", "-o", "json", "--cgroup", "/nonexistent", "--bpffs", text(&bpffs)])?;
    let answer: Value = serde_json::from_slice(&ill.stdout)?;
    assert_eq!((ill.status.code(), &answer["possible"]), (Some(1), &Value::Bool(false)), "{answer}");
    let told = String::from_utf8_lossy(&ill.stderr).into_owned();
    assert!(told.contains("nothing can be meshed because of: cgroup to mesh"), "{told}");
    Ok(())
}
