//! Random requests of random sizes in random pieces, with clients and endpoints that break off: no wrong byte, no answer
//! of another, nothing left over. `ALIZE_TORTURE_SECONDS` makes it longer.

mod world;

use std::io::Write;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use alize_model::http::Http;
use world::{Agent, Client, Server, World, endpoint, memory, pattern, service, start, until};

/// Seconds that an old proxy may take to end.
const DRAIN: u64 = 60;

/// Numbers by chance that can be had again.
struct Chance(u64);

impl Chance {
    fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % end
    }

    /// Small mostly, large now and then.
    fn size(&mut self) -> usize {
        let most = [1, 100, 5_000, 70_000, 300_000, 2_000_000][self.below(6) as usize];
        self.below(most) as usize
    }
}

/// The body of one request, unlike that of any other.
fn body(nonce: u64, size: usize) -> Vec<u8> {
    let mut bytes = pattern(size);
    for (byte, mark) in bytes.iter_mut().zip(nonce.to_be_bytes()) {
        *byte = mark;
    }
    bytes
}

fn write_in_pieces(client: &mut Client, bytes: &[u8], chance: &mut Chance) {
    let mut rest = bytes;
    while !rest.is_empty() {
        let (piece, more) = rest.split_at(rest.len().min(1 + chance.size()));
        client.stream.write_all(piece).unwrap();
        rest = more;
    }
}

#[derive(Default)]
struct Tally {
    requests: AtomicU64,
    bytes: AtomicU64,
    broken_off: AtomicU64,
}

