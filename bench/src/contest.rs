//! Who is measured: every subject at every size, made ready once and measured side by side, round by round.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::alize::{Agent, service_file};
use crate::layout::ENDPOINTS;
use crate::order::{Answer, Order, Targets, Work};
use crate::process::{check_interrupt, run};
use crate::report::{Cell, Change, LeftOut, Loading, Memory, Settings, Slice, Subject, Workload};
use crate::rulesets;
use crate::statistics::Random;
use crate::summary::count;
use crate::world::{Backend, Client, Ground, ServerSide, inside};

/// Before the measured time of each slice: caches and clocks settle.
const WARM_UP: f64 = 0.05;

/// A client that is ready for load.
struct Contestant {
    subject: Subject,
    services: u32,
    client: Client,
}

/// All contestants, the server, and the agents.
pub(crate) struct Contest<'a> {
    ground: &'a Ground,
    settings: &'a Settings,
    // Clients go before the agents, whose cgroups they are in.
    contestants: Vec<Contestant>,
    hook_contestants: Vec<Contestant>,
    agents: Vec<(u32, Agent)>,
    server: ServerSide,
    pub(crate) left_out: Vec<LeftOut>,
    /// What loading took on the way.
    pub(crate) loading: Vec<Loading>,
    /// `iptables-legacy` or `iptables-nft`, whichever this kernel takes.
    pub(crate) iptables: &'static str,
    agents_cpu: (Duration, Duration),
}

/// What is to be measured.
pub(crate) struct Entries<'a> {
    pub(crate) alize: Option<&'a Path>,
    pub(crate) workloads: &'a [Workload],
}

impl<'a> Contest<'a> {
    pub(crate) fn prepare(ground: &'a Ground, settings: &'a Settings, entries: &Entries<'_>) -> Result<Self> {
        let server = ServerSide::new(ground)?;
        let mut contest = Self {
            ground,
            settings,
            contestants: Vec::new(),
            hook_contestants: Vec::new(),
            agents: Vec::new(),
            server,
            left_out: Vec::new(),
            loading: Vec::new(),
            iptables: "iptables-legacy",
            agents_cpu: (Duration::ZERO, Duration::ZERO),
        };
        if entries.workloads.iter().any(|workload| !workload.is_hook()) {
            contest.enter_all(entries.alize)?;
        }
        if entries.workloads.iter().any(|workload| workload.is_hook()) {
            contest.enter_hook(entries.alize)?;
        }
        Ok(contest)
    }

    /// A subject that cannot run here is left out with its reason; so are the larger sizes of one that failed.
    fn enter_all(&mut self, alize: Option<&Path>) -> Result<()> {
        for subject in [Subject::Direct, Subject::Alize, Subject::Iptables, Subject::Nftables] {
            for &services in &self.settings.sizes {
                check_interrupt()?;
                eprintln!("preparing {} with {}", subject.label(), count(services));
                let entered = match (subject, alize) {
                    (Subject::Alize, None) => break,
                    (Subject::Alize, Some(program)) => self.enter_alize(program, services, "tcp"),
                    _ => self.enter(subject, services),
                };
                match entered {
                    Ok(contestant) => self.contestants.push(contestant),
                    Err(error) => {
                        check_interrupt()?;
                        self.leave_out(format!("{} from {services} services on", subject.label()), &error);
                        break;
                    }
                }
            }
        }
        Ok(())
    }

    /// UDP services of their own, for what no packet follows.
    fn enter_hook(&mut self, alize: Option<&Path>) -> Result<()> {
        for &services in &self.settings.sizes {
            check_interrupt()?;
            eprintln!("preparing the hook alone with {}", count(services));
            let client = self.client(&format!("direct-udp-{services}"))?;
            self.hook_contestants.push(Contestant { subject: Subject::Direct, services, client });
            let Some(program) = alize else { continue };
            match self.enter_alize(program, services, "udp") {
                Ok(contestant) => self.hook_contestants.push(contestant),
                Err(error) => {
                    check_interrupt()?;
                    self.leave_out(format!("the hook from {services} services on"), &error);
                    break;
                }
            }
        }
        Ok(())
    }

    pub(crate) fn leave_out(&mut self, what: String, error: &anyhow::Error) {
        let reason = format!("{error:#}");
        eprintln!("LEFT OUT: {what}: {reason}");
        self.left_out.push(LeftOut { what, reason });
    }

    fn client(&mut self, cgroup: &str) -> Result<Client> {
        let mut client = Client::new(self.ground, &mut self.server, cgroup)?;
        client.order(&Order::Prepare)?;
        Ok(client)
    }

    fn enter(&mut self, subject: Subject, services: u32) -> Result<Contestant> {
        let name = format!("{}-{services}", subject.label());
        let client = Client::new(self.ground, &mut self.server, &name)?;
        match subject {
            Subject::Iptables => self.load_iptables(client.pid(), services)?,
            Subject::Nftables => self.load_nftables(client.pid(), services)?,
            _ => {}
        }
        let mut client = client;
        // After the rules: only then are there knobs of connection tracking.
        client.order(&Order::Prepare)?;
        Ok(Contestant { subject, services, client })
    }

