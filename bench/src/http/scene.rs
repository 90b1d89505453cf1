//! A world for one way: two namespaces, a client, a server, and what stands between them.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::driver::Driver;
use super::load::{Loaded, Order};
use super::mesh::{self, Alize, Paths, Services};
use super::meter::{self, Roles, Sample, Spent, family, proportional_memory};
use super::origin;
use super::peers::{self, INBOUND, Installed, OUTBOUND, Route, Side, USER};
use super::place::{Own, Pair, SERVER, SERVICE, Start, View, await_listening};
use super::subject::{Mesh, Peer, Subject, Tool, Way};
use crate::process::Kept;
use crate::world::Ground;

/// What all worlds have in common.
#[derive(Clone, Copy)]
pub(crate) struct Means<'a> {
    pub(crate) ground: &'a Ground,
    pub(crate) own: &'a Own,
    pub(crate) view: View,
    /// nginx, or nothing: then the built-in server answers.
    pub(crate) origin: Option<&'a Installed>,
    pub(crate) peers: &'a [(Peer, Installed)],
    /// Services beyond the one that is dialled, and routes before its own.
    pub(crate) more_services: u32,
    pub(crate) routes_before: u32,
}

/// Processes end and namespaces vanish when it is dropped.
pub(crate) struct Scene {
    pub(crate) subject: Subject,
    alize: Option<Alize>,
    sidecars: Vec<(&'static str, Kept)>,
    server: Kept,
    client: Driver,
    pair: Pair,
    target: std::net::SocketAddrV4,
    /// Configurations of peers, for the report.
    pub(crate) configurations: Vec<PathBuf>,
    kernel_threads: Vec<u32>,
}

/// One slice of load and what it cost.
pub(crate) struct Measured {
    pub(crate) loaded: Loaded,
    pub(crate) spent: Spent,
    pub(crate) paths: Option<Paths>,
}

/// Memory that a way holds beyond client and server.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub(crate) struct Held {
    /// Proportional set of processes, by role.
    pub(crate) processes: std::collections::BTreeMap<String, u64>,
    /// Kernel maps and programs.
    pub(crate) kernel: u64,
}

/// Where Alizé takes a request that it would route in the kernel to user space: a field that is allowed, that servers
/// ignore, and that the kernel does not take.
const TO_PROXY: &str = "TE: trailers\r\n";

const ROUTE: Route = Route { dialled: SERVICE, server: std::net::SocketAddrV4::new(SERVER, origin::PORT) };

impl Scene {
    pub(crate) fn prepare(means: &Means<'_>, subject: Subject) -> Result<Self> {
        means.view.within(|| Self::build(means, subject))
    }

    fn build(means: &Means<'_>, subject: Subject) -> Result<Self> {
        let (ground, name) = (means.ground, format!("{}-{}", subject.key(), means.view.threads()));
        let pair = Pair::new(ground, &name)?;
        let (meshed, outside) =
            (ground.cgroup(&format!("{name}/mesh"))?, ground.cgroup(&format!("{name}/outside"))?);
        let is_local =
            matches!(subject.way(), Way::Alize(Mesh::Requests { local: true } | Mesh::Proxy | Mesh::Observe));
        let server = start_server(means, &name, &pair, if is_local { &meshed } else { &outside })?;
        let client = {
            let cgroup = if subject.is_alize() { &meshed } else { &outside };
            Driver::start(
                means.own,
                pair.client.pid(),
                cgroup,
                &ground.folder().join(format!("{name}-client.log")),
            )?
        };
        let kernel_threads = meter::kernel_threads();
        let dials_server = matches!(subject.way(), Way::Plain | Way::Alize(Mesh::Observe));
        let target = if dials_server { ROUTE.server } else { ROUTE.dialled };
        let (sidecars, configurations) = (Vec::new(), Vec::new());
        let mut scene = Self {
            subject,
            alize: None,
            sidecars,
            server,
            client,
            pair,
            target,
            configurations,
            kernel_threads,
        };
        match subject.way() {
            Way::Plain => {}
            Way::Rules(tool) => scene.add_rules(ground, tool)?,
            Way::Sidecars { peer, both } => scene.add_sidecars(means, &name, peer, both)?,
            Way::Alize(mesh) => {
                let mark = format!("{}{}", subject.mark(), means.view.threads());
                let services = Services {
                    mesh,
                    routes: &[ROUTE],
                    more: means.more_services,
                    routes_before: means.routes_before,
                };
                scene.alize = Some(Alize::start(ground, &means.own.program, &mark, &meshed, &services)?);
            }
        }
        Ok(scene)
    }

    fn add_rules(&mut self, ground: &Ground, tool: Tool) -> Result<()> {
        peers::translate(ground, self.pair.client.pid(), tool, ROUTE)
    }

