//! What would come of a connect, told step by step from the maps that the programs themselves read. Needs no agent and
//! changes nothing.

mod caller;
mod choice;
mod request;
mod tables;

use std::net::SocketAddr;
use std::path::PathBuf;

use alize_model::{Mode, Transport};
use rustix::time::{ClockId, clock_gettime};
use serde::Serialize;

use crate::abi::ServiceWord;
use crate::error::io_error;
use crate::pin::Pins;
use crate::{Error, Options, environment};

use caller::{Client, Coverage};
use choice::Choices;
use request::{Asker, Routes};
use tables::Tables;

pub use request::{LimitFacts, Request, RequestCandidate, RequestFacts};

/// What is asked.
#[derive(Clone, Debug)]
pub struct Question {
    /// Folder of the caller's cgroup.
    pub cgroup: PathBuf,
    /// A process in it, whose network namespace the caller is taken to be in.
    pub pid: Option<u32>,
    /// What is dialled.
    pub target: Target,
    /// How.
    pub transport: Transport,
}

/// What is dialled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// An address, as the caller would write it.
    Address(SocketAddr),
    /// The first address of a service.
    Service(String),
}

/// The answer.
#[derive(Clone, Debug, Serialize)]
pub struct Explanation {
    /// The instance whose tables were read.
    pub instance: String,
    /// Who calls.
    pub caller: Caller,
    /// What is dialled.
    pub target: SocketAddr,
    /// How.
    pub transport: Transport,
    /// The service that has this address.
    pub service: Option<ServiceFacts>,
    /// Its endpoints, those that get nothing included.
    pub endpoints: Vec<Candidate>,
    /// The steps, in the order in which the kernel takes them.
    pub steps: Vec<Step>,
    /// What comes of it.
    pub outcome: Outcome,
    /// What comes of the request that was asked about, where the kernel's tables tell requests apart.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub request: Option<RequestFacts>,
}

/// Who calls.
#[derive(Clone, Debug, Serialize)]
pub struct Caller {
    /// Folder of the cgroup.
    pub cgroup: PathBuf,
    /// The kernel's number of it.
    pub cgroup_id: u64,
    /// The process that was asked about, or one of the cgroup.
    pub pid: Option<u32>,
    /// Cookie of its network namespace.
    pub netns: Option<u64>,
    /// The links of the instance that run for its sockets.
    pub links: Vec<LinkFacts>,
}

/// A program that runs for the caller's sockets.
#[derive(Clone, Debug, Serialize)]
pub struct LinkFacts {
    /// Name of the program.
    pub program: String,
    /// Its number in the kernel.
    pub id: u32,
    /// The cgroup that it is attached to: the caller's or one above.
    pub cgroup: PathBuf,
}

/// A service, as the kernel has it for this caller's address family.
#[derive(Clone, Debug, Serialize)]
pub struct ServiceFacts {
    /// Its name.
    pub name: String,
    /// Its number.
    pub id: u32,
    /// How far the mesh goes.
    pub mode: Mode,
    /// How it chooses.
    pub balance: &'static str,
    /// First of its slots.
    pub first_slot: u32,
    /// How many slots it has.
    pub slots: u32,
    /// How long a client keeps its endpoint, in seconds; 0: it does not.
    pub affinity: u16,
}

/// An endpoint and its odds.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Candidate {
    /// Where it listens.
    pub address: SocketAddr,
    /// Its number.
    pub id: u32,
    /// `active`, `draining`, `unavailable` or `removed`.
    pub state: &'static str,
    /// Slots that name it.
    pub slots: u32,
    /// Its share of the connections of all callers, 0 to 1.
    pub share: f64,
    /// The odds that this caller's next connection gets it, 0 to 1.
    pub odds: f64,
    /// Open connections.
    pub open: u32,
    /// Connects that failed since the last that did not.
    pub failures: u32,
    /// Why it gets no new connection.
    pub left_out: Option<String>,
}

