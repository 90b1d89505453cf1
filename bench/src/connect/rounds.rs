//! Measuring: every subject has one slice of load in each round, in an order drawn anew for each.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::contest::{Contest, Contestant, Field};
use super::layout::ENDPOINTS;
use super::order::{Answer, Order, Targets, Work};
use super::report::{Cell, Slice, Subject, Workload};
use super::sides::Backend;
use super::summary::count;
use crate::process::check_interrupt;
use crate::statistics::Random;

/// Before the measured time of each slice: caches and clocks settle.
const WARM_UP: f64 = 0.02;
/// A slice in which another process held the CPU all the time is taken again, so many times.
const TRIES: usize = 5;

/// The load generator did not get to run.
#[derive(Debug, thiserror::Error)]
#[error("no operation was begun and ended within the slice: something else held the CPU")]
struct Starved;

impl Contest<'_> {
    /// All rounds of all workloads, by the server they need.
    pub(crate) fn measure(&mut self, workloads: &[Workload]) -> Result<Vec<Cell>> {
        let cpu = self.settings.cpu;
        let phases: [(Option<Backend>, &[Workload]); 4] = [
            (Some(Backend::BuiltIn { cpu: Some(cpu), threads: 1 }), &[Workload::Short, Workload::KeepAlive]),
            (Some(Backend::BuiltIn { cpu: None, threads: cpus() }), &[Workload::ShortParallel]),
            (Some(Backend::Nginx { cpu }), &[Workload::KeepAliveNginx]),
            (None, &[Workload::Hook, Workload::HookSocket]),
        ];
        let (mut cells, mut visited) = (Vec::new(), Vec::new());
        for (backend, of_phase) in phases {
            let wanted: Vec<Workload> =
                of_phase.iter().copied().filter(|one| workloads.contains(one)).collect();
            let Some(&first) = wanted.first() else { continue };
            if let Some(Err(error)) = backend.map(|backend| self.server.serve(self.ground, backend)) {
                check_interrupt()?;
                let names: Vec<_> = wanted.iter().map(|workload| workload.label()).collect();
                self.leave_out(names.join("; "), &error);
                continue;
            }
            if !visited.contains(&field(first)) {
                visited.push(field(first));
                self.visit(field(first))?;
            }
            cells.append(&mut self.rounds(&wanted)?);
        }
        Ok(cells)
    }

    /// Nothing that is measured is the first of its kind: counters exist, neighbours are known.
    fn visit(&mut self, field: Field) -> Result<()> {
        let mut failed = Vec::new();
        for one in self.field(field) {
            for &subject in &one.subjects {
                let what = format!("{} with {}", subject.label(), count(one.services));
                eprintln!("first connections: {what}");
                // Endpoints are drawn by chance; after so many visits few are left that have never been.
                let times = if subject == Subject::Alize { 4 * ENDPOINTS } else { 1 };
                let targets = targets(subject, one.services);
                let done = one.client.join(is_meshed(subject)).and_then(|()| {
                    one.client.order(&Order::Visit { targets, udp: field == Field::Udp, times })
                });
                if let Err(error) = done {
                    check_interrupt()?;
                    failed.push((subject, one.services, what, error));
                }
            }
        }
        for (subject, services, what, error) in failed {
            self.leave_out(what, &error);
            let mut of_size = self.field(field).iter_mut().filter(|one| one.services == services);
            if let Some(one) = of_size.find(|one| one.subjects.contains(&subject)) {
                one.subjects.retain(|other| *other != subject);
            }
        }
        Ok(())
    }

    fn rounds(&mut self, workloads: &[Workload]) -> Result<Vec<Cell>> {
        let mut cells = Vec::new();
        for &workload in workloads {
            for one in self.field(field(workload)).iter() {
                for &subject in one.subjects.iter().filter(|subject| takes_part(**subject, workload)) {
                    cells.push(Cell { workload, services: one.services, subject, rounds: Vec::new() });
                }
            }
        }
        let mut order: Vec<usize> = (0..cells.len()).collect();
        let mut random = Random::new(0xbe7c4);
        for round in 1..=self.settings.rounds {
            eprintln!("round {round} of {}: {} slices", self.settings.rounds, cells.len());
            random.shuffle(&mut order);
            for &place in &order {
                let (workload, services, subject) =
                    (cells[place].workload, cells[place].services, cells[place].subject);
                let slice = self.slice(workload, services, subject).with_context(|| {
                    format!("{}, {}, {}", workload.label(), count(services), subject.label())
                })?;
                cells[place].rounds.push(slice);
            }
        }
        Ok(cells)
    }

    fn slice(&mut self, workload: Workload, services: u32, subject: Subject) -> Result<Slice> {
        for _ in 1..TRIES {
            match self.one_slice(workload, services, subject) {
                Err(error) if error.is::<Starved>() => eprintln!("once more: {error}"),
                done => return done,
            }
        }
        self.one_slice(workload, services, subject)
    }

    fn one_slice(&mut self, workload: Workload, services: u32, subject: Subject) -> Result<Slice> {
        let parallel = workload == Workload::ShortParallel;
        let order = Order::Load {
            work: work(workload),
            targets: targets(subject, services),
            threads: if parallel { cpus() as u32 } else { 1 },
            cpu: (!parallel).then_some(self.settings.cpu),
            warm_up: WARM_UP,
            seconds: self.settings.slice_seconds,
        };
        let before = (self.server_cpu(workload)?, self.cpu_of_agents(), Instant::now());
        let contestant = find(self.field(field(workload)), services, subject)?;
        contestant.client.join(is_meshed(subject))?;
        let Answer::Loaded(loaded) = contestant.client.order(&order)? else {
            bail!("the generator answered out of turn");
        };
        let server_cpu = self.server_cpu(workload)? - before.0;
        self.agents_cpu.0 += self.cpu_of_agents().saturating_sub(before.1);
        self.agents_cpu.1 += before.2.elapsed();
        if loaded.operations == 0 {
            match loaded.first_error {
                Some(error) => bail!("nothing was completed: {error}"),
                None => return Err(Starved.into()),
            }
        }
        Ok(Slice {
            operations: loaded.operations,
            seconds: loaded.seconds,
            errors: loaded.errors,
            first_error: loaded.first_error,
            connect: loaded.connect,
            whole: loaded.whole,
            cpu: (server_cpu.as_nanos() as f64 + loaded.cpu as f64) / loaded.all_operations as f64,
        })
    }

    fn server_cpu(&self, workload: Workload) -> Result<Duration> {
        if workload.is_hook() { Ok(Duration::ZERO) } else { self.server.cpu_time() }
    }

    fn cpu_of_agents(&self) -> Duration {
        self.agents.iter().filter_map(|one| one.agent.cpu_time().ok()).sum()
    }
}