    fn add_sidecars(&mut self, means: &Means<'_>, name: &str, peer: Peer, both: bool) -> Result<()> {
        let ground = means.ground;
        let installed = means.peers.iter().find(|(one, _)| *one == peer).map(|(_, installed)| installed);
        let installed = installed.with_context(|| format!("no {}", peer.name()))?;
        let ends =
            [(Side::Client, "client's sidecar", OUTBOUND), (Side::Server, "server's sidecar", INBOUND)];
        for (side, role, port) in ends.into_iter().take(if both { 2 } else { 1 }) {
            let pid = if side == Side::Client { self.pair.client.pid() } else { self.pair.server.pid() };
            let folder = ground.folder().join(format!("{name}-{port}"));
            let (words, file) =
                peers::command(peer, installed, &folder, &[side], &[ROUTE], means.view.threads())?;
            let log = folder.join("log");
            let cgroup = ground.cgroup("sidecars")?;
            let start =
                Start { namespace: Some(pid), cgroup: Some(&cgroup), user: Some(USER), signal: true, words };
            let mut sidecar = start.start(&log)?;
            await_listening(pid, port, &mut sidecar, &log)?;
            peers::to_sidecar(ground, pid, &[side])?;
            self.sidecars.push((role, sidecar));
            self.configurations.push(file);
        }
        Ok(())
    }

    /// One slice of load. `fields` are more lines of the request's head.
    pub(crate) fn load(&mut self, order: &Order) -> Result<Measured> {
        let mut order = order.clone();
        order.target = self.target;
        if self.subject == Subject::AlizeProxy {
            let head = order.request.trim_end_matches("\r\n").to_owned();
            order.request = format!("{head}\r\n{TO_PROXY}\r\n");
        }
        let (roles, namespaces) = (self.roles(), [self.pair.client.pid(), self.pair.server.pid()]);
        let paths = self.paths()?;
        let kernel = self.kernel_threads.clone();
        let (loaded, before, after) =
            self.client.load(&order, || Sample::take(&roles, &namespaces, &kernel))?;
        let spent = before.until(&after);
        let paths = match (paths, self.paths()?) {
            (Some(before), Some(after)) => Some(mesh::between(&before, &after)),
            _ => None,
        };
        Ok(Measured { loaded, spent, paths })
    }

    fn paths(&self) -> Result<Option<Paths>> {
        self.alize.as_ref().map(Alize::paths).transpose()
    }

    /// What Alizé was to do, where it is on the way.
    pub(crate) fn mesh(&self) -> Option<Mesh> {
        match self.subject.way() {
            Way::Alize(mesh) => Some(mesh),
            _ => None,
        }
    }

    fn roles(&self) -> Roles {
        let mut roles = Roles::from([
            ("client".to_owned(), family(self.client.pid())),
            ("server".to_owned(), family(self.server.pid())),
        ]);
        for (role, sidecar) in &self.sidecars {
            roles.insert((*role).to_owned(), family(sidecar.pid()));
        }
        if let Some(alize) = &self.alize {
            let (agent, proxy) = alize.processes();
            roles.insert("agent".into(), agent);
            roles.insert("proxy".into(), proxy);
        }
        roles
    }

    pub(crate) fn held(&self) -> Result<Held> {
        let mut held = Held::default();
        for (role, sidecar) in &self.sidecars {
            let bytes = family(sidecar.pid()).into_iter().map(proportional_memory).sum();
            held.processes.insert((*role).to_owned(), bytes);
        }
        if let Some(alize) = &self.alize {
            let (agent, proxy) = alize.memory();
            held.processes.insert("agent".into(), agent);
            if proxy > 0 {
                held.processes.insert("proxy".into(), proxy);
            }
            held.kernel = alize.kernel_memory()?;
        }
        Ok(held)
    }
}

fn start_server(means: &Means<'_>, name: &str, pair: &Pair, cgroup: &Path) -> Result<Kept> {
    let folder = means.ground.folder().join(format!("{name}-origin"));
    std::fs::create_dir_all(&folder)?;
    let log = folder.join("log");
    let words = match means.origin {
        Some(nginx) => {
            let file = origin::nginx_configuration(&folder, means.view.threads(), None)?;
            let program = nginx.program.display().to_string();
            vec![
                program,
                "-e".into(),
                folder.join("error.log").display().to_string(),
                "-c".into(),
                file.display().to_string(),
            ]
        }
        None => means.own.part("serve", &[]),
    };
    let pid = pair.server.pid();
    let start = Start {
        namespace: Some(pid),
        cgroup: Some(cgroup),
        user: None,
        signal: means.origin.is_some(),
        words,
    };
    let mut server = start.start(&log)?;
    await_listening(pid, origin::PORT, &mut server, &log).context("the server")?;
    Ok(server)
}
