//! HAProxy as a sidecar: connections to servers are kept and shared by all clients.

use std::fmt::Write as _;

use super::super::place::open_files;
use super::{IDLE, INBOUND, OUTBOUND, Route, Side};

pub(super) fn configuration(sides: &[Side], routes: &[Route], threads: usize) -> String {
    // Two sockets for each connection, and some for itself.
    let most = (open_files().saturating_sub(200) / 2).min(20_000);
    let mut text = format!(
        "global\n  nbthread {threads}\n  maxconn {most}\n  tune.bufsize 65536\n  tune.idle-pool.shared on\n\
         defaults\n  mode http\n  http-reuse always\n  option http-keep-alive\n  timeout connect 5s\n\
         \x20 timeout client {IDLE}\n  timeout server {IDLE}\n  timeout http-keep-alive {IDLE}\n"
    );
    for side in sides {
        let (name, port) = match side {
            Side::Client => ("out", OUTBOUND),
            Side::Server => ("in", INBOUND),
        };
        let _ = writeln!(text, "frontend {name}\n  bind 0.0.0.0:{port} backlog 4096");
        for (number, route) in routes.iter().enumerate() {
            // Redirected connections still know where they were going.
            let address = if *side == Side::Client { route.dialled } else { route.server };
            let (ip, port) = (address.ip(), address.port());
            let _ = writeln!(text, "  use_backend {name}{number} if {{ dst {ip} }} {{ dst_port {port} }}");
        }
        for (number, route) in routes.iter().enumerate() {
            let _ =
                writeln!(text, "backend {name}{number}\n  server web {} pool-max-conn 2000", route.server);
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_side_listens_and_each_route_has_a_server() {
        let route =
            Route { dialled: "10.96.0.10:80".parse().unwrap(), server: "10.210.0.2:8080".parse().unwrap() };
        let both = configuration(&[Side::Client, Side::Server], &[route], 3);
        assert!(both.contains("nbthread 3") && both.contains(":15001") && both.contains(":15006"));
        assert!(both.contains("use_backend out0 if { dst 10.96.0.10 } { dst_port 80 }"), "{both}");
        assert!(both.contains("use_backend in0 if { dst 10.210.0.2 } { dst_port 8080 }"), "{both}");
        assert_eq!(both.matches("server web 10.210.0.2:8080").count(), 2);
        assert!(!configuration(&[Side::Client], &[route], 1).contains("15006"));
    }
}
