//! The semantics of the Gateway API's conformance tests for HTTPRoute and GRPCRoute, as data, over real sockets through
//! the real proxy. Each group is a service; its endpoints tell who they are and what they were asked. Needs root.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddrV4, TcpListener, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use crate::real::{Host, json};

/// Routes, and what becomes of requests.
struct Group {
    name: &'static str,
    routes: &'static str,
    requests: &'static [Case],
}

/// A request: method and target, header lines with `\r\n`, and what is expected of it.
type Case = (&'static str, &'static str, Expect);

enum Expect {
    /// Endpoint v1, v2 or v3 answers.
    From(&'static str),
    /// And it has seen these lines, or has not seen those that begin with `!`.
    Seen(&'static str, &'static [&'static str]),
    /// The head of the response holds these lines.
    Head(&'static [&'static str]),
}

use Expect::{From, Head, Seen};

const GROUPS: &[Group] = &[
    Group {
        name: "matching",
        routes: "
      - {match: [{path: /}, {headers: {version: one}}], to: {v: '1'}}
      - {match: [{path: /v2}, {headers: {version: two}}], to: {v: '2'}}",
        requests: &[
            ("GET /", "", From("v1")),
            ("GET /example", "", From("v1")),
            ("GET /", "Version: one\r\n", From("v1")),
            ("GET /v2", "", From("v2")),
            ("GET /v2/", "", From("v2")),
            ("GET /v2/example", "", From("v2")),
            ("GET /", "Version: two\r\n", From("v2")),
            ("GET /v2example", "", From("v1")),
            ("GET /foo/v2/example", "", From("v1")),
        ],
    },
    Group {
        name: "path-order",
        routes: "
      - {match: {path: {exact: /match}}, to: {v: '1'}}
      - {match: {path: {exact: /match/exact}}, to: {v: '2'}}
      - {match: {path: {exact: /match/exact/one}}, to: {v: '3'}}
      - {match: /match/, to: {v: '3'}}
      - {match: /match/prefix/, to: {v: '1'}}
      - {match: /match/prefix/one, to: {v: '2'}}",
        requests: &[
            ("GET /match/exact/one", "", From("v3")),
            ("GET /match/exact", "", From("v2")),
            ("GET /match", "", From("v1")),
            ("GET /match/prefix/one/any", "", From("v2")),
            ("GET /match/prefix/any", "", From("v1")),
            ("GET /match/any", "", From("v3")),
            ("GET /other", "", Head(&["HTTP/1.1 404 "])),
            ("GET /Match", "", Head(&["HTTP/1.1 404 "])),
        ],
    },
    Group {
        name: "headers",
        routes: "
      - {match: {headers: {version: one}}, to: {v: '1'}}
      - {match: {headers: {version: two}}, to: {v: '2'}}
      - {match: {headers: {version: two, color: orange}}, to: {v: '1'}}
      - {match: [{headers: {color: blue}}, {headers: {color: green}}], to: {v: '1'}}
      - {match: [{headers: {color: red}}, {headers: {color: yellow}}], to: {v: '2'}}",
        requests: &[
            ("GET /", "version: one\r\n", From("v1")),
            ("GET /", "VERSION: two\r\n", From("v2")),
            ("GET /", "version: two\r\ncolor: orange\r\n", From("v1")),
            ("GET /", "color: blue\r\n", From("v1")),
            ("GET /", "color: yellow\r\n", From("v2")),
            ("GET /", "color: purple\r\n", Head(&["HTTP/1.1 404 "])),
            ("GET /", "version: One\r\n", Head(&["HTTP/1.1 404 "])),
            ("GET /", "", Head(&["HTTP/1.1 404 "])),
        ],
    },
    Group {
        name: "methods",
        routes: "
      - {match: {method: POST}, to: {v: '1'}}
      - {match: {method: GET}, to: {v: '2'}}
      - {match: {path: /path1, method: GET}, to: {v: '1'}}
      - {match: {headers: {version: one}, method: PUT}, to: {v: '2'}}
      - {match: {path: /path2, method: POST, headers: {version: two}}, to: {v: '3'}}
      - {match: [{path: /path3, method: PATCH}, {path: /path4, method: DELETE, headers: {version: three}}], to: {v: '1'}}
      - {match: /path5, to: {v: '1'}}
      - {match: {method: PATCH}, to: {v: '2'}}
      - {match: {headers: {version: four}}, to: {v: '3'}}",
        requests: &[
            ("POST /", "content-length: 0\r\n", From("v1")),
            ("GET /", "", From("v2")),
            ("HEAD /", "", Head(&["HTTP/1.1 404 "])),
            ("GET /path1", "", From("v1")),
            ("PUT /", "version: one\r\ncontent-length: 0\r\n", From("v2")),
            ("POST /path2", "version: two\r\ncontent-length: 0\r\n", From("v3")),
            ("PATCH /path3", "content-length: 0\r\n", From("v1")),
            ("DELETE /path4", "version: three\r\n", From("v1")),
            ("PATCH /path5", "content-length: 0\r\n", From("v1")),
            ("PATCH /", "version: four\r\ncontent-length: 0\r\n", From("v2")),
        ],
    },
    Group {
        name: "query",
        routes: "
      - {match: {query: {animal: whale}}, to: {v: '1'}}
      - {match: {query: {animal: dolphin}}, to: {v: '2'}}
      - {match: {query: {animal: dolphin, color: blue}}, to: {v: '3'}}
      - {match: {path: /path1, query: {animal: whale}}, to: {v: '2'}}
      - {match: {headers: {version: one}, query: {animal: whale}}, to: {v: '3'}}
      - {match: {query: {name: 'a b'}}, to: {v: '1'}}",
        requests: &[
            ("GET /?animal=whale", "", From("v1")),
            ("GET /?animal=dolphin", "", From("v2")),
            ("GET /?animal=dolphin&color=blue", "", From("v3")),
            ("GET /?color=blue&animal=dolphin", "", From("v3")),
            ("GET /path1?animal=whale", "", From("v2")),
            ("GET /?animal=whale", "version: one\r\n", From("v3")),
            ("GET /?name=a%20b", "", From("v1")),
            ("GET /?animal=whale&animal=dolphin", "", From("v1")),
            ("GET /?color=blue", "", Head(&["HTTP/1.1 404 "])),
            ("GET /?animal=horse", "", Head(&["HTTP/1.1 404 "])),
            ("GET /", "", Head(&["HTTP/1.1 404 "])),
        ],
    },
    Group {
        name: "redirects",
        routes: "
      - {match: /hostname, redirect: {host: example.org}}
      - {match: /status, redirect: {host: example.org, status: 301}}
      - {match: /original-prefix, redirect: {prefix: /replacement-prefix}}
      - {match: /full, redirect: {path: /full-path-replacement}}
      - {match: /host-and-path, redirect: {host: example.org, prefix: /replacement-prefix}}
      - {match: /scheme, redirect: {scheme: https, host: example.org}}
      - {match: /port, redirect: {host: example.org, port: 8083}}
      - {match: /well-known, redirect: {scheme: https, host: example.org, port: 443}}
      - {match: /kept, redirect: {host: example.org, status: 308}}",
        requests: &[
            ("GET /hostname/a", "", Head(&["HTTP/1.1 302 ", "location: http://example.org/hostname/a"])),
            ("GET /status", "", Head(&["HTTP/1.1 301 ", "location: http://example.org/status"])),
            ("GET /original-prefix/lemon", "", Head(&["HTTP/1.1 302 ", "/replacement-prefix/lemon\r\n"])),
            ("GET /full/path/original", "", Head(&["/full-path-replacement\r\n"])),
            ("GET /host-and-path/lemon", "", Head(&["location: http://example.org/replacement-prefix/lemon\r\n"])),
            ("GET /scheme", "", Head(&["location: https://example.org/scheme\r\n"])),
            ("GET /port?a=b", "", Head(&["location: http://example.org:8083/port?a=b\r\n"])),
            ("GET /well-known", "", Head(&["location: https://example.org/well-known\r\n"])),
            ("POST /kept", "content-length: 0\r\n", Head(&["HTTP/1.1 308 "])),
        ],
    },
    Group {
        name: "rewrites",
        routes: "
      - {match: /prefix/one, rewrite: {prefix: /one}, to: {v: '1'}}
      - {match: /full/one, rewrite: {path: /one}, to: {v: '1'}}
      - {match: /strip-prefix, rewrite: {prefix: /}, to: {v: '1'}}
      - {match: /host, rewrite: {host: one.example.org}, to: {v: '2'}}
      - match: /both
        rewrite: {prefix: /prefix, host: two.example.org}
        request-headers: {set: {x-header-set: set-overwrites-values}, add: {x-header-add: appended}, remove: [x-header-remove]}
        to: {v: '2'}",
        requests: &[
            ("GET /prefix/one/two", "", Seen("v1", &["GET /one/two HTTP/1.1"])),
            ("GET /full/one/two", "", Seen("v1", &["GET /one HTTP/1.1"])),
            ("GET /strip-prefix/three", "", Seen("v1", &["GET /three HTTP/1.1"])),
            ("GET /strip-prefix", "", Seen("v1", &["GET / HTTP/1.1"])),
            ("GET /strip-prefix?a=b", "", Seen("v1", &["GET /?a=b HTTP/1.1"])),
            ("GET /host/x", "", Seen("v2", &["GET /host/x HTTP/1.1", "host: one.example.org", "!host: mesh"])),
            (
                "GET /both/x",
                "X-Header-Set: some\r\nX-Header-Add: other\r\nX-Header-Remove: a\r\n",
                Seen(
                    "v2",
                    &[
                        "GET /prefix/x HTTP/1.1",
                        "host: two.example.org",
                        "x-header-set: set-overwrites-values",
                        "x-header-add: other",
                        "x-header-add: appended",
                        "!x-header-set: some",
                        "!x-header-remove",
                    ],
                ),
            ),
        ],
    },
    Group {
        name: "responses",
        routes: "
      - match: /set
        response-headers: {set: {x-header-set: mesh}, add: {x-who: mesh}, remove: [x-secret]}
        to: {v: '1'}
      - {match: /direct, respond: {status: 418, body: short and stout}}
      - {match: /shop, cors: {allow-origins: ['https://www.foo.com'], allow-methods: [PUT]}, to: {v: '1'}}",
        requests: &[
            ("GET /set", "", Head(&["x-header-set: mesh", "x-who: mesh", "x-who: v1", "!x-secret"])),
            ("GET /direct", "", Head(&["HTTP/1.1 418 "])),
            ("GET /shop", "origin: https://www.foo.com\r\n", Head(&["access-control-allow-origin: https://www.foo.com"])),
            ("GET /shop", "origin: https://www.bar.com\r\n", Head(&["!access-control-allow-origin"])),
        ],
    },
    Group {
        name: "weights",
        routes: "
      - to: [{labels: {v: '1'}, weight: 70}, {labels: {v: '2'}, weight: 30}, {labels: {v: '3'}, weight: 0}]",
        requests: &[],
    },
    Group {
        name: "grpc",
        routes: "
      - {match: {grpc: {service: shop.Cart, method: Add}}, to: {v: '1'}}
      - {match: {grpc: {service: shop.Cart}}, to: {v: '2'}}
      - {match: {grpc: {method: Ping}}, to: {v: '3'}}",
        requests: &[
            ("POST /shop.Cart/Add", "content-length: 0\r\n", From("v1")),
            ("POST /shop.Cart/Remove", "content-length: 0\r\n", From("v2")),
            ("POST /other.Service/Ping", "content-length: 0\r\n", From("v3")),
            ("POST /other.Service/Pong", "content-length: 0\r\n", Head(&["HTTP/1.1 404 "])),
            ("POST /shop.Cart2/Add", "content-length: 0\r\n", Head(&["HTTP/1.1 404 "])),
        ],
    },
];

/// Answers every request with its name and the request's head; lives as long as the test's process.
fn server(name: &'static str) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = listener.local_addr().expect("an address").port();
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            thread::spawn(move || echo(stream, name));
        }
    });
    port
}

