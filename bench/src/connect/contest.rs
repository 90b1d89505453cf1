//! Who is measured: every subject at every size, made ready once.

use std::path::Path;
use std::time::Duration;

use anyhow::Result;

use super::alize::{Agent, service_file};
use super::loading::WHOLE_TABLE;
use super::order::Order;
use super::report::{Change, LeftOut, Loading, Memory, Settings, Subject, Workload};
use super::rulesets;
use super::sides::{Client, ServerSide};
use super::summary::count;
use crate::process::{check_interrupt, run};
use crate::world::{Ground, inside};

/// A client that is ready for load, and the subjects it stands for.
///
/// Direct and Alizé share one: between two namespaces that are equal in all, connects differ by up to half a
/// microsecond, for good (`direct again` shows it), so only the client's cgroup may differ.
pub(crate) struct Contestant {
    pub(crate) subjects: Vec<Subject>,
    pub(crate) services: u32,
    pub(crate) client: Client,
}

/// Which of the contestants: those with a server, or those of the hook alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Field {
    Tcp,
    Udp,
}

/// All contestants, the server, and the agents.
pub(crate) struct Contest<'a> {
    pub(crate) ground: &'a Ground,
    pub(crate) settings: &'a Settings,
    pub(crate) tcp: Vec<Contestant>,
    pub(crate) udp: Vec<Contestant>,
    pub(crate) agents: Vec<MeshedSize>,
    pub(crate) server: ServerSide,
    pub(crate) left_out: Vec<LeftOut>,
    /// What loading took on the way.
    pub(crate) loading: Vec<Loading>,
    /// `iptables-legacy` or `iptables-nft`, whichever this kernel takes.
    pub(crate) iptables: &'static str,
    /// CPU time of all agents, and the time that passed, while load ran.
    pub(crate) agents_cpu: (Duration, Duration),
}

/// The agent of one field and size.
pub(crate) struct MeshedSize {
    field: Field,
    services: u32,
    pub(crate) agent: Agent,
}

/// What is to be measured.
pub(crate) struct Entries<'a> {
    pub(crate) alize: Option<&'a Path>,
    pub(crate) workloads: &'a [Workload],
}

impl<'a> Contest<'a> {
    pub(crate) fn prepare(ground: &'a Ground, settings: &'a Settings, entries: &Entries<'_>) -> Result<Self> {
        let mut contest = Self {
            ground,
            settings,
            tcp: Vec::new(),
            udp: Vec::new(),
            agents: Vec::new(),
            server: ServerSide::new(ground)?,
            left_out: Vec::new(),
            loading: Vec::new(),
            iptables: "iptables-legacy",
            agents_cpu: (Duration::ZERO, Duration::ZERO),
        };
        let wants = |hook: bool| entries.workloads.iter().any(|workload| workload.is_hook() == hook);
        if wants(false) {
            contest.enter_field(Field::Tcp, entries.alize)?;
            contest.enter_rivals(Subject::Iptables, Self::load_iptables)?;
            contest.enter_rivals(Subject::Nftables, Self::load_nftables)?;
        }
        if wants(true) {
            contest.enter_field(Field::Udp, entries.alize)?;
        }
        Ok(contest)
    }

    pub(crate) fn leave_out(&mut self, what: String, error: &anyhow::Error) {
        let reason = format!("{error:#}");
        eprintln!("LEFT OUT: {what}: {reason}");
        self.left_out.push(LeftOut { what, reason });
    }

    pub(crate) fn field(&mut self, field: Field) -> &mut Vec<Contestant> {
        match field {
            Field::Tcp => &mut self.tcp,
            Field::Udp => &mut self.udp,
        }
    }

    /// Direct, direct again, and Alizé where it can run.
    fn enter_field(&mut self, field: Field, alize: Option<&Path>) -> Result<()> {
        let name = match field {
            Field::Tcp => "tcp",
            Field::Udp => "udp",
        };
        let mut alize = alize;
        for &services in &self.settings.sizes {
            check_interrupt()?;
            eprintln!("preparing direct and Alizé ({name}) with {}", count(services));
            let client = self.client(&format!("{name}-{services}"))?;
            let mut subjects = vec![Subject::Direct];
            if let Some(program) = alize {
                match self.start_agent(program, field, name, services, &client) {
                    Ok(()) => subjects.extend([Subject::Alize, Subject::Bystander]),
                    Err(error) => {
                        check_interrupt()?;
                        self.leave_out(format!("Alizé ({name}) from {} on", count(services)), &error);
                        alize = None;
                    }
                }
            }
            self.field(field).push(Contestant { subjects, services, client });
            let client = self.client(&format!("{name}-again-{services}"))?;
            self.field(field).push(Contestant { subjects: vec![Subject::DirectAgain], services, client });
        }
        Ok(())
    }

