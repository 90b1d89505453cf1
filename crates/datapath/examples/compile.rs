//! Compiles every kernel program with another clang: `compile CLANG FOLDER`. For `make test-kernels`, which has what comes
//! out verified by each kernel.

#[path = "../clang.rs"]
mod clang;

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use libbpf_cargo::SkeletonBuilder;

fn main() {
    let arguments: Vec<OsString> = std::env::args_os().skip(1).collect();
    let [compiler, folder] = arguments.as_slice() else { panic!("usage: compile CLANG FOLDER") };
    let folder = PathBuf::from(folder);
    std::fs::create_dir_all(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let bpf = Path::new(env!("CARGO_MANIFEST_DIR")).join("bpf");
    for source in clang::sources(&bpf) {
        let name = clang::name(&source);
        compile(compiler, &source, &bpf, &folder.join(format!("{name}.o")), None);
        if clang::WITHOUT_FETCH.contains(&name.as_str()) {
            let object = folder.join(format!("without_fetch_{name}.o"));
            compile(compiler, &source, &bpf, &object, Some(clang::WITHOUT_FETCH_FLAG));
        }
    }
}

fn compile(compiler: &OsString, source: &Path, bpf: &Path, object: &Path, more: Option<&str>) {
    let arguments = clang::arguments(std::env::consts::ARCH, bpf);
    SkeletonBuilder::new()
        .source(source)
        .obj(object)
        .clang(compiler)
        .clang_args(arguments.into_iter().chain(more.map(OsString::from)))
        .build()
        .unwrap_or_else(|error| panic!("{}: {error:?}", source.display()));
}