fn echo(mut stream: TcpStream, name: &str) {
    let mut bytes = Vec::new();
    let mut some = [0; 4096];
    while let Ok(read @ 1..) = stream.read(&mut some) {
        bytes.extend_from_slice(&some[..read]);
        while let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") {
            let head: Vec<u8> = bytes.drain(..end + 4).collect();
            let body = format!("{name}\r\n{}", String::from_utf8_lossy(&head));
            let length = body.len();
            let head = format!(
                "HTTP/1.1 200 OK\r\ncontent-length: {length}\r\nx-who: {name}\r\nx-secret: 1\r\n\r\n"
            );
            if stream.write_all((head + &body).as_bytes()).is_err() {
                return;
            }
        }
    }
}

fn ask(door: SocketAddrV4, request: &str, headers: &str) -> String {
    let mut stream = TcpStream::connect(door).expect("the proxy listens");
    stream.set_read_timeout(Some(Duration::from_secs(20))).expect("a socket");
    let request = format!("{request} HTTP/1.1\r\nhost: mesh\r\nconnection: close\r\n{headers}\r\n");
    stream.write_all(request.as_bytes()).expect("it is read");
    let mut response = Vec::new();
    if let Err(error) = stream.read_to_end(&mut response) {
        panic!("{error} from {door} after {request:?}: {}", response.escape_ascii());
    }
    String::from_utf8(response).expect("UTF-8")
}

