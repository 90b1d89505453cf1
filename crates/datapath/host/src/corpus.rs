//! Requests to read: ones that must be refused, ones that must be taken, and ways to change them.

/// Requests that two servers may read in two ways, each with a name; the kernel takes none.
pub fn smuggling() -> Vec<(&'static str, Vec<u8>)> {
    let lines = include_str!("smuggling.txt").lines().filter(|line| !line.starts_with('#'));
    lines.filter_map(|line| line.split_once('\t')).map(|(name, text)| (name, repeated(text))).collect()
}

/// Unescapes, and writes out what is in braces with a number behind.
fn repeated(text: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('{') {
        let Some((inner, behind)) = after.split_once('}') else { break };
        let digits = behind.bytes().take_while(u8::is_ascii_digit).count();
        let Ok(times) = behind[..digits].parse() else { break };
        bytes.extend(unescaped(before));
        bytes.extend(unescaped(inner).repeat(times));
        rest = &behind[digits..];
    }
    bytes.extend(unescaped(rest));
    bytes
}

fn unescaped(text: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut letters = text.bytes();
    while let Some(byte) = letters.next() {
        if byte != b'\\' {
            bytes.push(byte);
            continue;
        }
        bytes.push(match letters.next() {
            Some(b'r') => b'\r',
            Some(b'n') => b'\n',
            Some(b't') => b'\t',
            Some(b'x') => {
                let digit = |letter: Option<u8>| letter.and_then(|l| (l as char).to_digit(16)).unwrap_or(0);
                (digit(letters.next()) << 4 | digit(letters.next())) as u8
            }
            other => other.unwrap_or(b'\\'),
        });
    }
    bytes
}

/// Requests as clients send them, and some odd ones that every server reads alike; the kernel takes all.
pub const SEEDS: [&[u8]; 12] = [
    b"GET / HTTP/1.1\r\nHost: a\r\n\r\n",
    b"GET /api/v1/items?from=3&to=4 HTTP/1.1\r\nHost: shop.example:8080\r\nUser-Agent: curl/8.5.0\r\nAccept: */*\r\n\r\n",
    b"HEAD /index.html HTTP/1.1\r\nAccept-Encoding: gzip, deflate, br\r\nhOsT: 10.96.0.1\r\nConnection: Keep-Alive\r\n\r\n",
    b"POST /cart HTTP/1.1\r\nHost: shop\r\nContent-Type: application/json\r\nContent-Length: 13\r\n\r\n{\"item\": 123}",
    b"PUT /a HTTP/1.1\r\ncontent-length:0\r\nhost:a\r\n\r\n",
    b"PATCH /a/b/c HTTP/1.1\r\nHost: a\r\nX-Empty:\r\nContent-Length: 0004\r\n\r\nbody",
    b"DELETE /items/7 HTTP/1.1\r\nHost: [fd00::1]:8080\r\nETag: \"abc\"\r\n\r\n",
    b"OPTIONS /api HTTP/1.1\r\nHost: a.b-c_d\r\nOrigin: http://b\r\nConnection: keep-alive\r\nKeep-Alive: 5\r\n\r\n",
    b"GET /a%2fb/../c;d=e//f?x=%00 HTTP/1.1\r\nHost: a\r\nCookie: a=b; c=\"d\"\r\n\r\n",
    b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 36\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: evil\r\n\r\n",
    b"GET /?q=[1]&r=a/b?c HTTP/1.1\r\nHost: a\r\nX-Tab: a\tb \r\nContent_Length: 5\r\n!#$%&'*+-.^_`|~: x\r\n\r\n",
    b"POST / HTTP/1.1\r\nHost: a\r\nTransfer: y\r\nContent-Lengths: 9\r\nTransfer_Encoding: chunked\r\n\r\n",
];

/// Field lines that may be harmless or not.
const LINES: [&[u8]; 20] = [
    b"Host: b\r\n",
    b"Content-Length: 4\r\n",
    b"Content-Length:  4 \r\n",
    b"content-length:\t4\t\r\n",
    b"Transfer-Encoding: chunked\r\n",
    b"Transfer-Encodings: chunked\r\n",
    b"Connection: keep-alive\r\n",
    b"Connection: Keep-Alive \r\n",
    b"Connection: close\r\n",
    b"Keep-Alive: timeout=5\r\n",
    b"X: y\t\t z  \r\n",
    b"X:y\r\n",
    b"X:\r\n",
    b"X: \t \r\n",
    b"Cookie: a=\"b\"; c\r\n",
    b"Content-Type: text/plain; charset=utf-8\r\n",
    b"Content-Encoding: gzip\r\n",
    b"X-Forwarded-For: 10.0.0.1, ::1\r\n",
    b"TE : trailers\r\n",
    b"Accept: */*;q=0.1\r\n",
];

/// A seed with some changes, of which every number has its own.
pub fn changed(number: u64) -> Vec<u8> {
    let mut state = number;
    // SplitMix64.
    let mut draw = |bound: usize| {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = (state ^ state >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ z >> 31) as usize % bound
    };
    let mut message = SEEDS[draw(SEEDS.len())].to_vec();
    for _ in 0..=draw(3) {
        let at = draw(message.len());
        match draw(6) {
            0 => message[at] = draw(256) as u8,
            1 => message[at] = b' ' + draw(95) as u8,
            2 => message.insert(at, b' ' + draw(95) as u8),
            3 => drop(message.remove(at)),
            _ => {
                let begin =
                    message[at..].windows(2).position(|two| two == b"\r\n").map_or(at, |end| at + end + 2);
                let line = LINES[draw(LINES.len())];
                message.splice(begin..begin, line.iter().copied());
            }
        }
    }
    message
}
