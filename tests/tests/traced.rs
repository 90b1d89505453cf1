//! What `alize trace` shows of services with `protocol: http`: each request once, whichever way it went.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::process::{Child, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::Duration;

use alize_model::api::ObservedRequest;
use alize_tests::mesh::{endpoints, file, service};
use alize_tests::servers::at;
use alize_tests::wait::until_true;
use alize_tests::{Agent, Place, World};
use anyhow::{Context, Result, ensure};

const PATIENCE: Duration = Duration::from_secs(30);
const BY_KERNEL: usize = 40;
const BY_PROXY: usize = 10;

/// `alize trace` as it runs, and its lines.
struct Trace {
    child: Child,
    requests: Receiver<ObservedRequest>,
}

impl Trace {
    fn start(agent: &Agent) -> Result<Self> {
        let mut command = agent.cli(&["trace", "--output", "json"])?;
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn()?;
        let output = BufReader::new(child.stdout.take().context("the output of alize trace")?);
        let (sender, requests) = channel();
        thread::spawn(move || {
            for line in output.lines().map_while(Result::ok) {
                let request = serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line}"));
                if sender.send(request).is_err() {
                    return;
                }
            }
        });
        Ok(Self { child, requests })
    }
}

impl Drop for Trace {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// One service with a server on this host, one with a server elsewhere; both get requests that the kernel routes and such that
/// it leaves to the proxy.
#[test]
fn each_request_is_traced_once_whichever_way_it_goes() -> Result<()> {
    let world = World::new("traced")?;
    let (client, near, far) = (world.meshed("client")?, world.meshed("near")?, world.plain("far")?);
    let address = |place: &Place| at(place.namespace.v4(), 8080);
    let _servers = (near.nginx("near", &[address(&near)])?, far.nginx("far", &[address(&far)])?);
    let services =
        [("near", at([10, 96, 0, 30], 80), address(&near)), ("far", at([10, 96, 0, 31], 80), address(&far))];
    let text =
        services.map(|(name, at, endpoint)| service(name, at, &["protocol: http"], &endpoints([endpoint])));
    let agent = Agent::start(&world, &file(&text))?;
    for (name, at, _) in services {
        warm(&agent, &client, name, at)?;
    }

    let trace = Trace::start(&agent)?;
    until_true("the first line of the trace", PATIENCE, || {
        client.run("curl", &["-sSf", &format!("http://{}/probe", services[0].1)])?;
        Ok(trace.requests.recv_timeout(Duration::from_millis(200)).is_ok())
    })?;
    for (_, at, _) in services {
        client.run("curl", &["-sSf", &format!("http://{at}/counted/kernel-l7/[1-{BY_KERNEL}]")])?;
        let chunked = ["-sSf", "-H", "Transfer-Encoding: chunked", "-d", "a=b"];
        client
            .run("curl", &[&chunked[..], &[&format!("http://{at}/counted/proxy/[1-{BY_PROXY}]")]].concat())?;
    }

    let mut seen: BTreeMap<(String, String), usize> = BTreeMap::new();
    // Nothing for so long: nothing more comes.
    while let Ok(request) = trace.requests.recv_timeout(Duration::from_secs(3)) {
        let Some(label) = request.target.strip_prefix("/counted/").and_then(|rest| rest.split('/').next())
        else {
            continue;
        };
        let name = request.service.clone().context("the service is known")?;
        let (_, at, endpoint) =
            services.iter().find(|(known, ..)| *known == name).context("which is ours")?;
        // Where the proxy sends a request is not seen where its client sends it.
        let expected = if label == "proxy" { at } else { endpoint };
        ensure!(request.path_label == label && request.endpoint == *expected, "{request:?}");
        ensure!(request.status == Some(200), "{request:?}");
        let comm = request.client.as_ref().and_then(|client| client.comm.as_deref());
        ensure!(comm == Some("curl"), "{request:?}");
        ensure!(request.response_bytes > 0 && request.latency > 0.0, "{request:?}");
        *seen.entry((name, request.target)).or_default() += 1;
    }
    let twice: Vec<_> = seen.iter().filter(|(_, times)| **times != 1).collect();
    ensure!(twice.is_empty(), "{twice:?}");
    ensure!(
        seen.len() == services.len() * (BY_KERNEL + BY_PROXY),
        "{} were seen: {:?}",
        seen.len(),
        seen.keys()
    );
    Ok(())
}

/// Until the kernel routes requests to the service.
fn warm(agent: &Agent, client: &Place, name: &str, service: SocketAddr) -> Result<()> {
    let url = format!("http://{service}/warm/[1-20]");
    until_true(&format!("the kernel to route requests to {name}"), PATIENCE, || {
        client.run("curl", &["-sSf", &url])?;
        let name = format!("service=\"{name}\"");
        Ok(agent.metrics()?.lines().any(|line| {
            line.starts_with("alize_http_requests_total{")
                && line.contains(&name)
                && line.contains("kernel-l7")
                && !line.ends_with(" 0")
        }))
    })
}
