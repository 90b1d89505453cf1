//! What a slice of load costs: CPU time of the machine and of each process, context switches, bytes through IP, memory.

use std::collections::BTreeMap;
use std::fs;
use std::time::Instant;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

/// The kernel counts /proc/stat in hundredths of a second, on every architecture that Alizé runs on.
const TICKS: f64 = 100.0;

/// Processes by what they are in the world.
pub(crate) type Roles = BTreeMap<String, Vec<u32>>;

/// Counters at one moment.
#[derive(Clone, Debug)]
pub(crate) struct Sample {
    at: Instant,
    /// Seconds that CPUs were not idle, soft interrupts and kernel threads included.
    busy: f64,
    switches: u64,
    /// Seconds and context switches, by role.
    roles: BTreeMap<String, (f64, u64)>,
    kernel_threads: f64,
    /// Bytes sent through the IP stack of the given namespaces.
    octets: u64,
}

/// Between two samples.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Spent {
    pub(crate) seconds: f64,
    /// CPU seconds of the whole machine.
    pub(crate) machine: f64,
    /// CPU seconds by role; `kernel threads` are those of the whole machine.
    pub(crate) roles: BTreeMap<String, f64>,
    /// Context switches of the machine, and of the processes of the world.
    pub(crate) switches: u64,
    pub(crate) own_switches: u64,
    pub(crate) octets: u64,
}

impl Sample {
    /// `namespaces` are processes in those whose IP stacks count.
    pub(crate) fn take(roles: &Roles, namespaces: &[u32], kernel_threads: &[u32]) -> Result<Self> {
        let stat = fs::read_to_string("/proc/stat").context("cannot read /proc/stat")?;
        let of_role = |pids: &Vec<u32>| {
            let all = pids.iter().map(|pid| threads(*pid));
            all.fold((0.0, 0), |(time, switches), (more, others)| (time + more, switches + others))
        };
        Ok(Self {
            at: Instant::now(),
            busy: busy(&stat).context("/proc/stat has no line of all CPUs")?,
            switches: field(&stat, "ctxt").unwrap_or(0),
            roles: roles.iter().map(|(role, pids)| (role.clone(), of_role(pids))).collect(),
            kernel_threads: kernel_threads.iter().map(|pid| on_cpu(&format!("/proc/{pid}/schedstat"))).sum(),
            octets: namespaces.iter().map(|pid| out_octets(*pid)).sum(),
        })
    }

    pub(crate) fn until(&self, later: &Sample) -> Spent {
        let mut roles = BTreeMap::new();
        let mut own_switches = 0;
        for (role, (time, switches)) in &later.roles {
            let (before, switches_before) = self.roles.get(role).copied().unwrap_or_default();
            roles.insert(role.clone(), (time - before).max(0.0));
            own_switches += switches.saturating_sub(switches_before);
        }
        roles.insert("kernel threads".into(), (later.kernel_threads - self.kernel_threads).max(0.0));
        Spent {
            seconds: later.at.duration_since(self.at).as_secs_f64(),
            machine: (later.busy - self.busy).max(0.0),
            roles,
            switches: later.switches.saturating_sub(self.switches),
            own_switches,
            octets: later.octets.saturating_sub(self.octets),
        }
    }
}

/// All but idle and waiting for disks; what a hypervisor took is not ours.
fn busy(stat: &str) -> Option<f64> {
    let line = stat.lines().find(|line| line.starts_with("cpu "))?;
    let ticks: Vec<f64> = line.split_whitespace().skip(1).filter_map(|word| word.parse().ok()).collect();
    let at = |place: usize| ticks.get(place).copied().unwrap_or(0.0);
    // user, nice, system, idle, iowait, irq, softirq, steal
    Some((at(0) + at(1) + at(2) + at(5) + at(6)) / TICKS)
}

fn field(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find(|line| line.split_whitespace().next() == Some(name))?;
    line.split_whitespace().nth(1)?.parse().ok()
}

