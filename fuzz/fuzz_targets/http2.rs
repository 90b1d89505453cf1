//! HTTP/2 on any bytes in any pieces: the frames as the kernel follows them, compiled for the host, and the heads as user
//! space decodes them. Every packet passes, every record that is written can be read, and nothing panics.
//!
//! Input: one byte for the size of pieces, then what client and server send in turn, with the bytes FF 00 FF between.
#![no_main]

use alize_datapath_host::{Connection, From, Host};
use libfuzzer_sys::fuzz_target;

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

fuzz_target!(|data: &[u8]| {
    let Some((&size, mut rest)) = data.split_first() else { return };
    let mut host = Host::default();
    let mut connection = Connection::new(&mut host);
    connection.send(From::Client, PREFACE);
    let mut from = From::Client;
    while !rest.is_empty() {
        let end = rest.windows(3).position(|three| three == [0xff, 0, 0xff]).unwrap_or(rest.len());
        rest[..end].chunks(usize::from(size).max(1)).for_each(|piece| connection.send(from, piece));
        rest = rest.get(end + 3..).unwrap_or_default();
        from = if from == From::Client { From::Server } else { From::Client };
    }
    host.http2_requests();
});
