//! Servers: real ones of the distribution, and one that only tells its name.

use std::fs;
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context, Result};

use crate::wait::until;
use crate::{Place, Process};

/// A server may take this long to listen, on a machine that runs other tests too.
const START: Duration = Duration::from_secs(20);

impl Place {
    /// A server that answers connections and datagrams at `addresses` with its name, then echoes.
    pub fn serve(&self, name: &str, addresses: &[SocketAddr]) -> Result<Process> {
        let world = crate::place::binary("alize-world")?;
        let mut arguments = vec!["serve".to_owned(), name.to_owned()];
        for address in addresses {
            arguments.extend([format!("--tcp={address}"), format!("--udp={address}")]);
        }
        self.started(&format!("serve-{name}"), &world.to_string_lossy(), &arguments, addresses)
    }

    /// A shop that serves HTTP at `http` and WebSocket at `websocket`.
    pub fn shop(&self, name: &str, http: SocketAddr, websocket: SocketAddr) -> Result<Process> {
        let world = crate::place::binary("alize-world")?;
        let arguments = [
            "shop".to_owned(),
            name.to_owned(),
            format!("--http={http}"),
            format!("--websocket={websocket}"),
        ];
        self.started(&format!("shop-{name}"), &world.to_string_lossy(), &arguments, &[http, websocket])
    }

    /// nginx, in one process so that killing it leaves no worker, that answers every request with its name and
    /// `GET /healthz` with 200, but `/absent` with 404.
    pub fn nginx(&self, name: &str, addresses: &[SocketAddr]) -> Result<Process> {
        let folder = self.logs.join(format!("nginx-{name}"));
        fs::create_dir_all(&folder)?;
        let listens: String = addresses.iter().map(|address| format!("    listen {address};\n")).collect();
        let scratch = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
            .map(|kind| format!("  {kind}_temp_path {}/{kind};\n", folder.display()))
            .concat();
        let text = format!(
            "user root;\ndaemon off;\nmaster_process off;\npid {folder}/pid;\nerror_log stderr warn;\n\
             events {{ worker_connections 8192; }}\n\
             http {{\n  access_log off;\n  default_type text/plain;\n{scratch}  server {{\n{listens}\
             \x20   location / {{ return 200 \"{name}\\n\"; }}\n\
             \x20   location = /absent {{ return 404; }}\n\
             \x20   location = /healthz {{ return 200 \"well\\n\"; }}\n  }}\n}}\n",
            folder = folder.display(),
        );
        let file = folder.join("nginx.conf");
        fs::write(&file, text)?;
        let arguments = ["-c", &file.to_string_lossy(), "-p", &folder.to_string_lossy(), "-e", "stderr"];
        self.started(&format!("nginx-{name}"), "nginx", &arguments.map(str::to_owned), addresses)
    }

    /// redis whose key `name` holds its name.
    pub fn redis(&self, name: &str, address: SocketAddr) -> Result<Process> {
        let folder = self.logs.join(format!("redis-{name}"));
        fs::create_dir_all(&folder)?;
        let (ip, port) = (address.ip().to_string(), address.port().to_string());
        let folder = folder.to_string_lossy();
        let options = [
            ["--port", port.as_str()],
            ["--bind", ip.as_str()],
            ["--protected-mode", "no"],
            ["--save", ""],
            ["--dir", &folder],
        ];
        let arguments: Vec<String> = options.concat().into_iter().map(str::to_owned).collect();
        let server = self.started(&format!("redis-{name}"), "redis-server", &arguments, &[address])?;
        self.run("redis-cli", &["-h", &ip, "-p", &port, "set", "name", name])?;
        Ok(server)
    }

    /// dnsmasq that answers `TXT name.test` with its name, over UDP and TCP.
    pub fn dnsmasq(&self, name: &str, address: SocketAddr) -> Result<Process> {
        let arguments = [
            "--keep-in-foreground".to_owned(),
            "--conf-file=/dev/null".to_owned(),
            "--no-resolv".to_owned(),
            "--no-hosts".to_owned(),
            "--user=root".to_owned(),
            "--bind-interfaces".to_owned(),
            format!("--pid-file={}", self.logs.join(format!("dnsmasq-{name}.pid")).display()),
            format!("--listen-address={}", address.ip()),
            format!("--port={}", address.port()),
            format!("--txt-record=name.test,{name}"),
        ];
        self.started(&format!("dnsmasq-{name}"), "dnsmasq", &arguments, &[address])
    }

    /// Starts a server and waits until it takes connections at all `addresses`.
    pub fn started(
        &self,
        name: &str,
        program: &str,
        arguments: &[String],
        addresses: &[SocketAddr],
    ) -> Result<Process> {
        let mut server = self.start(name, program, arguments)?;
        let waited = addresses.iter().try_for_each(|address| self.listening(&mut server, *address));
        waited.with_context(|| format!("{name}: {}", server.log_end()))?;
        Ok(server)
    }

    fn listening(&self, server: &mut Process, address: SocketAddr) -> Result<()> {
        self.namespace.within(|| {
            until(&format!("a server at {address}"), START, || {
                if let Some(status) = server.ended()? {
                    return Ok(Some(Err(anyhow::anyhow!("the server has ended: {status}"))));
                }
                TcpStream::connect_timeout(&address, Duration::from_secs(1))?;
                Ok(Some(Ok(())))
            })
        })??
    }
}

/// The address with a port, for short lines in tests.
pub fn at(address: impl Into<IpAddr>, port: u16) -> SocketAddr {
    SocketAddr::new(address.into(), port)
}
