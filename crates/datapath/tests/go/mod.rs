//! Programs of Go, built by the toolchain that is in the path.
#![allow(dead_code, reason = "each test file uses a part of it")]

use std::ffi::OsStr;
use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};

use crate::world::eventually;

/// `main.go` of this folder, as a program at `path`.
pub(crate) fn build(path: &Path, flags: &[&str]) {
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/go/main.go");
    let built = Command::new("go")
        .args(["build", "-o"])
        .arg(path)
        .args(flags)
        .arg(source)
        .env("GO111MODULE", "off")
        .env("GOTOOLCHAIN", "local")
        .env("GOCACHE", concat!(env!("CARGO_TARGET_TMPDIR"), "/go"))
        .output()
        .expect("golang-go is installed");
    assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
}

/// A process that ends with the test.
pub(crate) struct Process {
    child: Child,
    output: Option<BufReader<ChildStdout>>,
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Process {
    /// A server of `main.go`.
    pub(crate) fn serve(program: &Path, address: SocketAddr, arguments: &[&str]) -> Self {
        Self::run(program, address, &[&["serve", &address.to_string()], arguments].concat())
    }

    /// Any server; it listens when this returns.
    pub(crate) fn run(program: impl AsRef<OsStr>, address: SocketAddr, arguments: &[&str]) -> Self {
        let mut command = Command::new(program);
        command.args(arguments).stdout(Stdio::null()).stderr(Stdio::null());
        let server = Self { child: spawn(&mut command), output: None };
        eventually("the server listens", || TcpStream::connect(address).is_ok());
        server
    }

    /// A client that waits to be told when to ask: `connections` at a time, `requests` on each, of these kinds in turn.
    pub(crate) fn ask(
        program: &Path,
        how: &str,
        address: SocketAddr,
        connections: u32,
        requests: u32,
        kinds: &[&str],
    ) -> Self {
        let mut command = Command::new(program);
        command.arg(how).arg(address.to_string());
        command.args([connections.to_string(), requests.to_string()]).args(kinds);
        let mut child = spawn(command.stdin(Stdio::piped()).stdout(Stdio::piped()));
        let output = child.stdout.take().map(BufReader::new);
        Self { child, output }
    }

    pub(crate) fn begin(&mut self) {
        writeln!(self.child.stdin.as_mut().expect("it is a client"), "ask").unwrap();
    }

    /// It has had all answers, and each byte of them was right.
    pub(crate) fn done(&mut self) {
        let mut line = String::new();
        self.output.as_mut().expect("it is a client").read_line(&mut line).unwrap();
        assert_eq!(line, "done\n", "the client says above what went wrong");
    }

    /// It runs, and nothing went wrong.
    pub(crate) fn runs(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }
}

fn spawn(command: &mut Command) -> Child {
    command.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}"))
}
