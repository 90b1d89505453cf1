//! Compiles `bpf/observe.bpf.c` for the host.

fn main() {
    println!("cargo:rerun-if-changed=../bpf");
    println!("cargo:rerun-if-changed=include");
    println!("cargo:rerun-if-changed=src/host.c");
    let mut build = cc::Build::new();
    // cargo-fuzz says so; gcc has no counters that libFuzzer understands.
    if std::env::var_os("CARGO_CFG_FUZZING").is_some() {
        build.compiler("clang").flag("-fsanitize=fuzzer-no-link").flag("-fno-sanitize-recover=all");
    }
    build
        .file("src/host.c")
        .include("include")
        .include("../bpf")
        .define("ALIZE_HOST", None)
        .flag("-Wno-unknown-pragmas")
        .flag("-Wno-unused-parameter")
        .flag("-Wno-unused-function")
        .flag("-Wno-sign-compare")
        .compile("alize_observe_host");
}
