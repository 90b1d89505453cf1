//! HTTP/2 by prior knowledge, with curl, h2load and Node as clients and Node as server.

mod world;

use std::process::Command;

use alize_model::http::{Http, Upstream};
use bytes::Bytes;
use h2::client::SendRequest;
use http::{HeaderMap, Request, Response};
use tokio::sync::mpsc;
use world::{Server, World, copied, endpoint, service};

fn run(command: &mut Command) -> String {
    let output = command.output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{command:?}: {text}{}", String::from_utf8_lossy(&output.stderr));
    text
}

fn curl(world: &World, path: &str, more: &[&str]) -> String {
    let url = format!("http://{}{path}", world.door());
    run(Command::new("curl").args(["-sS", "--http2-prior-knowledge", "--max-time", "20"]).args(more).arg(url))
}

/// A client that says exactly what is in its frames; its connection ends with the task.
async fn dial(world: &World) -> (SendRequest<Bytes>, tokio::task::JoinHandle<Result<(), h2::Error>>) {
    let stream = tokio::net::TcpStream::connect(world.door()).await.unwrap();
    let (sender, connection) = h2::client::handshake(stream).await.unwrap();
    (sender, tokio::spawn(connection))
}

/// The status and the proxy's reason.
async fn answered(response: h2::client::ResponseFuture) -> (u16, String) {
    let response = tokio::time::timeout(world::PATIENCE, response).await.expect("an answer").unwrap();
    let reason = response.headers().get("x-alize-reason").map(|reason| reason.to_str().unwrap());
    (response.status().as_u16(), reason.unwrap_or_default().to_owned())
}

#[test]
fn a_client_of_http2_reaches_endpoints_of_either_version() {
    let one = Server::node("one", "http1");
    let two = Server::node("two", "http2");
    let http = |upstream| Http { upstream, ..Http::default() };
    let world = World::new(vec![
        service(1, "one", http(Upstream::Http1), vec![endpoint(one.address, 1, &[])]),
        service(2, "two", http(Upstream::H2c), vec![endpoint(two.address, 1, &[])]),
    ]);
    let answer: serde_json::Value =
        serde_json::from_str(&curl(&world, "/a?b=c", &["-H", "Host: x.test"])).unwrap();
    assert_eq!((answer["version"].as_str(), answer["url"].as_str()), (Some("1.1"), Some("/a?b=c")));
    assert_eq!(answer["headers"]["host"], "x.test");
    let sizes = curl(
        &world,
        "/bytes/300000",
        &["-o", "/dev/null", "-w", "%{http_version} %{http_code} %{size_download}"],
    );
    assert_eq!(sizes, "2 200 300000");
    assert_eq!(curl(&world, "/hash", &["--data-binary", "hello"]).split(' ').next(), Some("5"));
    // A client of HTTP/1 reaches an endpoint that speaks HTTP/2 only.
    let answer = world::Client::connect(world.doors[1]).get("/a?b=c").json();
    assert_eq!((answer["version"].as_str(), answer["authority"].as_str()), (Some("2.0"), Some("web.test")));
    let mut client = world::Client::connect(world.doors[1]);
    let answer = client.get("/chunked/50000");
    assert!(
        answer.body == world::pattern(50_000) && answer.trailers.contains("X-Sum: "),
        "{:?}",
        answer.trailers
    );
}

#[test]
fn grpc_streams_are_balanced_one_by_one_and_end_with_trailers() {
    let servers: Vec<Server> =
        ["a", "b", "c"].iter().map(|name| Server::script("grpc-server.js", &[name])).collect();
    let endpoints = servers.iter().map(|server| endpoint(server.address, 1, &[])).collect();
    let world = World::new(vec![service(1, "grpc", Http::default(), endpoints)]);
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/servers/grpc-client.js");
    let port = world.door().port().to_string();
    let counts: serde_json::Value =
        serde_json::from_str(&run(Command::new("node").args([script, &port, "90"]))).unwrap();
    let count = |name: &str| counts[name].as_u64().unwrap_or(0);
    assert_eq!(count("a") + count("b") + count("c"), 90);
    assert!(["a", "b", "c"].iter().all(|name| count(name) >= 15), "one connection, all endpoints: {counts}");
}

