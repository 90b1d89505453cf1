//! The conformance probe on the real kernel. Needs root.

mod world;

use std::fs;
use std::path::{Path, PathBuf};

use alize_datapath::conformance::{Outcome, ensure, kept, probe};
use world::World;

/// Cgroups of probes below `folder`.
fn left_below(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).expect("the cgroup").flatten().map(|entry| entry.path());
    entries.filter(|path| path.to_string_lossy().contains("alize-conformance-")).collect()
}

#[test]
fn this_kernel_does_what_the_path_relies_on() {
    let world = World::new("conformance");
    // As a probe leaves it that was killed; no process has this number (kernel/pid.c, PID_MAX_LIMIT).
    let stale = world.cgroup().join("alize-conformance-4194305");
    fs::create_dir(&stale).unwrap();
    let report = probe();
    assert_eq!(report.http_path(), Ok(()), "{report:#?}");
    assert_eq!(left_below(world.cgroup()), [""; 0].map(PathBuf::from));
    // Those that are known to fail are why they are no condition; a kernel that passes them is welcome.
    let limits: Vec<_> = report.checks.iter().filter(|check| check.outcome != Outcome::Passed).collect();
    assert!(limits.iter().all(|check| !check.essential), "{limits:#?}");
    assert!(report.took > 0.0 && report.checks.iter().all(|check| check.took <= report.took));
}

#[test]
fn it_is_tried_once_a_boot() {
    let world = World::new("conformance-kept");
    assert_eq!(kept(&world.options), None);
    // A check that could not be run is no answer to keep, which happens where the machine is emulated.
    let first = (0..5).find_map(|_| {
        let report = ensure(&world.options);
        kept(&world.options).map(|_| report)
    });
    let (first, again) = (first.expect("one of five was complete"), ensure(&world.options));
    assert_eq!(kept(&world.options).as_ref(), Some(&again));
    // JSON rounds it by less than the probe takes.
    assert!((again.time - first.time).abs() < 1e-3, "{} is not {}", again.time, first.time);
}
