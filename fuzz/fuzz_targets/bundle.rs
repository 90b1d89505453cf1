//! Bundles of kernel programs, whatever their bytes are.
#![no_main]

use alize_datapath::bundle::{Bundle, Trust};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    if let Ok(bundle) = Bundle::read(data) {
        // What was read is what would be written, and nothing else is vouched for.
        assert_eq!(bundle.bytes(), data);
        assert!(bundle.check(&Trust::default()).is_err());
    }
});
