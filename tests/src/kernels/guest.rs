//! What is run, in a virtual machine or on this one.

use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use super::outcome::Outcome;
use super::{Compiler, Kernel, image};

/// Boot and everything that is run on one kernel; boot alone takes about 4 s.
const TIME_LIMIT: Duration = Duration::from_secs(1800);

/// An emulated machine whose kernel does not come up says nothing of our programs, and is started anew.
const BOOTS: usize = 3;

/// Tests of the data path that cannot run in a virtual machine, and why.
pub const NOT_THERE: [(&str, &str); 4] = [
    ("limits_hold_while_versions_change", "it compiles programs, and there is no clang"),
    ("a_version_on_trial_tells_what_it_leaves_to_the_proxy", "it compiles programs, and there is no clang"),
    ("what_the_kernel_routes_is_traced_counted_and_recorded_once", "there is no nginx"),
    ("what_the_kernel_routes_is_told_of_over_upgrades", "there is no nginx"),
];

/// Programs of this machine that the features need there.
const TOOLS: [&str; 3] = ["bpftool", "objdump", "openssl"];

/// Programs that are built for this machine's architecture, and run on any of its kernels.
pub struct Guest {
    features: PathBuf,
    alize: PathBuf,
    tests: Vec<PathBuf>,
    newest: Compiler,
    /// What its objects are in.
    objects: PathBuf,
    folder: PathBuf,
}

/// What a kernel said.
pub struct Run {
    /// What works there.
    pub outcome: Outcome,
    /// Tests by name, and whether each passed; none if none were to run.
    pub tests: Vec<(String, bool)>,
    /// Tests that were begun and did not end.
    pub lost: usize,
}

impl Guest {
    /// Builds them; `tests` with the kernel tests of the data path, which take minutes under emulation.
    pub fn build(tests: bool) -> Result<Self> {
        let one = |arguments: &[&str]| {
            let (programs, folder) = built(arguments)?;
            let program = programs.into_iter().next();
            Ok::<_, anyhow::Error>((
                program.with_context(|| format!("{arguments:?} made no program"))?,
                folder,
            ))
        };
        let (features, folder) = one(&["build", "-p", "alize-datapath", "--example", "features"])?;
        let (compile, _) = one(&["build", "-p", "alize-datapath", "--example", "compile"])?;
        let (alize, _) = one(&["build", "-p", "alize", "--bin", "alize"])?;
        // The other tests need nginx, clang or a real clock.
        let mut wanted = vec!["test", "--no-run", "-p", "alize-datapath"];
        wanted.extend(
            ["connections", "doctor", "conformance", "router"].iter().flat_map(|name| ["--test", name]),
        );
        let tests = if tests { built(&wanted)?.0 } else { Vec::new() };
        let folder = folder.join("kernels");
        let objects = folder.join("objects");
        let _ = fs::remove_dir_all(&objects);
        let newest = Compiler::newest()?;
        output(Command::new(compile).arg(&newest.path).arg(&objects))
            .with_context(|| format!("clang {} does not build the programs", newest.version))?;
        Ok(Self { features, alize, tests, newest, objects, folder })
    }

    /// The newest clang, whose programs are verified beside those of the default one.
    pub fn newest(&self) -> u32 {
        self.newest.version
    }

    /// On this machine's own kernel, without a virtual machine; tests have a command of their own there.
    pub fn run_here(&self) -> Result<Run> {
        let release = fs::read_to_string("/proc/sys/kernel/osrelease")?.trim().to_owned();
        let run = |arguments: &[&Path]| {
            let mut command = Command::new(&self.features);
            let output = command.args(arguments).env("ALIZE", &self.alize).stderr(Stdio::null()).output();
            let output = output.context("features")?;
            let text = String::from_utf8_lossy(&output.stdout).into_owned();
            ensure!(output.status.success(), "the features were not all tried: {text}");
            Ok(text)
        };
        let text = format!("{}{NEWEST}\n{}", run(&[])?, run(&[&self.objects])?);
        Ok(Run { outcome: Outcome::read(release, &text)?, tests: Vec::new(), lost: 0 })
    }

