//! What loading and changing costs: `cargo run --release -p alize-datapath --example load [SERVICES]`. Needs root.
//!
//! Prints the time to open, to write SERVICES x 3 endpoints, to change one, to adopt it all; and memory.
#![allow(clippy::print_stdout, reason = "it is a command")]

use std::fs;
use std::time::{Duration, Instant};

use alize_datapath::{Availability, DataPath, Desired, Options, Unavailable, unload};
use alize_model::{Budgets, HostFacts, Snapshot, Source};

/// Single changes that are timed.
const CHANGES: usize = 200;

fn main() {
    let services: u32 =
        std::env::args().nth(1).map_or(10_000, |count| count.parse().expect("a number of services"));
    let name = format!("datapath-load-{}", std::process::id());
    let cgroup = alize_datapath::cgroup2_root().expect("cgroup v2 is mounted").join(&name);
    fs::create_dir(&cgroup).expect("this needs root");
    let options = Options {
        instance: name.clone(),
        bpffs: "/sys/fs/bpf".into(),
        run_dir: std::env::temp_dir().join(&name),
        cgroups: vec![cgroup.clone()],
        budgets: Budgets::default(),
    };
    let measured = std::panic::catch_unwind(|| measure(&options, services));
    unload(&options).expect("the data path can be unloaded");
    fs::remove_dir(&cgroup).expect("nobody is in the cgroup");
    fs::remove_dir_all(&options.run_dir).expect("the folder of the lock can be removed");
    if measured.is_err() {
        std::process::exit(1);
    }
}

fn measure(options: &Options, services: u32) {
    let (mut data_path, _) = timed("open", || DataPath::open(options).expect("it opens").0);
    println!("idle: resident {} kB, kernel {} kB", resident(), data_path.kernel_memory() / 1024);
    let snapshot = mesh(services, 0);
    let applied = apply(&mut data_path, &snapshot);
    println!("write {services} services x 3: {:?} (kernel writes {:?})", applied.0, applied.1);
    println!("loaded: resident {} kB, kernel {} kB", resident(), data_path.kernel_memory() / 1024);

    let (mut whole, mut writes): (Vec<Duration>, Vec<Duration>) = (Vec::new(), Vec::new());
    for round in 1..=CHANGES as u32 {
        let changed = mesh(services, round);
        let (elapsed, written) = apply(&mut data_path, &changed);
        whole.push(elapsed);
        writes.push(written);
        data_path.settle().expect("it settles");
    }
    println!(
        "change one endpoint of {services} services: {} (kernel writes {})",
        spread(&mut whole),
        spread(&mut writes)
    );
    let same = mesh(services, CHANGES as u32);
    apply(&mut data_path, &same);
    let mut times = flaps(&mut data_path, &same);
    println!("an endpoint becomes unavailable, or well again: {}", spread(&mut times));
    timed("counters", || data_path.counters().expect("counters can be read"));
    drop(data_path);
    let (mut data_path, _) = timed("adopt", || DataPath::open(options).expect("it opens").0);
    let (elapsed, _) = apply(&mut data_path, &mesh(services, CHANGES as u32));
    println!("first apply after adopting: {elapsed:?}");
    println!("adopted: resident {} kB", resident());
}

/// Times to take one endpoint out and back again, as health checks do.
fn flaps(data_path: &mut DataPath, snapshot: &Snapshot) -> Vec<Duration> {
    let service = &snapshot.services()[snapshot.services().len() / 2];
    let sick = (service.name.clone(), service.endpoints[0].address);
    let out = Availability::from([(sick, Unavailable::Unhealthy)]);
    let well = Availability::new();
    let flap = |round| {
        let unavailable = if round % 2 == 0 { &out } else { &well };
        let start = Instant::now();
        let applied = data_path.apply(Desired { snapshot, unavailable }).expect("it fits");
        let elapsed = start.elapsed();
        assert_eq!(applied.changed, 1);
        elapsed
    };
    (0..CHANGES).map(flap).collect()
}

/// Median and maximum.
fn spread(times: &mut [Duration]) -> String {
    times.sort();
    format!("median {:?}, max {:?}", times[times.len() / 2], times[times.len() - 1])
}

fn timed<T>(what: &str, task: impl FnOnce() -> T) -> (T, Duration) {
    let start = Instant::now();
    let done = task();
    let elapsed = start.elapsed();
    println!("{what}: {elapsed:?}");
    (done, elapsed)
}

fn apply(data_path: &mut DataPath, snapshot: &Snapshot) -> (Duration, Duration) {
    let start = Instant::now();
    let unavailable = Availability::new();
    let applied = data_path.apply(Desired { snapshot, unavailable: &unavailable }).expect("it fits");
    (start.elapsed(), applied.elapsed)
}

/// `count` services of three endpoints; `round` changes one endpoint of one of them.
fn mesh(count: u32, round: u32) -> Snapshot {
    let mut text = String::from("services:\n");
    for at in 0..count {
        let (high, low) = (at / 250, at % 250 + 1);
        let third = if at == count / 2 { 100 + round % 100 } else { 3 };
        text += &format!(
            "- {{name: s{at}, address: \"10.96.{high}.{low}:80\", endpoints: [\"10.{}.{}.1:80\", \"10.{}.{}.2:80\", \
             \"10.{}.{}.{third}:80\"]}}\n",
            100 + high / 250,
            at % 250,
            100 + high / 250,
            at % 250,
            100 + high / 250,
            at % 250,
        );
    }
    let source = Source { name: "mesh.yaml", text: &text };
    alize_model::parse(source, &Budgets::default(), &HostFacts::default()).expect("the mesh is valid").0
}

/// Resident memory of this process, in kB.
fn resident() -> u64 {
    let status = fs::read_to_string("/proc/self/status").expect("proc is mounted");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("Linux tells it");
    line.trim().trim_end_matches(" kB").parse().expect("it is a number")
}
