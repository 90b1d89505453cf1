//! How long tables take: all services into the kernel, and one endpoint changed while all others are loaded.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use alize_datapath::{Applied, Availability, DataPath, Desired, Unavailable};
use alize_model::{Budgets, HostFacts, Snapshot, Source};
use anyhow::{Context, Result, bail};

use super::alize::{Agent, watched_file};
use super::contest::Contest;
use super::generator::monotonic;
use super::layout::{self, MOVED_SOURCE};
use super::order::{Answer, Order};
use super::report::{Change, Loading, Subject};
use super::rulesets;
use super::sides::Client;
use crate::process::{check_interrupt, run};
use crate::world::{Apart, Ground, inside};

/// Runs of what takes long, and of what is quick.
const LOADS: usize = 5;
const CHANGES: usize = 15;
/// Beyond so many services `nft -f` takes so long that the load made while preparing has to do.
const NFT_LOADED_ONCE: u32 = 2_000;

pub(crate) const WHOLE_TABLE: &str = "the tool's run, all chains";
const ONE_SERVICE: &str = "the tool's run, the chains of that service";

/// Measures each way that works here; what fails is left out with its reason.
pub(crate) fn measure(contest: &mut Contest<'_>, alize: Option<&Path>) -> Result<()> {
    type Way = fn(&mut Contest<'_>, u32) -> Result<()>;
    let services = contest.largest();
    let ways: [(&str, Way); 3] = [
        ("tables by iptables-legacy", |contest, services| {
            iptables(contest, services, "iptables-legacy-restore")
        }),
        ("tables by iptables-nft", |contest, services| iptables(contest, services, "iptables-nft-restore")),
        ("tables by nft", nftables),
    ];
    for (what, way) in ways {
        eprintln!("loading: {what}");
        if let Err(error) = way(contest, services) {
            check_interrupt()?;
            contest.leave_out(what.into(), &error);
        }
    }
    let Some(program) = alize else { return Ok(()) };
    eprintln!("loading: Alizé");
    if let Err(error) = by_agent(contest, services, program).and_then(|()| by_data_path(contest, services)) {
        check_interrupt()?;
        contest.leave_out("tables by Alizé".into(), &error);
    }
    Ok(())
}

fn iptables(contest: &mut Contest<'_>, services: u32, tool: &str) -> Result<()> {
    let apart = Apart::new(contest.ground, tool)?;
    let ground = contest.ground;
    let (all, none) = (rulesets::iptables(services), "*nat\nCOMMIT\n");
    let (all, none) = (ground.file("iptables-all", &all)?, ground.file("iptables-none", none)?);
    let mut seconds = Vec::new();
    for _ in 0..LOADS {
        run(&mut inside(apart.pid(), tool), Some(&none))?;
        seconds.push(run(&mut inside(apart.pid(), tool), Some(&all))?.elapsed.as_secs_f64());
    }
    contest.record(Change::LoadAll, tool, services, WHOLE_TABLE, seconds);

    let mut seconds = Vec::new();
    for (number, service) in some_services(services).enumerate() {
        let change = ground.file("iptables-change", &rulesets::iptables_change(service, number % 2 == 0))?;
        let done = run(inside(apart.pid(), tool).arg("--noflush"), Some(&change))?;
        seconds.push(done.elapsed.as_secs_f64());
    }
    contest.record(Change::OneEndpoint, tool, services, ONE_SERVICE, seconds);
    Ok(())
}

fn nftables(contest: &mut Contest<'_>, services: u32) -> Result<()> {
    let ground = contest.ground;
    let spare = Apart::new(ground, "nft")?;
    let pid = match contest.namespace(Subject::Nftables, services).filter(|_| services > NFT_LOADED_ONCE) {
        Some(pid) => pid,
        None => {
            let all = ground.file("nftables-all", &rulesets::nftables(services))?;
            let loads = if services > NFT_LOADED_ONCE { 1 } else { LOADS };
            let mut seconds = Vec::new();
            for load in 0..loads {
                if load > 0 {
                    run(inside(spare.pid(), "nft").args(["delete", "table", "ip", "kube-proxy"]), None)?;
                }
                seconds
                    .push(run(inside(spare.pid(), "nft").arg("-f").arg(&all), None)?.elapsed.as_secs_f64());
            }
            contest.record(Change::LoadAll, "nft -f", services, WHOLE_TABLE, seconds);
            spare.pid()
        }
    };
    let mut seconds = Vec::new();
    for service in some_services(services) {
        for moved in [true, false] {
            let change = ground.file("nftables-change", &rulesets::nftables_change(service, moved))?;
            seconds.push(run(inside(pid, "nft").arg("-f").arg(&change), None)?.elapsed.as_secs_f64());
        }
    }
    contest.record(
        Change::OneEndpoint,
        "nft -f",
        services,
        "the tool's run, the chain of that endpoint",
        seconds,
    );
    Ok(())
}

/// Spread over all of them: where a rule stands may matter.
fn some_services(services: u32) -> impl Iterator<Item = u32> {
    (0..CHANGES as u32).map(move |number| number * services.saturating_sub(1) / CHANGES as u32)
}

/// As a user does it: `alize apply FILE`, with a running agent.
fn by_agent(contest: &mut Contest<'_>, services: u32, program: &Path) -> Result<()> {
    let ground = contest.ground;
    let mut client = contest.client("applied")?;
    client.join(true)?;
    let files = Files::write(ground, services)?;
    let agent = Agent::start(ground, program, "applied", &client.meshed, &files.none)?;
    let (mut tables, mut whole) = (Vec::new(), Vec::new());
    for _ in 0..LOADS {
        agent.apply(&files.none)?;
        let (applied, elapsed) = agent.apply(&files.home)?;
        if applied.added != services + 1 {
            bail!("{} services were added, not {}", applied.added, services + 1);
        }
        tables.push(applied.seconds);
        whole.push(elapsed.as_secs_f64());
    }
    contest.record(Change::LoadAll, "Alizé", services, "`alize apply` of the whole file", whole);
    contest.record(
        Change::LoadAllTables,
        "Alizé",
        services,
        "writing the kernel's maps, as the agent reports",
        tables,
    );

    let (mut whole, mut seen) = (Vec::new(), Vec::new());
    for _ in 0..LOADS {
        agent.apply(&files.home)?;
        let watch = Watch::begin(&mut client, services)?;
        let start = monotonic();
        let (_, elapsed) = agent.apply(&files.moved)?;
        seen.push(watch.seconds_since(start)?);
        whole.push(elapsed.as_secs_f64());
    }
    contest.record(Change::OneEndpoint, "Alizé", services, "`alize apply` of the whole file", whole);
    contest.record(
        Change::OneEndpoint,
        "Alizé",
        services,
        "until a connect sees it, from the start of `alize apply`",
        seen,
    );
    Ok(())
}

/// As the agent does it, inside: a change of the desired state into the kernel.
fn by_data_path(contest: &mut Contest<'_>, services: u32) -> Result<()> {
    let ground = contest.ground;
    let mut client = contest.client("stored")?;
    client.join(true)?;
    let (home, moved) = (snapshot(&watched_file(services, false))?, snapshot(&watched_file(services, true))?);
    let mut loaded = Loaded::open(ground, "stored", &client)?;
    let mut tables = Vec::new();
    for _ in 0..LOADS {
        loaded.apply_and_settle(&Snapshot::default())?;
        let start = std::time::Instant::now();
        loaded.apply(&home)?;
        tables.push(start.elapsed().as_secs_f64());
    }
    contest.record(
        Change::LoadAllTables,
        "Alizé",
        services,
        "from a checked state to the last map write",
        tables,
    );

    let (mut seen, mut written) = (Vec::new(), Vec::new());
    for _ in 0..CHANGES {
        loaded.apply_and_settle(&home)?;
        let watch = Watch::begin(&mut client, services)?;
        let start = monotonic();
        written.push(loaded.apply(&moved)?.elapsed.as_secs_f64());
        seen.push(watch.seconds_since(start)?);
    }
    let how = "from a whole state that was read again to the first connect that sees it";
    contest.record(Change::OneEndpoint, "Alizé", services, how, seen);
    contest.record(Change::OneEndpointVisible, "Alizé", services, "the map writes alone", written);

    let watched = moved.get(&format!("bench/s{services}")).context("the watched service is not there")?;
    let endpoint = (watched.name.clone(), SocketAddr::from(layout::moved_endpoint(services)));
    let mut seen = Vec::new();
    for _ in 0..CHANGES {
        loaded.unavailable = Availability::from([(endpoint.clone(), Unavailable::Unhealthy)]);
        loaded.apply_and_settle(&moved)?;
        let watch = Watch::begin(&mut client, services)?;
        loaded.unavailable.clear();
        let start = monotonic();
        loaded.apply(&moved)?;
        seen.push(watch.seconds_since(start)?);
    }
    let how = "from an endpoint that is well again to the first connect that sees it";
    contest.record(Change::OneEndpointVisible, "Alizé", services, how, seen);
    Ok(())
}

/// The files between which the agent is sent to and fro.
struct Files {
    none: PathBuf,
    home: PathBuf,
    moved: PathBuf,
}

impl Files {
    fn write(ground: &Ground, services: u32) -> Result<Self> {
        Ok(Self {
            none: ground.file("none.yaml", "services: []\n")?,
            home: ground.file("home.yaml", &watched_file(services, false))?,
            moved: ground.file("moved.yaml", &watched_file(services, true))?,
        })
    }
}

fn snapshot(text: &str) -> Result<Snapshot> {
    match alize_model::parse(Source { name: "bench", text }, &Budgets::default(), &HostFacts::default()) {
        Ok((snapshot, _)) => Ok(snapshot),
        Err(diagnostics) => bail!("the bench's own file is refused: {diagnostics}"),
    }
}

/// A data path without an agent. Unloaded when dropped.
struct Loaded {
    data_path: Option<DataPath>,
    unavailable: Availability,
    options: alize_datapath::Options,
}

impl Loaded {
    fn open(ground: &Ground, name: &str, client: &Client) -> Result<Self> {
        let options = super::alize::options(ground, name, vec![client.meshed.clone()]);
        let (data_path, _) = DataPath::open(&options)?;
        Ok(Self { data_path: Some(data_path), unavailable: Availability::new(), options })
    }

    fn apply(&mut self, snapshot: &Snapshot) -> Result<Applied> {
        let data_path = self.data_path.as_mut().context("the data path is closed")?;
        Ok(data_path.apply(Desired { snapshot, unavailable: &self.unavailable })?)
    }

    /// As [`Self::apply`], then what the agent does in its own time, so that the next change begins with nothing left.
    fn apply_and_settle(&mut self, snapshot: &Snapshot) -> Result<()> {
        self.apply(snapshot)?;
        Ok(self.data_path.as_mut().context("the data path is closed")?.settle()?)
    }
}

impl Drop for Loaded {
    fn drop(&mut self) {
        self.data_path = None;
        if let Err(error) = alize_datapath::unload(&self.options) {
            eprintln!("cannot unload instance {}: {error}", self.options.instance);
        }
    }
}

/// A client that connects without pause until it is sent to the moved endpoint.
struct Watch<'a> {
    client: &'a mut Client,
}

