//! Compiles the observing programs and the HTTP router's headers for the host.

fn main() {
    for path in ["../bpf", "include", "include-http", "src/host.c", "src/http.c"] {
        println!("cargo:rerun-if-changed={path}");
    }
    compile("src/host.c", "include", "alize_observe_host");
    compile("src/http.c", "include-http", "alize_http_host");
}

fn compile(source: &str, include: &str, library: &str) {
    let mut build = cc::Build::new();
    // cargo-fuzz says so; gcc has no counters that libFuzzer understands.
    if std::env::var_os("CARGO_CFG_FUZZING").is_some() {
        build.compiler("clang").flag("-fsanitize=fuzzer-no-link").flag("-fno-sanitize-recover=all");
    }
    build
        .opt_level(2)
        .file(source)
        .include(include)
        .include("../bpf")
        .define("ALIZE_HOST", None)
        .flag("-Wno-unknown-pragmas")
        .flag("-Wno-unused-parameter")
        .flag("-Wno-unused-function")
        .flag("-Wno-sign-compare")
        .compile(library);
}
