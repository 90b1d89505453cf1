//! DNS messages, read by the C that runs in the kernel.

use alize_datapath_host::{DnsStream, Host, dns};
use proptest::prelude::*;

/// A message with one question.
fn message(flags: [u8; 2], name: &[&[u8]], query_type: u16) -> Vec<u8> {
    let mut bytes = vec![0x12, 0x34, flags[0], flags[1], 0, 1, 0, 2, 0, 0, 0, 0];
    for label in name {
        bytes.push(label.len() as u8);
        bytes.extend_from_slice(label);
    }
    bytes.push(0);
    bytes.extend(query_type.to_be_bytes());
    bytes.extend([0, 1]);
    bytes
}

#[test]
fn a_question_is_read_as_text() {
    let query = dns(&message([1, 0], &[b"www", b"example", b"org"], 28), false).unwrap().unwrap();
    assert_eq!((query.name.as_str(), query.query_type, query.name_cut), ("www.example.org", 28, false));
    assert_eq!((query.code, query.answers), (Some(0), 0));
    let response = dns(&message([0x83, 0x83], &[b"a"], 1), true).unwrap().unwrap();
    assert_eq!((response.code, response.answers, response.truncated), (Some(3), 2, true));
    let root = dns(&message([1, 0], &[], 2), false).unwrap().unwrap();
    assert_eq!(root.name, "");
    let foreign = dns(&message([1, 0], &[b"a b\x1b", b"\xff"], 1), false).unwrap().unwrap();
    assert_eq!(foreign.name, "a?b?.?");
}

#[test]
fn what_is_not_whole_or_strange_is_refused() {
    let whole = message([1, 0], &[b"www", b"example", b"org"], 1);
    for cut in 0..whole.len() {
        assert_eq!(dns(&whole[..cut], false), None, "cut after {cut}");
    }
    assert_eq!(dns(&whole, true), None, "a query is no response");
    assert_eq!(dns(&message([0x81, 0], &[b"a"], 1), false), None);
    assert_eq!(dns(&message([0x29, 0], &[b"a"], 1), false), None, "an update has another opcode");
    let mut two = whole.clone();
    two[5] = 2;
    assert_eq!(dns(&two, false), None, "two questions");
    let mut compressed = whole.clone();
    compressed[12] = 0xc0;
    assert_eq!(dns(&compressed, false), None);
    let label: &[u8] = &[b'x'; 63];
    let long = dns(&message([1, 0], &[label, label, label], 1), false).unwrap().unwrap();
    assert!(long.name_cut && long.name.len() == 128);
    let longest: &[&[u8]] = &[label, label, label, &label[..61]];
    assert!(dns(&message([1, 0], longest, 1), false).is_some(), "255 bytes");
    let longer: &[&[u8]] = &[label, label, label, &label[..62]];
    assert_eq!(dns(&message([1, 0], longer, 1), false), None, "256 bytes");
}

/// With its length before it.
fn framed(message: &[u8]) -> Vec<u8> {
    [&(message.len() as u16).to_be_bytes(), message].concat()
}

/// The names of what a segment completes; `None`: it cannot be followed.
fn names(stream: &mut DnsStream<'_>, from: usize, bytes: &[u8]) -> Option<Vec<String>> {
    let read = stream.segment(from as u32, bytes)?;
    Some(read.into_iter().map(|query| query.unwrap().name).collect())
}

#[test]
fn messages_of_a_stream_are_found_wherever_it_is_cut() {
    let mut host = Host::default();
    let mut bytes = framed(&message([1, 0], &[b"one", b"example"], 1));
    bytes.extend(framed(&message([1, 0], &[b"two"], 28)));
    for first in 0..bytes.len() {
        for second in first..bytes.len() {
            let mut stream = DnsStream::new(&mut host, false);
            let (one, rest) = bytes.split_at(first);
            let (two, three) = rest.split_at(second - first);
            let mut found = Vec::new();
            for (from, piece) in [(0, one), (first, two), (second, three)] {
                if !piece.is_empty() {
                    found.extend(names(&mut stream, from, piece).unwrap());
                    assert_eq!(names(&mut stream, from, piece), Some(vec![]), "it is sent again");
                }
            }
            assert_eq!(found, ["one.example", "two"], "cut at {first} and {second}");
        }
    }
}

