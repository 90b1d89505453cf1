//! What `alize programs` shows of programs that run: their cost, and their instructions with the lines of C.

use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

use alize_datapath::DataPath;
use serde_json::Value;

use crate::world::{TcpServer, World, apply, dial, service};

/// The binary is `$ALIZE`, or where `make test-kernels` puts it in its virtual machines.
fn alize(world: &World, arguments: &[&str]) -> Command {
    let binary = std::env::var_os("ALIZE").map_or_else(|| "/bin/alize".into(), PathBuf::from);
    let mut command = Command::new(&binary);
    command.args(["--instance", &world.options.instance, "programs", "--bpffs"]);
    command.arg(&world.options.bpffs).args(arguments).stdin(Stdio::null());
    command
}

fn text(output: Output) -> String {
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "alize programs: {}", said.trim());
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Run count, time of a run, share of a CPU, fill, failed updates and buckets, under a few connects.
pub(crate) fn costs(world: &World, data_path: &mut DataPath) {
    let server = TcpServer::start("127.0.0.1:0");
    apply(data_path, &service("shown", "127.77.0.7:80", "", &[server.address]));
    let mut watching = alize(world, &["--stats", "3", "-o", "json"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("alize cannot be started: {error}"));
    while watching.try_wait().unwrap().is_none() {
        dial("127.77.0.7:80").unwrap();
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    let answer: Value = serde_json::from_str(&text(watching.wait_with_output().unwrap())).unwrap();
    let named = |list: &str, name: &str| {
        let found = answer[list].as_array().unwrap().iter().find(|entry| entry["name"] == name);
        found.unwrap_or_else(|| panic!("no {name} among {list}")).clone()
    };
    let cost = named("programs", "alize_connect4")["cost"].clone();
    for part in ["runs_per_second", "average_ns", "cpu"] {
        assert!(cost[part].as_f64().is_some_and(|value| value > 0.0), "{part} of connect4: {cost}");
    }
    assert_eq!(named("programs", "alize_connect6")["cost"]["runs_per_second"], 0.0, "nobody dials IPv6");
    let frontends = named("maps", "frontends");
    assert_eq!((&frontends["used"], &frontends["longest_bucket"]), (&1.into(), &1.into()), "{frontends}");
    assert_eq!(named("maps", "events")["failed"], 0);
    let totals = |answer: &Value| answer["memory"].as_u64().unwrap();
    assert!(totals(&answer) > 1 << 16, "{}", totals(&answer));
}

/// Lines of C among BPF instructions, and among those of the machine.
pub(crate) fn instructions(world: &World) {
    let dump = |form: &str| text(alize(world, &["connect4", "--dump", form]).output().expect("it runs"));
    let xlated = dump("xlated");
    assert!(xlated.contains("alize_connect4") && xlated.contains("connect.bpf.c"), "{xlated}");
    assert!(xlated.lines().any(|line| line.contains(": (85) call ")), "{xlated}");
    let jited = dump("jited");
    assert!(jited.starts_with("alize_connect4: "), "{jited}");
    let source = jited.lines().position(|line| line.starts_with("; ") && line.contains("@ connect.bpf.c:"));
    let source = source.unwrap_or_else(|| panic!("no line of C in {jited}"));
    assert!(jited.lines().nth(source + 1).is_some_and(|line| line.contains(":  ")), "{jited}");
    assert!(jited.lines().any(|line| line.split_whitespace().any(|word| word.starts_with("ret"))), "{jited}");
}
