//! Compiles every `bpf/NAME.bpf.c` to `$OUT_DIR/NAME.bpf.o`, and the border types of the `*abi.bpf.c` to
//! Rust.

use std::env;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use libbpf_cargo::SkeletonBuilder;

fn main() {
    println!("cargo:rerun-if-changed=bpf");
    println!("cargo:rerun-if-env-changed=CLANG");
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    for source in sources(Path::new("bpf")) {
        let name = source.file_stem().expect("the name ends with .bpf.c").to_string_lossy().into_owned();
        compile(&source, &out, &name, &[]);
        if WITHOUT_FETCH.contains(&name.as_str()) {
            compile(&source, &out, &format!("without_fetch_{name}"), &["-DALIZE_WITHOUT_FETCH"]);
        }
    }
}

/// Objects of which there is a second build for kernels before 5.12; see `bpf/alize/atomics.h`.
const WITHOUT_FETCH: [&str; 4] = ["connect.bpf", "sendmsg.bpf", "sockops.bpf", "sweep.bpf"];

fn sources(folder: &Path) -> Vec<PathBuf> {
    let entries = folder.read_dir().expect("bpf/ lies beside build.rs");
    let mut sources: Vec<_> = entries.map(|entry| entry.expect("bpf/ is readable").path()).collect();
    sources.retain(|path| path.to_string_lossy().ends_with(".bpf.c"));
    sources.sort();
    sources
}

fn compile(source: &Path, out: &Path, name: &str, more: &[&str]) {
    let mut builder = SkeletonBuilder::new();
    builder
        .source(source)
        .obj(out.join(format!("{name}.o")))
        .clang(env::var_os("CLANG").unwrap_or_else(|| "clang".into()))
        .clang_args(arguments().into_iter().chain(more.iter().map(OsString::from)));
    let done = match name {
        "abi.bpf" => builder.build_and_generate(out.join("abi.rs")),
        "observe_abi.bpf" => builder.build_and_generate(out.join("observe_abi.rs")),
        "conformance_abi.bpf" => builder.build_and_generate(out.join("conformance_abi.rs")),
        _ => builder.build(),
    };
    done.unwrap_or_else(|error| panic!("cannot compile {}: {error:?}", source.display()));
}

/// CPU version 3: atomics that return the old value (Linux 5.12), 32-bit registers and jumps (5.1). Debian keeps `asm/` in a
/// folder of the architecture, which clang does not search when it compiles for BPF.
fn arguments() -> Vec<OsString> {
    let target = env::var("CARGO_CFG_TARGET_ARCH").expect("cargo sets the target");
    let architecture = match target.as_str() {
        "x86_64" => "x86",
        "aarch64" => "arm64",
        other => panic!("the kernel programs are not built for {other}"),
    };
    let define = format!("-D__TARGET_ARCH_{architecture}");
    let asm = format!("/usr/include/{target}-linux-gnu");
    ["-I", "bpf", "-idirafter", &asm, "-mcpu=v3", "-Wall", "-Werror", &define]
        .into_iter()
        .map(OsString::from)
        .collect()
}
