//! Connections as the kernel would tell them.

use super::*;
use crate::abi::Plain;
use crate::observe::abi::http2_record;
use crate::observe::event::{Method, Protocol};
use proptest::prelude::*;

const BLOCK: u8 = 1;
const DATA: u8 = 2;
const GAP: u8 = 4;
const END: u8 = 5;

fn record(connection: u64, response: bool, number: u32, kind: u8) -> http2_record {
    let mut record = http2_record { connection, number, kind, ..Default::default() };
    record.response = response.into();
    record.time_ns = 1000 + u64::from(number) * 10 + u64::from(response) * 5;
    record.frame_type = 1;
    record
}

/// A whole HEADERS frame.
fn headers(mut record: http2_record, stream: u32, ends: bool, block: &[u8]) -> Vec<u8> {
    record.stream = stream;
    record.frame_flags = 4 | u8::from(ends);
    record.frame_length = block.len() as u32;
    record.length = block.len() as u16;
    [record.bytes(), block].concat()
}

/// A literal field without a place in the table.
fn literal(name: &str, value: &str) -> Vec<u8> {
    let mut bytes = vec![0, name.len() as u8];
    bytes.extend_from_slice(name.as_bytes());
    bytes.push(value.len() as u8);
    bytes.extend_from_slice(value.as_bytes());
    bytes
}

fn take(decoder: &mut Decoder, records: &[Vec<u8>]) -> Vec<Request> {
    let mut requests = Vec::new();
    for bytes in records {
        decoder.take(bytes, &mut |request| requests.push(request)).unwrap();
    }
    requests
}

#[test]
fn a_call_of_grpc_is_request_response_and_trailers() {
    let mut decoder = Decoder::default();
    let call =
        [vec![0x83], literal(":path", "/shop.Orders/Get"), literal("content-type", "application/grpc")];
    let trailers = literal("grpc-status", "5");
    let mut data = record(7, true, 1, DATA);
    (data.data_stream, data.data_bytes, data.stream) = (1, 100, 1);
    let records = [
        headers(record(7, false, 0, BLOCK), 1, false, &call.concat()),
        headers(record(7, true, 0, BLOCK), 1, false, &[0x88]),
        data.bytes().to_vec(),
        headers(record(7, true, 2, BLOCK), 1, true, &trailers),
    ];
    let requests = take(&mut decoder, &records);
    let [request] = requests.as_slice() else { panic!("{requests:?}") };
    let grpc = request.grpc.clone().unwrap();
    assert_eq!((grpc.service.as_str(), grpc.method.as_str()), ("shop.Orders", "Get"));
    assert_eq!((grpc.status_name(), grpc.failed()), (Some("NOT_FOUND"), false));
    assert_eq!((request.method, request.status, request.partial), (Method::Post, Some(200), false));
    assert_eq!((request.protocol, request.response_bytes), (Protocol::Http2, 101 + trailers.len() as u64));
    assert_eq!((request.latency.as_nanos(), request.first_byte.unwrap().as_nanos()), (25, 5));
}

#[test]
fn a_block_comes_in_pieces_frames_and_with_padding() {
    let mut decoder = Decoder::default();
    // Padding of 2, priority, then :method GET; the path is in a CONTINUATION, itself in two pieces.
    let path = literal(":path", "/long");
    let mut first = record(1, false, 0, BLOCK);
    (first.stream, first.frame_flags, first.frame_length, first.length) = (3, 0x29, 9, 9);
    let padded = [first.bytes(), &[2, 0, 0, 0, 0, 16, 0x82, 0, 0]].concat();
    let mut one = record(1, false, 1, BLOCK);
    (one.stream, one.frame_type, one.frame_flags, one.frame_length, one.length) =
        (3, 9, 4, path.len() as u32, 4);
    let mut two = record(1, false, 2, BLOCK);
    (two.stream, two.frame_type, two.frame_flags, two.frame_length, two.offset) =
        (3, 9, 4, path.len() as u32, 4);
    two.length = path.len() as u16 - 4;
    let records = [
        padded,
        [one.bytes(), &path[..4]].concat(),
        [two.bytes(), &path[4..]].concat(),
        headers(record(1, true, 0, BLOCK), 3, true, &[0x8d]),
    ];
    let requests = take(&mut decoder, &records);
    assert_eq!((requests[0].target.as_str(), requests[0].status), ("/long", Some(404)));
    assert_eq!(decoder.missed(), (0, 0));
}

