//! The same C under sanitizers: pools under many threads, and heads with nothing behind them that may be read.

use std::path::{Path, PathBuf};
use std::process::Command;

use alize_datapath_host::corpus::{SEEDS, changed, smuggling};

fn compiled(source: &str, sanitizers: &str) -> PathBuf {
    let program = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{source}-{sanitizers}"));
    let mut compiler = Command::new(std::env::var_os("CC").unwrap_or_else(|| "cc".into()));
    compiler.current_dir(env!("CARGO_MANIFEST_DIR"));
    compiler.args(["-g", "-O1", "-DALIZE_HOST", "-Wall", "-Werror", "-Wno-unknown-pragmas", "-pthread"]);
    compiler.args([&format!("-fsanitize={sanitizers}"), "-fno-sanitize-recover=all"]);
    compiler.args(["-Iinclude-http", "-I../bpf", &format!("tests/{source}.c"), "-o"]);
    let status = compiler.arg(&program).status().expect("there is a C compiler");
    assert!(status.success(), "{source}.c compiles with {sanitizers}");
    program
}

#[test]
fn pools_are_free_of_races_and_lose_nothing() {
    for (sanitizers, requests) in [("thread", "20000"), ("address,undefined", "100000")] {
        let run = Command::new(compiled("pools", sanitizers)).arg(requests).output().unwrap();
        let (figures, report) = (String::from_utf8_lossy(&run.stdout), String::from_utf8_lossy(&run.stderr));
        assert!(run.status.success() && report.is_empty(), "{sanitizers}: {figures}{report}");
    }
}

#[test]
fn buckets_give_what_they_hold_and_not_one_more() {
    for (sanitizers, draws) in [("thread", "40000"), ("address,undefined", "200000")] {
        let run = Command::new(compiled("buckets", sanitizers)).arg(draws).output().unwrap();
        let (figures, report) = (String::from_utf8_lossy(&run.stdout), String::from_utf8_lossy(&run.stderr));
        assert!(run.status.success() && report.is_empty(), "{sanitizers}: {figures}{report}");
    }
}

#[test]
fn heads_are_read_within_bounds() {
    let messages: Vec<Vec<u8>> = SEEDS
        .iter()
        .map(|seed| seed.to_vec())
        .chain(smuggling().into_iter().map(|(_, message)| message))
        .chain((0..20_000).map(changed))
        .chain([vec![b'x'; 4096], b"GET /".repeat(1000), [b"GET /".as_slice(), &[b'a'; 5000]].concat()])
        .collect();
    let mut input = Vec::new();
    for message in &messages {
        input.extend((message.len() as u32).to_ne_bytes());
        input.extend(message);
    }
    let file = Path::new(env!("CARGO_TARGET_TMPDIR")).join("heads.input");
    std::fs::write(&file, input).unwrap();
    let run = Command::new(compiled("heads", "address,undefined")).arg(&file).output().unwrap();
    let report = String::from_utf8_lossy(&run.stderr);
    assert!(run.status.success(), "{report}");
    assert_eq!(String::from_utf8_lossy(&run.stdout), format!("{}\n", messages.len()));
}
