//! Where processes run: namespace, cgroup, CPUs.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use anyhow::{Context, Result};
use rustix::process::{Resource, Rlimit};
use rustix::thread::CpuSet;
use serde::{Deserialize, Serialize};

use crate::process::Kept;
use crate::world::{Apart, Ground, configure};

/// The address that clients of a mesh dial; no machine owns it.
pub(crate) const SERVICE: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(10, 96, 0, 10), 80);
/// The client's and the server's end of the link, the same in every world.
pub(crate) const CLIENT: Ipv4Addr = Ipv4Addr::new(10, 210, 0, 1);
pub(crate) const SERVER: Ipv4Addr = Ipv4Addr::new(10, 210, 0, 2);

/// Which CPUs all that is measured may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum View {
    /// Client, server and all between them share one CPU: throughput is the inverse of all work done for a request.
    OneCpu(usize),
    /// Nothing is pinned: as many threads as there are CPUs.
    AllCpus,
}

impl View {
    pub(crate) fn label(self) -> String {
        match self {
            View::OneCpu(cpu) => format!("client, server and proxies on CPU {cpu}"),
            View::AllCpus => "nothing pinned".into(),
        }
    }

    /// Threads of servers and proxies.
    pub(crate) fn threads(self) -> usize {
        match self {
            View::OneCpu(_) => 1,
            View::AllCpus => usable().map_or(1, |all| all.len()),
        }
    }

    /// Runs `what`, whose children stay on the CPUs of the view.
    pub(crate) fn within<T>(self, what: impl FnOnce() -> Result<T>) -> Result<T> {
        let wanted = match self {
            View::OneCpu(cpu) => {
                let mut one = CpuSet::new();
                one.set(cpu);
                one
            }
            View::AllCpus => allowed()?,
        };
        let before = rustix::thread::sched_getaffinity(None)?;
        rustix::thread::sched_setaffinity(None, &wanted).context("cannot choose CPUs")?;
        let done = what();
        rustix::thread::sched_setaffinity(None, &before)?;
        done
    }
}

/// The CPUs that this process had when it was first asked; later the bench itself keeps off one of them.
fn allowed() -> Result<CpuSet> {
    static ALLOWED: OnceLock<CpuSet> = OnceLock::new();
    if let Some(known) = ALLOWED.get() {
        return Ok(*known);
    }
    let found = rustix::thread::sched_getaffinity(None).context("cannot ask which CPUs may be used")?;
    Ok(*ALLOWED.get_or_init(|| found))
}

/// Numbers of the CPUs that may be used, ascending.
pub(crate) fn usable() -> Result<Vec<usize>> {
    let allowed = allowed()?;
    Ok((0..CpuSet::MAX_CPU).filter(|cpu| allowed.is_set(*cpu)).collect())
}

/// Keeps the bench itself off the CPU that is measured, where there is another.
pub(crate) fn stay_off(cpu: usize) -> Result<()> {
    let mut others = allowed()?;
    others.unset(cpu);
    if others.count() > 0 {
        rustix::thread::sched_setaffinity(None, &others)?;
    }
    Ok(())
}

/// A thousand connections through a proxy need more than the usual 1,024 open files: as many as the machine allows, up to
/// 65,536.
pub(crate) fn allow_many_files() {
    let limit = rustix::process::getrlimit(Resource::Nofile);
    let most = std::fs::read_to_string("/proc/sys/fs/nr_open").ok().and_then(|text| text.trim().parse().ok());
    let wanted = Some(most.unwrap_or(1_024).min(65_536).max(limit.maximum.unwrap_or(0)));
    if rustix::process::setrlimit(Resource::Nofile, Rlimit { current: wanted, maximum: wanted }).is_err() {
        let _ = rustix::process::setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit });
    }
}

/// How many files a process of a world may have open.
pub(crate) fn open_files() -> u64 {
    rustix::process::getrlimit(Resource::Nofile).current.unwrap_or(65_536)
}

/// How to start a process of a world.
pub(crate) struct Start<'a> {
    /// In the network namespace of that process.
    pub(crate) namespace: Option<u32>,
    pub(crate) cgroup: Option<&'a Path>,
    pub(crate) user: Option<u32>,
    /// Ends it when the bench is killed; a program that sees its standard input end needs none.
    pub(crate) signal: bool,
    pub(crate) words: Vec<String>,
}