/// Seconds on CPUs and context switches of all threads of a process.
fn threads(pid: u32) -> (f64, u64) {
    let (mut time, mut switches) = (0.0, 0);
    for task in fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten() {
        let path = task.path();
        time += on_cpu(&path.join("schedstat").to_string_lossy());
        let status = fs::read_to_string(path.join("status")).unwrap_or_default();
        switches += field(&status, "voluntary_ctxt_switches:").unwrap_or(0);
        switches += field(&status, "nonvoluntary_ctxt_switches:").unwrap_or(0);
    }
    (time, switches)
}

/// From the scheduler, in nanoseconds; the ticks of /proc/PID/stat are too coarse.
fn on_cpu(path: &str) -> f64 {
    let text = fs::read_to_string(path).unwrap_or_default();
    text.split_whitespace().next().and_then(|word| word.parse::<f64>().ok()).unwrap_or(0.0) / 1e9
}

fn out_octets(pid: u32) -> u64 {
    let text = fs::read_to_string(format!("/proc/{pid}/net/netstat")).unwrap_or_default();
    let mut lines = text.lines().filter(|line| line.starts_with("IpExt:"));
    let (Some(names), Some(values)) = (lines.next(), lines.next()) else { return 0 };
    let mut pairs = names.split_whitespace().zip(values.split_whitespace());
    pairs.find(|(name, _)| *name == "OutOctets").and_then(|(_, value)| value.parse().ok()).unwrap_or(0)
}

/// Threads of the kernel: children of kthreadd, which is process 2 of every machine.
pub(crate) fn kernel_threads() -> Vec<u32> {
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = processes.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    pids.filter(|pid| parent(*pid) == Some(2)).collect()
}

fn parent(pid: u32) -> Option<u32> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    field(&status, "PPid:").and_then(|parent| parent.try_into().ok())
}

/// A process and all that descend from it.
pub(crate) fn family(pid: u32) -> Vec<u32> {
    let mut all = vec![pid];
    let mut place = 0;
    while let Some(one) = all.get(place).copied() {
        for task in fs::read_dir(format!("/proc/{one}/task")).into_iter().flatten().flatten() {
            let children = fs::read_to_string(task.path().join("children")).unwrap_or_default();
            all.extend(children.split_whitespace().filter_map(|word| word.parse::<u32>().ok()));
        }
        place += 1;
    }
    all
}

/// Bytes of memory that a process holds, what it shares taken in proportion.
pub(crate) fn proportional_memory(pid: u32) -> u64 {
    let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap_or_default();
    field(&text, "Pss:").unwrap_or(0) * 1024
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn soft_interrupts_are_work_and_waiting_is_not() {
        let stat = "cpu  100 10 200 9999 777 5 25 400 0 0\ncpu0 1 1 1 1 1 1 1 1\nctxt 42\n";
        assert_eq!(busy(stat), Some(3.4));
        assert_eq!(field(stat, "ctxt"), Some(42));
    }

    #[test]
    fn what_a_process_does_is_seen() {
        let own = std::process::id();
        let roles = Roles::from([("own".to_owned(), vec![own])]);
        let before = Sample::take(&roles, &[own], &[]).unwrap();
        let start = Instant::now();
        while start.elapsed().as_millis() < 150 {
            std::hint::black_box((0..1_000).sum::<u64>());
        }
        let spent = before.until(&Sample::take(&roles, &[own], &[]).unwrap());
        assert!(spent.roles["own"] > 0.01, "{spent:?}");
        assert!(spent.machine > 0.0 && spent.seconds >= 0.15, "{spent:?}");
        assert!(proportional_memory(own) > 100_000);
    }

    #[test]
    fn a_family_has_children_and_their_children() {
        let mut child = std::process::Command::new("sh").args(["-c", "sleep 5 & wait"]).spawn().unwrap();
        std::thread::sleep(std::time::Duration::from_millis(300));
        let all = family(child.id());
        let _ = std::process::Command::new("kill").args(all.iter().rev().map(u32::to_string)).status();
        let _ = child.wait();
        assert_eq!(all.len(), 2, "{all:?}");
    }

    #[test]
    fn kernel_threads_are_none_of_ours() {
        let threads = kernel_threads();
        // In a container there may be none.
        assert!(threads.iter().all(|pid| fs::read(format!("/proc/{pid}/exe")).is_err()), "{threads:?}");
        assert!(!threads.contains(&std::process::id()));
    }
}
