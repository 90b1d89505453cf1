//! Other kernels: they come as Debian packages, are booted by QEMU in software emulation, and try what of the mesh works
//! on them with real sockets (`crates/datapath/examples/features.rs`). What was found is kept in `tests/kernels`, from which
//! the tables of `docs/kernels.md` are made.

mod arm64;
mod compiler;
mod costs;
mod guest;
mod image;
mod outcome;
mod page;

pub use arm64::{Arm64, sources};
pub use compiler::Compiler;
pub use costs::{Costs, Walked, table};
pub use guest::{Guest, NOT_THERE, Run};
pub use image::fetch_all;
pub use outcome::{Outcome, Results, Row};
pub use page::page;

use std::path::{Path, PathBuf};

/// A kernel to try.
#[derive(Clone, Copy, Debug)]
pub struct Kernel {
    /// The name of its column.
    pub name: &'static str,
    /// The suite of Debian that has it.
    pub suite: &'static str,
    /// Whether the kernel tests of the data path pass there too, or only the features that it has.
    pub tests: bool,
}

/// One line a kernel, oldest first. Adding a kernel is adding a line.
pub const KERNELS: [Kernel; 3] = [
    Kernel { name: "5.10", suite: "bullseye", tests: false },
    Kernel { name: "6.1", suite: "bookworm", tests: true },
    Kernel { name: "6.12", suite: "trixie", tests: true },
];

/// The column of the kernel that runs this machine.
pub const HOST: &str = "host";

/// The folder of the repository.
pub fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().map(Path::to_owned).unwrap_or_default()
}

/// The first two numbers of a release.
pub fn series(release: &str) -> String {
    release.split(['.', '-', '+']).take(2).collect::<Vec<_>>().join(".")
}
