//! `deploy/alize.service`: systemd understands it, and the agent can do its work with what it grants.

mod world;

use std::fs;
use std::path::Path;
use std::process::Command;

use world::{Agent, Server, World};

#[test]
fn the_agent_itself() {
    world::be_the_agent();
}

fn unit_file() -> String {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy/alize.service");
    fs::read_to_string(file).unwrap()
}

#[test]
fn systemd_understands_every_line() {
    let folder = std::env::temp_dir().join(format!("alize-unit-{}", std::process::id()));
    fs::create_dir_all(&folder).unwrap();
    let file = folder.join("alize.service");
    // The binary and its pages are not installed where tests run.
    let text: String = unit_file()
        .lines()
        .filter(|line| !line.starts_with("Documentation="))
        .map(|line| line.replace("/usr/bin/alize", "/bin/true") + "\n")
        .collect();
    fs::write(&file, text).unwrap();
    let output = Command::new("systemd-analyze").arg("verify").arg(&file).output();
    fs::remove_dir_all(&folder).unwrap();
    let output = output.expect("systemd-analyze, of the package systemd");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success() && !said.contains("alize.service"), "{said}");
}

/// Everything that needs a capability works with those of the unit file, without the chance to gain others.
#[test]
fn its_capabilities_suffice() {
    let unit = unit_file();
    let granted =
        unit.lines().find_map(|line| line.strip_prefix("CapabilityBoundingSet=")).expect("a bounding set");
    let granted =
        granted.split(' ').map(|name| format!(",+{}", name.trim_start_matches("CAP_").to_lowercase()));
    let bounding = format!("--bounding-set=-all{}", granted.collect::<String>());
    let wrapper = ["setpriv", &bounding, "--no-new-privs"];
    let world = World::new();
    let (blue, green) = (Server::start("blue"), Server::start("green"));
    let service = |server: &Server| {
        let address = server.address;
        format!(
            "services:\n  - {{name: web, address: '10.96.7.1:80', removal: terminate, endpoints: ['{address}']}}\n"
        )
    };
    let agent = Agent::start_through(&wrapper, &world, Some(world.write(&service(&blue))), &[]).unwrap();
    let effective = fs::read_to_string(format!("/proc/{}/status", agent.process.id())).unwrap();
    let mask = effective.lines().find_map(|line| line.strip_prefix("CapEff:\t")).unwrap();
    // A container that runs the tests may lack some of them itself.
    assert!(u64::from_str_radix(mask, 16).unwrap().count_ones() <= 7, "{mask}");
    assert_eq!(world.curl("10.96.7.1").as_deref(), Ok("blue"));

    // A connection that says nothing, in a network namespace of its own, as another user's would be.
    let script = "exec bash -c 'exec 3<>/dev/tcp/10.96.7.1/80 && echo open && read -t 10 -u 3 line; echo $?'";
    let client = std::thread::scope(|scope| {
        let client = scope.spawn(|| world.client(script));
        world::eventually("the connection is open", || {
            (agent.service("web").traffic.open == 1).then_some(())
        });
        let (status, body) = agent.apply("other.yaml", &service(&green));
        assert_eq!(status, 200, "{body}");
        client.join().unwrap()
    });
    let said = String::from_utf8_lossy(&client.stdout).into_owned();
    assert!(
        said.starts_with("open\n") && said.trim_end().ends_with('1'),
        "the connection was closed: {said}"
    );
    assert_eq!(world.curl("10.96.7.1").as_deref(), Ok("green"));
    let status = agent.status();
    assert!(
        status.kernel_memory > 0 && status.programs.iter().all(|program| program.state == "on"),
        "{status:?}"
    );
    agent.stop();
}