fn cpus() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

fn field(workload: Workload) -> Field {
    if workload.is_hook() { Field::Udp } else { Field::Tcp }
}

fn find(contestants: &mut [Contestant], services: u32, subject: Subject) -> Result<&mut Contestant> {
    let found =
        contestants.iter_mut().find(|one| one.services == services && one.subjects.contains(&subject));
    found.context("no such contestant")
}

/// Established connections are not touched, so a bystander's are direct.
fn takes_part(subject: Subject, workload: Workload) -> bool {
    subject != Subject::Bystander || workload.is_hook() || workload == Workload::Short
}

fn is_meshed(subject: Subject) -> bool {
    matches!(subject, Subject::Alize | Subject::Bystander)
}

fn targets(subject: Subject, services: u32) -> Targets {
    match subject {
        Subject::Direct | Subject::DirectAgain | Subject::Bystander => Targets::Endpoints(services),
        Subject::Alize | Subject::Iptables | Subject::Nftables => Targets::Services(services),
    }
}

fn work(workload: Workload) -> Work {
    match workload {
        Workload::Short | Workload::ShortParallel => Work::Short,
        Workload::KeepAlive | Workload::KeepAliveNginx => Work::KeepAlive,
        Workload::Hook => Work::UdpReconnect,
        Workload::HookSocket => Work::UdpConnect,
    }
}
