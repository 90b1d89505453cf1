//! What container engines answer, whatever it is: a user's engine is the user's own program.
#![no_main]

use alize_agent::fuzz::names;
use libfuzzer_sys::fuzz_target;

const ID: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

fuzz_target!(|answer: &[u8]| {
    for name in names(answer, ID) {
        assert!(!name.is_empty() && name.len() <= answer.len() && !name.contains(char::is_control));
    }
});
