//! From the path of a cgroup to the workload that lives there: a systemd unit, a container, or just the cgroup.
//!
//! Nobody is asked: container engines and systemd write their ids into the path. What the path does not tell is not
//! known.

use alize_model::api::Workload;

/// Digits of a container's id that people are shown.
const SHORT_ID: usize = 12;

/// How engines call the scope of a container under systemd: `docker-<id>.scope`.
const SCOPES: [(&str, &str); 6] = [
    ("cri-containerd", "containerd"),
    ("nerdctl", "containerd"),
    ("containerd", "containerd"),
    ("docker", "docker"),
    ("libpod", "podman"),
    ("crio", "cri-o"),
];

/// The workload of the cgroup at `path`, which begins with `/` at the root of cgroup v2.
pub(crate) fn workload(path: &str) -> Workload {
    let parts: Vec<&str> = path.split('/').filter(|part| !part.is_empty()).collect();
    let unit = parts.iter().rev().find(|part| is_unit(part)).map(|part| unescaped(part));
    let pod = parts.iter().rev().find_map(|part| pod(part));
    let container = (0..parts.len()).rev().find_map(|index| container(&parts, index));
    let (kind, name) = match (&container, &unit) {
        (Some((Some(runtime), id)), _) => ("container", format!("{runtime}:{}", short(id))),
        (Some((None, id)), _) => ("container", short(id).to_owned()),
        (None, Some(unit)) => ("unit", unit.clone()),
        (None, None) => ("cgroup", format!("/{}", parts.join("/"))),
    };
    let (runtime, container) = container.unzip();
    Workload {
        name,
        kind: kind.into(),
        cgroup: format!("/{}", parts.join("/")),
        unit,
        container: container.map(str::to_owned),
        container_name: None,
        runtime: runtime.flatten().map(str::to_owned),
        pod,
    }
}

/// The same with the name that the container's engine knows.
pub(crate) fn named(workload: Workload, name: String) -> Workload {
    let runtime = workload.runtime.as_deref().map(|runtime| format!("{runtime}:")).unwrap_or_default();
    Workload { name: format!("{runtime}{name}"), container_name: Some(name), ..workload }
}

/// What is known of a cgroup without a path.
pub(crate) fn gone(cgroup: u64) -> Workload {
    let name = format!("cgroup:{cgroup}");
    Workload {
        name,
        kind: "cgroup".into(),
        cgroup: cgroup.to_string(),
        unit: None,
        container: None,
        container_name: None,
        runtime: None,
        pod: None,
    }
}

fn is_unit(part: &str) -> bool {
    part.ends_with(".service") || part.ends_with(".scope")
}

/// systemd writes bytes that a file name or a unit may not have as `\x2d`.
fn unescaped(part: &str) -> String {
    let mut text = String::with_capacity(part.len());
    let mut rest = part;
    while let Some(at) = rest.find("\\x") {
        text.push_str(&rest[..at]);
        let code = rest.get(at + 2..at + 4).and_then(|code| u8::from_str_radix(code, 16).ok());
        match code.filter(u8::is_ascii_graphic) {
            Some(byte) => {
                text.push(byte.into());
                rest = &rest[at + 4..];
            }
            None => {
                text.push_str("\\x");
                rest = &rest[at + 2..];
            }
        }
    }
    text + rest
}

/// Engine and id of the container that part `index` of the path is about.
fn container<'a>(parts: &[&'a str], index: usize) -> Option<(Option<&'static str>, &'a str)> {
    let part = parts[index];
    let stem = part.strip_suffix(".scope").unwrap_or(part);
    for (prefix, runtime) in SCOPES {
        let id = stem.strip_prefix(prefix).and_then(|rest| rest.strip_prefix('-'));
        if let Some(id) = id.filter(|id| is_id(id)) {
            return Some((Some(runtime), id));
        }
    }
    if !is_id(stem) {
        return None;
    }
    // Without systemd the id stands alone, below a folder that names the engine or the pod.
    let runtime = match parts[..index].last() {
        Some(&"docker") => Some("docker"),
        Some(&"libpod_parent") => Some("podman"),
        _ => None,
    };
    Some((runtime, stem))
}

/// Ids are SHA-256 in hexadecimal.
fn is_id(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte))
}

fn short(id: &str) -> &str {
    &id[..SHORT_ID]
}

