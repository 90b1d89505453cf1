//! The kernel, its settings and its mounts. Each check reads a text of the kernel's and judges it.

use std::fs;
use std::path::{Path, PathBuf};

use super::{Area, Finding, State};
use crate::Options;
use crate::environment::{self, OLDEST_KERNEL};

/// The oldest kernel that the tests run on and that has all that balancing needs.
const WHOLE_KERNEL: (u32, u32) = (6, 1);

/// The default budgets take 25 MiB on 4 CPUs, and more when counters of many endpoints fill up.
const ENOUGH_MEMORY: u64 = 64 << 20;

pub(super) fn examine(options: &Options) -> Vec<Finding> {
    let mut findings = vec![
        privileges(&read("/proc/self/status")),
        kernel(&read("/proc/sys/kernel/osrelease")),
        type_information(Path::new("/sys/kernel/btf/vmlinux").exists()),
        jit(&read("/proc/sys/net/core/bpf_jit_enable")),
        lockdown(&read("/sys/kernel/security/lockdown")),
        security_modules(&read("/sys/kernel/security/lsm")),
    ];
    findings.push(cgroup2(environment::cgroup2_root(), &read("/proc/self/mounts")));
    findings.extend(options.cgroups.iter().map(|path| meshed_cgroup(path)));
    findings.push(bpffs(&options.bpffs));
    findings.push(boot(&read("/proc/cmdline")));
    findings.push(memory(memory_limit()));
    findings.push(clock(&read("/sys/devices/system/clocksource/clocksource0/current_clocksource")));
    findings
}

/// The text of a file without the newline at its end; empty when it cannot be read.
fn read(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_default().trim_end().to_owned()
}

fn finding(name: &str, state: State, detail: impl Into<String>) -> Finding {
    Finding::new(Area::Machine, name, state, detail)
}

/// Numbers of capabilities, linux/capability.h.
const NEEDED: [(&str, u32); 3] = [("CAP_NET_ADMIN", 12), ("CAP_SYS_ADMIN", 21), ("CAP_BPF", 39)];

fn privileges(status: &str) -> Finding {
    let field = |name: &str| status.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
    let effective = field("CapEff:").and_then(|hex| u64::from_str_radix(hex, 16).ok()).unwrap_or(0);
    // Real, effective, saved and file system user.
    let user = field("Uid:").and_then(|ids| ids.split_ascii_whitespace().nth(1)).unwrap_or("?");
    let missing: Vec<&str> =
        NEEDED.iter().filter(|(_, number)| effective >> number & 1 == 0).map(|(name, _)| *name).collect();
    let check = |state, detail: String| finding("privileges", state, detail).essential();
    match (user, missing.is_empty()) {
        ("0", true) => check(State::On, "root, with the capabilities that loading needs".into()),
        ("0", false) => check(State::Off, format!("root without {}", missing.join(", ")))
            .mend("grant them: in a container `--privileged`, or `--cap-add` for each"),
        (user, _) => check(State::Off, format!("user {user}, not root")).mend("run with sudo"),
    }
}

fn kernel(release: &str) -> Finding {
    let check = |state| finding("kernel", state, format!("Linux {release}")).essential();
    match environment::kernel_version(release) {
        None => check(State::Unknown),
        Some(version) if version < OLDEST_KERNEL => {
            check(State::Off).mend("run 5.10 or newer, which is the oldest that is tested")
        }
        Some(version) if version < WHOLE_KERNEL => {
            check(State::Degraded).mend("run 6.1 or newer; what is lost on this one is told by feature below")
        }
        Some(_) => check(State::On),
    }
}

fn type_information(exists: bool) -> Finding {
    match exists {
        true => finding("BTF", State::On, "the kernel tells its own types").essential(),
        false => finding("BTF", State::Off, "/sys/kernel/btf/vmlinux does not exist")
            .essential()
            .mend("use a kernel built with CONFIG_DEBUG_INFO_BTF=y; in a container, mount the host's /sys"),
    }
}

fn jit(enabled: &str) -> Finding {
    let mend = "sysctl net.core.bpf_jit_enable=1; if there is no such setting, CONFIG_BPF_JIT=y is missing";
    match enabled {
        "1" => finding("JIT", State::On, "programs become machine code"),
        "2" => finding("JIT", State::Degraded, "programs become machine code, and all of it is logged")
            .mend(mend),
        "0" => finding("JIT", State::Degraded, "programs are interpreted, several times slower").mend(mend),
        // Only the first network namespace shows it.
        _ => finding("JIT", State::Unknown, "net.core.bpf_jit_enable does not show here"),
    }
}

/// `none [integrity] confidentiality`; the one in brackets is in force.
fn lockdown(modes: &str) -> Finding {
    let mode = modes.split_once('[').and_then(|(_, rest)| rest.split_once(']')).map(|(mode, _)| mode);
    match mode {
        None => finding("lockdown", State::On, "not in force, as far as this kernel shows"),
        Some("confidentiality") => {
            finding("lockdown", State::Degraded, "confidentiality: kernel memory may not be read")
                .mend("boot with lockdown=integrity or none if a program is refused below")
        }
        Some(mode) => finding("lockdown", State::On, format!("{mode}: no obstacle")),
    }
}

