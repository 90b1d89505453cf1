//! Programs and libraries in which TLS is looked for, whatever their bytes are: who made a file has had all of them in hand.
#![no_main]

use alize_datapath::observe::tls::Library;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    if let Some(library) = Library::read(data) {
        assert!(library.refused().is_some() || library.functions.iter().any(|function| function.skipped.is_none()));
    }
});
