//! What is installed around the mesh, for `alize doctor`. Nothing of it is essential.

use std::path::{Path, PathBuf};
use std::process::Command;

use alize_datapath::doctor::{Area, Finding, State};

pub(crate) fn examine() -> Vec<Finding> {
    vec![
        systemd(Path::new("/run/systemd/system").is_dir()),
        runtimes(
            &RUNTIMES.iter().copied().filter(|(_, socket)| Path::new(socket).exists()).collect::<Vec<_>>(),
        ),
        bpftool(installed("bpftool")),
        compiler(version("clang")),
    ]
}

fn finding(name: &str, state: State, detail: impl Into<String>) -> Finding {
    Finding::new(Area::Surroundings, name, state, detail)
}

fn systemd(runs: bool) -> Finding {
    match runs {
        true => finding("systemd", State::On, "runs this machine: `alize agent` can be one of its units"),
        false => finding("systemd", State::Off, "does not run this machine")
            .mend("start `alize agent` by what does; only its start message and watchdog are for systemd"),
    }
}

/// Name and socket.
const RUNTIMES: [(&str, &str); 6] = [
    ("containerd", "/run/containerd/containerd.sock"),
    ("Docker", "/run/docker.sock"),
    ("CRI-O", "/run/crio/crio.sock"),
    ("Podman", "/run/podman/podman.sock"),
    ("k3s", "/run/k3s/containerd/containerd.sock"),
    ("LXD", "/var/lib/lxd/unix.socket"),
];

fn runtimes(found: &[(&str, &str)]) -> Finding {
    match found {
        [] => finding(
            "containers",
            State::Off,
            "no runtime's socket was found; containers would be meshed all the same",
        ),
        found => {
            let found: Vec<String> =
                found.iter().map(|(name, socket)| format!("{name} ({socket})")).collect();
            finding("containers", State::On, found.join(", "))
        }
    }
}

fn bpftool(path: Option<PathBuf>) -> Finding {
    match path {
        Some(path) => finding("bpftool", State::On, path.display().to_string()),
        None => {
            finding("bpftool", State::Off, "not installed: `alize programs --dump` cannot show instructions")
                .mend("install the package bpftool (Ubuntu: linux-tools-$(uname -r))")
        }
    }
}

/// The oldest clang that builds the kernel programs.
const OLDEST_CLANG: u32 = 14;

fn compiler(version: Option<String>) -> Finding {
    let mend = "install the package clang, 14 or newer; a built binary does not need it";
    let Some(version) = version else {
        return finding("building from source", State::Off, "clang is not installed").mend(mend);
    };
    let major = version.split("version ").nth(1).and_then(|rest| rest.split('.').next()?.parse::<u32>().ok());
    match major {
        Some(major) if major < OLDEST_CLANG => {
            finding("building from source", State::Off, version).mend(mend)
        }
        _ => finding("building from source", State::On, version),
    }
}

/// The first line of `program --version`.
fn version(program: &str) -> Option<String> {
    let output = Command::new(program).arg("--version").output().ok()?;
    Some(String::from_utf8_lossy(&output.stdout).lines().next()?.to_owned())
}

fn installed(program: &str) -> Option<PathBuf> {
    let folders = std::env::var_os("PATH")?;
    std::env::split_paths(&folders).map(|folder| folder.join(program)).find(|path| path.is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_around_is_essential() {
        let findings = [systemd(false), runtimes(&[]), bpftool(None), compiler(None)];
        assert!(findings.iter().all(|finding| finding.state == State::Off && !finding.prevents()));
        assert_eq!(runtimes(&RUNTIMES[..1]).detail, "containerd (/run/containerd/containerd.sock)");
    }

    #[test]
    fn an_old_compiler_does_not_build_it() {
        let state = |version: &str| compiler(Some(version.into())).state;
        assert_eq!(state("Debian clang version 14.0.6"), State::On);
        assert_eq!(state("clang version 11.1.0"), State::Off);
        assert_eq!(state("something else"), State::On);
    }
}