/// One step of the kernel's way.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Step {
    /// Its name.
    pub name: &'static str,
    /// What was found.
    pub found: String,
}

/// What the caller gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// The connection goes to an endpoint.
    Balanced,
    /// It goes where it was dialled to.
    AsDialled,
    /// It goes to the proxy beside the caller, and its requests are routed one by one.
    Proxied,
    /// ECONNREFUSED, at once.
    Refused,
}

/// What comes of it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Outcome {
    /// What the caller gets.
    pub verdict: Verdict,
    /// The way it takes: `kernel-l4`, `observed` or `none`; `by-request` where each request of it has its own.
    pub path: &'static str,
    /// Why it is not balanced.
    pub reason: Option<&'static str>,
    /// The endpoint, where only one is possible: the client's own by affinity or hash, the next in turn, or the only one.
    pub endpoint: Option<SocketAddr>,
    /// In mode shadow: what enforce would do.
    pub would: Option<Verdict>,
}

/// Walks the decision about a connect, and about a request that is sent then. `options` says which instance; its cgroups and budgets do not matter.
pub fn explain(
    options: &Options,
    question: &Question,
    request: Option<&Request<'_>>,
) -> Result<Explanation, Error> {
    environment::check_root()?;
    let pins = Pins::new(options)?;
    let tables = Tables::open(&pins)?;
    let routes = Routes::open(&pins)?;
    let target = target(&tables, question, options)?;
    let cgroup = environment::open_cgroup(&question.cgroup)?;
    let coverage = Coverage::of(&pins, &cgroup)?;
    let client = Client::of(&cgroup, question.pid);
    let mut walk = Walk { tables: &tables, target, transport: question.transport, steps: Vec::new() };
    let mut outcome = walk.coverage(&coverage, options);
    let (mut service, mut endpoints, mut asked) = (None, Vec::new(), None);
    if let Some(number) = walk.service()? {
        let word = walk.tables.word(number, target)?;
        let facts = walk.facts(number, word)?;
        let choices = choice::weigh(&tables, number, word, target, &client)?;
        let routed = match &routes {
            Some(routes) if question.transport == Transport::Tcp && routes.word(number)?.on => Some(routes),
            _ => None,
        };
        let proxied = match routed {
            Some(routes) => walk.listener(routes, number, &client)?,
            None => None,
        };
        if let (None, Some(routes), Some(request)) = (&outcome, routed, request)
            && proxied.as_ref().is_some_and(|outcome| outcome.verdict == Verdict::Proxied)
        {
            asked = Some(routes.explain(number, &Asker { netns: client.netns }, request)?);
        }
        let decided = proxied.unwrap_or_else(|| walk.decide(&facts, &choices));
        // Where no program runs, nothing of this happens.
        endpoints = choices.candidates;
        if decided.verdict == Verdict::Proxied {
            // None of the connections goes to one of them.
            endpoints.iter_mut().for_each(|one| (one.share, one.odds, one.slots) = (0.0, 0.0, 0));
        }
        outcome = outcome.or(Some(decided));
        service = Some(facts);
    }
    let outcome = outcome.unwrap_or(Outcome::as_dialled("none", "no-service"));
    walk.tell_outcome(&outcome);
    Ok(Explanation {
        instance: options.instance.clone(),
        caller: Caller {
            cgroup: cgroup.path.clone(),
            cgroup_id: cgroup.id,
            pid: client.pid,
            netns: client.netns,
            links: coverage.links,
        },
        target,
        transport: question.transport,
        service,
        endpoints,
        steps: walk.steps,
        outcome,
        request: asked,
    })
}

fn target(tables: &Tables, question: &Question, options: &Options) -> Result<SocketAddr, Error> {
    let name = match &question.target {
        Target::Address(address) => return Ok(*address),
        Target::Service(name) => name,
    };
    tables.first_address(name, question.transport)?.ok_or_else(|| Error::NoSuchService {
        name: name.clone(),
        instance: options.instance.clone(),
        transport: transport_name(question.transport),
    })
}

