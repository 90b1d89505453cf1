//! The machine in small: one server namespace, and a client namespace and a cgroup for each subject, linked by veth.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::generator::BODY;
use super::layout::{self, ENDPOINT_NETWORK, ENDPOINT_PORT, MOVED_NETWORK, MOVED_SOURCE};
use super::order::{Answer, Order};
use crate::process::{self, Kept, run};
use crate::world::{Apart, Ground, apart, await_namespace, configure, inside};

/// Which server answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Backend {
    /// The built-in one, on one CPU or on all.
    BuiltIn { cpu: Option<usize>, threads: usize },
    /// nginx with one worker on that CPU.
    Nginx { cpu: usize },
}

/// The namespace of the servers: every endpoint address is local there. One server runs in it at a time.
pub(crate) struct ServerSide {
    holder: Apart,
    server: Option<Kept>,
    links: u8,
}

impl ServerSide {
    pub(crate) fn new(ground: &Ground) -> Result<Self> {
        let holder = Apart::new(ground, "server-side")?;
        let routes = format!("link set lo up\nroute add local {ENDPOINT_NETWORK} dev lo\n");
        configure(ground, holder.pid(), &routes)?;
        Ok(Self { holder, server: None, links: 0 })
    }

    /// Replaces the server that runs.
    pub(crate) fn serve(&mut self, ground: &Ground, backend: Backend) -> Result<()> {
        self.server = None;
        let log = ground.folder().join("server.log");
        let mut server = match backend {
            Backend::BuiltIn { cpu, threads } => {
                let mut command = inside(self.holder.pid(), &own_program()?.to_string_lossy());
                command.args(["serve", "--threads", &threads.to_string()]);
                command.args(cpu.iter().flat_map(|cpu| ["--cpu".into(), cpu.to_string()]));
                let mut server = Kept::start(&mut command, &log)?;
                server.hear()?;
                server
            }
            Backend::Nginx { cpu } => {
                let configuration = ground.file("nginx.conf", &nginx_configuration(ground.folder(), cpu))?;
                let mut command = inside(self.holder.pid(), "setpriv");
                command
                    .args(["--pdeathsig", "TERM", "nginx", "-e"])
                    .arg(ground.folder().join("nginx-error.log"));
                command.arg("-c").arg(configuration);
                Kept::start(&mut command, &log)?
            }
        };
        self.await_listening(&mut server)?;
        self.server = Some(server);
        Ok(())
    }

    fn await_listening(&self, server: &mut Kept) -> Result<()> {
        let port = format!(":{ENDPOINT_PORT:04X} 00000000:0000 0A ");
        let deadline = Instant::now() + Duration::from_secs(10);
        while Instant::now() < deadline {
            server.check_alive()?;
            let sockets = fs::read_to_string(format!("/proc/{}/net/tcp", self.holder.pid()))?;
            if sockets.contains(&port) {
                return Ok(());
            }
            thread::sleep(Duration::from_millis(5));
        }
        bail!("the server did not begin to listen on port {ENDPOINT_PORT} within 10 s")
    }

    /// CPU time of the server and its workers so far.
    pub(crate) fn cpu_time(&self) -> Result<Duration> {
        let server = self.server.as_ref().context("no server runs")?;
        let mut total = server.cpu_time()?;
        for worker in process::children(server.pid()) {
            total += process::process_cpu_time(worker)?;
        }
        Ok(total)
    }
}

fn own_program() -> Result<PathBuf> {
    std::env::current_exe().context("cannot find the bench's own program")
}

