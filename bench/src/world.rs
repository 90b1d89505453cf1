//! Private ground: a folder, cgroups and network namespaces. The host's own tables, addresses and cgroups are left
//! alone, and all of it goes when the bench goes.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::process::{Kept, run};

/// Begins the name of everything the bench makes, followed by its process number.
const PREFIX: &str = "alize-bench-";

/// A folder for files and a cgroup for cgroups; both are removed when dropped.
pub(crate) struct Ground {
    name: String,
    folder: PathBuf,
    cgroup: PathBuf,
}

impl Ground {
    pub(crate) fn new() -> Result<Self> {
        let name = format!("{PREFIX}{}", std::process::id());
        let cgroups =
            cgroup2().context("no cgroup v2 is mounted; mount one: mount -t cgroup2 none /sys/fs/cgroup")?;
        remove_leftovers(&cgroups);
        let ground = Self { folder: std::env::temp_dir().join(&name), cgroup: cgroups.join(&name), name };
        for path in [&ground.folder, &ground.cgroup] {
            fs::create_dir(path).with_context(|| format!("cannot make {}", path.display()))?;
        }
        Ok(ground)
    }

    /// Also the beginning of the names of Alizé's instances.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    /// Writes a file into the folder.
    pub(crate) fn file(&self, name: &str, content: &str) -> Result<PathBuf> {
        let path = self.folder.join(name);
        let mut file = fs::File::create(&path).with_context(|| format!("cannot write {}", path.display()))?;
        file.write_all(content.as_bytes())?;
        Ok(path)
    }

    pub(crate) fn cgroup(&self, name: &str) -> Result<PathBuf> {
        let path = self.cgroup.join(name);
        fs::create_dir_all(&path).with_context(|| format!("cannot make cgroup {}", path.display()))?;
        Ok(path)
    }
}

impl Drop for Ground {
    fn drop(&mut self) {
        remove_cgroup(&self.cgroup);
        let _ = fs::remove_dir_all(&self.folder);
    }
}

/// What a bench left that was killed: named by its process, which is no more.
fn remove_leftovers(cgroups: &Path) {
    for parent in [cgroups, &std::env::temp_dir()] {
        for entry in fs::read_dir(parent).into_iter().flatten().flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            if !left_over(&name) {
                continue;
            }
            if parent == cgroups {
                remove_cgroup(&entry.path());
            } else {
                let _ = fs::remove_dir_all(entry.path());
            }
        }
    }
}

/// Whether something of that name was made by a bench that is no more.
pub(crate) fn left_over(name: &str) -> bool {
    let Some(rest) = name.strip_prefix(PREFIX) else { return false };
    let pid = rest.split('-').next().and_then(|pid| pid.parse::<u32>().ok());
    pid.is_some_and(|pid| !Path::new(&format!("/proc/{pid}")).exists())
}

/// Ends what still runs in it: a proxy outlives its agent by design. Processes take a moment to leave a cgroup after
/// they have ended.
fn remove_cgroup(path: &Path) {
    for child in fs::read_dir(path).into_iter().flatten().flatten().filter(|entry| entry.path().is_dir()) {
        remove_cgroup(&child.path());
    }
    let _ = fs::write(path.join("cgroup.kill"), "1");
    let deadline = Instant::now() + Duration::from_secs(2);
    while fs::remove_dir(path).is_err() && path.exists() && Instant::now() < deadline {
        thread::sleep(Duration::from_millis(5));
    }
}

/// Mount point of cgroup v2.
fn cgroup2() -> Option<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mounts").ok()?;
    mounts.lines().find_map(|line| {
        let mut words = line.split(' ');
        let (_, place, kind) = (words.next()?, words.next()?, words.next()?);
        (kind == "cgroup2").then(|| PathBuf::from(place))
    })
}

/// A command inside the network namespace of a process.
pub(crate) fn inside(pid: u32, program: &str) -> Command {
    let mut command = Command::new("nsenter");
    command.arg(format!("--net=/proc/{pid}/ns/net")).arg("--").arg(program);
    command
}

/// Starts in a network namespace of its own, which lives as long as the process.
pub(crate) fn apart(program: &Path) -> Command {
    let mut command = Command::new("unshare");
    command.arg("--net").arg("--").arg(program);
    command
}

pub(crate) fn await_namespace(pid: u32) -> Result<()> {
    let own = fs::read_link("/proc/self/ns/net")?;
    let deadline = Instant::now() + Duration::from_secs(5);
    while Instant::now() < deadline {
        if fs::read_link(format!("/proc/{pid}/ns/net")).is_ok_and(|its| its != own) {
            return Ok(());
        }
        thread::sleep(Duration::from_millis(1));
    }
    bail!("process {pid} made no network namespace of its own; may this user call unshare?")
}

/// `ip`, with one command a line, in the namespace of a process.
pub(crate) fn configure(ground: &Ground, pid: u32, commands: &str) -> Result<()> {
    let batch = ground.file(&format!("ip-{pid}"), commands)?;
    run(inside(pid, "ip").arg("-batch").arg(&batch), None).map(|_| ())
}

/// A network namespace with nothing in it.
pub(crate) struct Apart {
    // `cat` holds the namespace and ends when the bench ends, for then its input ends.
    holder: Kept,
}

impl Apart {
    pub(crate) fn new(ground: &Ground, name: &str) -> Result<Self> {
        let holder = Kept::start(&mut apart(Path::new("cat")), &ground.folder().join(format!("{name}.log")))?;
        await_namespace(holder.pid())?;
        Ok(Self { holder })
    }

    pub(crate) fn pid(&self) -> u32 {
        self.holder.pid()
    }
}
