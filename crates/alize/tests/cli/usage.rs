//! What every command has: help, exit codes, completions, man pages, and peace with closed pipes.

use std::process::{Command, Stdio};

use crate::program::{Folder, alize, answer, code, run, run_with_input};

const COMMANDS: [&str; 26] = [
    "run",
    "agent",
    "proxy",
    "check",
    "apply",
    "status",
    "services",
    "endpoints",
    "watch",
    "mode",
    "shadow",
    "explain",
    "upgrade",
    "rollback",
    "bundle",
    "trace",
    "map",
    "top",
    "bench",
    "programs",
    "doctor",
    "unload",
    "schema",
    "completions",
    "man",
    "version",
];

#[test]
fn every_command_explains_itself() {
    let help = run(&["--help"]).out;
    for command in COMMANDS {
        assert!(help.contains(&format!("\n  {command} ")), "`alize --help` does not list {command}");
        let answer = run(&[command, "--help"]);
        assert_eq!(answer.code, 0);
        assert!(answer.out.contains(&format!("Usage: alize {command}")), "{command}");
        assert!(answer.out.contains("\nExamples:\n  "), "{command} has no examples");
        assert!(answer.out.contains("\nExit codes:\n  0  "), "{command} has no exit codes");
        assert!(!answer.out.contains('\u{1b}'), "{command}: colour in a pipe");
    }
    let listed =
        help.lines().skip_while(|line| *line != "Commands:").skip(1).take_while(|line| !line.is_empty());
    // A long description goes on in a second, further indented line.
    let commands = listed.filter(|line| !line.starts_with("   "));
    assert_eq!(commands.count(), COMMANDS.len(), "a command is not tested here");
}

#[test]
fn wrong_use_is_told_apart() {
    let wrong: [&[&str]; 10] = [
        &[],
        &["nonsense"],
        &["check"],
        &["status", "--nonsense"],
        &["status", "-o", "xml"],
        &["--instance", "No/Good", "status"],
        &["run", "mesh.yaml", "--metrics", "yes"],
        &["check", "mesh.yaml", "--max-services", "2000000"],
        &["services", "--count", "1"],
        &["completions", "basic"],
    ];
    for args in wrong {
        let answer = run(args);
        assert_eq!(answer.code, 2, "{args:?}: {}", answer.err);
        assert_eq!(answer.out, "", "{args:?}");
    }
    let err = run(&["stauts"]).err;
    assert!(err.contains("'status'"), "{err}");
}

#[test]
fn conditions_of_requests_are_not_passed_over() {
    let wrong: [&[&str]; 5] = [
        &["--tcp", "--method", "GET"],
        &["--tcp", "--path-prefix", "/"],
        &["--dns", "--status", "5xx"],
        &["--tcp", "--dns", "--status", "404"],
        &["--dns", "--ids"],
    ];
    for args in wrong {
        let with = |more: &[&str]| run(&[&["trace", "--socket", "/nowhere/alize.sock"], args, more].concat());
        let refused = with(&[]);
        assert_eq!((refused.code, refused.out.as_str()), (2, ""), "{args:?}: {}", refused.err);
        assert!(refused.err.contains(args[args.len() - 2]), "{}", refused.err);
        assert!(refused.err.contains("add --http"), "{}", refused.err);
        assert_eq!(with(&["--http"]).code, 4, "only the agent is missing");
    }
}

#[test]
fn the_environment_names_the_instance_too() {
    let named = answer(alize(&["status"]).env("ALIZE_INSTANCE", "blue-green"));
    assert_eq!(named.code, 4);
    assert!(named.err.contains("/run/alize/blue-green.sock"), "{}", named.err);
    let placed = answer(alize(&["status"]).env("ALIZE_SOCKET", "/nowhere/alize.sock"));
    assert!(placed.err.contains("/nowhere/alize.sock"), "{}", placed.err);
    assert_eq!(answer(alize(&["status"]).env("ALIZE_INSTANCE", "a b")).code, 2);
}

#[test]
fn no_agent_is_an_answer_with_a_mend() {
    let commands: [&[&str]; 5] =
        [&["status"], &["services"], &["endpoints", "web"], &["watch"], &["services", "--watch"]];
    for args in commands {
        let answer = run(&[args, &["--socket", "/nowhere/alize.sock"]].concat());
        assert_eq!(answer.code, 4, "{args:?}: {}", answer.err);
        assert!(answer.err.contains("/nowhere/alize.sock does not exist"), "{}", answer.err);
        assert!(answer.err.contains("alize run"), "{}", answer.err);
    }
    let answer = run_with_input(&["apply", "-", "--socket", "/nowhere/alize.sock"], b"services: []\n");
    assert_eq!(answer.code, 4, "{}", answer.err);
}

