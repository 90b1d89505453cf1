//! Running the binary, and what it answered.

use std::io::Write;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

/// What a run said and how it ended.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) code: i32,
    pub(crate) out: String,
    pub(crate) err: String,
}

/// The binary with nothing of this environment that could change what it says.
pub(crate) fn alize(args: &[&str]) -> Command {
    command(env!("CARGO_BIN_EXE_alize"), args)
}

fn command(program: &str, args: &[&str]) -> Command {
    let mut command = Command::new(program);
    command.args(args).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    for name in ["ALIZE_INSTANCE", "ALIZE_SOCKET", "NO_COLOR", "CLICOLOR_FORCE", "RUST_LOG", "COLUMNS"] {
        command.env_remove(name);
    }
    command
}

pub(crate) fn answer(command: &mut Command) -> Answer {
    let output = command.output().expect("the program starts");
    let text = |bytes| String::from_utf8(bytes).expect("the program writes UTF-8");
    Answer { code: code(output.status), out: text(output.stdout), err: text(output.stderr) }
}

pub(crate) fn run(args: &[&str]) -> Answer {
    answer(&mut alize(args))
}

pub(crate) fn run_with_input(args: &[&str], input: &[u8]) -> Answer {
    let mut child = alize(args).stdin(Stdio::piped()).spawn().expect("the program starts");
    let mut stdin = child.stdin.take().expect("a pipe");
    // It may end before it has read everything.
    let _ = stdin.write_all(input);
    drop(stdin);
    let output = child.wait_with_output().expect("the program ends");
    let text = |bytes| String::from_utf8(bytes).expect("the program writes UTF-8");
    Answer { code: code(output.status), out: text(output.stdout), err: text(output.stderr) }
}

/// Both streams as a terminal shows them.
pub(crate) fn on_terminal(args: &[&str], environment: &[(&str, &str)]) -> String {
    let line = format!("{} {}", env!("CARGO_BIN_EXE_alize"), args.join(" "));
    let mut script = command("script", &["-qec", &line, "/dev/null"]);
    script.envs(environment.iter().copied());
    answer(&mut script).out
}

pub(crate) fn code(status: ExitStatus) -> i32 {
    status.code().unwrap_or_else(|| panic!("the program was killed: {status}"))
}

/// Copies the binary to where every user may run it: the folder of the build may be closed to others. By another
/// process, because a file that this one has open for writing may be inherited by a child of another test (ETXTBSY).
pub(crate) fn copy_program(to: &str) {
    let copied = Command::new("cp").args([env!("CARGO_BIN_EXE_alize"), to]).status().expect("cp");
    assert!(copied.success());
}

/// Waits for the end, but not for ever.
pub(crate) fn ends_within(child: &mut Child, patience: Duration) -> i32 {
    let begun = Instant::now();
    while begun.elapsed() < patience {
        if let Some(status) = child.try_wait().expect("a child") {
            return code(status);
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    let _ = child.kill();
    panic!("the program still runs after {patience:?}");
}

/// A folder of a test's own, removed at its end.
pub(crate) struct Folder(pub(crate) PathBuf);

impl Folder {
    pub(crate) fn new(test: &str) -> Self {
        let path = std::env::temp_dir().join(format!("alize-cli-{test}-{}", std::process::id()));
        std::fs::create_dir_all(&path).expect("a folder in the temporary folder");
        Self(path)
    }

    pub(crate) fn file(&self, name: &str, content: impl AsRef<[u8]>) -> String {
        let path = self.0.join(name);
        std::fs::write(&path, content).expect("a file");
        path.to_str().expect("a plain path").to_owned()
    }

    pub(crate) fn path(&self, name: &str) -> String {
        self.0.join(name).to_str().expect("a plain path").to_owned()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