fn security_modules(modules: &str) -> Finding {
    let on = |detail: String| finding("BPF LSM", State::On, detail);
    match modules {
        "" => finding(
            "BPF LSM",
            State::Unknown,
            "no feature needs it; the list of security modules does not show",
        )
        .mend("mount -t securityfs securityfs /sys/kernel/security"),
        modules if modules.split(',').any(|module| module == "bpf") => {
            on("among the security modules".into())
        }
        modules => {
            finding("BPF LSM", State::Off, format!("no feature needs it; the security modules are {modules}"))
                .mend(format!("boot with lsm={modules},bpf"))
        }
    }
}

fn cgroup2(root: Option<PathBuf>, mounts: &str) -> Finding {
    let Some(root) = root else {
        return finding("cgroup v2", State::Off, "not mounted")
            .essential()
            .mend("mount -t cgroup2 none /sys/fs/cgroup, or boot with systemd.unified_cgroup_hierarchy=1");
    };
    let hybrid = mounts.lines().any(|line| line.split(' ').nth(2) == Some("cgroup"));
    let beside = if hybrid { ", beside cgroup v1, which is no obstacle" } else { "" };
    finding("cgroup v2", State::On, format!("at {}{beside}", root.display())).essential()
}

fn meshed_cgroup(path: &Path) -> Finding {
    match environment::open_cgroup(path) {
        Ok(cgroup) => finding("cgroup to mesh", State::On, cgroup.path.display().to_string()).essential(),
        Err(error) => finding("cgroup to mesh", State::Off, error.to_string()).essential(),
    }
}

fn bpffs(path: &Path) -> Finding {
    let shown = path.display();
    match (environment::is_bpffs(path), path.is_dir()) {
        (true, _) => finding("bpffs", State::On, format!("at {shown}")).essential(),
        (false, true) => finding(
            "bpffs",
            State::Degraded,
            format!("not mounted at {shown}; the agent will mount it"),
        )
        .essential()
        .mend(format!(
            "mount -t bpf bpf {shown}; in a container, mount the host's, or pins go with the container"
        )),
        (false, false) => finding("bpffs", State::Off, format!("{shown} is no folder"))
            .essential()
            .mend(format!("mkdir -p {shown} && mount -t bpf bpf {shown}")),
    }
}

/// Boot parameters that take something away from the mesh, and what: security/lockdown,
/// arch/x86/kernel/tsc.c and systemd's kernel-command-line(7).
const BOOT: [(&str, &str); 5] = [
    (
        "systemd.unified_cgroup_hierarchy=0",
        "cgroup v2 as systemd's own: services are not in cgroups of version 2",
    ),
    ("lockdown=confidentiality", "reading of kernel memory, which programs may be refused for"),
    ("clocksource=hpet", "a clock that is cheap to read"),
    ("clocksource=acpi_pm", "a clock that is cheap to read"),
    ("notsc", "a clock that is cheap to read"),
];

fn boot(line: &str) -> Finding {
    if line.is_empty() {
        return finding("boot parameters", State::Unknown, "/proc/cmdline does not show here");
    }
    let taking: Vec<String> = BOOT
        .iter()
        .filter(|(parameter, _)| line.split_ascii_whitespace().any(|word| word == *parameter))
        .map(|(parameter, what)| format!("`{parameter}` takes away {what}"))
        .collect();
    match taking.is_empty() {
        true => finding("boot parameters", State::On, "none is in the way"),
        false => finding("boot parameters", State::Degraded, taking.join("; ")).mend(
            "take them off the kernel's command line (in /etc/default/grub, then update-grub) and boot",
        ),
    }
}

/// Since Linux 5.11 programs and maps are charged to the cgroup of whoever makes them; RLIMIT_MEMLOCK no longer counts.
fn memory(limit: Option<(u64, PathBuf)>) -> Finding {
    match limit {
        None => finding("memory limit", State::On, "none on this process's cgroup"),
        Some((limit, path)) => {
            let detail = format!("{} MiB, by {}", limit >> 20, path.display());
            match limit >= ENOUGH_MEMORY {
                true => finding("memory limit", State::On, detail),
                false => finding("memory limit", State::Degraded, detail).mend(
                    "kernel maps are charged to it: raise it to 64 MiB or more, or lower the --max-* budgets",
                ),
            }
        }
    }
}