impl Outcome {
    fn as_dialled(path: &'static str, reason: &'static str) -> Self {
        Self { verdict: Verdict::AsDialled, path, reason: Some(reason), endpoint: None, would: None }
    }
}

/// The steps so far.
struct Walk<'a> {
    tables: &'a Tables,
    target: SocketAddr,
    transport: Transport,
    steps: Vec<Step>,
}

impl Walk<'_> {
    fn tell(&mut self, name: &'static str, found: String) {
        self.steps.push(Step { name, found });
    }

    /// Whether the program that decides runs for the caller's sockets; what comes of it when it does not.
    fn coverage(&mut self, coverage: &Coverage, options: &Options) -> Option<Outcome> {
        let family = if is_ipv4(self.target) && self.target.is_ipv4() { "4" } else { "6" };
        let program = format!("alize_connect{family}");
        let Some(link) = coverage.links.iter().find(|link| link.program == program) else {
            let found = match (&coverage.elsewhere, coverage.links.is_empty()) {
                (Some(other), _) => format!(
                    "not meshed by instance {}, but by instance {other}: ask with --instance {other}",
                    options.instance
                ),
                (None, true) if coverage.attached.is_empty() => {
                    format!("not meshed: no program of instance {} is attached anywhere", options.instance)
                }
                (None, true) => {
                    let at: Vec<_> =
                        coverage.attached.iter().map(|path| path.display().to_string()).collect();
                    format!("not meshed: it is in none of the meshed cgroups ({})", at.join(", "))
                }
                (None, false) => format!("other programs run here, but {program} does not: it is off"),
            };
            self.tell("caller", found);
            return Some(Outcome::as_dialled("none", "caller-not-meshed"));
        };
        let others = coverage.links.len() - 1;
        let found = format!(
            "meshed: {program} (program {}) and {others} others run for its sockets, attached at {}",
            link.id,
            link.cgroup.display()
        );
        self.tell("caller", found);
        None
    }

    fn service(&mut self) -> Result<Option<u32>, Error> {
        let how = transport_name(self.transport);
        if let Some(number) = self.tables.service_at(self.target, self.transport)? {
            let name = self.tables.name_of(number)?;
            self.tell(
                "service",
                format!("{} over {how} is the address of service {name} (number {number})", self.target),
            );
            return Ok(Some(number));
        }
        let mut near = self.tables.neighbours(self.target)?;
        near.truncate(4);
        let hint = match near.is_empty() {
            true => String::new(),
            false => format!("; this address has {}", near.join(", ")),
        };
        self.tell("service", format!("{} over {how} is no service's address{hint}", self.target));
        Ok(None)
    }

    fn facts(&self, number: u32, word: ServiceWord) -> Result<ServiceFacts, Error> {
        Ok(ServiceFacts {
            name: self.tables.name_of(number)?,
            id: number,
            mode: word.mode,
            balance: choice::name(word.choice),
            first_slot: word.base,
            slots: word.length,
            affinity: word.affinity,
        })
    }

    /// Where a connection to a service of HTTP goes: to the proxy, if one listens where the caller is; nothing: it is
    /// balanced as any other.
    fn listener(&mut self, routes: &Routes, service: u32, client: &Client) -> Result<Option<Outcome>, Error> {
        self.tell("mode", "enforce, and of HTTP: requests are routed one by one".into());
        let outcome = |verdict, path, reason| Outcome { verdict, path, reason, endpoint: None, would: None };
        let Some(netns) = client.netns else {
            let found = "the proxy's, in the caller's network namespace; which that is only a process tells: ask with its number";
            self.tell("listener", found.into());
            return Ok(Some(outcome(Verdict::Proxied, "by-request", None)));
        };
        let strict = routes.word(service)?.strict;
        match routes.listener(netns, is_ipv4(self.target))? {
            Some(address) => {
                self.tell(
                    "listener",
                    format!("{address}, the proxy's in the caller's network namespace ({netns})"),
                );
                Ok(Some(outcome(Verdict::Proxied, "by-request", None)))
            }
            None if strict => {
                let found = "no proxy listens in the caller's network namespace, and the service has rules that balancing connections would pass over";
                self.tell("listener", found.into());
                Ok(Some(outcome(Verdict::Refused, "none", Some("no-proxy"))))
            }
            None => {
                let found = "no proxy listens in the caller's network namespace: the connection is balanced as a whole";
                self.tell("listener", found.into());
                Ok(None)
            }
        }
    }

    fn decide(&mut self, service: &ServiceFacts, choices: &Choices) -> Outcome {
        let mode = match service.mode {
            Mode::Observe => "observe: connections go where they were dialled to, and are counted",
            Mode::Shadow => "shadow: the decision is made and counted, and nothing is changed",
            Mode::Enforce => "enforce: what is decided is done",
        };
        self.tell("mode", mode.into());
        if service.mode == Mode::Observe {
            return Outcome::as_dialled("observed", "mode-observe");
        }
        self.tell("affinity", choices.affinity.clone());
        let left_out = choices.candidates.iter().filter(|candidate| candidate.left_out.is_some()).count();
        self.tell("endpoints", format!("{} known, {left_out} left out", choices.candidates.len()));
        self.tell("balance", choices.balance.clone());
        self.tell("policy", "none: this version has no rules about who may call whom".into());
        let verdict = if choices.refused { Verdict::Refused } else { Verdict::Balanced };
        let endpoint = choices.only;
        let reason = choices.refused.then_some("no-endpoint");
        match service.mode {
            Mode::Shadow => {
                Outcome { endpoint, would: Some(verdict), ..Outcome::as_dialled("observed", "mode-shadow") }
            }
            _ => Outcome { verdict, path: "kernel-l4", reason, endpoint, would: None },
        }
    }

    fn tell_outcome(&mut self, outcome: &Outcome) {
        let place = |outcome: &Outcome| match outcome.endpoint {
            Some(address) => format!("{address}"),
            None => "one of the endpoints, by the odds below".into(),
        };
        let found = match (outcome.verdict, outcome.would) {
            (Verdict::Balanced, _) => format!("connect() goes to {}", place(outcome)),
            (Verdict::Proxied, _) => {
                "connect() goes to the proxy beside the caller; each request is routed by itself".to_owned()
            }
            (Verdict::Refused, _) => "connect() fails with ECONNREFUSED at once".to_owned(),
            (Verdict::AsDialled, None) => format!("connect() goes to {} itself", self.target),
            (Verdict::AsDialled, Some(Verdict::Refused)) => {
                format!("connect() goes to {} itself; enforce would refuse it", self.target)
            }
            (Verdict::AsDialled, Some(_)) => {
                format!("connect() goes to {} itself; enforce would take {}", self.target, place(outcome))
            }
        };
        let reason = outcome.reason.map_or(String::new(), |reason| format!(", reason {reason}"));
        self.tell("outcome", format!("{found} (path {}{reason})", outcome.path));
    }
}

pub(crate) fn transport_name(transport: Transport) -> &'static str {
    match transport {
        Transport::Tcp => "TCP",
        Transport::Udp => "UDP",
    }
}

/// As the programs see it: an IPv4 address may be written v4-mapped.
fn is_ipv4(address: SocketAddr) -> bool {
    match address {
        SocketAddr::V4(_) => true,
        SocketAddr::V6(v6) => v6.ip().to_ipv4_mapped().is_some(),
    }
}

/// Opens a pinned map, for reading.
fn open(pins: &Pins, name: &str) -> Result<libbpf_rs::MapHandle, Error> {
    let path = pins.map(name);
    libbpf_rs::MapHandle::from_pinned_path(&path).map_err(|e| match path.exists() {
        false => Error::NotLoaded { instance: pins.name().to_owned() },
        true => Error::path("cannot open map", path, io_error(e)),
    })
}

/// The clock of the programs.
fn monotonic_ns() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}
