//! What the Gateway API says of routes in a mesh, request by request over real sockets: `gateway/requests.json` on the
//! services of `gateway/mesh.yaml`. Both files know nothing of who routes.

#[path = "gateway/case.rs"]
mod case;
mod world;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use alize_model::control::ProxyService;
use alize_model::{Budgets, HostFacts, Source, parse};
use case::Case;
use world::{Answer, Client, Server, World};

struct Mesh {
    world: World,
    names: Vec<String>,
    _servers: Vec<Server>,
}

impl Mesh {
    fn new() -> Self {
        let mut text = include_str!("gateway/mesh.yaml").to_owned();
        let servers: Vec<Server> =
            ["v1", "v2", "v3", "other"].iter().map(|name| Server::node(name, "http1")).collect();
        for (mark, server) in ["\"V1\"", "\"V2\"", "\"V3\"", "\"OTHER\""].iter().zip(&servers) {
            text = text.replace(mark, &format!("\"{}\"", server.address));
        }
        let source = Source { name: "mesh.yaml", text: &text };
        let (snapshot, _) = parse(source, &Budgets::default(), &HostFacts::default())
            .unwrap_or_else(|error| panic!("{error}"));
        let services: Vec<ProxyService> = (1..)
            .zip(snapshot.services())
            .map(|(number, service)| world::of_service(number, service))
            .collect();
        let names = snapshot.services().iter().map(|service| service.name.to_string()).collect();
        Self { world: World::new(services), names, _servers: servers }
    }

    fn client(&self, service: &str) -> Client {
        let place = self
            .names
            .iter()
            .position(|name| name == service)
            .unwrap_or_else(|| panic!("no service {service}"));
        Client::connect(self.world.doors[place])
    }

    fn hits(&self, service: &str) -> u64 {
        self.client(service).get("/hits").text().trim().parse().unwrap()
    }
}

impl Case {
    fn ask(&self, client: &mut Client) -> Answer {
        let mut text = format!("{} HTTP/1.1\r\n", self.request);
        if !self.headers.contains_key("Host") {
            text.push_str("Host: mesh.example\r\n");
        }
        for (name, value) in &self.headers {
            text.push_str(&format!("{name}: {value}\r\n"));
        }
        if !self.send.is_empty() {
            text.push_str(&format!("Content-Length: {}\r\n", self.send.len()));
        }
        client.send(format!("{text}\r\n{}", self.send));
        client.answer(self.request.split(' ').next().unwrap())
    }

    fn check(&self, answer: &Answer) {
        let what = &self.what;
        assert_eq!(answer.status, self.status, "{what}: {answer:?}");
        for (name, expected) in &self.answers {
            assert_eq!(answer.header(name), *expected, "{what}: {name} in {}", answer.head);
        }
        if let Some(body) = &self.body {
            assert_eq!(&answer.text(), body, "{what}");
        }
        if self.from.is_none() && self.url.is_none() && self.sees.is_empty() {
            return;
        }
        let seen = answer.json();
        if let Some(from) = &self.from {
            assert_eq!(seen["name"], **from, "{what}: {seen}");
        }
        if let Some(url) = &self.url {
            assert_eq!(seen["url"], **url, "{what}");
        }
        for (name, expected) in &self.sees {
            assert_eq!(seen["headers"][name].as_str(), expected.as_deref(), "{what}: {name} in {seen}");
        }
    }

    fn run(&self, mesh: &Mesh) {
        let before: Vec<u64> = self.hits.keys().map(|service| mesh.hits(service)).collect();
        let mut client = mesh.client(&self.service);
        let mut counts: BTreeMap<String, u32> = BTreeMap::new();
        for _ in 0..self.times {
            let began = Instant::now();
            let answer = self.ask(&mut client);
            assert!(began.elapsed() >= Duration::from_millis(self.at_least_ms), "{}", self.what);
            self.check(&answer);
            if !self.shares.is_empty() {
                *counts.entry(answer.json()["name"].as_str().unwrap().to_owned()).or_default() += 1;
            }
        }
        for (name, share) in &self.shares {
            let found = f64::from(counts.remove(name).unwrap_or(0)) / f64::from(self.times);
            // Five standard deviations of a fair draw.
            let slack = 5.0 * (share * (1.0 - share) / f64::from(self.times)).sqrt();
            assert!((found - share).abs() <= slack, "{}: {name} got {found}, wanted {share}", self.what);
        }
        assert!(counts.is_empty(), "{}: also {counts:?}", self.what);
        for ((service, expected), before) in self.hits.iter().zip(before) {
            world::until(&format!("{}: {expected} copies to {service}", self.what), || {
                mesh.hits(service) - before >= *expected
            });
            assert_eq!(mesh.hits(service) - before, *expected, "{}", self.what);
        }
    }
}

#[test]
fn routes_mean_what_the_gateway_api_says() {
    let cases: Vec<Case> = serde_json::from_str(include_str!("gateway/requests.json")).unwrap();
    let mesh = Mesh::new();
    for case in &cases {
        case.run(&mesh);
    }
    assert!(cases.len() >= 80, "{}", cases.len());
}
