//! Runs the kernel tests of the data path under other kernels: `alize-kernels [--list] [KERNEL...]`.
//!
//! Each kernel of [`KERNELS`] comes as a Debian package from the machine's own mirror, is booted by QEMU in software
//! emulation with an initramfs made here, and runs the very test programs that `cargo test` runs on the host. Nothing is
//! skipped: a kernel that cannot be had or does not come up is a failure. Timing means nothing under emulation.

use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

/// One line a kernel: name, Debian suite. Adding a kernel is adding a line.
const KERNELS: &[(&str, &str)] = &[("6.1", "bookworm"), ("6.12", "trixie")];

/// Boot and all tests of one kernel; boot alone takes about 4 s.
const TIME_LIMIT: Duration = Duration::from_secs(600);

fn main() -> ExitCode {
    match run(std::env::args().skip(1).collect()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: Vec<String>) -> Result<bool> {
    if arguments.iter().any(|a| a == "--list") {
        KERNELS.iter().for_each(|(name, suite)| eprintln!("{name}\t(Debian {suite})"));
        return Ok(true);
    }
    let mut wanted = Vec::new();
    for kernel in KERNELS {
        if arguments.is_empty() || arguments.iter().any(|a| a == kernel.0) {
            wanted.push(*kernel);
        }
    }
    ensure!(!wanted.is_empty(), "no kernel is called {}; --list shows them", arguments.join(", "));

    let cache = target_folder()?.join("kernels");
    fs::create_dir_all(&cache)?;
    let tests = test_programs()?;
    let initramfs = cache.join("initramfs.cpio");
    pack(&tests, &cache.join("root"), &initramfs)?;

    let mut passed = 0;
    let mut failed = 0;
    for (name, suite) in wanted {
        let image = kernel_image(name, suite, &cache).with_context(|| format!("kernel {name}"))?;
        let report = boot(&image, &initramfs).with_context(|| format!("kernel {name}"))?;
        eprintln!("kernel {} ({name}, Debian {suite})", report.release);
        report.lines.iter().for_each(|line| eprintln!("    {line}"));
        passed += report.passed;
        failed += report.failed;
        if !report.complete || report.passed == 0 {
            eprintln!(
                "    the kernel stopped before all tests had run; its console is in {}",
                console(&image).display()
            );
            failed += 1;
        }
    }
    eprintln!("kernels: {passed} passed, {failed} failed");
    Ok(failed == 0)
}

fn target_folder() -> Result<PathBuf> {
    let output = Command::new("cargo").args(["metadata", "--format-version=1", "--no-deps"]).output()?;
    let metadata: serde_json::Value = serde_json::from_slice(&output.stdout).context("cargo metadata")?;
    Ok(metadata["target_directory"].as_str().context("cargo metadata names no target folder")?.into())
}

/// The tests of balancing with real sockets and of the doctor, built as `cargo test` builds them. The others need bpftool
/// or a real clock.
fn test_programs() -> Result<Vec<PathBuf>> {
    let mut child = Command::new("cargo")
        .args([
            "test",
            "--no-run",
            "--message-format=json",
            "-p",
            "alize-datapath",
            "--test",
            "connections",
            "--test",
            "doctor",
        ])
        .stdout(Stdio::piped())
        .spawn()
        .context("cargo test --no-run")?;
    let mut programs = Vec::new();
    for line in BufReader::new(child.stdout.take().context("cargo's output")?).lines() {
        let message: serde_json::Value = serde_json::from_str(&line?)?;
        let is_test = message["target"]["kind"][0] == "test" && message["profile"]["test"] == true;
        if let (true, Some(path)) = (is_test, message["executable"].as_str()) {
            programs.push(PathBuf::from(path));
        }
    }
    ensure!(child.wait()?.success(), "the kernel tests do not build");
    ensure!(!programs.is_empty(), "alize-datapath has no test programs");
    Ok(programs)
}

/// Downloads and unpacks Debian's cloud kernel of `suite` by an apt with lists of its own, so that the machine's stay.
fn kernel_image(name: &str, suite: &str, cache: &Path) -> Result<PathBuf> {
    let folder = cache.join(name);
    if let Some(image) = find_image(&folder) {
        return Ok(image);
    }
    fs::create_dir_all(folder.join("lists/partial"))?;
    fs::create_dir_all(folder.join("cache/archives/partial"))?;
    let list = folder.join("sources.list");
    let line = format!(
        "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] {} {suite} main\n",
        mirror()?
    );
    fs::write(&list, line)?;
    let option = |key: &str, path: &Path| format!("-o{key}={}", path.display());
    let options = [
        option("Dir::Etc::SourceList", &list),
        option("Dir::State::Lists", &folder.join("lists")),
        option("Dir::Cache", &folder.join("cache")),
        "-oDir::Etc::SourceParts=/dev/null".into(),
        "-oAPT::Sandbox::User=root".into(),
    ];
    output(Command::new("apt-get").args(&options).args(["update", "-qq"])).context("is there a network?")?;
    let depends =
        output(Command::new("apt-cache").args(&options).args(["depends", "linux-image-cloud-amd64"]))?;
    let package = depends
        .lines()
        .find_map(|line| line.trim().strip_prefix("Depends: linux-image-"))
        .with_context(|| format!("suite {suite} has no cloud kernel"))?;
    let package = format!("linux-image-{package}");
    output(Command::new("apt-get").args(&options).args(["download", "-qq", &package]).current_dir(&folder))?;
    for entry in fs::read_dir(&folder)? {
        let path = entry?.path();
        if path.extension().is_some_and(|e| e == "deb") {
            output(Command::new("dpkg-deb").arg("-x").arg(&path).arg(folder.join("unpacked")))?;
            fs::remove_file(&path)?;
        }
    }
    // Modules are not needed and fill the cache.
    let _ = fs::remove_dir_all(folder.join("unpacked/lib"));
    find_image(&folder).with_context(|| format!("package {package} holds no kernel"))
}

fn find_image(folder: &Path) -> Option<PathBuf> {
    let entries = fs::read_dir(folder.join("unpacked/boot")).ok()?;
    entries.flatten().map(|e| e.path()).find(|p| p.to_string_lossy().contains("/vmlinuz-"))
}

/// The mirror that the machine itself uses.
fn mirror() -> Result<String> {
    let mut files = vec![PathBuf::from("/etc/apt/sources.list")];
    if let Ok(entries) = fs::read_dir("/etc/apt/sources.list.d") {
        files.extend(entries.flatten().map(|e| e.path()));
    }
    files.sort();
    files
        .iter()
        .filter_map(|file| fs::read_to_string(file).ok())
        .flat_map(|text| text.split_whitespace().map(str::to_owned).collect::<Vec<_>>())
        .find(|word| word.contains("://") && word.trim_end_matches('/').ends_with("/debian"))
        .context("no Debian mirror in /etc/apt/sources.list or sources.list.d")
}

/// An initramfs with busybox, the test programs, their libraries, and an init that runs them.
fn pack(tests: &[PathBuf], root: &Path, archive: &Path) -> Result<()> {
    let _ = fs::remove_dir_all(root);
    for folder in ["bin", "proc", "sys", "dev", "run", "tmp", "tests"] {
        fs::create_dir_all(root.join(folder))?;
    }
    fs::copy("/bin/busybox", root.join("bin/busybox")).context("package busybox-static")?;
    let mut libraries = BTreeSet::new();
    for test in tests {
        let name = test.file_name().context("a test program has a name")?;
        fs::copy(test, root.join("tests").join(name))?;
        let listing = output(Command::new("ldd").arg(test))?;
        libraries.extend(listing.split_whitespace().filter(|w| w.starts_with('/')).map(PathBuf::from));
    }
    for library in libraries {
        let place = root.join(library.strip_prefix("/")?);
        fs::create_dir_all(place.parent().context("a library has a folder")?)?;
        fs::copy(&library, place)?;
    }
    let init = root.join("init");
    fs::write(&init, INIT)?;
    fs::set_permissions(&init, fs::Permissions::from_mode(0o755))?;

    let names = output(Command::new("find").arg(".").current_dir(root))?;
    let mut cpio = Command::new("cpio")
        .args(["--create", "--format=newc", "--quiet"])
        .current_dir(root)
        .stdin(Stdio::piped())
        .stdout(fs::File::create(archive)?)
        .spawn()
        .context("package cpio")?;
    cpio.stdin.take().context("cpio's input")?.write_all(names.as_bytes())?;
    ensure!(cpio.wait()?.success(), "cpio failed");
    Ok(())
}

/// Lines that begin with `@` are for [`boot`].
const INIT: &str = r#"#!/bin/busybox sh
/bin/busybox --install -s /bin
mount -t proc proc /proc; mount -t sysfs sys /sys; mount -t devtmpfs dev /dev
mount -t cgroup2 cgroup /sys/fs/cgroup; mount -t bpf bpf /sys/fs/bpf; mount -t tmpfs tmp /tmp
ip link set lo up
echo "@release $(uname -r)"
for test in /tests/*; do
    $test --test-threads=1 2>&1 </dev/null
done
echo "@complete"
poweroff -f
"#;

#[derive(Default)]
struct Report {
    release: String,
    lines: Vec<String>,
    passed: u32,
    failed: u32,
    complete: bool,
}

fn console(image: &Path) -> PathBuf {
    image.with_extension("console.txt")
}

/// One CPU: with two, QEMU 7.2 emulates Linux 6.12 so badly that it may not even boot.
fn boot(image: &Path, initramfs: &Path) -> Result<Report> {
    let mut child = Command::new("qemu-system-x86_64")
        .args([
            "-accel",
            "tcg",
            "-cpu",
            "max",
            "-smp",
            "1",
            "-m",
            "1024",
            "-nographic",
            "-no-reboot",
            "-nodefaults",
        ])
        .args(["-serial", "stdio", "-append", "console=ttyS0 quiet panic=-1 loglevel=4"])
        .arg("-kernel")
        .arg(image)
        .arg("-initrd")
        .arg(initramfs)
        .stdin(Stdio::null())
        .stdout(fs::File::create(console(image))?)
        .spawn()
        .context("package qemu-system-x86")?;
    let end = Instant::now() + TIME_LIMIT;
    while child.try_wait()?.is_none() {
        if Instant::now() > end {
            child.kill()?;
            child.wait()?;
            bail!(
                "not done after {} s; its console is in {}",
                TIME_LIMIT.as_secs(),
                console(image).display()
            );
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    let text = fs::read(console(image))?;
    Ok(read_console(&String::from_utf8_lossy(&text)))
}

fn read_console(text: &str) -> Report {
    let mut report = Report::default();
    for line in text.lines().map(str::trim) {
        // The firmware leaves control characters before the first line.
        if let Some((_, release)) = line.split_once("@release ") {
            report.release = release.to_owned();
        } else if line == "@complete" {
            report.complete = true;
        } else if line.starts_with("test ") && line.contains(" ... ") {
            report.passed += u32::from(line.ends_with("ok"));
            report.failed += u32::from(line.ends_with("FAILED"));
            report.lines.push(line.to_owned());
        }
    }
    report
}

fn output(command: &mut Command) -> Result<String> {
    let output = command.output().with_context(|| format!("cannot start {command:?}"))?;
    let errors = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{command:?} failed: {}", errors.trim());
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
