//! Records of the ring of traced requests, whatever their bytes are.
#![no_main]

use alize_datapath::observe::Request;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    if let Ok(request) = Request::decode(data) {
        assert!(request.target.chars().chain(request.host.chars()).all(|c| !c.is_control()));
        assert!(request.status.is_none_or(|status| (1..=999).contains(&status)));
    }
});
