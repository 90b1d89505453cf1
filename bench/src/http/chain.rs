//! A request through a chain of services, each of which calls the next: what sidecars cost adds up, hop by hop.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::Duration;

use anyhow::{Context, Result};

use super::arguments::Amount;
use super::driver::Driver;
use super::load::Order;
use super::mesh::{self, Alize, Services};
use super::peers::{self, INBOUND, OUTBOUND, Route, Side, USER};
use super::place::{CLIENT, Pair, SERVER, SERVICE, Start, await_listening};
use super::progress::Progress;
use super::report::{ChainSlice, Report};
use super::scene::Means;
use super::subject::{Mesh, Peer, Subject, Way};
use super::workload::{Exchange, Load, Workload};
use crate::process::{Kept, check_interrupt};

pub(crate) const HOPS: usize = 50;
/// The port of the first; the others follow.
const FIRST_PORT: u16 = 9000;
/// A chain of two proxies a hop has to be gone through often enough for a median.
const SECONDS: f64 = 0.6;

pub(crate) fn measure(
    means: &Means<'_>,
    subjects: &[Subject],
    amount: &Amount,
    report: &mut Report,
    progress: &Progress,
) -> Result<()> {
    let wanted = |subject: &&Subject| match subject.way() {
        Way::Plain => **subject == Subject::Direct,
        Way::Alize(mesh) => matches!(mesh, Mesh::Connections | Mesh::Requests { local: true }),
        Way::Sidecars { both, .. } => both,
        Way::Rules(_) => false,
    };
    let mut chains = Vec::new();
    for &subject in subjects.iter().filter(wanted) {
        check_interrupt()?;
        progress.step(&format!("preparing a chain of services: {}", subject.label()));
        let ready = means.view.within(|| Chain::new(means, subject, HOPS)).and_then(|mut chain| {
            // Services call each other over connections that stay, and those made before Alizé's proxy has found their
            // network namespaces are balanced as a whole; it looks for them every second.
            if matches!(subject.way(), Way::Alize(Mesh::Requests { .. })) {
                std::thread::sleep(Duration::from_secs(3));
            }
            chain.load(0.3)?;
            chain.check(0.3)?;
            Ok(chain)
        });
        match ready {
            Ok(chain) => chains.push(chain),
            Err(error) => {
                check_interrupt()?;
                let what = format!("{}, chain of {HOPS} services", subject.label());
                progress.say(&format!("LEFT OUT: {what}: {error:#}"));
                report.leave_out(&what, &error);
            }
        }
    }
    let all = chains.len();
    for round in 0..amount.rounds {
        for (done, chain) in chains.iter_mut().enumerate() {
            progress.part(
                &format!("chain of services: {}", chain.subject.label()),
                round,
                amount.rounds,
                done,
                all,
            );
            report.chain.push(chain.load(SECONDS)?);
        }
    }
    Ok(())
}

/// Services alternate between the two namespaces, so that every call goes from one to the other.
fn routes(hops: usize) -> Vec<Route> {
    let route = |number: usize| {
        let host = if number.is_multiple_of(2) { SERVER } else { CLIENT };
        let dialled = Ipv4Addr::from(u32::from(Ipv4Addr::new(10, 96, 1, 1)) + number as u32);
        Route {
            dialled: SocketAddrV4::new(dialled, SERVICE.port()),
            server: SocketAddrV4::new(host, FIRST_PORT + number as u16),
        }
    };
    (0..hops).map(route).collect()
}

struct Chain {
    subject: Subject,
    hops: usize,
    alize: Option<Alize>,
    _sidecars: Vec<Kept>,
    _services: Vec<Kept>,
    driver: Driver,
    _pair: Pair,
    first: SocketAddrV4,
}

