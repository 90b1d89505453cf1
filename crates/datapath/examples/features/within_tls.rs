//! A request that OpenSSL encrypts, as the probes see it.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::process::{Child, Command, Stdio};

use alize_datapath::InForce;
use alize_datapath::observe::{Event, Filter, Limits, Observer, PathLabel, Request};

use crate::world::{World, eventually};

struct Ended(Child);

impl Drop for Ended {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn openssl(arguments: &[&str]) -> Command {
    let mut command = Command::new("openssl");
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command
}

/// openssl asks openssl, and what it asked is told in plain words.
pub(crate) fn seen(world: &World) {
    let file = |name: &str| world.options.run_dir.join(name).to_string_lossy().into_owned();
    let (key, certificate, settings) = (file("key.pem"), file("certificate.pem"), file("openssl.cnf"));
    std::fs::create_dir_all(&world.options.run_dir).unwrap();
    // It does without those of the machine, which a virtual one has not.
    std::fs::write(&settings, "[req]\ndistinguished_name = empty\n[empty]\n").unwrap();
    let make = [
        ["req", "-x509", "-nodes", "-days", "2"].as_slice(),
        &["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"],
        &["-subj", "/CN=localhost", "-config", &settings, "-keyout", &key, "-out", &certificate],
    ];
    let make = make.concat();
    assert!(openssl(&make).status().expect("openssl is installed").success());
    let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let accept = address.to_string();
    let serve = ["s_server", "-www", "-accept", &accept, "-key", &key, "-cert", &certificate];
    let _server = Ended(openssl(&serve).spawn().unwrap());
    let mut observer = Observer::open(&world.options, &Limits::default(), &InForce::default())
        .unwrap_or_else(|error| panic!("{error}"));
    eventually("the server listens", || std::net::TcpStream::connect(address).is_ok());
    observer.watch_tls(&[address]).unwrap_or_else(|error| panic!("{error}"));
    observer.start_trace(&Filter::default()).unwrap_or_else(|error| panic!("{error}"));

    let ask = ["s_client", "-quiet", "-no_ign_eof", "-connect", &accept];
    let mut client = Ended(
        openssl(&ask).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("it was started before"),
    );
    client.0.stdin.as_mut().unwrap().write_all(b"GET /seen HTTP/1.0\r\n\r\n").unwrap();
    let mut answer = String::new();
    client.0.stdout.as_mut().unwrap().read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.0 200"), "{answer}");
    let is_ours = |request: &Request| {
        (request.path_label, request.target.as_str(), request.status) == (PathLabel::Tls, "/seen", Some(200))
            && request.server_address == address
    };
    let mut found = false;
    eventually("the request is told", || {
        observer
            .poll(&mut |event| {
                let event = event.expect("the kernel writes what can be read");
                found |= matches!(event, Event::Request(request) if is_ours(&request));
            })
            .unwrap();
        found
    });
}