    fn enter_alize(&mut self, program: &Path, services: u32, protocol: &str) -> Result<Contestant> {
        let name = format!("{protocol}-{services}");
        let client = self.client(&name)?;
        let file = self.ground.file(&format!("{name}.yaml"), &service_file(services, protocol))?;
        let agent = Agent::start(self.ground, program, &name, &client.cgroup, &file)?;
        if protocol == "tcp" {
            self.agents.push((services, agent));
        } else {
            // Kept alive with the others; its memory is not asked for.
            self.agents.push((0, agent));
        }
        Ok(Contestant { subject: Subject::Alize, services, client })
    }

    /// Legacy tables where the kernel has them: the faster of the two, so the harder to beat.
    fn load_iptables(&mut self, pid: u32, services: u32) -> Result<()> {
        let rules = self.ground.file(&format!("iptables-{services}"), &rulesets::iptables(services))?;
        let load = |tool: &str| run(&mut inside(pid, &format!("{tool}-restore")), Some(&rules));
        let loaded = match load("iptables-legacy") {
            Ok(loaded) => loaded,
            Err(legacy) => {
                check_interrupt()?;
                self.iptables = "iptables-nft";
                self.left_out.push(LeftOut { what: "iptables-legacy".into(), reason: format!("{legacy:#}") });
                load("iptables-nft")?
            }
        };
        let subject = format!("{}-restore", self.iptables);
        self.loaded(subject, services, crate::loading::WHOLE_TABLE, loaded.elapsed);
        Ok(())
    }

    fn load_nftables(&mut self, pid: u32, services: u32) -> Result<()> {
        let rules = self.ground.file(&format!("nftables-{services}"), &rulesets::nftables(services))?;
        let loaded = run(inside(pid, "nft").arg("-f").arg(&rules), None)?;
        self.loaded("nft -f".into(), services, crate::loading::WHOLE_TABLE, loaded.elapsed);
        Ok(())
    }

    fn loaded(&mut self, subject: String, services: u32, how: &str, elapsed: Duration) {
        let seconds = vec![elapsed.as_secs_f64()];
        self.loading.push(Loading { what: Change::LoadAll, subject, services, how: how.into(), seconds });
    }

    /// Process in whose namespace the rules of `subject` are, with so many services.
    pub(crate) fn namespace(&self, subject: Subject, services: u32) -> Option<u32> {
        let found = self.contestants.iter().find(|one| one.subject == subject && one.services == services);
        found.map(|one| one.client.pid())
    }

    /// One more client, and the server it is linked to.
    pub(crate) fn one_more(&mut self, cgroup: &str) -> Result<Client> {
        self.client(cgroup)
    }

    /// All rounds of all workloads, by the server they need.
    pub(crate) fn measure(&mut self, workloads: &[Workload]) -> Result<Vec<Cell>> {
        let cpu = self.settings.cpu;
        let all = std::thread::available_parallelism().map_or(1, usize::from);
        let phases: [(Backend, &[Workload]); 3] = [
            (Backend::BuiltIn { cpu: Some(cpu), threads: 1 }, &[Workload::Short, Workload::KeepAlive]),
            (Backend::BuiltIn { cpu: None, threads: all }, &[Workload::ShortParallel]),
            (Backend::Nginx { cpu }, &[Workload::KeepAliveNginx]),
        ];
        let mut cells = Vec::new();
        let mut visited = false;
        for (backend, of_phase) in phases {
            let wanted: Vec<Workload> =
                of_phase.iter().copied().filter(|one| workloads.contains(one)).collect();
            if wanted.is_empty() {
                continue;
            }
            if let Err(error) = self.server.serve(self.ground, backend) {
                check_interrupt()?;
                let names: Vec<_> = wanted.iter().map(|workload| workload.label()).collect();
                self.leave_out(names.join("; "), &error);
                continue;
            }
            if !std::mem::replace(&mut visited, true) {
                self.visit(false)?;
            }
            cells.append(&mut self.rounds(&wanted)?);
        }
        let wanted: Vec<Workload> = workloads.iter().copied().filter(|one| one.is_hook()).collect();
        if !wanted.is_empty() {
            self.visit(true)?;
            cells.append(&mut self.rounds(&wanted)?);
        }
        Ok(cells)
    }