    fn start_agent(
        &mut self,
        program: &Path,
        field: Field,
        name: &str,
        services: u32,
        client: &Client,
    ) -> Result<()> {
        let name = format!("{name}-{services}");
        let protocol = if field == Field::Tcp { "tcp" } else { "udp" };
        let file = self.ground.file(&format!("{name}.yaml"), &service_file(services, protocol))?;
        let agent = Agent::start(self.ground, program, &name, &client.meshed, &file)?;
        self.agents.push(MeshedSize { field, services, agent });
        Ok(())
    }

    /// What cannot run here is left out with its reason, at this size and the larger ones.
    fn enter_rivals(&mut self, subject: Subject, load: fn(&mut Self, u32, u32) -> Result<()>) -> Result<()> {
        for &services in &self.settings.sizes {
            check_interrupt()?;
            eprintln!("preparing {} with {}", subject.label(), count(services));
            let mut client =
                Client::new(self.ground, &mut self.server, &format!("{}-{services}", subject.label()))?;
            if let Err(error) = load(self, client.pid(), services) {
                check_interrupt()?;
                self.leave_out(format!("{} from {} on", subject.label(), count(services)), &error);
                break;
            }
            // After the rules: only then are there knobs of connection tracking.
            client.order(&Order::Prepare)?;
            self.tcp.push(Contestant { subjects: vec![subject], services, client });
        }
        Ok(())
    }

    /// One more client, linked to the server.
    pub(crate) fn client(&mut self, cgroup: &str) -> Result<Client> {
        let mut client = Client::new(self.ground, &mut self.server, cgroup)?;
        client.order(&Order::Prepare)?;
        Ok(client)
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
        self.loaded(subject, services, WHOLE_TABLE, loaded.elapsed);
        Ok(())
    }

    fn load_nftables(&mut self, pid: u32, services: u32) -> Result<()> {
        let rules = self.ground.file(&format!("nftables-{services}"), &rulesets::nftables(services))?;
        let loaded = run(inside(pid, "nft").arg("-f").arg(&rules), None)?;
        self.loaded("nft -f".into(), services, WHOLE_TABLE, loaded.elapsed);
        Ok(())
    }

    fn loaded(&mut self, subject: String, services: u32, how: &str, elapsed: Duration) {
        let seconds = vec![elapsed.as_secs_f64()];
        self.loading.push(Loading { what: Change::LoadAll, subject, services, how: how.into(), seconds });
    }

    /// Process in whose namespace the rules of `subject` are, with so many services.
    pub(crate) fn namespace(&self, subject: Subject, services: u32) -> Option<u32> {
        let found = self.tcp.iter().find(|one| one.subjects.contains(&subject) && one.services == services);
        found.map(|one| one.client.pid())
    }

    /// CPU time of all agents together while load ran, as a share of one CPU.
    pub(crate) fn agents_cpu(&self) -> Option<f64> {
        let (used, passed) = self.agents_cpu;
        (!self.agents.is_empty() && !passed.is_zero()).then(|| used.as_secs_f64() / passed.as_secs_f64())
    }

    /// Of the agents of TCP services; those of UDP services hold the same.
    pub(crate) fn memory(&mut self) -> Vec<Memory> {
        let (mut all, mut failed) = (Vec::new(), Vec::new());
        for one in self.agents.iter().filter(|one| one.field == Field::Tcp) {
            match one.agent.memory(one.services) {
                Ok(memory) => all.push(memory),
                Err(error) => failed.push((format!("memory with {}", count(one.services)), error)),
            }
        }
        for (what, error) in failed {
            self.leave_out(what, &error);
        }
        all
    }

    pub(crate) fn largest(&self) -> u32 {
        self.settings.sizes.iter().copied().max().unwrap_or(1)
    }
}
