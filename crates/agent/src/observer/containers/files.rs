//! Names of containers, from what their engines have written down. A file that is not there or not readable says nothing.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

/// Larger files are left alone.
const LARGEST: u64 = 4 << 20;

/// Where the engines keep their state.
pub(super) struct Files {
    root: PathBuf,
}

impl Files {
    /// `root` is `/`, or a folder with the same in it.
    pub(super) fn new(root: PathBuf) -> Self {
        Self { root }
    }

    /// The name of the container; who runs it may not be known.
    pub(super) fn name(&self, runtime: Option<&str>, id: &str) -> Option<String> {
        match runtime {
            Some("docker") => self.docker(id),
            Some("podman") => self.podman(id),
            Some("containerd") => self.containerd(id),
            Some(_) => None,
            None => self.docker(id).or_else(|| self.containerd(id)).or_else(|| self.podman(id)),
        }
    }

    fn docker(&self, id: &str) -> Option<String> {
        let state = self.read(&format!("var/lib/docker/containers/{id}/config.v2.json"))?;
        Some(state["Name"].as_str()?.trim_start_matches('/').to_owned())
    }

    fn podman(&self, id: &str) -> Option<String> {
        let all = self.read("var/lib/containers/storage/overlay-containers/containers.json")?;
        let own = all.as_array()?.iter().find(|container| container["id"] == id)?;
        Some(own["names"][0].as_str()?.to_owned())
    }

    /// The bundle of a container lies in a folder of its containerd namespace; nerdctl and CRI have annotated it.
    fn containerd(&self, id: &str) -> Option<String> {
        let tasks = self.root.join("run/containerd/io.containerd.runtime.v2.task");
        let namespaces = fs::read_dir(tasks).ok()?.flatten();
        let bundle = namespaces.map(|namespace| namespace.path().join(id).join("config.json"));
        let bundle = bundle.filter_map(|path| parse(&path)).next()?;
        let annotations = &bundle["annotations"];
        let named = ["nerdctl/name", "io.kubernetes.cri.container-name"];
        named.iter().find_map(|name| annotations[*name].as_str()).map(str::to_owned)
    }

    fn read(&self, path: &str) -> Option<Value> {
        parse(&self.root.join(path))
    }
}

fn parse(path: &Path) -> Option<Value> {
    let small = fs::metadata(path).ok()?.len() <= LARGEST;
    serde_json::from_slice(&small.then(|| fs::read(path).ok())??).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

    #[test]
    fn names_are_where_the_engines_keep_them() {
        let root = std::env::temp_dir().join(format!("alize-container-files-{}", std::process::id()));
        let write = |path: &str, text: &str| {
            let path = root.join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        let files = Files::new(root.clone());
        assert_eq!(files.name(Some("docker"), ID), None);
        write(
            &format!("var/lib/docker/containers/{ID}/config.v2.json"),
            r#"{"State": {"Running": true}, "ID": "x", "Name": "/shop-web"}"#,
        );
        assert_eq!(files.name(Some("docker"), ID).as_deref(), Some("shop-web"));
        assert_eq!(files.name(None, ID).as_deref(), Some("shop-web"));
        assert_eq!(files.name(Some("podman"), ID), None);
        write(
            "var/lib/containers/storage/overlay-containers/containers.json",
            &format!(
                r#"[{{"id": "other", "names": ["a"]}}, {{"id": "{ID}", "names": ["db"], "layer": "y"}}]"#
            ),
        );
        assert_eq!(files.name(Some("podman"), ID).as_deref(), Some("db"));
        let bundle = format!("run/containerd/io.containerd.runtime.v2.task/default/{ID}/config.json");
        write(&bundle, r#"{"ociVersion": "1.1.0", "annotations": {"nerdctl/name": "cache"}}"#);
        assert_eq!(files.name(Some("containerd"), ID).as_deref(), Some("cache"));
        write(&bundle, r#"{"annotations": {"io.kubernetes.cri.container-name": "api"}}"#);
        assert_eq!(files.name(Some("containerd"), ID).as_deref(), Some("api"));
        write(&bundle, "no JSON");
        assert_eq!(files.name(Some("containerd"), ID), None);
        assert_eq!(files.name(Some("cri-o"), ID), None);
        fs::remove_dir_all(&root).unwrap();
    }
}