fn nginx_configuration(folder: &Path, cpu: usize) -> String {
    let (folder, mask) = (folder.display(), format!("{:b}", 1u64 << cpu));
    let response = BODY.trim_end();
    format!(
        "daemon off;\nuser root;\npid {folder}/nginx.pid;\nworker_processes 1;\nworker_cpu_affinity {mask};\n\
         error_log {folder}/nginx-error.log;\nevents {{ worker_connections 1024; }}\n\
         http {{\n  access_log off;\n  keepalive_requests 1000000000;\n  keepalive_timeout 600s;\n\
         \x20 client_body_temp_path {folder};\n  proxy_temp_path {folder};\n  fastcgi_temp_path {folder};\n\
         \x20 uwsgi_temp_path {folder};\n  scgi_temp_path {folder};\n\
         \x20 server {{ listen {ENDPOINT_PORT} backlog=1024; location / {{ return 200 \"{response}\\n\"; }} }}\n}}\n"
    )
}

/// A client: a load generator in its own namespace, in one of two cgroups.
pub(crate) struct Client {
    generator: Kept,
    plain: PathBuf,
    /// Where an agent's programs may be attached.
    pub(crate) meshed: PathBuf,
    is_meshed: bool,
}

impl Client {
    /// Starts it and links it to the server.
    pub(crate) fn new(ground: &Ground, server: &mut ServerSide, name: &str) -> Result<Self> {
        let log = ground.folder().join(format!("{name}.log"));
        let generator = Kept::start(apart(&own_program()?).arg("generate"), &log)?;
        await_namespace(generator.pid())?;
        let (plain, meshed) =
            (ground.cgroup(&format!("{name}-plain"))?, ground.cgroup(&format!("{name}-meshed"))?);
        let client = Self { generator, plain, meshed, is_meshed: false };
        client.enter(&client.plain)?;
        client.link(ground, server)?;
        Ok(client)
    }

    /// Sockets belong to the cgroup in which they are made: this is for those to come.
    pub(crate) fn join(&mut self, meshed: bool) -> Result<()> {
        if meshed != self.is_meshed {
            self.enter(if meshed { &self.meshed } else { &self.plain })?;
            self.is_meshed = meshed;
        }
        Ok(())
    }

    fn enter(&self, cgroup: &Path) -> Result<()> {
        fs::write(cgroup.join("cgroup.procs"), self.generator.pid().to_string())
            .with_context(|| format!("cannot move a client into {}", cgroup.display()))
    }

    fn link(&self, ground: &Ground, server: &mut ServerSide) -> Result<()> {
        server.links = server.links.checked_add(1).context("too many links")?;
        let link = server.links;
        let (here, there) = (self.generator.pid(), server.holder.pid());
        run(
            Command::new("ip")
                .args(["link", "add", "up0", "netns", &here.to_string(), "type", "veth", "peer", "name"])
                .args([&format!("down{link}"), "netns", &there.to_string()]),
            None,
        )?;
        let (near, far) = layout::link(link);
        configure(ground, there, &format!("address add {far}/24 dev down{link}\nlink set down{link} up\n"))?;
        configure(
            ground,
            here,
            &format!(
                "link set lo up\naddress add {near}/24 dev up0\naddress add {MOVED_SOURCE}/32 dev up0\nlink set up0 up\n\
                 route add default via {far} src {near}\nroute add {MOVED_NETWORK} via {far} src {MOVED_SOURCE}\n"
            ),
        )
    }

    pub(crate) fn pid(&self) -> u32 {
        self.generator.pid()
    }

    /// Gives an order and waits for its answer.
    pub(crate) fn order(&mut self, order: &Order) -> Result<Answer> {
        process::check_interrupt()?;
        self.begin(order)?;
        self.answer()
    }

    /// Gives an order.
    pub(crate) fn begin(&mut self, order: &Order) -> Result<()> {
        self.generator.tell(&serde_json::to_string(order)?)
    }

    /// Waits for an answer.
    pub(crate) fn answer(&mut self) -> Result<Answer> {
        match serde_json::from_str(&self.generator.hear()?)? {
            Answer::Failed(reason) => bail!("the load generator failed: {reason}"),
            answer => Ok(answer),
        }
    }
}
