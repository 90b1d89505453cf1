//! The programs against httparse, on connections put together by chance.

use alize_datapath_host::oracle::{check, exchanges, play};
use alize_datapath_host::{Connection, From, Host};
use proptest::prelude::*;

fn field() -> impl Strategy<Value = String> {
    prop_oneof![
        5 => "[A-Za-z-]{1,20}: [ -~]{0,60}\r\n",
        1 => "Content-Type: [a-z/]{1,400}\r\n",
        1 => "Host: [a-z.]{1,60}\r\n",
        1 => "Content-[a-zA-Z]{1,8}: [0-9]{1,3}\r\n",
        1 => "Transfer-[a-zA-Z]{1,9}: [a-z]{1,9}\n",
    ]
}

fn fields() -> impl Strategy<Value = String> {
    proptest::collection::vec(field(), 0..6).prop_map(|fields| fields.concat())
}

/// A body and the field that frames it.
fn body() -> impl Strategy<Value = (String, String)> {
    let text = prop_oneof![
        "[ -~\r\n]{0,300}",
        Just("GET / HTTP/1.1\r\n\r\n".repeat(3)),
        Just("HTTP/1.1 200 OK\r\n\r\n".into())
    ];
    let chunks = proptest::collection::vec(("[ -~\r\n]{1,40}", "(;[a-z=]{1,10})?"), 0..6);
    prop_oneof![
        text.prop_map(|text: String| (format!("content-Length: {}\r\n", text.len()), text)),
        (chunks, "(X: y\r\n)?").prop_map(|(chunks, trailer)| {
            let chunks =
                chunks.iter().map(|(data, extension)| format!("{:x}{extension}\r\n{data}\r\n", data.len()));
            let body = format!("{}0\r\n{trailer}\r\n", chunks.collect::<String>());
            ("Transfer-Encoding: gzip, chunked\r\n".into(), body)
        }),
    ]
}

fn exchange() -> impl Strategy<Value = (String, String)> {
    let request =
        ("GET|HEAD|POST|PUT|PATCH|PURGE", "/[a-z0-9/?=&.-]{0,200}", fields(), proptest::option::of(body()));
    let response =
        ("200|201|204|304|404|500|503", "[ -~]{0,300}", fields(), body(), "(HTTP/1.1 100 Continue\r\n\r\n)?");
    (request, response).prop_map(
        |((method, target, fields, body), (status, phrase, more, answer, interim))| {
            let (framing, body) = body.unwrap_or_default();
            let request = format!("{method} {target} HTTP/1.1\r\n{fields}{framing}\r\n{body}");
            let bodiless = method == "HEAD" || status == "204" || status == "304";
            let sent = if bodiless { "" } else { answer.1.as_str() };
            let response = format!("{interim}HTTP/1.1 {status} {phrase}\r\n{more}{}\r\n{sent}", answer.0);
            (request, response)
        },
    )
}

/// What is seen of exchanges on one connection, each message in a packet of its own.
fn seen(exchanges: &[&(String, String)]) -> Vec<String> {
    let mut host = Host::default();
    let mut connection = Connection::new(&mut host);
    for (request, response) in exchanges {
        connection.send(From::Client, request.as_bytes());
        connection.send(From::Server, response.as_bytes());
    }
    let requests = host.requests().into_iter().map(|request| request.expect("a record"));
    requests
        .map(|r| {
            let sizes = (r.request_bytes, r.response_bytes);
            format!(
                "{} {} {:?} {:?} {sizes:?} {} {:?}",
                r.method, r.target, r.host, r.status, r.target_cut, r.trace_parent
            )
        })
        .collect()
}

/// The exchange with one byte of its request's head and one of its response's changed, which stay as long as they are.
fn changed((request, response): &(String, String), at: usize, byte: u8) -> (String, String) {
    let change = |text: &str| {
        let mut bytes = text.as_bytes().to_vec();
        let head = text.find("\r\n\r\n").unwrap_or(text.len());
        bytes[at % head] = byte;
        String::from_utf8(bytes).unwrap_or_else(|_| text.to_owned())
    };
    (change(request), change(response))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1500))]

    #[test]
    fn counts_what_httparse_counts(
        exchanges in proptest::collection::vec(exchange(), 1..8),
        cuts in proptest::collection::vec(1u16..400, 1..12),
    ) {
        let requests: String = exchanges.iter().map(|(request, _)| request.as_str()).collect();
        let responses: String = exchanges.iter().map(|(_, response)| response.as_str()).collect();
        check(requests.as_bytes(), responses.as_bytes(), &cuts);
    }

    #[test]
    fn does_not_depend_on_the_cuts(
        exchanges in proptest::collection::vec(exchange(), 1..8),
        cuts in proptest::collection::vec(1u16..60, 1..12),
    ) {
        let requests: String = exchanges.iter().map(|(request, _)| request.as_str()).collect();
        let responses: String = exchanges.iter().map(|(_, response)| response.as_str()).collect();
        let whole = play(requests.as_bytes(), responses.as_bytes(), &[u16::MAX]);
        prop_assert_eq!(play(requests.as_bytes(), responses.as_bytes(), &cuts), whole);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(600))]

    #[test]
    fn heads_that_come_again_are_read_as_at_first(
        found in proptest::collection::vec(exchange(), 1..4),
        changes in proptest::collection::vec((0usize..200, b' '..=b'z'), 3),
        order in proptest::collection::vec(any::<proptest::sample::Index>(), 60),
    ) {
        let twins = found.iter().flat_map(|exchange| changes.iter().map(|&(at, byte)| changed(exchange, at, byte)));
        let all: Vec<_> = found.iter().cloned().chain(twins).collect();
        // Only what a connection survives.
        let alone: Vec<_> = all.iter().map(|exchange| (exchange, seen(&[exchange, exchange]))).collect();
        let alone: Vec<_> = alone.into_iter().filter(|(_, seen)| seen.len() == 2 && seen[0] == seen[1]).collect();
        if alone.is_empty() {
            return Ok(());
        }
        let order: Vec<_> = order.iter().map(|index| index.get(&alone)).collect();
        let expected: Vec<_> = order.iter().map(|(_, seen)| seen[0].clone()).collect();
        prop_assert_eq!(seen(&order.iter().map(|(exchange, _)| *exchange).collect::<Vec<_>>()), expected);
    }
}

#[test]
fn the_oracle_itself_reads() {
    let requests =
        b"GET /a HTTP/1.1\r\n\r\nPOST /b HTTP/1.1\r\nContent-Length: 2\r\n\r\nhiHEAD /c HTTP/1.0\r\n\r\n";
    let responses = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n0\r\n\r\nHTTP/1.1 404 N\r\nContent-Length: 1\r\n\r\nxHTTP/1.1 200 OK\r\n\r\n";
    let found = exchanges(requests, responses);
    let expected = [("GET", "/a", 200), ("POST", "/b", 404), ("HEAD", "/c", 200)];
    assert_eq!(
        found,
        expected.map(|(method, target, status)| (method.to_owned(), target.to_owned(), status))
    );
}