#[test]
fn what_follows_the_question_of_a_long_message_is_passed_over() {
    let mut host = Host::default();
    let mut long = message([0x81, 0], &[b"long"], 1);
    // What would be another message, if it were looked at.
    let inner = framed(&message([0x81, 0], &[b"inner"], 1));
    long.extend(inner.repeat(100));
    let bytes = [framed(&long), framed(&[]), framed(&message([0x81, 0], &[b"next"], 1))].concat();
    for size in [1, 7, 100, 272, 274, 1448, bytes.len()] {
        let mut stream = DnsStream::new(&mut host, true);
        let pieces = bytes.chunks(size).enumerate();
        let found = pieces.flat_map(|(i, piece)| names(&mut stream, i * size, piece).unwrap());
        assert_eq!(found.collect::<Vec<_>>(), ["long", "next"], "in pieces of {size}");
    }
}

#[test]
fn behind_a_gap_only_a_whole_message_is_taken() {
    let mut host = Host::default();
    let bytes = framed(&message([1, 0], &[b"name"], 1));
    let mut stream = DnsStream::new(&mut host, false);
    assert_eq!(names(&mut stream, 0, &bytes[..5]), Some(vec![]));
    assert_eq!(names(&mut stream, 6, &bytes[6..]), None);
    assert_eq!(names(&mut stream, 1000, &bytes[2..]), None, "it has no length");
    assert_eq!(names(&mut stream, 2000, &[&bytes[..], &[0]].concat()), None, "there is more");
    assert_eq!(names(&mut stream, 3000, &framed(&[7; 40])), None, "it is none");
    assert_eq!(names(&mut stream, 5, &bytes[5..]), Some(vec!["name".to_owned()]), "the gap is filled");
    assert_eq!(names(&mut stream, 4000, &bytes), Some(vec!["name".to_owned()]));
    assert_eq!(names(&mut stream, 2000, &bytes), Some(vec![]), "it was before");
    assert_eq!(names(&mut stream, 4000 + bytes.len(), &bytes), Some(vec!["name".to_owned()]));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(20_000))]

    #[test]
    fn no_bytes_break_it(mut bytes in prop::collection::vec(any::<u8>(), 0..600), response: bool, plausible: bool) {
        if plausible && bytes.len() > 12 {
            bytes[2] = if response { 0x81 } else { 1 };
            bytes[4..6].copy_from_slice(&[0, 1]);
            // Short labels, so that some names end.
            for byte in &mut bytes[12..] {
                *byte %= 5;
            }
        }
        if let Some(read) = dns(&bytes, response) {
            let query = read.unwrap();
            prop_assert!(query.name.len() <= 128 && !query.name.contains(|c: char| c.is_control()));
        }
    }

    #[test]
    fn names_are_read_back(labels in prop::collection::vec("[a-z0-9-]{1,15}", 1..8), query_type: u16) {
        let bytes: Vec<&[u8]> = labels.iter().map(|label| label.as_bytes()).collect();
        let query = dns(&message([1, 0], &bytes, query_type), false).unwrap().unwrap();
        prop_assert_eq!((query.name, query.query_type), (labels.join("."), query_type));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn no_stream_breaks_it(pieces in prop::collection::vec((0u32..2000, prop::collection::vec(any::<u8>(), 1..400)), 1..6)) {
        let mut host = Host::default();
        let mut stream = DnsStream::new(&mut host, true);
        for (from, bytes) in pieces {
            prop_assert!(stream.segment(from, &bytes).into_iter().flatten().all(|query| query.is_ok()));
        }
    }
}