impl Start<'_> {
    /// Sockets belong to the cgroup in which they are made, so the process enters it before it becomes the program.
    pub(crate) fn start(self, log: &Path) -> Result<Kept> {
        let mut command = Command::new("sh");
        let enter = match self.cgroup {
            Some(cgroup) => format!("echo $$ > {}/cgroup.procs && ", cgroup.display()),
            None => String::new(),
        };
        command.arg("-c").arg(format!("{enter}exec \"$@\"")).arg("sh");
        if let Some(pid) = self.namespace {
            command.arg("nsenter").arg(format!("--net=/proc/{pid}/ns/net")).arg("--");
        }
        if self.signal || self.user.is_some() {
            command.arg("setpriv");
            if let Some(user) = self.user {
                command.args(["--reuid", &user.to_string(), "--regid", &user.to_string(), "--clear-groups"]);
            }
            if self.signal {
                command.args(["--pdeathsig", "TERM"]);
            }
            command.arg("--");
        }
        Kept::start(command.args(&self.words), log)
    }
}

/// Two namespaces with one link between them.
pub(crate) struct Pair {
    pub(crate) client: Apart,
    pub(crate) server: Apart,
}

impl Pair {
    pub(crate) fn new(ground: &Ground, name: &str) -> Result<Self> {
        let client = Apart::new(ground, &format!("{name}-client-side"))?;
        let server = Apart::new(ground, &format!("{name}-server-side"))?;
        let (here, there) = (client.pid(), server.pid());
        configure(ground, here, &format!("link add eth0 type veth peer name eth0 netns {there}\n"))?;
        // Services are reached by the other side: rules and hooks change the address before anything leaves.
        let end = |own: Ipv4Addr, other: Ipv4Addr| {
            format!(
                "link set lo up\naddress add {own}/24 dev eth0\nlink set eth0 up\nroute add default via {other}\n"
            )
        };
        configure(ground, here, &end(CLIENT, SERVER))?;
        configure(ground, there, &end(SERVER, CLIENT))?;
        Ok(Self { client, server })
    }
}

/// Waits until something listens on a port in the namespace of `pid`.
pub(crate) fn await_listening(pid: u32, port: u16, process: &mut Kept, log: &Path) -> Result<()> {
    let wanted = format!(":{port:04X} ");
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(15);
    while std::time::Instant::now() < deadline {
        crate::process::check_interrupt()?;
        process.check_alive().with_context(|| last_lines(log))?;
        let sockets = std::fs::read_to_string(format!("/proc/{pid}/net/tcp")).unwrap_or_default();
        // Local address, remote address, state: 0A listens.
        let listens = |line: &str| {
            let mut words = line.split_whitespace().skip(1);
            let local = words.next().is_some_and(|word| format!("{word} ").ends_with(&wanted));
            local && words.nth(1) == Some("0A")
        };
        if sockets.lines().any(listens) {
            return Ok(());
        }
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    anyhow::bail!("nothing listens on port {port} after 15 s; {}", last_lines(log))
}

/// What a process said last.
pub(crate) fn last_lines(log: &Path) -> String {
    let text = std::fs::read_to_string(log).unwrap_or_default();
    let lines: Vec<&str> = text.lines().filter(|line| !line.trim().is_empty()).collect();
    match lines.split_at(lines.len().saturating_sub(4)).1 {
        [] => "it said nothing".into(),
        last => format!("it said: {}", last.join(" | ")),
    }
}

/// The program that runs now, and how it is told to play a part of the bench.
#[derive(Clone, Debug)]
pub(crate) struct Own {
    pub(crate) program: PathBuf,
}

impl Own {
    pub(crate) fn find() -> Result<Self> {
        Ok(Self { program: std::env::current_exe().context("cannot find the own program")? })
    }

    /// `alize bench --part NAME …`.
    pub(crate) fn part(&self, name: &str, more: &[String]) -> Vec<String> {
        let mut words =
            vec![self.program.display().to_string(), "bench".into(), "--part".into(), name.into()];
        words.extend_from_slice(more);
        words
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn children_get_the_cpus_of_the_view_wherever_the_bench_itself_keeps() {
        let all = usable().unwrap();
        let last = *all.last().unwrap();
        stay_off(last).unwrap();
        let seen = |view: View| {
            let said = view.within(|| Ok(Command::new("nproc").output()?)).unwrap().stdout;
            String::from_utf8_lossy(&said).trim().parse::<usize>().unwrap()
        };
        assert_eq!(seen(View::OneCpu(last)), 1);
        assert_eq!(seen(View::AllCpus), all.len());
        assert_eq!(View::AllCpus.threads(), all.len());
    }
}