#[test]
fn a_grpc_client_is_told_in_its_own_words_what_went_wrong() {
    let nobody = std::net::SocketAddr::from(([127, 0, 0, 1], world::free_port()));
    let mut world = World::new(vec![service(1, "gone", Http::default(), vec![endpoint(nobody, 1, &[])])]);
    let head = curl(&world, "/a.B/C", &["-i", "-X", "POST", "-H", "content-type: application/grpc"]);
    for line in
        ["HTTP/2 200", "grpc-status: 14", "grpc-message: connect-failed", "x-alize-reason: connect-failed"]
    {
        assert!(head.contains(line), "{line} in {head}");
    }
    assert!(curl(&world, "/", &["-i"]).starts_with("HTTP/2 503"), "and others in theirs");
    assert_eq!(world.agent.counters().services[0].refused["connect-failed"], 2);
}

#[test]
fn many_streams_on_few_connections_lose_nothing() {
    let servers = [Server::node("a", "http1"), Server::node("b", "http1")];
    let endpoints = servers.iter().map(|server| endpoint(server.address, 1, &[])).collect();
    let world = World::new(vec![service(1, "web", Http::default(), endpoints)]);
    let url = format!("http://{}/bytes/2000", world.door());
    let report = run(Command::new("h2load").args(["-n", "4000", "-c", "4", "-m", "50", &url]));
    assert!(report.contains("4000 succeeded, 0 failed, 0 errored, 0 timeout"), "{report}");
    assert!(report.contains("status codes: 4000 2xx"), "{report}");
}

#[tokio::test]
async fn a_service_that_was_removed_ends_its_connections_in_order() {
    let server = Server::node("a", "http1");
    let web = || service(1, "web", Http::default(), vec![endpoint(server.address, 1, &[])]);
    let mut world = World::new(vec![web()]);
    let (sender, connection) = dial(&world).await;
    let mut sender = sender.ready().await.unwrap();
    let get = |path: &str| Request::get(format!("http://web.test{path}")).body(()).unwrap();
    let (running, _) = sender.send_request(get("/delay/500"), true).unwrap();
    tokio::time::sleep(std::time::Duration::from_millis(200)).await;
    world.agent.state(Vec::new()).unwrap();
    let call =
        Request::post("http://web.test/a.B/C").header("content-type", "application/grpc").body(()).unwrap();
    let (call, _) = sender.send_request(call, true).unwrap();
    assert_eq!(answered(call).await, (200, "no-service".into()), "in the words of gRPC");
    assert_eq!(answered(running).await.0, 200, "what runs is finished");
    let ended = tokio::time::timeout(world::PATIENCE, connection).await;
    ended.expect("the client is told to dial anew").unwrap().unwrap();
    world.agent.state(vec![web()]).unwrap();
    let (mut sender, _connection) = dial(&world).await;
    assert_eq!(answered(sender.send_request(get("/"), true).unwrap().0).await.0, 200);
}

#[tokio::test]
async fn authority_and_host_have_to_be_the_same() {
    let server = Server::node("a", "http1");
    let world = World::new(vec![service(1, "web", Http::default(), vec![endpoint(server.address, 1, &[])])]);
    let (sender, _connection) = dial(&world).await;
    let mut sender = sender.ready().await.unwrap();
    let ask = |method: &str, hosts: &[&str]| {
        let request = Request::builder().method(method).uri("http://a.test/");
        hosts.iter().fold(request, |request, host| request.header("host", *host)).body(()).unwrap()
    };
    for (hosts, told) in [
        (&[][..], (200, "")),
        (&["A.test"], (200, "")),
        (&["b.test"], (400, "bad-host")),
        (&["a.test", "a.test"], (400, "bad-host")),
    ] {
        let (response, _) = sender.send_request(ask("GET", hosts), true).unwrap();
        assert_eq!(answered(response).await, (told.0, told.1.to_owned()), "{hosts:?}");
    }
    let (response, _) = sender.send_request(ask("HEAD", &["b.test"]), true).unwrap();
    assert!(response.await.unwrap().into_body().is_end_stream(), "a refusal of HEAD has no body");
}

