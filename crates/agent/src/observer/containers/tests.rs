//! Engines that hang, lie or are somebody else's. What real ones answer is tried in `tests/tests/containers.rs`.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::{chown, symlink};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use proptest::prelude::*;
use rustix::fs::Uid;

use super::super::workload::workload;
use super::*;

const ID: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";
const UID: u32 = 61_234;

/// A folder in place of `/`.
struct Root(PathBuf);

impl Root {
    fn new(label: &str) -> Self {
        let root = std::env::temp_dir().join(format!("alize-engines-{label}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&root);
        fs::create_dir_all(&root).unwrap();
        Self(root)
    }

    fn containers(&self) -> Containers {
        Containers::new(self.0.clone())
    }

    /// An engine at `path` that answers each connection with `answer` and closes it, or keeps it open without a word.
    fn engine(&self, path: &str, answer: Option<Vec<u8>>) -> Arc<AtomicUsize> {
        let socket = self.socket(path);
        serve(UnixListener::bind(socket).unwrap(), answer)
    }

    /// The same as the user's.
    fn engine_of(&self, uid: u32, path: &str, answer: Vec<u8>) -> Arc<AtomicUsize> {
        let socket = self.socket(path);
        let listening = thread::spawn(move || {
            let listener = UnixListener::bind(&socket).unwrap();
            chown(&socket, Some(uid), None).unwrap();
            // Who listens is who called listen last.
            rustix::thread::set_thread_uid(Uid::from_raw(uid)).unwrap();
            rustix::net::listen(&listener, 8).unwrap();
            listener
        });
        serve(listening.join().unwrap(), Some(answer))
    }

    fn socket(&self, path: &str) -> PathBuf {
        let socket = self.0.join(path);
        fs::create_dir_all(socket.parent().unwrap()).unwrap();
        socket
    }
}

impl Drop for Root {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// How often it was asked.
fn serve(listener: UnixListener, answer: Option<Vec<u8>>) -> Arc<AtomicUsize> {
    let asked = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&asked);
    thread::spawn(move || {
        let mut silent: Vec<UnixStream> = Vec::new();
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            count.fetch_add(1, Ordering::SeqCst);
            match &answer {
                Some(answer) => {
                    let _ = stream.read(&mut [0; 4096]);
                    // Who asked may have had enough.
                    let _ = stream.write_all(answer);
                }
                None => silent.push(stream),
            }
        }
    });
    asked
}

fn ok(body: &str) -> Vec<u8> {
    format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len()).into_bytes()
}

