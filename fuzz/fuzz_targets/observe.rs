//! The observing kernel programs, compiled for the host, on any bytes in any pieces: what they count is what httparse
//! and RFC 9112 count, and cutting the stream elsewhere changes nothing of it.
//!
//! Input: eight bytes of sizes of pieces, then requests and responses, with the byte 0 between.
#![no_main]

use alize_datapath_host::oracle::check;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Some((cuts, streams)) = data.split_at_checked(8) else { return };
    let between = streams.iter().position(|&byte| byte == 0).unwrap_or(streams.len());
    let (requests, responses) = (&streams[..between], streams.get(between + 1..).unwrap_or_default());
    let cuts: Vec<u16> = cuts.iter().map(|&cut| cut.into()).collect();
    check(requests, responses, &cuts);
});