    /// Boots `kernel` and runs everything there.
    pub fn boot(&self, kernel: Kernel) -> Result<Run> {
        let image = image::image(kernel)?;
        let place = self.folder.join(kernel.name);
        let archive = self.pack(kernel, &place)?;
        let (console, results) = (place.join("console.txt"), place.join("results.txt"));
        let mut text = String::new();
        for _ in 0..BOOTS {
            emulate(&image, &archive, &console, &results)?;
            text = String::from_utf8_lossy(&fs::read(&results)?).replace('\r', "");
            if text.contains("@release ") {
                break;
            }
        }
        let release = text.lines().find_map(|line| line.strip_prefix("@release "));
        let complete = text.lines().any(|line| line == "@complete");
        let (Some(release), true) = (release, complete) else {
            bail!("the kernel stopped before everything had run; its console is in {}", console.display());
        };
        let (tests, lost) = tests_of(&text);
        let wanted = kernel.tests && !self.tests.is_empty();
        ensure!(!wanted || !tests.is_empty(), "no test ran; the console is in {}", console.display());
        Ok(Run { outcome: Outcome::read(release.to_owned(), &text)?, tests, lost })
    }

    /// An initramfs with busybox, what is to be run, its libraries, and an init.
    fn pack(&self, kernel: Kernel, place: &Path) -> Result<PathBuf> {
        let root = place.join("root");
        let _ = fs::remove_dir_all(&root);
        for folder in ["bin", "proc", "sys", "dev", "run", "tmp", "tests"] {
            fs::create_dir_all(root.join(folder))?;
        }
        fs::copy("/bin/busybox", root.join("bin/busybox")).context("package busybox-static")?;
        let mut programs = vec![
            (self.features.as_path(), root.join("features")),
            (self.alize.as_path(), root.join("bin/alize")),
        ];
        // What `alize programs --dump` reads instructions with, and who speaks TLS.
        let tools = TOOLS.map(|name| Ok((tool(name)?, root.join("bin").join(name))));
        let tools: Vec<_> = tools.into_iter().collect::<Result<_>>()?;
        programs.extend(tools.iter().map(|(path, copy)| (path.as_path(), copy.clone())));
        fs::create_dir_all(root.join("objects"))?;
        for entry in fs::read_dir(&self.objects)? {
            let path = entry?.path();
            fs::copy(&path, root.join("objects").join(path.file_name().context("an object has a name")?))?;
        }
        let tests = if kernel.tests { self.tests.as_slice() } else { &[] };
        for test in tests {
            let name = test.file_name().context("a test program has a name")?;
            programs.push((test, root.join("tests").join(name)));
        }
        let mut libraries = BTreeSet::new();
        for (program, copy) in programs {
            output(Command::new("strip").arg("-g").arg("-o").arg(&copy).arg(program))
                .context("package binutils")?;
            let listing = output(Command::new("ldd").arg(program))?;
            libraries
                .extend(listing.split_whitespace().filter(|word| word.starts_with('/')).map(PathBuf::from));
        }
        for library in libraries {
            let copy = root.join(library.strip_prefix("/")?);
            fs::create_dir_all(copy.parent().context("a library has a folder")?)?;
            fs::copy(&library, copy)?;
        }
        let init = root.join("init");
        let skipped = NOT_THERE.map(|(name, _)| format!("--skip {name}")).join(" ");
        fs::write(&init, INIT.replace("SKIPPED", &skipped))?;
        fs::set_permissions(&init, fs::Permissions::from_mode(0o755))?;
        let archive = place.join("initramfs.cpio");
        let names = output(Command::new("find").arg(".").current_dir(&root))?;
        let mut cpio = Command::new("cpio")
            .args(["--create", "--format=newc", "--quiet"])
            .current_dir(&root)
            .stdin(Stdio::piped())
            .stdout(fs::File::create(&archive)?)
            .spawn()
            .context("package cpio")?;
        cpio.stdin.take().context("cpio's input")?.write_all(names.as_bytes())?;
        ensure!(cpio.wait()?.success(), "cpio failed");
        let _ = fs::remove_dir_all(&root);
        Ok(archive)
    }
}

/// Stands before what was found of the newest clang's programs.
pub(super) const NEWEST: &str = "@newest";

