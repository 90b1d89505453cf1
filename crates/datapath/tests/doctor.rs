//! What the doctor finds on the real kernel, and what is found of a loaded instance. Needs root.
#![allow(
    unsafe_code,
    reason = "libbpf-rs attaches to cgroups by links only, which share their hook with everybody"
)]

mod world;

use std::fs::File;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use alize_datapath::doctor::{Area, Finding, State, examine};
use alize_datapath::{Options, inspect};
use libbpf_rs::libbpf_sys;
use world::World;

fn find<'a>(findings: &'a [Finding], name: &str) -> &'a Finding {
    findings
        .iter()
        .find(|finding| finding.name == name)
        .unwrap_or_else(|| panic!("no {name:?} in {findings:#?}"))
}

#[test]
fn the_kernel_is_asked_what_it_takes() {
    let world = World::new("doctor");
    let findings = examine(&world.options);
    assert!(!findings.iter().any(Finding::prevents), "{findings:#?}");
    for finding in findings.iter().filter(|finding| finding.area == Area::Feature) {
        match finding.state {
            State::On => assert!(finding.refused.is_none()),
            // bpf_sock_destroy() came with Linux 6.5.
            State::Off if finding.name == "removal: terminate" => {
                let refused = finding.refused.as_ref().expect("the kernel refused it");
                assert_eq!(refused.rule, "this kernel has no function bpf_sock_destroy()");
                assert!(finding.mend.as_ref().is_some_and(|mend| mend.contains("6.5")), "{finding:#?}");
            }
            State::Off if finding.name == "HTTP within TLS" => {
                assert!(finding.detail.contains("needs Linux 6.10"), "{finding:#?}");
            }
            // What the hook of packets may ask of the sender came with Linux 6.10, and names of processes with 6.16.
            State::Degraded => assert!(finding.detail.contains("(mended by Linux 6.1"), "{finding:#?}"),
            _ => panic!("{finding:#?}"),
        }
    }
    let connect = find(&findings, "balancing at connect()");
    assert!(connect.essential);
    assert_eq!(connect.programs.len(), 2);
    assert!(connect.programs.iter().all(|program| program.verified.is_some_and(|walked| walked > 100)));
    assert!(world.pins().is_empty(), "nothing stays: {:?}", world.pins());
}

#[test]
fn another_instance_on_the_cgroup_is_in_the_way() {
    let world = World::new("doctor-instance");
    let _data_path = world.open();
    let findings = examine(&world.options);
    assert!(!findings.iter().any(|finding| finding.area == Area::Neighbour && finding.state != State::On));
    let other = Options { instance: "doctor-other".into(), ..world.options.clone() };
    let findings = examine(&other);
    let in_the_way = find(&findings, &format!("alize, instance {}", world.options.instance));
    assert!(in_the_way.prevents(), "{in_the_way:#?}");
    assert!(in_the_way.detail.contains(&world.cgroup().display().to_string()), "{in_the_way:#?}");
}

/// Attaches a program of Cilium's name to connect4 of the world's cgroup until the result is dropped.
fn neighbour(world: &World, flags: u32) -> (OwnedFd, Attached) {
    // r0 = 1; exit: every connect passes.
    let instructions = [
        libbpf_sys::bpf_insn { code: 0xb7, imm: 1, ..Default::default() },
        libbpf_sys::bpf_insn { code: 0x95, ..Default::default() },
    ];
    let options = libbpf_sys::bpf_prog_load_opts {
        sz: size_of::<libbpf_sys::bpf_prog_load_opts>() as _,
        expected_attach_type: libbpf_sys::BPF_CGROUP_INET4_CONNECT,
        ..Default::default()
    };
    // SAFETY: name and license end with NUL, the instructions are two, and all of it outlives the call.
    let program = unsafe {
        let fd = libbpf_sys::bpf_prog_load(
            libbpf_sys::BPF_PROG_TYPE_CGROUP_SOCK_ADDR,
            c"cil_sock4_conn".as_ptr(),
            c"GPL".as_ptr(),
            instructions.as_ptr(),
            instructions.len() as _,
            std::ptr::from_ref(&options).cast_mut(),
        );
        assert!(fd >= 0, "{}", std::io::Error::last_os_error());
        OwnedFd::from_raw_fd(fd)
    };
    let cgroup = File::open(world.cgroup()).expect("the cgroup");
    let hook = libbpf_sys::BPF_CGROUP_INET4_CONNECT;
    // SAFETY: no pointer is passed.
    let done = unsafe { libbpf_sys::bpf_prog_attach(program.as_raw_fd(), cgroup.as_raw_fd(), hook, flags) };
    assert_eq!(done, 0, "{}", std::io::Error::last_os_error());
    let attached = Attached { program: program.as_raw_fd(), cgroup };
    (program, attached)
}

