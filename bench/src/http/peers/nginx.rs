//! nginx as a sidecar: HTTP/1.1 with kept connections to the server.

use std::fmt::Write as _;
use std::path::Path;

use super::super::place::open_files;
use super::{IDLE, INBOUND, OUTBOUND, Route, Side};

pub(super) fn configuration(folder: &Path, sides: &[Side], routes: &[Route], workers: usize) -> String {
    let (folder, files) = (folder.display(), open_files());
    let mut text = format!(
        "daemon off;\npid {folder}/nginx.pid;\nerror_log {folder}/error.log;\nworker_processes {workers};\n\
         worker_rlimit_nofile {files};\nevents {{ worker_connections {files}; multi_accept on; }}\n\
         http {{\n  access_log off;\n  keepalive_requests 1000000000;\n  keepalive_timeout {IDLE};\n\
         \x20 client_header_timeout {IDLE};\n  large_client_header_buffers 8 64k;\n  tcp_nodelay on;\n\
         \x20 client_body_temp_path {folder};\n  proxy_temp_path {folder};\n  fastcgi_temp_path {folder};\n\
         \x20 uwsgi_temp_path {folder};\n  scgi_temp_path {folder};\n\
         \x20 proxy_http_version 1.1;\n  proxy_set_header Connection \"\";\n  proxy_set_header Host $http_host;\n\
         \x20 proxy_buffers 16 64k;\n  proxy_buffer_size 64k;\n  proxy_busy_buffers_size 128k;\n"
    );
    for (number, route) in routes.iter().enumerate() {
        let _ = writeln!(
            text,
            "  upstream web{number} {{ server {}; keepalive 2000; keepalive_requests 1000000000; keepalive_timeout {IDLE}; }}",
            route.server
        );
    }
    for side in sides {
        let port = if *side == Side::Client { OUTBOUND } else { INBOUND };
        // nginx cannot ask where a redirected connection was going, so the name decides where there is a choice.
        for number in 0..routes.len() {
            let (backlog, name) = match number {
                0 => (" backlog=4096 default_server", "_".to_owned()),
                _ => ("", format!("s{number}.bench")),
            };
            let _ = writeln!(
                text,
                "  server {{ listen {port}{backlog}; server_name {name}; location / {{ proxy_pass http://web{number}; }} }}"
            );
        }
    }
    text.push_str("}\n");
    text
}
