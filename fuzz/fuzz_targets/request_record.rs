//! Records of the ring of traced events, whatever their bytes are.
#![no_main]

use alize_datapath::observe::Event;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| match Event::decode(data) {
    Ok(Event::Request(request)) => {
        assert!(request.target.chars().chain(request.host.chars()).all(|c| !c.is_control()));
        assert!(request.status.is_none_or(|status| (1..=999).contains(&status)));
    }
    Ok(Event::Dns(query)) => assert!(query.name.chars().all(|c| !c.is_control())),
    Ok(Event::Tcp(_)) | Err(_) => {}
});
