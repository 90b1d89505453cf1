//! The kernel programs under other compilers than the one that this build used, and for the other architecture. What comes
//! out must be taken by this kernel too. Needs root, and the clangs that `script/setup test` installs.

#[path = "../clang.rs"]
mod clang;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use libbpf_cargo::SkeletonBuilder;
use libbpf_rs::ObjectBuilder;

/// Never loaded: they are there for their types.
const TYPES: &str = "abi.bpf";

/// Security modules and functions of the kernel may be closed to programs here; `make test-kernels` says where they are
/// not.
const TRIALS: &str = "trial_";

/// The oldest that the programs are written for.
const OLDEST: u32 = 14;

/// Every `clang-N` of this machine that is new enough, oldest first.
fn clangs() -> Vec<(u32, PathBuf)> {
    let path = std::env::var_os("PATH").expect("PATH is set");
    let mut clangs = Vec::new();
    for entry in
        std::env::split_paths(&path).filter_map(|folder| fs::read_dir(folder).ok()).flatten().flatten()
    {
        let version = entry.file_name().to_str().and_then(|name| name.strip_prefix("clang-")?.parse().ok());
        clangs
            .extend(version.filter(|version| *version >= OLDEST).map(|version: u32| (version, entry.path())));
    }
    clangs.sort();
    clangs.dedup_by_key(|(version, _)| *version);
    clangs
}

fn bpf() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("bpf")
}

/// Compiles everything; each object and its name.
fn compile(compiler: &Path, target: &str, folder: &Path) -> Vec<(String, PathBuf)> {
    let mut objects = Vec::new();
    for source in clang::sources(&bpf()) {
        let name = clang::name(&source);
        let mut builds = vec![(name.clone(), None)];
        if clang::WITHOUT_FETCH.contains(&name.as_str()) {
            builds.push((format!("without_fetch_{name}"), Some(clang::WITHOUT_FETCH_FLAG)));
        }
        for (name, more) in builds {
            let object = folder.join(format!("{name}.o"));
            let arguments = clang::arguments(target, &bpf()).into_iter().chain(more.map(Into::into));
            let mut builder = SkeletonBuilder::new();
            builder.source(&source).obj(&object).clang(compiler).clang_args(arguments);
            builder.build().unwrap_or_else(|error| panic!("{} {name}: {error:?}", compiler.display()));
            objects.push((name, object));
        }
    }
    objects
}

struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("alize-{name}-{}", std::process::id()));
        fs::create_dir_all(&path).expect("a temporary folder can be made");
        Self(path)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

#[test]
fn the_oldest_and_the_newest_clang_make_programs_that_load() {
    let clangs = clangs();
    let [oldest, .., newest] = clangs.as_slice() else {
        panic!("two versions of clang are needed, {clangs:?} are there: run script/setup test");
    };
    for (version, compiler) in [oldest, newest] {
        let folder = Folder::new(&format!("clang-{version}"));
        for (name, object) in compile(compiler, std::env::consts::ARCH, &folder.0) {
            if name.ends_with(TYPES) || name.starts_with(TRIALS) {
                continue;
            }
            let opened = ObjectBuilder::default().open_file(&object).expect("an object file");
            // Maps that take their size at load have one entry; the verifier's verdict does not depend on it.
            opened.load().unwrap_or_else(|error| panic!("clang {version}, {name}: {error}"));
        }
    }
}

#[test]
fn they_compile_for_the_other_architecture() {
    let other = if std::env::consts::ARCH == "x86_64" { "aarch64" } else { "x86_64" };
    let folder = Folder::new(other);
    let objects = compile(Path::new("clang"), other, &folder.0);
    assert_eq!(objects.len(), clang::sources(&bpf()).len() + clang::WITHOUT_FETCH.len());
    for (name, object) in objects {
        let listing = Command::new("llvm-objdump").arg("-d").arg(&object).output().expect("package llvm");
        assert!(String::from_utf8_lossy(&listing.stdout).contains("elf64-bpf"), "{name}");
    }
}