    /// Nothing that is measured is the first of its kind: counters exist, neighbours are known.
    fn visit(&mut self, udp: bool) -> Result<()> {
        let list = if udp { &mut self.hook_contestants } else { &mut self.contestants };
        let mut failed = Vec::new();
        for (place, one) in list.iter_mut().enumerate() {
            let what = format!("{} with {}", one.subject.label(), count(one.services));
            eprintln!("first connections: {what}");
            // Endpoints are drawn by chance; after so many visits few are left that have never been.
            let times = if one.subject == Subject::Alize { 4 * ENDPOINTS } else { 1 };
            let order = Order::Visit { targets: targets(one.subject, one.services), udp, times };
            if let Err(error) = one.client.order(&order) {
                check_interrupt()?;
                failed.push((place, what, error));
            }
        }
        for (place, what, error) in failed.into_iter().rev() {
            let list = if udp { &mut self.hook_contestants } else { &mut self.contestants };
            list.remove(place);
            self.leave_out(what, &error);
        }
        Ok(())
    }

    fn rounds(&mut self, workloads: &[Workload]) -> Result<Vec<Cell>> {
        let mut cells = Vec::new();
        for &workload in workloads {
            let of_workload = if workload.is_hook() { &self.hook_contestants } else { &self.contestants };
            for one in of_workload {
                for subject in played_by(one.subject, workload) {
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
                    format!("{}, {services} services, {}", workload.label(), subject.label())
                })?;
                cells[place].rounds.push(slice);
            }
        }
        Ok(cells)
    }

    fn slice(&mut self, workload: Workload, services: u32, subject: Subject) -> Result<Slice> {
        let all = std::thread::available_parallelism().map_or(1, usize::from) as u32;
        let parallel = workload == Workload::ShortParallel;
        let order = Order::Load {
            work: work(workload),
            targets: targets(subject, services),
            threads: if parallel { all } else { 1 },
            cpu: (!parallel).then_some(self.settings.cpu),
            warm_up: WARM_UP,
            seconds: self.settings.slice_seconds,
        };
        let client = played_on(subject);
        let list = if workload.is_hook() { &mut self.hook_contestants } else { &mut self.contestants };
        let found = list.iter_mut().find(|one| one.subject == client && one.services == services);
        let contestant = found.context("no such contestant")?;
        let served = !workload.is_hook();
        let (server, agents) = (&self.server, &self.agents);
        let agents_before = agents_cpu(agents);
        let before = if served { server.cpu_time()? } else { Duration::ZERO };
        let start = std::time::Instant::now();
        let Answer::Loaded(loaded) = contestant.client.order(&order)? else {
            bail!("the generator answered out of turn")
        };
        let after = if served { server.cpu_time()? } else { Duration::ZERO };
        self.agents_cpu.0 += agents_cpu(agents).saturating_sub(agents_before);
        self.agents_cpu.1 += start.elapsed();
        if loaded.operations == 0 {
            bail!(
                "nothing was completed: {}",
                loaded.first_error.unwrap_or_else(|| "no error either".into())
            );
        }
        let cpu = (after - before).as_nanos() as f64 + loaded.cpu as f64;
        Ok(Slice {
            operations: loaded.operations,
            seconds: loaded.seconds,
            errors: loaded.errors,
            first_error: loaded.first_error,
            connect: loaded.connect,
            whole: loaded.whole,
            cpu: cpu / loaded.all_operations as f64,
        })
    }

    /// CPU time of all agents together while load ran, as a share of one CPU.
    pub(crate) fn agents_cpu(&self) -> Option<f64> {
        let (used, passed) = self.agents_cpu;
        (!self.agents.is_empty() && !passed.is_zero()).then(|| used.as_secs_f64() / passed.as_secs_f64())
    }

    pub(crate) fn memory(&mut self) -> Vec<Memory> {
        let mut all = Vec::new();
        let mut failed = Vec::new();
        for (services, agent) in self.agents.iter().filter(|(services, _)| *services > 0) {
            match agent.memory(*services) {
                Ok(memory) => all.push(memory),
                Err(error) => failed.push((format!("memory with {services} services"), error)),
            }
        }
        for (what, error) in failed {
            self.leave_out(what, &error);
        }
        all
    }

    pub(crate) fn ground(&self) -> &'a Ground {
        self.ground
    }

    pub(crate) fn largest(&self) -> u32 {
        self.settings.sizes.iter().copied().max().unwrap_or(1)
    }
}

fn agents_cpu(agents: &[(u32, Agent)]) -> Duration {
    agents.iter().filter_map(|(_, agent)| agent.cpu_time().ok()).sum()
}

/// Which subjects the client made for `subject` stands for.
fn played_by(subject: Subject, workload: Workload) -> Vec<Subject> {
    match subject {
        Subject::Direct => vec![Subject::Direct, Subject::DirectAgain],
        Subject::Alize if workload.is_hook() => vec![Subject::Alize, Subject::Bystander],
        other => vec![other],
    }
}

/// Whose client a subject uses.
fn played_on(subject: Subject) -> Subject {
    match subject {
        Subject::DirectAgain => Subject::Direct,
        Subject::Bystander => Subject::Alize,
        other => other,
    }
}

fn targets(subject: Subject, services: u32) -> Targets {
    match subject {
        Subject::Direct | Subject::DirectAgain | Subject::Bystander => Targets::Endpoints(services),
        _ => Targets::Services(services),
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