/// The smallest limit on this process's cgroup and those above, and the file that says so.
fn memory_limit() -> Option<(u64, PathBuf)> {
    let mut limits = Vec::new();
    for line in read("/proc/self/cgroup").lines() {
        let mut fields = line.splitn(3, ':');
        let (_, controllers, path) = (fields.next()?, fields.next()?, fields.next()?);
        let (root, file) = match controllers {
            "" => (environment::cgroup2_root()?, "memory.max"),
            "memory" => (PathBuf::from("/sys/fs/cgroup/memory"), "memory.limit_in_bytes"),
            _ => continue,
        };
        let own = root.join(path.trim_start_matches('/'));
        for folder in own.ancestors().take_while(|folder| folder.starts_with(&root)) {
            let file = folder.join(file);
            // `max`, or in version 1 a number that no memory reaches, is no limit.
            let limit = fs::read_to_string(&file).ok().and_then(|text| text.trim().parse::<u64>().ok());
            limits.extend(limit.filter(|&limit| limit < 1 << 60).map(|limit| (limit, file)));
        }
    }
    limits.into_iter().min()
}

fn clock(source: &str) -> Finding {
    match source {
        "" => finding("clock", State::Unknown, "the clock source does not show"),
        "hpet" | "acpi_pm" | "jiffies" | "refined-jiffies" | "pit" => {
            finding("clock", State::Degraded, format!("{source}: reading the time takes about a microsecond or more"))
                .mend("boot with clocksource=tsc tsc=reliable if the machine's TSC is sound; check dmesg for why it is not")
        }
        source => finding("clock", State::On, format!("{source}: reading the time is cheap")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judged(finding: &Finding) -> (State, bool) {
        (finding.state, finding.prevents())
    }

    #[test]
    fn privileges_are_root_and_capabilities() {
        let status = |user: u32, capabilities: &str| {
            format!("Name:\tx\nUid:\t1\t{user}\t0\t0\nCapEff:\t{capabilities}\n")
        };
        assert_eq!(judged(&privileges(&status(0, "000001ffffffffff"))), (State::On, false));
        let without = privileges(&status(0, "0000017fffffffff"));
        assert_eq!((judged(&without), without.detail.as_str()), ((State::Off, true), "root without CAP_BPF"));
        assert_eq!(judged(&privileges(&status(1000, "0"))), (State::Off, true));
        assert_eq!(judged(&privileges("")), (State::Off, true));
    }

    #[test]
    fn old_kernels_are_told_apart() {
        let state = |release| judged(&kernel(release));
        assert_eq!(state("5.4.0-30-amd64"), (State::Off, true));
        assert_eq!(state("5.10.0-30-amd64"), (State::Degraded, false));
        assert_eq!(state("5.18.1"), (State::Degraded, false));
        assert_eq!(state("6.1.0-18-amd64"), (State::On, false));
        assert_eq!(state(""), (State::Unknown, false));
    }

    #[test]
    fn settings_are_judged() {
        assert_eq!(
            ["1", "0", "2", ""].map(|text| jit(text).state),
            [State::On, State::Degraded, State::Degraded, State::Unknown]
        );
        let states = ["[none] integrity confidentiality", "none integrity [confidentiality]", ""];
        assert_eq!(states.map(|text| lockdown(text).state), [State::On, State::Degraded, State::On]);
        let modules = security_modules("lockdown,yama");
        assert_eq!(
            (modules.state, modules.mend.as_deref()),
            (State::Off, Some("boot with lsm=lockdown,yama,bpf"))
        );
        assert_eq!(security_modules("capability,bpf").state, State::On);
        assert_eq!(
            ["tsc", "kvm-clock", "hpet", ""].map(|text| clock(text).state),
            [State::On, State::On, State::Degraded, State::Unknown]
        );
    }

    #[test]
    fn boot_parameters_are_judged_as_whole_words() {
        assert_eq!(boot("").state, State::Unknown);
        assert_eq!(boot("root=/dev/vda ro quiet notscx clocksource=tsc").state, State::On);
        let found = boot("ro notsc lockdown=confidentiality");
        assert_eq!(found.state, State::Degraded);
        assert!(found.detail.contains("`notsc`") && found.detail.contains("`lockdown=confidentiality`"));
        assert!(!found.prevents() && found.mend.is_some());
    }

    #[test]
    fn mounts_are_judged() {
        assert_eq!(judged(&cgroup2(None, "")), (State::Off, true));
        let hybrid = cgroup2(Some("/x".into()), "cgroup /sys/fs/cgroup/cpu cgroup rw 0 0\n");
        assert!(hybrid.detail.contains("cgroup v1"), "{}", hybrid.detail);
        assert!(!cgroup2(Some("/x".into()), "cgroup2 /x cgroup2 rw 0 0\n").detail.contains("v1"));
        assert_eq!(judged(&bpffs(Path::new("/nowhere"))), (State::Off, true));
        assert_eq!(judged(&bpffs(Path::new("/"))), (State::Degraded, false));
        assert_eq!(judged(&meshed_cgroup(Path::new("/"))), (State::Off, true));
        assert_eq!(memory(Some((32 << 20, "/x".into()))).state, State::Degraded);
        assert_eq!(memory(Some((128 << 20, "/x".into()))).state, State::On);
        assert_eq!(memory(None).state, State::On);
    }
}
