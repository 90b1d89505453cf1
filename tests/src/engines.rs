//! Container engines: Docker, Podman and containerd of the distribution, with their sockets where they are by default and
//! their state where only they know.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::wait::until_true;
use crate::{Cgroup, Mounts, Place, Process, World};

/// An engine may take this long to start, on a machine that runs other tests too.
const START: Duration = Duration::from_secs(30);

/// What runs in each container: a server, and a client that asks it five times a second.
const SCRIPT: &str = "busybox httpd -p 127.0.0.1:8080 -h /srv; \
    while :; do busybox wget -q -O /dev/null http://127.0.0.1:8080/index.html; busybox sleep 0.2; done";

/// Podman as it works in a sandbox and on a machine with cgroups of both versions, where crun does not.
const PODMAN: [&str; 3] = ["podman", "--cgroup-manager=cgroupfs", "--runtime=runc"];
/// Limits that need no right to raise any.
const LIMITS: [&str; 2] = ["--ulimit=nofile=1024:1024", "--ulimit=nproc=1000:1000"];

/// The place of engines, and the files of a container.
#[derive(Debug)]
pub struct Engines {
    place: Place,
    folder: PathBuf,
}

impl Engines {
    /// None runs yet.
    pub fn new(world: &World, mounts: &Mounts) -> Result<Self> {
        let place = Place { mounts: Some(mounts.holder()), ..world.plain("engines")? };
        let folder = world.folder().join("engines");
        let files = folder.join("files");
        for made in ["bin", "srv", "proc", "sys", "dev", "etc", "tmp", "run"] {
            fs::create_dir_all(files.join(made))?;
        }
        fs::copy("/usr/bin/busybox", files.join("bin/busybox")).context("package busybox-static")?;
        symlink("busybox", files.join("bin/sh"))?;
        fs::write(files.join("srv/index.html"), "well\n")?;
        Ok(Self { place, folder })
    }

    /// Where they run.
    pub fn place(&self) -> &Place {
        &self.place
    }

    /// Starts containerd and Docker.
    pub fn docker(&self) -> Result<[Process; 2]> {
        let state = self.folder.join("containerd");
        fs::create_dir_all(&state)?;
        let settings = format!(
            "version = 2\nroot = \"{}\"\ndisabled_plugins = [\"io.containerd.grpc.v1.cri\"]\n",
            state.join("root").display()
        );
        let file = state.join("config.toml");
        fs::write(&file, settings)?;
        let containerd = ["--config".to_owned(), file.display().to_string()];
        let containerd = self.started("containerd", &containerd, &["ctr", "version"])?;
        let data = self.folder.join("docker");
        let flags = ["--iptables=false", "--ip6tables=false", "--ip-forward=false", "--bridge=none"];
        let mut arguments = flags.map(str::to_owned).to_vec();
        arguments.extend(["--storage-driver=vfs".to_owned(), format!("--data-root={}", data.display())]);
        arguments.push("--containerd=/run/containerd/containerd.sock".to_owned());
        // Where systemd runs the machine it would be asked to make the cgroups.
        arguments.push("--exec-opt=native.cgroupdriver=cgroupfs".to_owned());
        let docker = self.started("dockerd", &arguments, &["/usr/bin/docker", "version"])?;
        let archive = self.folder.join("files.tar").display().to_string();
        self.place.run("tar", &["-C", &self.folder.join("files").to_string_lossy(), "-cf", &archive, "."])?;
        self.place.run("/usr/bin/docker", &["import", &archive, "files:1"])?;
        Ok([containerd, docker])
    }

    /// Runs a container of Docker below the cgroup `parent`.
    pub fn run_in_docker(&self, name: &str, parent: &str) -> Result<String> {
        let parent = format!("--cgroup-parent={parent}");
        let how =
            ["run", "-d", "--network=none", "--name", name, &parent, "files:1", "/bin/sh", "-c", SCRIPT];
        Ok(self.place.run("/usr/bin/docker", &how)?.trim().to_owned())
    }

    /// Runs a container of containerd, as nerdctl would call it, in the cgroup `cgroup`.
    pub fn run_in_containerd(&self, name: &str, id: &str, cgroup: &str) -> Result<()> {
        let (label, files) = (format!("nerdctl/name={name}"), self.folder.join("files"));
        let files = files.to_string_lossy();
        let how = ["-n", "shop", "run", "-d", "--null-io", "--label", &label, "--cgroup", cgroup];
        let what = ["--rootfs", &files, id, "/bin/sh", "-c", SCRIPT];
        self.place.run("ctr", &[&how[..], &what[..]].concat()).map(drop)
    }