/// UID of a pod: `pod<uid>`, or under systemd `kubepods-burstable-pod<uid with _>.slice`.
fn pod(part: &str) -> Option<String> {
    let stem = match part.strip_suffix(".slice") {
        Some(stem) if stem.starts_with("kubepods") => stem.rsplit_once("-pod")?.1,
        Some(_) => return None,
        None => part.strip_prefix("pod")?,
    };
    let uid = stem.replace('_', "-");
    // Pods from files on the node have a hash of 32 digits for a UID.
    let is_uid = matches!(uid.len(), 32 | 36) && uid.bytes().all(|b| b.is_ascii_hexdigit() || b == b'-');
    is_uid.then_some(uid)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";
    const UID: &str = "8d3f0f2e-6a1b-4c55-9d43-2f8a7d1e9b10";

    #[track_caller]
    fn check(path: &str, kind: &str, name: &str) -> Workload {
        let path = path.replace("ID", ID);
        let found = workload(&path);
        assert_eq!((found.kind.as_str(), found.name.as_str()), (kind, name), "{path}");
        assert_eq!(found.cgroup, path);
        if kind == "container" {
            assert_eq!(found.container.as_deref(), Some(ID));
        }
        found
    }

    #[test]
    fn units_are_named_by_the_innermost() {
        check("/system.slice/nginx.service", "unit", "nginx.service");
        check("/system.slice/system-getty.slice/getty@tty1.service", "unit", "getty@tty1.service");
        check("/user.slice/user-1000.slice/session-3.scope", "unit", "session-3.scope");
        let own = "/user.slice/user-1000.slice/user@1000.service/app.slice/web.service";
        check(own, "unit", "web.service");
        check("/system.slice/web.service/worker", "unit", "web.service");
        let escaped = workload("/system.slice/a\\x2db\\x2.service");
        assert_eq!(escaped.name, "a-b\\x2.service");
    }

    #[test]
    fn containers_of_docker() {
        check("/docker/ID", "container", "docker:0123456789ab");
        check("/system.slice/docker-ID.scope", "container", "docker:0123456789ab");
        check("/system.slice/docker-ID.scope/init", "container", "docker:0123456789ab");
        // Docker in a container of Docker: the inner one.
        let outer = "f".repeat(64);
        check(&format!("/docker/{outer}/docker/ID"), "container", "docker:0123456789ab");
    }

    #[test]
    fn containers_of_podman_and_containerd() {
        check("/machine.slice/libpod-ID.scope/container", "container", "podman:0123456789ab");
        check("/libpod_parent/ID", "container", "podman:0123456789ab");
        let own = "/user.slice/user-1000.slice/user@1000.service/user.slice/libpod-ID.scope/container";
        check(own, "container", "podman:0123456789ab");
        check("/system.slice/nerdctl-ID.scope", "container", "containerd:0123456789ab");
        let watcher =
            check("/machine.slice/libpod-conmon-ID.scope", "unit", &format!("libpod-conmon-{ID}.scope"));
        assert_eq!(watcher.container, None, "the process that watches the container is not in it");
    }

    #[test]
    fn containers_of_pods() {
        let under = UID.replace('-', "_");
        let slice = format!("/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{under}.slice");
        let found =
            check(&format!("{slice}/cri-containerd-ID.scope"), "container", "containerd:0123456789ab");
        assert_eq!(found.pod.as_deref(), Some(UID));
        check(&format!("{slice}/crio-ID.scope"), "container", "cri-o:0123456789ab");
        let plain = check(&format!("/kubepods/besteffort/pod{UID}/ID"), "container", "0123456789ab");
        assert_eq!((plain.pod.as_deref(), plain.runtime), (Some(UID), None));
        let guaranteed = format!("/kubepods.slice/kubepods-pod{under}.slice/cri-containerd-ID.scope");
        assert_eq!(check(&guaranteed, "container", "containerd:0123456789ab").pod.as_deref(), Some(UID));
        let own = format!("/kubepods/pod{}/ID", "a".repeat(32));
        assert_eq!(check(&own, "container", "0123456789ab").pod.as_deref(), Some("a".repeat(32).as_str()));
    }

    #[test]
    fn the_rest_is_a_cgroup() {
        check("/", "cgroup", "/");
        check("/web/blue", "cgroup", "/web/blue");
        check("/docker/buildx", "cgroup", "/docker/buildx");
        check("/podium/x", "cgroup", "/podium/x");
        let almost = format!("/docker/{}", ID.to_uppercase());
        assert_eq!(workload(&almost).kind, "cgroup");
        assert_eq!(workload("/pod\u{e4}\u{e4}\u{e4}/docker-\u{fffd}.scope").kind, "unit");
        assert_eq!(gone(7).name, "cgroup:7");
    }
}
