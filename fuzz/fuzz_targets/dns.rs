//! DNS messages, whatever their bytes are, read by the C that runs in the kernel.
#![no_main]

use alize_datapath_host::dns;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    for response in [false, true] {
        if let Some(read) = dns(data, response) {
            let query = read.expect("the kernel writes what can be read");
            assert!(query.name.len() <= 128 && query.name.chars().all(|c| !c.is_control()));
        }
    }
});