    /// Podman of root.
    pub fn podman(&self) -> Result<Podman> {
        self.place.run("mkdir", &["-p", "/run/podman"])?;
        Ok(self.podman_as("root", Vec::new(), "/run/podman/podman.sock".into()))
    }

    /// Podman of a user.
    pub fn podman_of(&self, user: u32) -> Result<Podman> {
        let folder = self.folder.join(format!("podman-{user}"));
        let (home, run) = (folder.join("home"), PathBuf::from(format!("/run/user/{user}")));
        for made in [&folder, &home, &run, &run.join("podman")] {
            let owner = user.to_string();
            let made = made.to_string_lossy();
            self.place.run("install", &["-d", "-o", &owner, "-g", &owner, &made])?;
        }
        self.place
            .run("chown", &["-R", &format!("{user}:{user}"), &self.folder.join("files").to_string_lossy()])?;
        let who = [format!("--reuid={user}"), format!("--regid={user}"), "--clear-groups".to_owned()];
        let environment = [format!("HOME={}", home.display()), format!("XDG_RUNTIME_DIR={}", run.display())];
        let command = [&["setpriv".to_owned()][..], &who, &["env".to_owned()], &environment].concat();
        Ok(self.podman_as(&user.to_string(), command, run.join("podman/podman.sock")))
    }

    fn podman_as(&self, user: &str, mut command: Vec<String>, socket: PathBuf) -> Podman {
        let folder = self.folder.join(format!("podman-{user}"));
        command.extend(PODMAN.map(str::to_owned));
        // Podman takes no path of more than 50 characters for what it keeps until the next boot.
        let run = socket.with_file_name("state");
        for (flag, at) in
            [("--root", folder.join("store")), ("--runroot", run), ("--tmpdir", folder.join("tmp"))]
        {
            command.push(format!("{flag}={}", at.display()));
        }
        Podman { place: self.place.clone(), command, files: self.folder.join("files"), socket }
    }

    /// Starts an engine, and waits until `asks` is answered.
    fn started(&self, name: &str, arguments: &[String], asks: &[&str]) -> Result<Process> {
        let mut engine = self.place.start(name, name, arguments)?;
        let answers = until_true(&format!("{name} to answer"), START, || {
            anyhow::ensure!(engine.ended()?.is_none(), "it has ended");
            Ok(self.place.output(asks[0], &asks[1..])?.status.success())
        });
        answers.with_context(|| format!("{name}: {}", engine.log_end()))?;
        Ok(engine)
    }
}

/// One user's Podman.
#[derive(Debug)]
pub struct Podman {
    place: Place,
    command: Vec<String>,
    files: PathBuf,
    socket: PathBuf,
}

impl Podman {
    /// Makes a container, which is not started; its id.
    pub fn create(&self, name: &str, settings: &[&str]) -> Result<String> {
        let how = [&["create", "--network=none", "--name", name][..], &LIMITS[..], settings].concat();
        let what = ["--rootfs", &self.files.to_string_lossy(), "/bin/sh", "-c", SCRIPT];
        Ok(self.run(&[&how[..], &what[..]].concat(), &self.place)?.trim().to_owned())
    }

    /// Starts it, from another cgroup than the engines' if need be.
    pub fn start(&self, id: &str, from: Option<Cgroup>) -> Result<()> {
        let cgroup = from.unwrap_or_else(|| self.place.cgroup.clone());
        self.run(&["start", id], &Place { cgroup, ..self.place.clone() }).map(drop)
    }

    /// Starts its API.
    pub fn serve(&self) -> Result<Process> {
        let address = format!("unix://{}", self.socket.display());
        let service = ["system", "service", "-t", "0", &address].map(str::to_owned);
        let arguments = [&self.command[1..], &service[..]].concat();
        let process = self.place.start("podman", &self.command[0], &arguments)?;
        let socket = self.socket.to_string_lossy();
        let asks = ["-sf", "--unix-socket", &socket, "http://podman/_ping"];
        let answers = || Ok(self.place.output("curl", &asks)?.status.success());
        until_true("podman to answer", START, answers).with_context(|| process.log_end())?;
        Ok(process)
    }

    fn run(&self, arguments: &[&str], place: &Place) -> Result<String> {
        let all: Vec<&str> =
            self.command[1..].iter().map(String::as_str).chain(arguments.iter().copied()).collect();
        place.run(&self.command[0], &all)
    }
}