/// What is wrong with `response`.
fn judge(response: &str, expected: &Expect) -> Result<(), String> {
    let (head, body) = response.split_once("\r\n\r\n").ok_or("no head")?;
    let head = format!("{head}\r\n");
    let holds = |text: &str, lines: &[&str]| {
        let text = text.to_ascii_lowercase();
        let wrong = lines.iter().find(|line| match line.strip_prefix('!') {
            Some(absent) => text.contains(&absent.to_ascii_lowercase()),
            None => !text.contains(&line.to_ascii_lowercase()),
        });
        wrong.map_or(Ok(()), |line| Err(format!("{line:?}")))
    };
    match expected {
        From(name) if body.starts_with(&format!("{name}\r\n")) => Ok(()),
        From(name) => Err(format!("not from {name}")),
        Seen(name, lines) => judge(response, &From(name)).and_then(|()| holds(body, lines)),
        Head(lines) => holds(&head, lines),
    }
}

/// Where a proxy of this test listens for each group: at an address of its own, so that nobody else's connection has
/// taken a port when the proxy comes to bind it.
fn doors() -> Vec<SocketAddrV4> {
    let [.., high, low] = std::process::id().to_be_bytes();
    let address = Ipv4Addr::new(127, 78, high, low);
    (9000..).map(|port| SocketAddrV4::new(address, port)).take(GROUPS.len()).collect()
}