/// One client: whatever it is answered has to be its own.
fn torment(door: SocketAddr, seed: u64, end: Instant, tally: &Tally) {
    let mut chance = Chance(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
    let mut client = Client::connect(door);
    let mut nonce = seed << 32;
    while Instant::now() < end {
        nonce += 1;
        tally.requests.fetch_add(1, Ordering::Relaxed);
        match chance.below(10) {
            0..=2 => {
                let answer = client.get(&format!("/x?nonce={nonce}"));
                assert_eq!(answer.json()["url"], format!("/x?nonce={nonce}"));
            }
            3 | 4 => {
                let size = chance.size();
                let kind = ["bytes", "chunked"][chance.below(2) as usize];
                let answer = client.get(&format!("/{kind}/{size}"));
                assert!(
                    answer.status == 200 && answer.body == pattern(size),
                    "{kind} {size}: {}",
                    answer.status
                );
                tally.bytes.fetch_add(size as u64, Ordering::Relaxed);
            }
            5 | 6 => mirror(&mut client, nonce, &mut chance, tally),
            7 => {
                // Many at once, on one connection.
                let count = 1 + chance.below(8);
                let text: String = (0..count)
                    .map(|n| format!("GET /x?nonce={nonce}&n={n} HTTP/1.1\r\nHost: a\r\n\r\n"))
                    .collect();
                write_in_pieces(&mut client, text.as_bytes(), &mut chance);
                for n in 0..count {
                    assert_eq!(client.answer("GET").json()["url"], format!("/x?nonce={nonce}&n={n}"));
                }
            }
            8 => {
                tally.broken_off.fetch_add(1, Ordering::Relaxed);
                let size = 1 + chance.size();
                let head = format!("POST /mirror HTTP/1.1\r\nHost: a\r\nContent-Length: {size}\r\n\r\n");
                let whole = [head.as_bytes(), &body(nonce, size)].concat();
                let cut = 1 + chance.below(whole.len() as u64 - 1) as usize;
                let _ = client.stream.write_all(&whole[..cut]);
                client = Client::connect(door);
            }
            _ => {
                let answer = client.get(&format!("/reset?{nonce}"));
                assert_eq!((answer.status, answer.reason()), (502, "endpoint-closed".into()));
            }
        }
    }
}

/// Sends a body and reads it back at the same time.
fn mirror(client: &mut Client, nonce: u64, chance: &mut Chance, tally: &Tally) {
    let size = chance.size();
    let sent = body(nonce, size);
    let chunked = chance.below(2) == 0;
    let mut wire = Vec::new();
    if chunked {
        wire.extend_from_slice(b"POST /mirror HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n");
        let mut rest = sent.as_slice();
        while !rest.is_empty() {
            let (piece, more) = rest.split_at(rest.len().min(1 + chance.size()));
            wire.extend_from_slice(format!("{:x}\r\n", piece.len()).as_bytes());
            wire.extend_from_slice(piece);
            wire.extend_from_slice(b"\r\n");
            rest = more;
        }
        wire.extend_from_slice(b"0\r\n\r\n");
    } else {
        wire.extend_from_slice(
            format!("POST /mirror HTTP/1.1\r\nHost: a\r\nContent-Length: {size}\r\n\r\n").as_bytes(),
        );
        wire.extend_from_slice(&sent);
    }
    let mut writer = Client { stream: client.stream.try_clone().unwrap(), unread: Vec::new() };
    let mut chance = Chance(chance.below(u64::MAX) | 1);
    let sending = std::thread::spawn(move || write_in_pieces(&mut writer, &wire, &mut chance));
    let answer = client.answer("POST");
    sending.join().unwrap();
    assert!(
        answer.status == 200 && answer.body == sent,
        "{size} bytes, chunked: {chunked}, {}",
        answer.status
    );
    tally.bytes.fetch_add(2 * size as u64, Ordering::Relaxed);
}

/// Torments a proxy, which `successors` others succeed meanwhile.
fn run(successors: u64) {
    let seconds = std::env::var("ALIZE_TORTURE_SECONDS").ok().and_then(|text| text.parse().ok()).unwrap_or(8);
    let servers: Vec<Server> = (0..2).map(|n| Server::node(&format!("n{n}"), "http1")).collect();
    let endpoints = servers.iter().map(|server| endpoint(server.address, 1, &[])).collect();
    let mut world = World::new(vec![service(1, "web", Http::default(), endpoints)]);
    let end = Instant::now() + Duration::from_secs(seconds);
    let tally = Arc::<Tally>::default();
    let before = memory(&world);
    let door = world.door();
    let clients: Vec<_> = (1..=12)
        .map(|seed| {
            let tally = Arc::clone(&tally);
            std::thread::spawn(move || torment(door, seed, end, &tally))
        })
        .collect();
    let mut old = Vec::new();
    for _ in 0..successors {
        std::thread::sleep(Duration::from_secs(seconds) / (successors as u32 + 1));
        let next = start(&world.folder, &world.doors, DRAIN as u32);
        old.push(std::mem::replace(&mut world.proxy, next));
        world.agent = Agent::connect(&world.folder);
    }
    for client in clients {
        client.join().expect("every answer was right");
    }
    // They may drain for as long as they were told, and machines are busy.
    let patience = Instant::now() + Duration::from_secs(DRAIN + 30);
    for process in &mut old {
        while process.0.try_wait().unwrap().is_none() {
            assert!(Instant::now() < patience, "every old proxy has ended");
            std::thread::sleep(Duration::from_millis(10));
        }
    }
    until("every connection has ended", || world.agent.counters().open == 0);
    let counters = world.agent.counters();
    let grown = memory(&world).saturating_sub(before);
    eprintln!(
        "{} requests, {} MB of bodies compared, {} broken off by the client, {successors} handovers, {grown} kB more memory \
         at the end",
        tally.requests.load(Ordering::Relaxed),
        tally.bytes.load(Ordering::Relaxed) / 1_000_000,
        tally.broken_off.load(Ordering::Relaxed),
    );
    assert!(tally.requests.load(Ordering::Relaxed) > 100);
    assert!(counters.idle <= 64, "{} idle connections to endpoints", counters.idle);
    assert!(grown < 12_000, "{grown} kB");
}

#[test]
fn nothing_is_mixed_up_lost_or_left_over() {
    run(0);
}

#[test]
fn nor_while_proxies_succeed_each_other() {
    run(3);
}
