//! What the kernel side is told and may ask for: exact counts of bytes when a front comes to rest, and responses relayed
//! between the front's own exchanges.

mod world;

use std::io::Write;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, mpsc};
use std::time::Duration;

use alize_model::control::ProxyState;
use alize_model::http::Http;
use alize_proxy::{Accepted, Handle, Kernel, Netns, Options, Outcome, Resting};
use world::{Client, PATIENCE, Server, endpoint, pattern, service, until};

/// A kernel side that writes down what it is told.
#[derive(Default)]
struct Notes {
    resting: Mutex<Vec<Resting>>,
    accepted: Mutex<Vec<Accepted>>,
}

impl Kernel for Notes {
    fn identify(&self, accepted: &Accepted) -> Option<alize_proxy::Client> {
        self.accepted.lock().unwrap().push(*accepted);
        // A namespace that nobody knows has clients that nobody knows.
        (accepted.netns == Netns(7)).then_some(alize_proxy::Client { service: 1, cookie: 42 })
    }

    fn resting(&self, front: &Resting) {
        self.resting.lock().unwrap().push(*front);
    }
}

/// A proxy inside the test.
struct Inside {
    notes: Arc<Notes>,
    handle: Handle,
    runtime: tokio::runtime::Handle,
    door: SocketAddr,
    folder: PathBuf,
}

impl Inside {
    fn new(server: &Server) -> Self {
        let notes = Arc::<Notes>::default();
        let folder = std::env::temp_dir().join(format!("alize-kernel-{}", std::process::id()));
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let door = listener.local_addr().unwrap();
        let mut options = Options::new("test", &folder, Arc::clone(&notes) as Arc<dyn Kernel>);
        options.listeners = vec![(Netns(7), listener)];
        let (ready, wait) = mpsc::channel();
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            let handle = runtime.handle().clone();
            runtime
                .block_on(alize_proxy::run(options, |up| ready.send((up.handle, handle)).unwrap()))
                .unwrap();
        });
        let (handle, runtime) = wait.recv_timeout(PATIENCE).unwrap();
        let services = vec![service(1, "web", Http::default(), vec![endpoint(server.address, 1, &[])])];
        handle.apply(ProxyState { generation: 1, services }).unwrap();
        Self { notes, handle, runtime, door, folder }
    }

    /// The word about a front that has read and written so much. It comes twice: before the last byte is written, for a
    /// quick client, and after it.
    fn rest(&self, read: u64, written: u64) -> Resting {
        let last = || self.notes.resting.lock().unwrap().last().copied();
        until("the front comes to rest", || {
            last().is_some_and(|rest| (rest.read, rest.written) == (read, written))
        });
        last().unwrap()
    }

    /// Sends `request` as the kernel would, and has the response relayed to `front`.
    fn relay(&self, front: u64, server: SocketAddr, request: &str) -> mpsc::Receiver<Option<Outcome>> {
        let mut back = TcpStream::connect(server).unwrap();
        back.write_all(request.as_bytes()).unwrap();
        back.set_nonblocking(true).unwrap();
        let method = request.split(' ').next().unwrap().parse().unwrap();
        let (handle, (done, wait)) = (self.handle.clone(), mpsc::channel());
        self.runtime.spawn(async move {
            let back = tokio::net::TcpStream::from_std(back).unwrap();
            done.send(handle.relay(front, back, method, true).await).unwrap();
        });
        wait
    }
}

impl Drop for Inside {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

#[test]
fn the_kernel_side_knows_every_byte_and_may_have_responses_relayed() {
    let server = Server::node("a", "http1");
    let inside = Inside::new(&server);
    let mut client = Client::connect(inside.door);
    let request = "GET /bytes/1000 HTTP/1.1\r\nHost: a\r\n\r\n";
    let mut received = 0;
    for count in 1..=3_u64 {
        client.send(request);
        let answer = client.answer("GET");
        received += answer.head.len() as u64 + 1000;
        let rest = inside.rest(count * request.len() as u64, received);
        assert_eq!((rest.client.service, rest.client.cookie), (1, 42));
    }
    assert_eq!(inside.notes.accepted.lock().unwrap()[0].peer, client.stream.local_addr().unwrap());
    // The kernel knows the front by its client.
    let front = 42;

    // Of known length, in chunks, and without a body.
    for (path, size) in [("bytes", 300_000), ("chunked", 100_000), ("status", 204)] {
        let relayed =
            inside.relay(front, server.address, &format!("GET /{path}/{size} HTTP/1.1\r\nHost: a\r\n\r\n"));
        let answer = client.answer("GET");
        if path == "status" {
            assert_eq!(answer.status, 204);
        } else {
            assert!(answer.body == pattern(size), "{path}");
        }
        let outcome = relayed.recv_timeout(PATIENCE).unwrap().unwrap();
        assert!(outcome.complete && outcome.back.is_some(), "{path}: the connection can be used again");
    }
    assert_eq!(client.get("/bytes/5").body, pattern(5), "and the front goes on");

    // One that closes cannot be used again; one that breaks off is not taken for complete.
    let relayed = inside.relay(front, server.address, "GET /close HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!(client.answer("GET").text(), "bye\n");
    let outcome = relayed.recv_timeout(PATIENCE).unwrap().unwrap();
    assert!(outcome.complete && outcome.back.is_none());

    // It waits for its turn.
    client.send("GET /delay/500?first HTTP/1.1\r\nHost: a\r\n\r\n");
    std::thread::sleep(Duration::from_millis(100));
    let relayed = inside.relay(front, server.address, "GET /second HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!(client.answer("GET").json()["url"], "/delay/500?first");
    assert_eq!(client.answer("GET").json()["url"], "/second");
    assert!(relayed.recv_timeout(PATIENCE).unwrap().unwrap().complete);

    let relayed = inside.relay(front, server.address, "GET /reset HTTP/1.1\r\nHost: a\r\n\r\n");
    let told = client.answer("GET");
    assert_eq!((told.status, told.reason().as_str()), (502, "endpoint-closed"));
    let outcome = relayed.recv_timeout(PATIENCE).unwrap().unwrap();
    assert!(outcome.complete && outcome.is_own && outcome.back.is_none());
    assert_eq!(client.get("/bytes/5").body, pattern(5), "and the front goes on");
    drop(client);
    until("the front is forgotten", || inside.handle.counters().open == 0);
    let relayed = inside.relay(front, server.address, "GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    assert!(relayed.recv_timeout(PATIENCE).unwrap().is_none());

    // Nobody's client is not served.
    let elsewhere = TcpListener::bind("127.0.0.1:0").unwrap();
    let (handle, (opened, wait)) = (inside.handle.clone(), mpsc::channel());
    inside.runtime.spawn(async move { opened.send(handle.listen(Netns(8), elsewhere).unwrap()).unwrap() });
    let door = wait.recv_timeout(PATIENCE).unwrap();
    assert!(Client::connect(door).ended());
    assert_eq!(inside.handle.counters().anomalies["unknown-client"], 1);
    inside.handle.close(Netns(8));
    until("the listener is closed", || TcpStream::connect(door).is_err());
}
