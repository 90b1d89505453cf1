//! Kernels as Debian packages them.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use super::Kernel;
use super::guest::output;

/// Where kernels are kept between runs and between clones.
pub(super) fn cache() -> Result<PathBuf> {
    let base = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
    let home = || Some(PathBuf::from(std::env::var_os("HOME")?).join(".cache"));
    let folder = base.or_else(home).context("neither XDG_CACHE_HOME nor HOME is set")?.join("alize/kernels");
    fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
    Ok(folder)
}

/// The image of Debian's cloud kernel: the one that is kept, or else what the machine's own mirror has, by an apt with
/// lists of its own, so that the machine's stay.
pub(super) fn image(kernel: Kernel) -> Result<PathBuf> {
    let folder = cache()?.join(kernel.name);
    match find(&folder) {
        Some(image) => Ok(image),
        None => fetch(kernel, &folder).with_context(|| {
            format!(
                "Debian's kernel of {} is not kept in {} and cannot be fetched; it needs the network and a Debian mirror in \
                 /etc/apt that carries that suite",
                kernel.suite,
                folder.display()
            )
        }),
    }
}

/// Has the images of all `kernels`, so that what is missing is told before anything is built or booted.
pub fn fetch_all(kernels: &[Kernel]) -> Result<()> {
    kernels.iter().try_for_each(|kernel| image(*kernel).map(drop))
}

fn find(folder: &Path) -> Option<PathBuf> {
    let entries = fs::read_dir(folder.join("unpacked/boot")).ok()?;
    entries.flatten().map(|entry| entry.path()).find(|path| path.to_string_lossy().contains("/vmlinuz-"))
}

fn fetch(kernel: Kernel, folder: &Path) -> Result<PathBuf> {
    let _ = fs::remove_dir_all(folder);
    fs::create_dir_all(folder.join("lists/partial"))?;
    fs::create_dir_all(folder.join("cache/archives/partial"))?;
    let list = folder.join("sources.list");
    let key = "/usr/share/keyrings/debian-archive-keyring.gpg";
    fs::write(&list, format!("deb [signed-by={key}] {} {} main\n", mirror()?, kernel.suite))?;
    let option = |key: &str, path: &Path| format!("-o{key}={}", path.display());
    let options = [
        option("Dir::Etc::SourceList", &list),
        option("Dir::State::Lists", &folder.join("lists")),
        option("Dir::Cache", &folder.join("cache")),
        "-oDir::Etc::SourceParts=/dev/null".into(),
        "-oAPT::Sandbox::User=root".into(),
        "-oAcquire::Languages=none".into(),
    ];
    output(Command::new("apt-get").args(&options).args(["update", "-qq", "--error-on=any"]))?;
    let depends =
        output(Command::new("apt-cache").args(&options).args(["depends", "linux-image-cloud-amd64"]))?;
    let package = depends
        .lines()
        .find_map(|line| line.trim().strip_prefix("Depends: "))
        .with_context(|| format!("suite {} has no cloud kernel", kernel.suite))?;
    output(Command::new("apt-get").args(&options).args(["download", "-qq", package]).current_dir(folder))?;
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "deb") {
            output(Command::new("dpkg-deb").arg("-x").arg(&path).arg(folder.join("unpacked")))?;
            fs::remove_file(&path)?;
        }
    }
    // Neither modules nor lists are needed again.
    for unneeded in ["unpacked/lib", "unpacked/usr", "lists", "cache"] {
        let _ = fs::remove_dir_all(folder.join(unneeded));
    }
    find(folder).with_context(|| format!("package {package} holds no kernel"))
}

/// The mirror that the machine itself uses.
fn mirror() -> Result<String> {
    let mut files = vec![PathBuf::from("/etc/apt/sources.list")];
    if let Ok(entries) = fs::read_dir("/etc/apt/sources.list.d") {
        files.extend(entries.flatten().map(|entry| entry.path()));
    }
    files.sort();
    files
        .iter()
        .filter_map(|file| fs::read_to_string(file).ok())
        .flat_map(|text| text.split_whitespace().map(str::to_owned).collect::<Vec<_>>())
        .find(|word| word.contains("://") && word.trim_end_matches('/').ends_with("/debian"))
        .context("no Debian mirror in /etc/apt/sources.list or sources.list.d")
}
