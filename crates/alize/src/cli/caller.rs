//! Who is meant by a process id, a unit's name or a cgroup's path.

use std::fs;
use std::path::{Path, PathBuf};

use crate::failure::Failure;

/// A cgroup, and the process that was named, if one was.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Caller {
    pub(crate) cgroup: PathBuf,
    pub(crate) pid: Option<u32>,
}

/// Finds `text`: a number is a process, what has a `/` is a cgroup, all else is a unit.
pub(crate) fn find(text: &str) -> Result<Caller, Failure> {
    let root = alize_datapath::cgroup2_root().ok_or(alize_datapath::Error::NoCgroup2)?;
    if let Ok(pid) = text.parse::<u32>() {
        return Ok(Caller { cgroup: of_process(&root, pid)?, pid: Some(pid) });
    }
    let cgroup = if text.contains('/') { of_path(&root, text)? } else { of_unit(&root, text)? };
    Ok(Caller { cgroup, pid: None })
}

fn of_process(root: &Path, pid: u32) -> Result<PathBuf, Failure> {
    let listed = fs::read_to_string(format!("/proc/{pid}/cgroup"))
        .map_err(|error| missing(format!("there is no process {pid} ({error})"), "`ps` lists all"))?;
    // The line of cgroup v2 has the number 0 and no controllers (cgroups(7)).
    let path = listed.lines().find_map(|line| line.strip_prefix("0::"));
    let path =
        path.ok_or_else(|| missing(format!("process {pid} is in no cgroup of v2"), "mount cgroup v2"))?;
    Ok(root.join(path.trim_start_matches('/')))
}

/// A folder as it is mounted, or as `/proc/PID/cgroup` writes it.
fn of_path(root: &Path, text: &str) -> Result<PathBuf, Failure> {
    let given = PathBuf::from(text);
    let below = root.join(text.trim_start_matches('/'));
    let found = [given, below].into_iter().find(|path| path.starts_with(root) && path.is_dir());
    found.ok_or_else(|| {
        missing(format!("there is no cgroup {text}"), "give a folder below the mount of cgroup2")
    })
}

fn of_unit(root: &Path, text: &str) -> Result<PathBuf, Failure> {
    let mut found = Vec::new();
    let mut waiting = vec![root.to_owned()];
    while let Some(folder) = waiting.pop() {
        // It may go while one looks.
        let below = fs::read_dir(&folder).into_iter().flatten().flatten();
        for entry in below.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())) {
            if is_unit(&entry.file_name().to_string_lossy(), text) {
                found.push(entry.path());
            }
            waiting.push(entry.path());
        }
    }
    found.sort();
    match found.as_slice() {
        [one] => Ok(one.clone()),
        [] => Err(missing(
            format!("there is no unit or cgroup called {text:?}"),
            "is it running? give a process id, a unit's name such as nginx.service, or a cgroup's path",
        )),
        several => {
            let listed: Vec<_> = several.iter().map(|path| path.display().to_string()).collect();
            let what = format!("{text:?} is the name of several cgroups: {}", listed.join(", "));
            Err(missing(what, "give the path of the one that is meant"))
        }
    }
}

/// A folder is meant by its name, with or without the suffix of a service; systemd writes `-` inside names as `\x2d`.
fn is_unit(folder: &str, text: &str) -> bool {
    let plain = folder.replace("\\x2d", "-");
    plain == text || plain.strip_suffix(".service") == Some(text)
}

fn missing(what: String, mend: &str) -> Failure {
    Failure::Missing { what, mend: mend.into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_are_found_by_name() {
        let root = std::env::temp_dir().join(format!("alize-caller-{}", std::process::id()));
        let web = root.join("system.slice/web.service");
        fs::create_dir_all(web.join("worker")).unwrap();
        fs::create_dir_all(root.join("user.slice/twice")).unwrap();
        fs::create_dir_all(root.join("system.slice/twice")).unwrap();
        fs::create_dir_all(root.join("system.slice/a\\x2db.service")).unwrap();
        assert_eq!(of_unit(&root, "web").unwrap(), web);
        assert_eq!(of_unit(&root, "web.service").unwrap(), web);
        assert!(of_unit(&root, "a-b").unwrap().ends_with("a\\x2db.service"));
        assert_eq!(of_path(&root, "/system.slice/web.service").unwrap(), web);
        assert_eq!(of_path(&root, &web.display().to_string()).unwrap(), web);
        let said = |failure: Failure| failure.message().unwrap().0;
        assert!(said(of_unit(&root, "twice").unwrap_err()).contains("several cgroups"));
        assert!(said(of_unit(&root, "nobody").unwrap_err()).contains("\"nobody\""));
        assert!(said(of_path(&root, "/nowhere").unwrap_err()).contains("/nowhere"));
        fs::remove_dir_all(&root).unwrap();
    }

    #[test]
    fn this_process_is_found() {
        let own = find(&std::process::id().to_string()).unwrap();
        assert!(own.cgroup.is_dir() && own.pid == Some(std::process::id()));
        assert!(find("4294967294").is_err());
    }
}