impl Chain {
    fn new(means: &Means<'_>, subject: Subject, hops: usize) -> Result<Self> {
        let (ground, name) = (means.ground, format!("chain-{}", subject.key()));
        let pair = Pair::new(ground, &name)?;
        let cgroup = ground.cgroup(&format!("{name}/mesh"))?;
        let routes = routes(hops);
        let by_name = !matches!(subject.way(), Way::Plain);
        let dial = |route: &Route| if by_name { route.dialled } else { route.server };
        let mut services = Vec::new();
        for (pid, host) in [(pair.client.pid(), CLIENT), (pair.server.pid(), SERVER)] {
            let own = routes.iter().enumerate().filter(|(_, route)| *route.server.ip() == host);
            let words: Vec<String> = own
                .map(|(number, route)| match routes.get(number + 1) {
                    Some(next) => format!("{}={},s{}.bench", route.server, dial(next), number + 1),
                    None => format!("{}=", route.server),
                })
                .collect();
            let log = ground.folder().join(format!("{name}-{host}.log"));
            let words = means.own.part("chain", &words);
            let start =
                Start { namespace: Some(pid), cgroup: Some(&cgroup), user: None, signal: false, words };
            let mut process = start.start(&log)?;
            process.hear().with_context(|| super::place::last_lines(&log))?;
            services.push(process);
        }
        let log = ground.folder().join(format!("{name}-client.log"));
        let driver = Driver::start(means.own, pair.client.pid(), &cgroup, &log)?;
        let first = routes.first().map(dial).context("a chain of no services")?;
        let mut chain = Self {
            subject,
            hops,
            alize: None,
            _sidecars: Vec::new(),
            _services: services,
            driver,
            _pair: pair,
            first,
        };
        match subject.way() {
            Way::Alize(mesh) => {
                let mark = format!("c-{}", subject.mark());
                let services = Services { mesh, routes: &routes, more: 0, routes_before: 0 };
                chain.alize = Some(Alize::start(ground, &means.own.program, &mark, &cgroup, &services)?);
            }
            Way::Sidecars { peer, .. } => chain.add_sidecars(means, &name, peer, &routes)?,
            Way::Plain | Way::Rules(_) => {}
        }
        Ok(chain)
    }

    /// In each namespace one, for what its services send and for what is sent to them.
    fn add_sidecars(&mut self, means: &Means<'_>, name: &str, peer: Peer, routes: &[Route]) -> Result<()> {
        let installed = means.peers.iter().find(|(one, _)| *one == peer).map(|(_, installed)| installed);
        let installed = installed.with_context(|| format!("no {}", peer.name()))?;
        let sides = [Side::Client, Side::Server];
        let cgroup = means.ground.cgroup("sidecars")?;
        for (number, pid) in [self._pair.client.pid(), self._pair.server.pid()].into_iter().enumerate() {
            let folder = means.ground.folder().join(format!("{name}-{number}"));
            let (words, _) = peers::command(peer, installed, &folder, &sides, routes, means.view.threads())?;
            let log = folder.join("log");
            let start =
                Start { namespace: Some(pid), cgroup: Some(&cgroup), user: Some(USER), signal: true, words };
            let mut sidecar = start.start(&log)?;
            await_listening(pid, OUTBOUND, &mut sidecar, &log)?;
            await_listening(pid, INBOUND, &mut sidecar, &log)?;
            peers::to_sidecar(means.ground, pid, &sides)?;
            self._sidecars.push(sidecar);
        }
        Ok(())
    }

    fn order(&self, seconds: f64) -> Order {
        let mut order =
            Workload::new(Exchange::Small, Load::Saturation, 1).order(self.first, None, seconds, "");
        order.request = order.request.replace("web.bench", "s0.bench");
        order
    }

    fn load(&mut self, seconds: f64) -> Result<ChainSlice> {
        let (loaded, (), ()) = self.driver.load(&self.order(seconds), || Ok(()))?;
        if let Some(error) = loaded.first_error {
            anyhow::bail!("requests through the chain fail: {error}");
        }
        anyhow::ensure!(loaded.completed > 0, "no request came through the chain within {seconds} s");
        Ok(ChainSlice {
            subject: self.subject,
            hops: self.hops,
            latency: loaded.latency,
            completed: loaded.completed,
            seconds: loaded.seconds,
        })
    }

    /// Every hop went the way that the name says.
    fn check(&mut self, seconds: f64) -> Result<()> {
        let (Some(alize), Way::Alize(mesh)) = (&self.alize, self.subject.way()) else { return Ok(()) };
        let before = alize.paths()?;
        if mesh == Mesh::Connections {
            return mesh::check(mesh, &before, 0, self.hops as u64);
        }
        let completed = self.load(seconds)?.completed;
        let alize = self.alize.as_ref().context("no agent")?;
        let paths = mesh::between(&before, &alize.paths()?);
        mesh::check(mesh, &paths, completed * self.hops as u64, 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_call_crosses_from_one_namespace_to_the_other() {
        let routes = routes(HOPS);
        assert_eq!(routes.len(), 50);
        assert_eq!(*routes[0].server.ip(), SERVER);
        assert!(routes.windows(2).all(|pair| pair[0].server.ip() != pair[1].server.ip()));
        let mut dialled: Vec<_> = routes.iter().map(|route| route.dialled).collect();
        dialled.dedup();
        assert_eq!(dialled.len(), 50);
    }
}