fn docker(name: &str) -> Vec<u8> {
    ok(&format!(r#"{{"Id": "{ID}", "State": {{"Name": 1}}, "Name": "{name}"}}"#))
}

fn docker_scope(id: &str) -> Workload {
    workload(&format!("/system.slice/docker-{id}.scope"))
}

fn of_user(uid: u32) -> Workload {
    workload(&format!(
        "/user.slice/user-{uid}.slice/user@{uid}.service/user.slice/libpod-{ID}.scope/container"
    ))
}

/// Asks, and waits for the answer as the watcher does; it is there when nothing is waited for any more.
fn settled(containers: &mut Containers, workload: &Workload) -> Option<String> {
    let asking = Instant::now();
    let name = containers.name(workload);
    assert!(asking.elapsed() < PATIENCE / 2, "who asks for a name waits for no engine");
    if name.is_some() {
        return name;
    }
    while containers.waits() {
        containers.listen();
        thread::sleep(Duration::from_millis(1));
    }
    containers.name(workload)
}

#[test]
fn the_user_is_the_one_in_whose_slice_it_is() {
    let owner = |path: &str| Owner::of(path);
    assert_eq!(owner(&of_user(1000).cgroup), Owner::User(1000));
    assert_eq!(owner("/user.slice/user-0.slice/session-1.scope"), Owner::Root);
    assert_eq!(owner("/system.slice/docker-x.scope"), Owner::Root);
    let pretended = ["/system.slice/a.service/user.slice/user-1000.slice", "/user-1000.slice", "/user.slice"];
    for path in pretended {
        assert_eq!(owner(path), Owner::Root, "{path}");
    }
}

#[test]
fn an_engine_names_what_no_file_does() {
    let root = Root::new("names");
    let (mut containers, docker_scope) = (root.containers(), docker_scope(ID));
    let asked = root.engine("run/docker.sock", Some(docker("/web")));
    assert_eq!(containers.name(&docker_scope), None, "nobody waits for it");
    assert_eq!(settled(&mut containers, &docker_scope).as_deref(), Some("web"));
    assert_eq!(settled(&mut containers, &docker_scope).as_deref(), Some("web"));
    assert_eq!(asked.load(Ordering::SeqCst), 1, "what is known is not asked for again");
    containers.forget_but([&docker_scope].into_iter());
    assert_eq!(containers.asked.len(), 1);
    containers.forget_but([].into_iter());
    assert!(containers.asked.is_empty(), "it is gone");
    // Who runs it may not be in the path, and CRI-O has an API of its own.
    let unknown = workload(&format!("/kubepods/pod{}/{ID}", "a".repeat(32)));
    assert_eq!(settled(&mut containers, &unknown).as_deref(), Some("web"));
    let crio = format!(r#"{{"name": "k8s_api_x_0", "labels": {{"{}": "api"}}}}"#, http::OF_KUBERNETES);
    root.engine("run/crio/crio.sock", Some(ok(&crio)));
    let scope = workload(&format!("/system.slice/crio-{ID}.scope"));
    assert_eq!(settled(&mut containers, &scope).as_deref(), Some("api"));
    assert_eq!(http::cri_o_name(br#"{"name": "k8s_a", "labels": null}"#).ok().as_deref(), Some("k8s_a"));
}

#[test]
fn what_is_no_answer_leaves_the_id() {
    let huge = |body: &str| ok(&format!(r#"{{"Id": "{ID}", "Name": "/web", "x": "{body}"}}"#));
    let endless =
        [&b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nfffffff\r\n"[..], &[b' '; 2 << 20]].concat();
    let answers = [
        Vec::new(),
        b"SSH-2.0-OpenSSH\r\n".to_vec(),
        b"\0\xff\xfe".repeat(5000),
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0".to_vec(),
        b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n".to_vec(),
        b"HTTP/1.1 500 Oh\r\ncontent-length: 0\r\n\r\n".to_vec(),
        b"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n{\"Id\": ".to_vec(),
        endless,
        huge(&"y".repeat(http::LARGEST)),
        ok("no JSON"),
        ok("[[[["),
        ok(&"[".repeat(100_000)),
        ok(&format!(r#"{{"Id": "{ID}", "Name": 7}}"#)),
        ok(&format!(r#"{{"Id": "{}", "Name": "/{ID}"}}"#, "f".repeat(64))),
        docker("/we\\u001bb"),
        docker("/"),
        docker(&format!("/{}", "y".repeat(LONGEST + 1))),
    ];
    for (index, answer) in answers.into_iter().enumerate() {
        let root = Root::new(&format!("garbage-{index}"));
        let shown = String::from_utf8_lossy(&answer[..answer.len().min(80)]).into_owned();
        let asked = root.engine("run/docker.sock", Some(answer.clone()));
        root.engine("run/containerd/containerd.sock", Some(answer));
        let mut containers = root.containers();
        assert_eq!(settled(&mut containers, &docker_scope(ID)), None, "{shown}");
        assert_eq!(asked.load(Ordering::SeqCst), 1, "{shown}");
        let scope = workload(&format!("/system.slice/nerdctl-{ID}.scope"));
        assert_eq!(settled(&mut containers, &scope), None, "{shown}");
    }
}

#[test]
fn an_engine_that_hangs_is_left_alone() {
    let root = Root::new("hangs");
    let hanging = root.engine("run/docker.sock", None);
    let mut containers = root.containers();
    let ids: Vec<String> = (0..20).map(|index| format!("{index:064x}")).collect();
    let began = Instant::now();
    assert!(ids.iter().all(|id| containers.name(&docker_scope(id)).is_none()));
    assert!(began.elapsed() < PATIENCE, "nobody waits for it");
    // A user's engine is asked meanwhile.
    let user = root.engine_of(UID, &format!("run/user/{UID}/podman/podman.sock"), docker("/db"));
    assert_eq!(containers.name(&of_user(UID)), None);
    while user.load(Ordering::SeqCst) == 0 {
        assert!(began.elapsed() < PATIENCE, "it waits for another's");
        thread::sleep(Duration::from_millis(1));
    }
    assert_eq!(settled(&mut containers, &docker_scope(&ids[19])), None);
    assert!(began.elapsed() < 3 * PATIENCE, "it is waited for once, not for each container");
    assert_eq!(hanging.load(Ordering::SeqCst), 1);
}

#[test]
fn a_socket_is_asked_if_it_is_whose_it_should_be() {
    let root = Root::new("owners");
    let path = format!("run/user/{UID}/podman/podman.sock");
    let socket = root.0.join(&path);
    let name = |workload: &Workload| settled(&mut root.containers(), workload);

    let asked = root.engine_of(UID, &path, docker("/db"));
    assert_eq!(name(&of_user(UID)).as_deref(), Some("db"));
    // Neither root's container nor another user's is named by it.
    let roots = workload(&format!("/machine.slice/libpod-{ID}.scope/container"));
    assert_eq!((name(&roots), name(&of_user(UID + 1))), (None, None));
    assert_eq!(asked.load(Ordering::SeqCst), 1);

    // Of another user, by name or in truth.
    chown(&socket, Some(UID + 1), None).unwrap();
    assert_eq!(name(&of_user(UID)), None);
    fs::remove_file(&socket).unwrap();
    root.engine(&path, Some(docker("/root")));
    assert_eq!(name(&of_user(UID)), None);
    chown(&socket, Some(UID), None).unwrap();
    assert_eq!(name(&of_user(UID)), None, "root listens");

    // A link to an engine of root's.
    fs::remove_file(&socket).unwrap();
    let docker_of_root = root.engine("run/docker.sock", Some(docker("/web")));
    symlink(root.0.join("run/docker.sock"), &socket).unwrap();
    assert_eq!(name(&of_user(UID)), None);
    fs::remove_dir_all(socket.parent().unwrap()).unwrap();
    fs::rename(root.0.join("run/docker.sock"), root.0.join("run/podman.sock")).unwrap();
    symlink(root.0.join("run"), socket.parent().unwrap()).unwrap();
    assert_eq!(name(&of_user(UID)), None);
    assert_eq!(docker_of_root.load(Ordering::SeqCst), 0);

    // Root's own is followed through a link, and must be root's.
    fs::create_dir_all(root.0.join("run/podman")).unwrap();
    symlink("../podman.sock", root.0.join("run/podman/podman.sock")).unwrap();
    assert_eq!(name(&roots).as_deref(), Some("web"));
    chown(root.0.join("run/podman.sock"), Some(UID), None).unwrap();
    assert_eq!(name(&roots), None);
    fs::write(Path::new(&root.0).join("run/docker.sock"), "no socket").unwrap();
    assert_eq!(name(&docker_scope(ID)), None);
}

/// A message with one field of bytes, which may be longer than [`protobuf::text`] is asked for.
fn field(number: u8, bytes: &[u8]) -> Vec<u8> {
    assert!(bytes.len() < 128);
    [&[number << 3 | 2, bytes.len() as u8][..], bytes].concat()
}

fn labelled(labels: &[(&str, &str)]) -> Vec<u8> {
    let entry = |(key, value): &(&str, &str)| {
        field(2, &[field(1, key.as_bytes()), field(2, value.as_bytes())].concat())
    };
    let container = [field(1, b"x"), labels.iter().flat_map(entry).collect()].concat();
    field(1, &container)
}

#[test]
fn containerd_has_names_in_labels() {
    let name = |labels: &[(&str, &str)]| containerd::container_name(&labelled(labels), "x");
    assert_eq!(name(&[("a", "b"), ("nerdctl/name", "cache")]), Ok(Some("cache".into())));
    let both = [(http::OF_KUBERNETES, "api"), ("nerdctl/name", "cache")];
    assert_eq!(name(&both), Ok(Some("cache".into())));
    assert_eq!(name(&both[..1]), Ok(Some("api".into())));
    assert_eq!((name(&[]), name(&[("nerdctl/names", "a")])), (Ok(None), Ok(None)));
    assert_eq!(containerd::container_name(&labelled(&both), "y"), Ok(None), "another container");
    assert_eq!(containerd::container_name(b"", "y"), Ok(None));
    let listed = [field(1, &field(1, b"moby")), field(1, &field(1, b"a\nb")), field(1, b"")].concat();
    assert_eq!(containerd::namespaces(&listed).unwrap(), ["moby"]);
    let frame = |bytes: &'static [u8]| containerd::unframed(Bytes::from_static(bytes)).ok();
    assert_eq!(frame(b"\0\0\0\0\x02ab").as_deref(), Some(&b"ab"[..]));
    let wrong = [&b""[..], b"\0\0\0\0", b"\x01\0\0\0\x02ab", b"\0\0\0\0\x01ab", b"\0\xff\xff\xff\xffab"];
    assert!(wrong.into_iter().all(|wrong| frame(wrong).is_none()));
}

proptest! {
    #[test]
    fn no_bytes_of_an_engine_break_anything(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        prop_assert_eq!(names_in_answer(&bytes, ID), Vec::<String>::new());
        let _ = (containerd::namespaces(&bytes), containerd::container_name(&bytes, ID));
    }

    #[test]
    fn a_cut_answer_of_containerd_is_none(cut in 1..64usize) {
        let whole = labelled(&[("a", "b"), ("nerdctl/name", "cache")]);
        let cut = whole.len() - cut.min(whole.len() - 1);
        prop_assert!(containerd::container_name(&whole[..cut], "x").is_err());
    }
}