/// An endpoint that speaks HTTP/2 only, and tells of head, body and trailers of each request.
async fn recorder()
-> (std::net::SocketAddr, mpsc::UnboundedReceiver<(http::request::Parts, Vec<u8>, HeaderMap)>) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (sender, receiver) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let sender = sender.clone();
            tokio::spawn(async move {
                let mut connection = h2::server::handshake(stream).await.unwrap();
                while let Some(Ok((request, mut respond))) = connection.accept().await {
                    let sender = sender.clone();
                    tokio::spawn(async move {
                        let (parts, mut stream) = request.into_parts();
                        let mut body = Vec::new();
                        while let Some(Ok(data)) = stream.data().await {
                            body.extend_from_slice(&data);
                        }
                        let trailers = stream.trailers().await.unwrap().unwrap_or_default();
                        respond.send_response(Response::new(()), true).unwrap();
                        sender.send((parts, body, trailers)).unwrap();
                    });
                }
            });
        }
    });
    (address, receiver)
}

#[tokio::test]
async fn a_copy_of_a_grpc_call_is_one() {
    let server = Server::script("grpc-server.js", &["a"]);
    let (to, mut copies) = recorder().await;
    let mut world = World::new(vec![
        service(1, "web", copied("copies"), vec![endpoint(server.address, 1, &[])]),
        service(2, "copies", Http::default(), vec![endpoint(to, 1, &[])]),
    ]);
    let (sender, _connection) = dial(&world).await;
    let mut sender = sender.ready().await.unwrap();
    for with_trailers in [false, true] {
        let call = Request::post("http://echo.test/echo.Echo/Unary");
        let call = call.header("content-type", "application/grpc").header("te", "trailers").body(()).unwrap();
        let (response, mut sending) = sender.send_request(call, false).unwrap();
        sending.send_data(Bytes::from_static(b"\0\0\0\0\x02"), false).unwrap();
        // Each piece comes back before the next: the call does not wait for its copy.
        let mut body = tokio::time::timeout(world::PATIENCE, response).await.unwrap().unwrap().into_body();
        assert_eq!(body.data().await.unwrap().unwrap(), &b"\0\0\0\0\x02"[..]);
        assert!(copies.try_recv().is_err());
        sending.send_data(Bytes::from_static(b"hi"), !with_trailers).unwrap();
        if with_trailers {
            sending
                .send_trailers(HeaderMap::from_iter([("x-sum".parse().unwrap(), "1".parse().unwrap())]))
                .unwrap();
        }
        assert_eq!(body.data().await.unwrap().unwrap(), &b"hi"[..]);
        assert_eq!(body.trailers().await.unwrap().unwrap()["grpc-status"], "0");
        let (head, body, trailers) =
            tokio::time::timeout(world::PATIENCE, copies.recv()).await.expect("a copy").unwrap();
        assert_eq!((head.version, head.uri.path()), (http::Version::HTTP_2, "/echo.Echo/Unary"));
        assert_eq!(
            (&head.headers["content-type"], &head.headers["te"]),
            (&"application/grpc".parse().unwrap(), &"trailers".parse().unwrap())
        );
        assert_eq!(body, b"\0\0\0\0\x02hi");
        assert_eq!(trailers.contains_key("x-sum"), with_trailers);
    }
    assert!(world.agent.counters().services.iter().all(|service| service.lost_copies.is_empty()));
}
