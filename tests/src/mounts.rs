//! Mounts of a world's own: what its processes write to `/run` and `/etc` is nobody else's.

use std::fs;
use std::time::Duration;

use anyhow::Result;

use crate::wait::until_true;
use crate::{Process, World};

/// A mount namespace, for as long as it is kept. `/run` and `/dev/shm` are empty in it, and changes of `/etc` are its own.
#[derive(Debug)]
pub struct Mounts {
    holder: Process,
}

/// The parameters are a folder for the changes of `/etc`, and a file that is made at the end.
const SCRIPT: &str = r#"
set -e
mount -t tmpfs -o mode=755 none /run
mount -t tmpfs -o mode=1777 none /dev/shm
mkdir -p "$1/upper" "$1/work"
mount -t overlay -o "lowerdir=/etc,upperdir=$1/upper,workdir=$1/work" none /etc
touch "$2"
exec sleep infinity
"#;

impl Mounts {
    /// Makes them.
    pub fn new(world: &World) -> Result<Self> {
        let folder = world.folder().join("etc");
        let made = world.folder().join("mounted");
        fs::create_dir_all(&folder)?;
        let paths = [&folder, &made].map(|path| path.display().to_string());
        let script = ["--mount", "--propagation=private", "sh", "-c", SCRIPT, "sh"].map(str::to_owned);
        let arguments = [&script[..], &paths[..]].concat();
        let holder = world.plain("mounts")?.start("mounts", "unshare", &arguments)?;
        until_true("mounts of the world's own", Duration::from_secs(10), || Ok(made.exists()))
            .map_err(|error| error.context(holder.log_end()))?;
        Ok(Self { holder })
    }

    /// The process that has them.
    pub fn holder(&self) -> u32 {
        self.holder.pid()
    }
}
