//! What tests of plaintext within TLS have in common.
#![allow(dead_code, reason = "each test file uses a part of it")]

use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Command;

use alize_datapath::observe::Observer;

use crate::http::{Server, counted, nginx_with, run};
use crate::world::{World, join};

/// A certificate for 127.0.0.1 that nobody has signed but itself.
pub(crate) struct Certificate {
    pub(crate) folder: PathBuf,
}

impl Certificate {
    pub(crate) fn new(name: &str) -> Self {
        let folder = std::env::temp_dir().join(format!("observe-tls-{name}-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let certificate = Self { folder };
        let subject = ["-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1"];
        let made = Command::new("openssl")
            .args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"])
            .args(["-days", "2"])
            .args(subject)
            .args(["-keyout", &certificate.path("key"), "-out", &certificate.path("crt")])
            .output()
            .expect("openssl is installed");
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        certificate
    }

    pub(crate) fn path(&self, which: &str) -> String {
        self.folder.join(which).to_string_lossy().into_owned()
    }

    pub(crate) fn nginx(&self, name: &str) -> Server {
        self.nginx_that_speaks(name, "ssl")
    }

    pub(crate) fn nginx_http2(&self, name: &str) -> Server {
        self.nginx_that_speaks(name, "ssl http2")
    }

    fn nginx_that_speaks(&self, name: &str, what: &str) -> Server {
        let (certificate, key) = (self.path("crt"), self.path("key"));
        nginx_with(name, &format!("{what}; ssl_certificate {certificate}; ssl_certificate_key {key}"))
    }
}

impl Drop for Certificate {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.folder);
    }
}

pub(crate) fn curl(address: SocketAddr, path: &str, times: usize) {
    let urls: Vec<String> = (0..times).map(|_| format!("https://{address}{path}")).collect();
    let mut arguments = vec!["--http1.1", "-sSk"];
    for url in &urls {
        arguments.extend(["-o", "/dev/null", url.as_str()]);
    }
    run("curl", &arguments);
}

/// The one line that everything should be under, as often as it should.
pub(crate) fn count_is(observer: &Observer, server: SocketAddr, line: &str, times: u64) {
    let is = || {
        let counted = counted(observer, server);
        counted.len() == 1 && counted.get(line) == Some(&times)
    };
    for _ in 0..100 {
        if is() {
            return;
        }
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    panic!("{:?}, {:?}", counted(observer, server), observer.tallies().unwrap());
}

/// Of HTTP/2 nothing was missed, and nothing that was seen was not understood.
pub(crate) fn all_http2_was_read(observer: &Observer) {
    let tallies = observer.tallies().unwrap();
    let http2 = ["http2-gap", "http2-frame", "http2-lost", "http2-undecoded", "http2-unpaired"];
    for name in http2.into_iter().chain(["tls-http2", "tls-unplaced"]) {
        assert_eq!(tallies.get(name), Some(0), "{name}: {tallies:?}");
    }
}

/// Runs it in a cgroup that is not meshed.
pub(crate) fn outside(world: &World, work: impl FnOnce()) {
    join(world.cgroup().parent().unwrap());
    work();
    join(world.cgroup());
}