/// Results go to a serial line of their own, into which no message of the kernel can fall; nor one of libbpf, which speaks
/// on standard error in the middle of a test's line.
const INIT: &str = r#"#!/bin/busybox sh
/bin/busybox --install -s /bin
mount -t proc proc /proc; mount -t sysfs sys /sys; mount -t devtmpfs dev /dev
mount -t securityfs security /sys/kernel/security
mount -t cgroup2 cgroup /sys/fs/cgroup; mount -t bpf bpf /sys/fs/bpf; mount -t tmpfs tmp /tmp
ip link set lo up
stty -F /dev/ttyS1 raw -echo
echo "@release $(uname -r)" >/dev/ttyS1
/features >/dev/ttyS1 </dev/null
echo "@newest" >/dev/ttyS1
/features /objects >/dev/ttyS1 </dev/null
for test in /tests/*; do
    [ -x $test ] && $test --test-threads=1 --exact SKIPPED 2>/dev/console </dev/null | tee /dev/console | grep -E '^(test .* \.\.\. |running [0-9]+ test)' >/dev/ttyS1
done
echo "@complete" >/dev/ttyS1
poweroff -f
"#;

/// One CPU: with two, QEMU 7.2 emulates Linux 6.12 so badly that it may not even boot. TCG, since KVM is not everywhere, and
/// hangs on some machines that offer it.
fn emulate(image: &Path, archive: &Path, console: &Path, results: &Path) -> Result<()> {
    let machine = ["-accel", "tcg", "-cpu", "max", "-smp", "1", "-m", "1024", "-display", "none"];
    // The hook of security modules runs no program unless `bpf` is among them. On a busy machine the emulated timer may seem
    // broken when the kernel checks it, which would be a panic.
    let line = "console=ttyS0 quiet panic=-1 loglevel=4 no_timer_check lsm=lockdown,yama,bpf";
    let mut child = Command::new("qemu-system-x86_64")
        .args(machine)
        .args(["-no-reboot", "-nodefaults", "-append", line])
        .arg("-serial")
        .arg(format!("file:{}", console.display()))
        .arg("-serial")
        .arg(format!("file:{}", results.display()))
        .arg("-kernel")
        .arg(image)
        .arg("-initrd")
        .arg(archive)
        .stdin(Stdio::null())
        .spawn()
        .context("package qemu-system-x86")?;
    let end = Instant::now() + TIME_LIMIT;
    loop {
        if let Some(status) = child.try_wait()? {
            ensure!(status.success(), "QEMU ended with {status}; the console is in {}", console.display());
            return Ok(());
        }
        if Instant::now() > end {
            child.kill()?;
            child.wait()?;
            bail!("not done after {} s; the console is in {}", TIME_LIMIT.as_secs(), console.display());
        }
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// Tests that ended, and how many did not.
fn tests_of(text: &str) -> (Vec<(String, bool)>, usize) {
    let begun = text
        .lines()
        .filter_map(|line| line.strip_prefix("running ")?.split(' ').next()?.parse::<usize>().ok());
    let begun: usize = begun.sum();
    let test = |line: &str| {
        let (name, result) = line.strip_prefix("test ")?.split_once(" ... ")?;
        matches!(result, "ok" | "FAILED").then(|| (name.to_owned(), result == "ok"))
    };
    let tests: Vec<_> = text.lines().filter_map(test).collect();
    let lost = begun.saturating_sub(tests.len());
    (tests, lost)
}

/// Where a program is that `script/setup kernels test` installs.
fn tool(name: &str) -> Result<PathBuf> {
    let folders = std::env::var_os("PATH").context("PATH is not set")?;
    // Debian keeps bpftool where only root looks.
    let folders = std::env::split_paths(&folders).chain(["/usr/sbin".into()]);
    let found = folders.map(|folder| folder.join(name)).find(|path| path.is_file());
    found.with_context(|| format!("{name} is not installed: run script/setup test kernels"))
}

/// Executables that cargo makes, and the folder it makes them in.
fn built(arguments: &[&str]) -> Result<(Vec<PathBuf>, PathBuf)> {
    let mut child = Command::new("cargo")
        .args(arguments)
        .args(["--quiet", "--message-format=json"])
        .current_dir(super::repository())
        .stdout(Stdio::piped())
        .spawn()
        .context("cargo")?;
    let mut programs = Vec::new();
    for line in BufReader::new(child.stdout.take().context("cargo's output")?).lines() {
        let message: serde_json::Value = serde_json::from_str(&line?)?;
        if let Some(path) = message["executable"].as_str() {
            programs.push(PathBuf::from(path));
        }
    }
    ensure!(child.wait()?.success(), "cargo {} failed", arguments.join(" "));
    let metadata = output(Command::new("cargo").args(["metadata", "--format-version=1", "--no-deps"]))?;
    let metadata: serde_json::Value = serde_json::from_str(&metadata).context("cargo metadata")?;
    let folder = metadata["target_directory"].as_str().context("cargo metadata names no target folder")?;
    Ok((programs, folder.into()))
}

pub(super) fn output(command: &mut Command) -> Result<String> {
    let output = command.output().with_context(|| format!("cannot start {command:?}"))?;
    let errors = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{command:?} failed: {}", errors.trim());
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tests_that_do_not_end_are_missed() {
        let text =
            "running 2 tests\ntest a ... ok\ntest b ... FAILED\n@x\nrunning 1 test\ntest c ... libbpf: no\n";
        let (tests, lost) = tests_of(text);
        assert_eq!(tests, [("a".to_owned(), true), ("b".to_owned(), false)]);
        assert_eq!(lost, 1);
        assert_eq!(tests_of(""), (Vec::new(), 0));
    }
}