impl<'a> Watch<'a> {
    /// The service watched is the one after the last.
    fn begin(client: &'a mut Client, services: u32) -> Result<Self> {
        let service = layout::service(services);
        client.begin(&Order::Watch { service, source: MOVED_SOURCE, timeout: 10.0 })?;
        match client.answer()? {
            Answer::Watching => Ok(Self { client }),
            other => bail!("the watch of {} began with {other:?}", SocketAddr::from(service)),
        }
    }

    fn seconds_since(self, start: u64) -> Result<f64> {
        match self.client.answer()? {
            Answer::Seen(seen) => Ok(seen.saturating_sub(start) as f64 / 1e9),
            other => bail!("the watch ended with {other:?}"),
        }
    }
}

impl Contest<'_> {
    /// Adds to what is known already of the same change made the same way.
    fn record(&mut self, what: Change, subject: &str, services: u32, how: &str, mut seconds: Vec<f64>) {
        let same = |one: &&mut Loading| {
            one.what == what && one.subject == subject && one.services == services && one.how == how
        };
        match self.loading.iter_mut().find(same) {
            Some(known) => known.seconds.append(&mut seconds),
            None => self.loading.push(Loading {
                what,
                subject: subject.into(),
                services,
                how: how.into(),
                seconds,
            }),
        }
    }
}