struct Attached {
    program: i32,
    cgroup: File,
}

impl Drop for Attached {
    fn drop(&mut self) {
        let hook = libbpf_sys::BPF_CGROUP_INET4_CONNECT;
        // SAFETY: no pointer is passed.
        unsafe { libbpf_sys::bpf_prog_detach2(self.program, self.cgroup.as_raw_fd(), hook) };
    }
}

#[test]
fn a_neighbour_is_named_and_judged_by_how_it_shares() {
    let world = World::new("doctor-neighbour");
    {
        let (_program, _attached) = neighbour(&world, libbpf_sys::BPF_F_ALLOW_MULTI);
        let findings = examine(&world.options);
        let cilium = find(&findings, "Cilium");
        assert_eq!(cilium.state, State::Degraded, "{cilium:#?}");
        assert!(cilium.detail.contains("cil_sock4_conn on connect4"), "{cilium:#?}");
        drop(world.open());
        alize_datapath::unload(&world.options).expect("it is unloaded");
    }
    let (_program, _attached) = neighbour(&world, 0);
    let findings = examine(&world.options);
    assert!(find(&findings, "Cilium").prevents(), "{findings:#?}");
    // The judgement is the kernel's.
    let refused = alize_datapath::DataPath::open(&world.options).map(|_| ()).unwrap_err();
    assert!(matches!(refused, alize_datapath::Error::HookTaken { .. }), "{refused}");
}

#[test]
fn what_is_loaded_can_be_seen_without_the_one_who_loaded_it() {
    let world = World::new("doctor-inspect");
    let nothing = inspect::inspect(&world.options).expect("it can be asked");
    assert!(nothing.programs.is_empty() && nothing.maps.is_empty());

    let mut data_path = world.open();
    world::apply(
        &mut data_path,
        "- {name: web, address: \"10.96.79.1:80\", endpoints: [\"127.0.0.1:1\", \"127.0.0.1:2\"]}\n",
    );
    let inspection = inspect::inspect(&world.options).expect("it can be asked");
    let sweep =
        |inspection: &inspect::Inspection| inspection.programs.iter().any(|p| p.name == "alize_sweep");
    assert!(sweep(&inspection), "what nothing pins is found too");
    drop(data_path);

    let inspection = inspect::inspect(&world.options).expect("it can be asked");
    assert!(!sweep(&inspection));
    let named =
        |name: &str| inspection.programs.iter().find(|program| program.name == name).expect("it is loaded");
    // The kernel keeps 15 characters, in which these two are the same.
    let (four, six) = (named("alize_getpeername4"), named("alize_getpeername6"));
    assert_eq!(four.attached[0].hook, "getpeername4");
    assert_eq!(six.attached[0].cgroup.as_deref(), Some(world.cgroup()));
    let connect = named("alize_connect4");
    assert!(connect.instructions > 100 && connect.memory > 0 && connect.id > 0, "{connect:?}");
    assert!(connect.verified > connect.instructions, "{connect:?}");

    let map = |name: &str| inspection.maps.iter().find(|map| map.name == name).expect("it is pinned");
    assert_eq!(map("services").used, Some(1));
    assert_eq!((map("endpoints").used, map("endpoints").limit), (Some(2), World::BUDGETS.endpoints));
    assert_eq!(map("frontends").used, Some(1));
    assert!(map("slots").used.is_some_and(|used| used >= 2), "{:?}", map("slots"));
    assert_eq!(map("connections").used, None);
    let parts = inspection.programs.iter().map(|p| p.memory).chain(inspection.maps.iter().map(|m| m.memory));
    assert_eq!(inspection.memory, parts.sum::<u64>());
}

#[test]
fn runs_are_counted_while_somebody_watches() {
    let world = World::new("doctor-runs");
    let _data_path = world.open();
    let inspection = inspect::inspect(&world.options).expect("it can be asked");
    let connect =
        inspection.programs.iter().find(|program| program.name == "alize_connect4").expect("it is on");
    let runs = || inspect::runs(&[connect.id])[&connect.id].0;
    let dial = || std::net::TcpStream::connect("127.0.0.1:1").map(|_| ()).unwrap_err();
    let watched = {
        let _statistics = inspect::Statistics::start().expect("statistics can be turned on");
        let before = runs();
        (0..10).for_each(|_| drop(dial()));
        runs() - before
    };
    assert_eq!(watched, 10);
}
