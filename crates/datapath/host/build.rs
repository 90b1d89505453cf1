//! Compiles `bpf/observe.bpf.c` for the host.

fn main() {
    println!("cargo:rerun-if-changed=../bpf");
    println!("cargo:rerun-if-changed=include");
    println!("cargo:rerun-if-changed=src/host.c");
    cc::Build::new()
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
