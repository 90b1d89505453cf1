//! Rules of the private network namespaces: into a sidecar, or to the server itself.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};

use super::{INBOUND, OUTBOUND, Route, Side, USER};
use crate::http::subject::Tool;
use crate::process::run;
use crate::world::{Ground, inside};

/// Leads what goes out of (client) or comes into (server) the namespace of `pid` into its sidecar, as Istio does.
pub(crate) fn to_sidecar(ground: &Ground, pid: u32, sides: &[Side]) -> Result<()> {
    let mut rules = vec![];
    for side in sides {
        rules.push(match side {
            Side::Client => format!("OUTPUT -p tcp -d 10.96.0.0/12 -m owner ! --uid-owner {USER} -j REDIRECT --to-ports {OUTBOUND}"),
            Side::Server => format!("PREROUTING -p tcp ! -d 10.96.0.0/12 -j REDIRECT --to-ports {INBOUND}"),
        });
    }
    load_iptables(ground, pid, &rules).or_else(|iptables| {
        let chains: String = sides.iter().map(|side| match side {
            Side::Client => format!(
                "chain out {{ type nat hook output priority -100; ip protocol tcp ip daddr 10.96.0.0/12 meta skuid != {USER} redirect to :{OUTBOUND}; }}\n"
            ),
            Side::Server => format!(
                "chain in {{ type nat hook prerouting priority -100; ip protocol tcp ip daddr != 10.96.0.0/12 redirect to :{INBOUND}; }}\n"
            ),
        }).collect();
        load_nftables(ground, pid, &chains).with_context(|| format!("neither iptables ({iptables:#}) nor nftables"))
    })
}

/// Translates the address of the service to that of the server.
pub(crate) fn translate(ground: &Ground, pid: u32, tool: Tool, route: Route) -> Result<()> {
    let (ip, port, server) = (route.dialled.ip(), route.dialled.port(), route.server);
    match tool {
        Tool::Iptables => {
            let rule = format!("OUTPUT -p tcp -d {ip} --dport {port} -j DNAT --to-destination {server}");
            load_iptables(ground, pid, &[rule])
        }
        Tool::Nftables => {
            let chain = format!(
                "chain out {{ type nat hook output priority -100; ip daddr {ip} tcp dport {port} dnat to {server}; }}\n"
            );
            load_nftables(ground, pid, &chain)
        }
    }
}

fn load_iptables(ground: &Ground, pid: u32, rules: &[String]) -> Result<()> {
    let lines: String = rules.iter().map(|rule| format!("-A {rule}\n")).collect();
    let file = ground.file(&format!("iptables-{pid}"), &format!("*nat\n{lines}COMMIT\n"))?;
    let load = |tool: &str| restore(pid, tool, &file);
    load("iptables-legacy-restore").or_else(|_| load("iptables-nft-restore"))
}

fn restore(pid: u32, tool: &str, file: &Path) -> Result<()> {
    run(&mut inside(pid, tool), Some(file)).map(|_| ())
}

fn load_nftables(ground: &Ground, pid: u32, chains: &str) -> Result<()> {
    let file = ground.file(&format!("nftables-{pid}"), &format!("table ip bench {{\n{chains}}}\n"))?;
    let command: &mut Command = &mut inside(pid, "nft");
    run(command.arg("-f").arg(&file), None).map(|_| ())
}
