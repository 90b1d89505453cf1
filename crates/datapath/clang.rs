// How the kernel programs are compiled, for build.rs and for the test that tries other compilers.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

/// Objects of which there is a second build for kernels before 5.12; see `bpf/alize/atomics.h`.
pub(crate) const WITHOUT_FETCH: [&str; 4] = ["connect.bpf", "sendmsg.bpf", "sockops.bpf", "sweep.bpf"];

/// What makes it the second build.
pub(crate) const WITHOUT_FETCH_FLAG: &str = "-DALIZE_WITHOUT_FETCH";

/// Every `NAME.bpf.c` of `folder`.
pub(crate) fn sources(folder: &Path) -> Vec<PathBuf> {
    let entries = folder.read_dir().expect("bpf/ is there");
    let mut sources: Vec<_> = entries.map(|entry| entry.expect("bpf/ is readable").path()).collect();
    sources.retain(|path| path.to_string_lossy().ends_with(".bpf.c"));
    sources.sort();
    sources
}

/// `connect.bpf` of `bpf/connect.bpf.c`.
pub(crate) fn name(source: &Path) -> String {
    source.file_stem().expect("the name ends with .bpf.c").to_string_lossy().into_owned()
}

/// For kernels of the architecture `target`, with the headers of `bpf`. CPU version 3: atomics that return the old value
/// (Linux 5.12), 32-bit registers and jumps (5.1). Debian keeps `asm/` in a folder of the architecture, which clang does
/// not search when it compiles for BPF; of another architecture it may not be there, and no program reads it for more
/// than the sizes of integers.
pub(crate) fn arguments(target: &str, bpf: &Path) -> Vec<OsString> {
    let architecture = match target {
        "x86_64" => "x86",
        "aarch64" => "arm64",
        other => panic!("the kernel programs are not built for {other}"),
    };
    let folder = |target: &str| PathBuf::from(format!("/usr/include/{target}-linux-gnu"));
    let asm =
        Some(folder(target)).filter(|asm| asm.is_dir()).unwrap_or_else(|| folder(std::env::consts::ARCH));
    let define = format!("-D__TARGET_ARCH_{architecture}");
    let fixed = ["-mcpu=v3", "-Wall", "-Werror", &define].map(OsString::from);
    let folders = ["-I".into(), bpf.into(), "-idirafter".into(), asm.into()];
    folders.into_iter().chain(fixed).collect()
}