#[test]
fn the_proxy_keeps_to_the_gateway_api() {
    let mut host = Host::new("gateway");
    let [one, two, three] = ["v1", "v2", "v3"].map(server);
    let mut text = "services:\n".to_owned();
    for (number, group) in (1..).zip(GROUPS) {
        let endpoint = |port: u16, v: u8| format!("{{address: '127.0.0.1:{port}', labels: {{v: '{v}'}}}}");
        let endpoints = [endpoint(one, 1), endpoint(two, 2), endpoint(three, 3)].join(", ");
        text += &format!(
            "  - name: {}\n    protocol: http\n    address: 10.96.78.{number}:80\n    endpoints: [{endpoints}]\n    routes:{}\n",
            group.name, group.routes
        );
    }
    let file = host.folder.file("mesh.yaml", text);
    // The numbers of services are the kernel's, and stay.
    host.start_with(&file, &["--proxy", "off"]);
    let services = json(&host.alize(&["services", "-o", "json"]));
    assert_eq!(host.end("-TERM"), Some(0));
    let doors = doors();
    let number = |name: &str| {
        let services = services.as_array().expect("a list");
        services.iter().find(|service| service["name"] == name).expect("it is there")["id"].clone()
    };
    let listen: Vec<String> =
        GROUPS.iter().zip(&doors).map(|(group, door)| format!("{door}={}", number(group.name))).collect();
    host.environment.push(("ALIZE_PROXY_LISTEN", listen.join(",")));
    host.start_with(&file, &[]);
    let begun = Instant::now();
    while json(&host.alize(&["status", "-o", "json"]))["proxy"]["generation"].as_u64() < Some(1) {
        assert!(begun.elapsed() < Duration::from_secs(20), "no proxy");
        thread::sleep(Duration::from_millis(20));
    }
    let weights = GROUPS.iter().position(|group| group.name == "weights").map(|index| doors[index]);
    let answers: Vec<String> = (0..500).map(|_| ask(weights.expect("a group"), "GET /", "")).collect();
    let from = |name: &str| answers.iter().filter(|a| a.contains(&format!("\r\n\r\n{name}\r\n"))).count();
    // Five standard deviations of 500 draws.
    assert!(
        (299..=401).contains(&from("v1")) && from("v1") + from("v2") == 500,
        "{} {}",
        from("v1"),
        from("v2")
    );
    let mut wrong = Vec::new();
    for (group, door) in GROUPS.iter().zip(doors) {
        for (request, headers, expected) in group.requests {
            let response = ask(door, request, headers);
            if let Err(problem) = judge(&response, expected) {
                wrong.push(format!("{}: {request} {headers:?}: {problem} in\n{response}", group.name));
            }
        }
    }
    assert!(wrong.is_empty(), "{} wrong:\n{}", wrong.len(), wrong.join("\n---\n"));
}
