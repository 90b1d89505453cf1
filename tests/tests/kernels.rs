//! The kernel matrix where its kernels cannot be had.

use std::process::Command;

use alize_tests::World;
use anyhow::{Context, Result};

#[test]
fn without_a_network_what_is_missing_is_told_and_nothing_is_skipped() -> Result<()> {
    let world = World::new("no-network")?;
    let cache = world.folder().join("cache");
    // A network namespace of its own, with nothing in it.
    let output = Command::new("unshare")
        .arg("--net")
        .arg(alize_tests::place::binary("alize-kernels")?)
        .args(["--check", "6.1"])
        .env("XDG_CACHE_HOME", &cache)
        .output()
        .context("package util-linux")?;
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{told}");
    for part in [
        "Debian's kernel of bookworm is not kept in",
        "alize/kernels/6.1 and cannot be fetched; it needs the network and a Debian mirror",
        "apt-get",
    ] {
        assert!(told.contains(part), "{part:?} is not in {told}");
    }
    // A kernel that does not exist is told too.
    let unknown = Command::new(alize_tests::place::binary("alize-kernels")?).arg("2.6").output()?;
    let told = String::from_utf8_lossy(&unknown.stderr).into_owned();
    assert!(unknown.status.code() == Some(1) && told.contains("no kernel is called 2.6"), "{told}");
    Ok(())
}
