//! What sleeping and busy connections cost, in memory of the proxy.

mod world;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use alize_model::http::Http;
use world::{Client, World, endpoint, memory, service, until, whole_memory};

/// An endpoint that answers nobody until it may, and then everybody.
fn holding() -> (SocketAddr, Arc<AtomicBool>, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let (open, waiting) = (Arc::<AtomicBool>::default(), Arc::<AtomicUsize>::default());
    let held: Arc<Mutex<Vec<std::net::TcpStream>>> = Arc::default();
    let (door, count) = (Arc::clone(&open), Arc::clone(&waiting));
    let taking = Arc::clone(&held);
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            taking.lock().unwrap().push(stream.unwrap());
        }
    });
    std::thread::spawn(move || {
        loop {
            std::thread::sleep(std::time::Duration::from_millis(20));
            for stream in held.lock().unwrap().iter_mut() {
                stream.set_nonblocking(true).unwrap();
                let mut space = [0; 4096];
                let mut owed = 0;
                while let Ok(1..) = stream.peek(&mut space) {
                    if !door.load(Ordering::SeqCst) {
                        owed = 1;
                        break;
                    }
                    let _ = stream.read(&mut space);
                    stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").unwrap();
                }
                count.fetch_add(owed, Ordering::SeqCst);
            }
        }
    });
    (address, open, waiting)
}

/// After a rush, freed memory is given back within so long.
const GIVEN_BACK: std::time::Duration = std::time::Duration::from_millis(2_500);

#[test]
fn connections_cost_little_asleep_and_not_much_awake() {
    rustix::process::setrlimit(
        rustix::process::Resource::Nofile,
        rustix::process::Rlimit { current: Some(20_000), maximum: Some(20_000) },
    )
    .unwrap_or_else(|error| panic!("cannot raise the limit of open files: {error}"));
    let (address, open, _) = holding();
    let state = |services: u32| {
        let mut http = Http::default();
        http.pool.idle_timeout = std::time::Duration::from_secs(3);
        let others = (2..=services).map(|number| {
            let endpoints = (0..3).map(|n| {
                endpoint(
                    SocketAddr::from(([10, (number >> 8) as u8, number as u8, n], 80)),
                    1,
                    &[("version", "v1")],
                )
            });
            service(number, &format!("service-{number}"), http.clone(), endpoints.collect())
        });
        std::iter::once(service(1, "web", http.clone(), vec![endpoint(address, 1, &[])]))
            .chain(others)
            .collect::<Vec<_>>()
    };
    let mut world = World::with_doors(state(1), 1);
    let empty = memory(&world);
    world.agent.state(state(1000)).unwrap();
    let services = memory(&world);
    open.store(true, Ordering::SeqCst);
    let mut clients: Vec<Client> = (0..1000).map(|_| world.connect()).collect();
    until("all are accepted", || world.agent.counters().open == 1000);
    let fresh = memory(&world);
    for client in &mut clients {
        assert_eq!(client.get("/").status, 200);
    }
    let rested = memory(&world);
    open.store(false, Ordering::SeqCst);
    for client in &mut clients {
        client.send("GET /wait HTTP/1.1\r\nHost: web.test\r\nUser-Agent: a-client-of-some-kind/1.0\r\nAccept: */*\r\n\r\n");
    }
    until("all are forwarded", || world.agent.counters().idle == 0);
    std::thread::sleep(std::time::Duration::from_millis(500));
    let (busy, whole) = (memory(&world), whole_memory(&world));
    open.store(true, Ordering::SeqCst);
    for client in &mut clients {
        assert_eq!(client.answer("GET").status, 200);
    }
    let idle = memory(&world);
    until("connections to the endpoint that are not needed are closed", || world.agent.counters().idle <= 1);
    std::thread::sleep(GIVEN_BACK);
    let asleep = memory(&world);
    drop(clients);
    until("all have ended", || world.agent.counters().open == 0);
    std::thread::sleep(GIVEN_BACK);
    let ended = memory(&world);
    eprintln!(
        "anonymous memory in kB: {empty} at start, {services} with 1,000 services of 3 endpoints, {fresh} with 1,000 \
         connections that have said nothing, {rested} after an exchange on each, {busy} (PSS {whole}) with a request under \
         way on each, {idle} when all are answered, {asleep} when the connections to the endpoint have ended, {ended} \
         when those of the clients have"
    );
    assert!(services - empty < 2_500, "services: {} kB", services - empty);
    assert!(fresh - services < 1_500, "asleep, fresh: {} kB for 1,000", fresh - services);
    assert!(rested < fresh + 1_500, "asleep, rested: {} kB for 1,000", rested - fresh);
    assert!(busy - services < 7_000, "awake: {} kB for 1,000", busy - services);
    assert!(whole < 16_000, "{whole} kB");
    assert!(asleep < rested + 500, "after a rush: {} kB more", asleep - rested);
    assert!(ended < services + 500, "at the end: {} kB more", ended - services);
}
