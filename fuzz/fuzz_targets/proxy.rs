//! What strangers send to the proxy: requests, responses and control messages.
//!
//! Input: a byte that says which, eight bytes of sizes of pieces, then the bytes.
#![no_main]

use alize_proxy::fuzz::{check_control, check_request, check_response};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Some((which, rest)) = data.split_first() else { return };
    let Some((cuts, bytes)) = rest.split_at_checked(8) else { return };
    match which % 3 {
        0 => check_request(bytes, cuts),
        1 => check_response(bytes, cuts),
        _ => check_control(bytes),
    }
});