/// Each of these makes heads that refer to what was missed partial, and none is guessed.
#[test]
fn what_was_missed_is_said() {
    let get = [&[0x82][..], &literal(":path", "/a")].concat();
    // The table's first entry, which nobody has seen.
    let unknown = [0x82, 0x84, 0xbe];
    let answer = |number, stream| headers(record(1, true, number, BLOCK), stream, true, &[0x88]);
    let mut gap = record(1, false, 1, GAP);
    gap.frame_type = 0;
    let cases: [Vec<Vec<u8>>; 2] = [
        // A record was lost: number 1 is missing.
        vec![
            headers(record(1, false, 0, BLOCK), 1, true, &get),
            headers(record(1, false, 2, BLOCK), 3, true, &unknown),
            answer(0, 1),
            answer(1, 3),
        ],
        vec![
            headers(record(1, false, 0, BLOCK), 1, true, &get),
            gap.bytes().to_vec(),
            headers(record(1, false, 2, BLOCK), 3, true, &unknown),
            answer(0, 1),
            answer(1, 3),
        ],
    ];
    for records in cases {
        let requests = take(&mut Decoder::default(), &records);
        assert_eq!(requests.iter().map(|request| request.partial).collect::<Vec<_>>(), [false, true]);
    }
    // The response's beginning is missed: no request of that stream is known.
    let mut decoder = Decoder::default();
    assert_eq!(take(&mut decoder, &[answer(0, 9)]), []);
    assert_eq!(decoder.missed(), (0, 1));
}

#[test]
fn the_end_of_a_connection_is_that_of_its_requests() {
    let get = [&[0x82][..], &literal(":path", "/a")].concat();
    let mut decoder = Decoder::default();
    let records = [
        headers(record(1, false, 0, BLOCK), 1, true, &get),
        headers(record(1, false, 1, BLOCK), 3, true, &get),
        headers(record(1, true, 0, BLOCK), 3, false, &[0x88]),
        record(1, true, 1, END).bytes().to_vec(),
    ];
    let mut requests = take(&mut decoder, &records);
    requests.sort_by_key(|request| request.started);
    let ends: Vec<_> = requests.iter().map(|request| (request.status, request.broken)).collect();
    assert_eq!(ends, [(None, false), (Some(200), true)]);
    assert!(decoder.connections.is_empty());
}

#[test]
fn there_is_an_end_to_what_is_remembered() {
    let mut decoder = Decoder::default();
    for connection in 0..20_000 {
        take(&mut decoder, &[headers(record(connection, false, 0, BLOCK), 1, true, &[0x82, 0x84])]);
        assert!(decoder.connections.len() <= CONNECTIONS + 1);
    }
}

proptest! {
    #[test]
    fn never_panics(records: Vec<(u8, bool, u8, u8, u8, u8, Vec<u8>)>) {
        let mut decoder = Decoder::default();
        for (number, response, kind, frame_type, flags, offset, piece) in records {
            let mut record = record(1, response, number.into(), kind % 7);
            (record.frame_type, record.frame_flags) = (frame_type % 10, flags);
            (record.stream, record.data_stream) = (u32::from(offset % 4), u32::from(flags % 4));
            (record.offset, record.length) = (u32::from(offset / 32), piece.len() as u16);
            record.frame_length = record.offset + record.length as u32;
            let _ = decoder.take(&[record.bytes(), &piece].concat(), &mut |_| {});
        }
    }
}