#[test]
fn completions_are_valid_scripts() {
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let answer = run(&["completions", shell]);
        assert_eq!(answer.code, 0);
        assert!(answer.out.contains("endpoints") && answer.out.contains("instance"), "{shell}");
    }
    let script = run(&["completions", "bash"]).out;
    let folder = Folder::new("completions");
    let file = folder.file("alize.bash", &script);
    let checked = Command::new("bash").args(["-n", &file]).output().expect("bash");
    assert!(checked.status.success(), "{}", String::from_utf8_lossy(&checked.stderr));
    let words = "COMP_WORDS=(alize ser); COMP_CWORD=1; _alize alize ser alize; echo \"${COMPREPLY[*]}\"";
    let completed =
        Command::new("bash").args(["-c", &format!("source {file}; {words}")]).output().expect("bash");
    assert_eq!(String::from_utf8_lossy(&completed.stdout), "services\n");
}

#[test]
fn man_pages_are_written() {
    assert!(run(&["man"]).out.contains(".TH alize 1"));
    let folder = Folder::new("man");
    assert_eq!(run(&["man", folder.0.to_str().unwrap()]).code, 0);
    for command in COMMANDS {
        let page = std::fs::read_to_string(folder.0.join(format!("alize-{command}.1"))).expect(command);
        assert!(page.contains("Exit codes:"), "{command}");
    }
    let answer = run(&["man", "/nowhere"]);
    assert_eq!(answer.code, 1);
    assert!(answer.err.contains("/nowhere"), "{}", answer.err);
}

#[test]
fn the_schema_is_one() {
    let schema: serde_json::Value = serde_json::from_str(&run(&["schema"]).out).expect("JSON");
    assert!(schema["$schema"].is_string());
    assert!(schema["properties"]["services"].is_object());
}

#[test]
fn the_version_is_that_of_the_package() {
    let version = env!("CARGO_PKG_VERSION");
    assert_eq!(run(&["version"]).out, format!("alize {version}\n"));
    assert_eq!(run(&["--version"]).out, format!("alize {version}\n"));
    assert_eq!(run(&["version", "-o", "json"]).out, format!("{{\n  \"version\": \"{version}\"\n}}\n"));
    assert_eq!(run(&["version", "-o", "yaml"]).out, format!("version: \"{version}\"\n"));
}

#[test]
fn nobody_reading_is_no_error() {
    let folder = Folder::new("unread-pipe");
    let bad = folder.file("bad.yaml", "nonsense");
    let commands: [(&[&str], i32); 7] = [
        (&["schema"], 0),
        (&["completions", "bash"], 0),
        (&["man"], 0),
        (&["version"], 0),
        (&["--help"], 0),
        (&["check", &bad], 3),
        (&["check", &bad, "-o", "json"], 3),
    ];
    for (args, expected) in commands {
        let (reader, writer) = std::io::pipe().expect("a pipe");
        drop(reader);
        let ended = answer(alize(args).stdout(writer));
        assert_eq!(ended.code, expected, "{args:?}: {}", ended.err);
        assert!(
            !ended.err.contains("panicked") && !ended.err.contains("roken pipe"),
            "{args:?}: {}",
            ended.err
        );
    }
}

#[test]
fn nobody_listening_to_errors_changes_nothing() {
    let folder = Folder::new("silent");
    let bad = folder.file("bad.yaml", "nonsense");
    let commands: [(&[&str], i32); 4] = [
        (&["check", &bad], 3),
        (&["status", "--socket", "/nowhere/alize.sock"], 4),
        (&["nonsense"], 2),
        (&["run", &bad, "-vv"], 3),
    ];
    for (args, expected) in commands {
        let (reader, writer) = std::io::pipe().expect("a pipe");
        drop(reader);
        let mut child = alize(args).stderr(writer).stdout(Stdio::null()).spawn().expect("the program starts");
        let status = child.wait().expect("it ends");
        if args[0] != "run" {
            assert_eq!(code(status), expected, "{args:?}");
        }
        assert_ne!(code(status), 101, "{args:?} panicked");
    }
}

#[test]
fn a_full_disk_is_said() {
    let full = std::fs::File::options().write(true).open("/dev/full").expect("/dev/full");
    let ended = answer(alize(&["version"]).stdout(full));
    assert_eq!(ended.code, 1);
    assert!(ended.err.contains("standard output"), "{}", ended.err);
}
