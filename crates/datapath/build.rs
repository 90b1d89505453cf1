//! Compiles every `bpf/NAME.bpf.c` to `$OUT_DIR/NAME.bpf.o`, and the border types of the `*abi.bpf.c` to
//! Rust.

mod clang;

use std::env;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use libbpf_cargo::SkeletonBuilder;

fn main() {
    println!("cargo:rerun-if-changed=bpf");
    println!("cargo:rerun-if-env-changed=CLANG");
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    for source in clang::sources(Path::new("bpf")) {
        let name = clang::name(&source);
        compile(&source, &out, &name, &[]);
        if clang::WITHOUT_FETCH.contains(&name.as_str()) {
            compile(&source, &out, &format!("without_fetch_{name}"), &[clang::WITHOUT_FETCH_FLAG]);
        }
    }
}

fn compile(source: &Path, out: &Path, name: &str, more: &[&str]) {
    let target = env::var("CARGO_CFG_TARGET_ARCH").expect("cargo sets the target");
    let arguments = clang::arguments(&target, Path::new("bpf"));
    let mut builder = SkeletonBuilder::new();
    builder
        .source(source)
        .obj(out.join(format!("{name}.o")))
        .clang(env::var_os("CLANG").unwrap_or_else(|| "clang".into()))
        .clang_args(arguments.into_iter().chain(more.iter().map(OsString::from)));
    let done = match name {
        "abi.bpf" => builder.build_and_generate(out.join("abi.rs")),
        "http_abi.bpf" => builder.build_and_generate(out.join("http_abi.rs")),
        "canary_abi.bpf" => builder.build_and_generate(out.join("canary_abi.rs")),
        "observe_abi.bpf" => builder.build_and_generate(out.join("observe_abi.rs")),
        "conformance_abi.bpf" => builder.build_and_generate(out.join("conformance_abi.rs")),
        _ => builder.build(),
    };
    done.unwrap_or_else(|error| panic!("cannot compile {}: {error:?}", source.display()));
}
