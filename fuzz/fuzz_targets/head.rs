//! The HTTP router's reading of heads, compiled for the host, on any bytes: what it takes, httparse reads the same way,
//! whatever lies behind the message in memory.
#![no_main]

use alize_datapath_host::heads::{agree, agree_on_response};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|message: &[u8]| {
    let _ = agree(message);
    let _ = agree_on_response(message, message.len() % 7);
});
