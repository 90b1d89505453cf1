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
        objdump(installed("objdump")),
        configuration(&kernel_configuration()),
        compiler(version("clang")),
        tool_chain(&lacking_tools()),
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
        None => finding("bpftool", State::Off, "not installed: `alize programs --dump xlated` shows nothing")
            .mend("install the package bpftool (Ubuntu: linux-tools-$(uname -r))"),
    }
}

fn objdump(path: Option<PathBuf>) -> Finding {
    match path {
        Some(path) => finding("objdump", State::On, path.display().to_string()),
        None => finding("objdump", State::Off, "not installed: `alize programs --dump jited` shows nothing")
            .mend("install the package binutils"),
    }
}

/// Options of the kernel that the mesh needs, and what for.
const OPTIONS: [(&str, &str); 6] = [
    ("CONFIG_BPF_SYSCALL", "everything"),
    ("CONFIG_BPF_JIT", "speed"),
    ("CONFIG_CGROUP_BPF", "everything"),
    ("CONFIG_DEBUG_INFO_BTF", "everything"),
    ("CONFIG_BPF_STREAM_PARSER", "HTTP in the kernel"),
    ("CONFIG_MEMBARRIER", "using balancing slots again"),
];

/// The options that the running kernel was built with; empty when it does not tell.
fn kernel_configuration() -> String {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let kept = std::fs::read_to_string(format!("/boot/config-{}", release.trim()));
    kept.ok().or_else(unpacked_configuration).unwrap_or_default()
}

fn unpacked_configuration() -> Option<String> {
    if !Path::new("/proc/config.gz").exists() {
        return None;
    }
    let output = Command::new("gzip").args(["-dc", "/proc/config.gz"]).output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Why something is off that the kernel refuses; that it is refused is found by trying.
fn configuration(text: &str) -> Finding {
    if text.is_empty() {
        return finding("kernel configuration", State::Unknown, "neither /boot nor /proc/config.gz tells it");
    }
    let is_set = |option: &str| text.lines().any(|line| line.strip_prefix(option) == Some("=y"));
    let missing: Vec<String> = OPTIONS
        .iter()
        .filter(|(option, _)| !is_set(option))
        .map(|(option, need)| format!("{option} (for {need})"))
        .collect();
    match missing.is_empty() {
        true => finding("kernel configuration", State::On, "has all that the mesh needs"),
        false => finding("kernel configuration", State::Degraded, format!("lacks {}", missing.join(", ")))
            .mend("use a kernel built with them; those of Debian, Ubuntu and Fedora are"),
    }
}

/// Of what `script/setup build` installs beside clang.
fn lacking_tools() -> Vec<&'static str> {
    let programs = ["cargo", "pkg-config", "make"].into_iter().filter(|program| installed(program).is_none());
    let headers = [("libelf-dev", "libelf.h"), ("zlib1g-dev", "zlib.h")];
    let headers = headers.into_iter().filter(|(_, header)| !Path::new("/usr/include").join(header).exists());
    programs.chain(headers.map(|(package, _)| package)).collect()
}

fn tool_chain(lacking: &[&str]) -> Finding {
    match lacking {
        [] => finding("tool chain", State::On, "cargo, pkg-config, make, libelf and zlib are there"),
        lacking => finding("tool chain", State::Off, format!("lacks {}", lacking.join(", ")))
            .mend("run script/setup build in the source; a built binary does not need it"),
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
        let findings = [systemd(false), runtimes(&[]), bpftool(None), objdump(None), compiler(None)];
        assert!(findings.iter().all(|finding| finding.state == State::Off && !finding.prevents()));
        assert_eq!(runtimes(&RUNTIMES[..1]).detail, "containerd (/run/containerd/containerd.sock)");
    }

    #[test]
    fn options_of_the_kernel_are_named_with_their_use() {
        assert_eq!(configuration("").state, State::Unknown);
        let all: String = OPTIONS.iter().map(|(option, _)| format!("{option}=y\n")).collect();
        assert_eq!(configuration(&all).state, State::On);
        let without = configuration(&all.replace("CONFIG_BPF_JIT=y", "# CONFIG_BPF_JIT is not set"));
        assert_eq!(
            (without.state, without.detail.as_str()),
            (State::Degraded, "lacks CONFIG_BPF_JIT (for speed)")
        );
        assert!(without.mend.is_some() && !without.prevents());
    }

    #[test]
    fn what_the_tool_chain_lacks_is_named() {
        assert_eq!(tool_chain(&[]).state, State::On);
        let without = tool_chain(&["cargo", "zlib1g-dev"]);
        assert_eq!((without.state, without.detail.as_str()), (State::Off, "lacks cargo, zlib1g-dev"));
    }

    #[test]
    fn an_old_compiler_does_not_build_it() {
        let state = |version: &str| compiler(Some(version.into())).state;
        assert_eq!(state("Debian clang version 14.0.6"), State::On);
        assert_eq!(state("clang version 11.1.0"), State::Off);
        assert_eq!(state("something else"), State::On);
    }
}
