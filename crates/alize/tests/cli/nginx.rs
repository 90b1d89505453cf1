//! nginx in a cgroup below the test's, as a unit of systemd would be.

use std::fs;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::real::Host;

/// Ends with the test.
pub(crate) struct Nginx {
    pub(crate) process: Child,
    pub(crate) port: u16,
}

/// What it is started with.
pub(crate) struct Setting<'a> {
    /// Of the block `http`.
    pub(crate) http: &'a str,
    /// After the address that it listens on, within the block `server`.
    pub(crate) server: &'a str,
    /// Before the command.
    pub(crate) environment: &'a str,
    /// Within which it has to listen.
    pub(crate) limit: Duration,
}

impl Nginx {
    pub(crate) fn start(host: &Host, setting: &Setting<'_>) -> Self {
        let cgroup = format!("{}/nginx.service", host.cgroup);
        fs::create_dir(&cgroup).expect("a cgroup");
        let free = std::net::TcpListener::bind("127.0.0.1:0").and_then(|free| free.local_addr());
        let port = free.expect("a port").port();
        let folder = host.folder.path("");
        let Setting { http, server, environment, limit } = setting;
        let conf = format!(
            "daemon off; master_process off; pid {folder}/nginx.pid; error_log {folder}/nginx.log; events {{}}\n\
             http {{ {http}\n\
             client_body_temp_path {folder}; proxy_temp_path {folder}; fastcgi_temp_path {folder};\n\
             uwsgi_temp_path {folder}; scgi_temp_path {folder};\n\
             server {{ listen 127.0.0.1:{port}{server} location / {{ return 200 hello; }}\n\
             location /fail {{ return 503 no; }} }} }}\n"
        );
        let file = host.folder.file("nginx.conf", conf);
        let script = format!("echo $$ > {cgroup}/cgroup.procs && {environment} exec nginx -c {file}");
        let nginx = Command::new("bash").args(["-c", &script]).stderr(Stdio::null()).spawn();
        let process = nginx.expect("bash");
        let begun = Instant::now();
        while std::net::TcpStream::connect(("127.0.0.1", port)).is_err() {
            assert!(begun.elapsed() < *limit, "nginx does not listen");
            std::thread::sleep(Duration::from_millis(20));
        }
        Self { process, port }
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
