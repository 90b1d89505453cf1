//! A program that this kernel's verifier really refuses: the rest goes on, and people are told what is off and why. Needs
//! root and clang.

#[path = "../clang.rs"]
#[allow(dead_code, reason = "build.rs uses all of it")]
mod clang;
mod world;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use alize_datapath::bundle::Bundle;
use alize_datapath::{DataPath, Error};
use libbpf_cargo::SkeletonBuilder;
use world::{TcpServer, World, apply, dial, service};

struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("alize-refused-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// The programs of this tree, object `name` compiled anew from a source in which `from` is `to`.
fn altered(folder: &Folder, name: &str, from: &str, to: &str) -> Bundle {
    let bpf = Path::new(env!("CARGO_MANIFEST_DIR")).join("bpf");
    for source in clang::sources(&bpf) {
        let object = format!("{}.o", clang::name(&source));
        fs::copy(Path::new(env!("OUT_DIR")).join(&object), folder.0.join(&object)).unwrap();
    }
    let text = fs::read_to_string(bpf.join(format!("{name}.bpf.c"))).unwrap();
    assert!(text.contains(from), "{name} has no {from:?}");
    let source = folder.0.join(format!("{name}.bpf.c"));
    fs::write(&source, text.replacen(from, to, 1)).unwrap();
    SkeletonBuilder::new()
        .source(&source)
        .obj(folder.0.join(format!("{name}.bpf.o")))
        .clang_args(clang::arguments(std::env::consts::ARCH, &bpf))
        .build()
        .unwrap_or_else(|error| panic!("{name}: {error:?}"));
    Bundle::from_folder(&folder.0, "1.0.0", "the test's own").unwrap_or_else(|error| panic!("{error}"))
}

#[test]
fn a_feature_is_off_with_its_reason_and_all_else_goes_on() {
    let world = World::new("refused");
    let folder = Folder::new("feature");
    // What may be absent is used all the same: no verifier takes that.
    let bundle =
        altered(&folder, "getpeername", "	if (connection)\n		ctx_set4(ctx,", "	if (1)\n		ctx_set4(ctx,");
    let (mut data_path, _, _) =
        DataPath::open_bundle(&world.options, &bundle).unwrap_or_else(|error| panic!("{error}"));
    let server = TcpServer::start("127.0.0.1:0");
    apply(&mut data_path, &service("web", "127.77.9.1:80", "", &[server.address]));
    let (stream, reached) = dial("127.77.9.1:80").unwrap();
    assert_eq!(reached, server.address, "connects are balanced");
    assert_eq!(stream.peer_addr().unwrap(), server.address, "what is off does not work");

    let programs = data_path.programs();
    let off: Vec<_> =
        programs.iter().filter_map(|program| program.off.as_ref().map(|why| (&program.name, why))).collect();
    let [(name, why)] = off.as_slice() else { panic!("one object is off: {off:?}") };
    assert_eq!(*name, "getpeername");
    assert!(why.contains("getpeername() shows the endpoint's address"), "{why}");
    assert!(why.contains("used without asking whether it is there"), "{why}");

    let log =
        world.options.run_dir.join("refused").join(format!("{}.getpeername.log", world.options.instance));
    assert!(why.contains(&log.display().to_string()), "{why}");
    let text = fs::read_to_string(&log).unwrap();
    assert!(text.contains("alize_getpeername4") && text.contains("getpeername.bpf.c:"), "{text}");
    assert!(
        text.contains("invalid mem access 'map_value_or_null'") || text.contains("invalid mem access"),
        "{text}"
    );
    assert_eq!(
        fs::metadata(&log).unwrap().permissions().mode() & 0o777,
        0o600,
        "addresses of the kernel are in it"
    );
}

#[test]
fn without_what_is_essential_the_reason_is_the_error() {
    let world = World::new("refused-all");
    let folder = Folder::new("essential");
    let bundle = altered(
        &folder,
        "connect",
        "	if (!connection) {\n		count_anomaly(ANOMALY_CONNECTION_UNTRACKED);",
        "	if (0) {\n		count_anomaly(ANOMALY_CONNECTION_UNTRACKED);",
    );
    let error = DataPath::open_bundle(&world.options, &bundle).map(|_| ()).unwrap_err();
    let Error::Verifier(rejection) = &error else { panic!("{error:?}") };
    assert_eq!((rejection.object.as_str(), rejection.lost), ("connect", None));
    // Of the header whose function is inlined there.
    assert!(rejection.refused.source.as_ref().is_some_and(|at| at.contains("@ address.h:")), "{error}");
    let told = error.to_string();
    assert!(told.starts_with("the kernel refuses program alize_connect4 of object connect\n"), "{told}");
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    for part in [
        "why       what may be absent (NULL) is used without asking whether it is there",
        &format!("kernel    Linux {}", kernel.trim()),
        "off       everything",
        "whole log /",
        "invalid mem access",
    ] {
        assert!(told.contains(part), "{part:?} is not in {told}");
    }
    assert!(rejection.refused.lines.len() <= 12, "{told}");
    assert!(world.pins().is_empty(), "nothing stays: {:?}", world.pins());
}
