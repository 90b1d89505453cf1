//! `alize check`.

use std::fmt::Write;
use std::time::{Duration, Instant};

use crate::program::{Folder, alize, answer, copy_program, on_terminal, run, run_with_input};

const GOOD: &str = "\
services:
  - name: web
    address: 10.96.0.10:80
    endpoints:
      - 10.0.0.1:8080
      - 10.0.0.2:8080
";
const BAD: &str = "\
services:
  - name: web
    address: 10.96.0.10:80
    endpoints:
      - {address: 10.0.0.1:8080, wieght: 3}
";

#[test]
fn a_good_file_is_summed_up() {
    let folder = Folder::new("good");
    let file = folder.file("mesh.yaml", GOOD);
    let answer = run(&["check", &file]);
    assert_eq!((answer.code, answer.err.as_str()), (0, ""));
    assert_eq!(answer.out, format!("{file}: 1 service, 2 endpoints: ok\n"));
}

#[test]
fn a_bad_file_is_refused_with_place_and_mend() {
    let folder = Folder::new("bad");
    let file = folder.file("mesh.yaml", BAD);
    let answer = run(&["check", &file]);
    assert_eq!(answer.code, 3);
    assert_eq!(answer.out, format!("{file}: 1 error: refused\n"));
    assert!(answer.err.starts_with(&format!("{file}:5:34: error: ")), "{}", answer.err);
    assert!(answer.err.contains("wieght") && answer.err.contains("did you mean `weight`?"), "{}", answer.err);
    assert_eq!(answer.err.lines().count(), 1);
}

#[test]
fn people_see_the_line_too() {
    let folder = Folder::new("line");
    let file = folder.file("mesh.yaml", BAD);
    let mark =
        "    5 |       - {address: 10.0.0.1:8080, wieght: 3}\n      |                                  ^";
    assert!(run(&["check", &file, "-o", "table"]).err.contains(mark));
    let shown = on_terminal(&["--color", "never", "check", &file], &[]).replace('\r', "");
    assert!(shown.contains(mark), "{shown}");
}

#[test]
fn colour_is_for_terminals_that_want_it() {
    let folder = Folder::new("colour");
    let file = folder.file("mesh.yaml", BAD);
    let coloured = |text: &str| text.contains("\u{1b}[");
    assert!(coloured(&on_terminal(&["check", &file], &[])));
    assert!(!coloured(&on_terminal(&["check", &file], &[("NO_COLOR", "1")])));
    assert!(!coloured(&on_terminal(&["check", &file, "--color", "never"], &[])));
    let piped = run(&["check", &file]);
    assert!(!coloured(&piped.out) && !coloured(&piped.err));
    assert!(coloured(&run(&["check", &file, "--color", "always"]).err));
}

#[test]
fn standard_input_is_a_file_like_any_other() {
    let answer = run_with_input(&["check", "-"], GOOD.as_bytes());
    assert_eq!((answer.code, answer.out.as_str()), (0, "-: 1 service, 2 endpoints: ok\n"));
    let answer = run_with_input(&["check", "-"], BAD.as_bytes());
    assert_eq!(answer.code, 3);
    assert!(answer.err.starts_with("-:5:34: error: "), "{}", answer.err);
}

#[test]
fn one_bad_file_among_good_ones_refuses_the_run_and_not_the_others() {
    let folder = Folder::new("several");
    let (good, bad) = (folder.file("good.yaml", GOOD), folder.file("bad.yaml", BAD));
    let answer = run(&["check", &bad, &good]);
    assert_eq!(answer.code, 3);
    assert_eq!(answer.out, format!("{bad}: 1 error: refused\n{good}: 1 service, 2 endpoints: ok\n"));
}

#[test]
fn programs_get_the_same_as_json() {
    let folder = Folder::new("json");
    let (good, bad) = (folder.file("good.yaml", GOOD), folder.file("bad.yaml", BAD));
    let answer = run(&["check", &good, &bad, "-o", "json"]);
    assert_eq!((answer.code, answer.err.as_str()), (3, ""));
    let verdicts: serde_json::Value = serde_json::from_str(&answer.out).expect("JSON");
    assert_eq!(verdicts[0]["ok"], true);
    assert_eq!(verdicts[0]["endpoints"], 2);
    assert_eq!(verdicts[1]["ok"], false);
    assert_eq!(verdicts[1]["diagnostics"][0]["severity"], "error");
    assert_eq!(verdicts[1]["diagnostics"][0]["position"]["line"], 5);
}

#[test]
fn what_is_no_text_is_refused_at_its_byte() {
    let folder = Folder::new("binary");
    let file = folder.file("mesh.yaml", b"services:\n  - name: \xff\n");
    let answer = run(&["check", &file]);
    assert_eq!(answer.code, 3);
    assert!(answer.err.starts_with(&format!("{file}:2:11: error: byte ")), "{}", answer.err);
    assert!(answer.err.contains("0xff"), "{}", answer.err);
    assert_eq!(run(&["check", env!("CARGO_BIN_EXE_alize")]).code, 3);
}

#[test]
fn what_cannot_be_read_says_why() {
    let folder = Folder::new("unreadable");
    let none = folder.path("none.yaml");
    let answer = run(&["check", &none]);
    assert_eq!(answer.code, 3);
    assert!(answer.err.contains("none.yaml") && answer.err.contains("No such file"), "{}", answer.err);
    let answer = run(&["check", folder.0.to_str().unwrap()]);
    assert_eq!(answer.code, 3);
    assert!(answer.err.to_lowercase().contains("is a directory"), "{}", answer.err);
}

#[test]
fn an_endless_file_ends() {
    let begun = Instant::now();
    let answer = run(&["check", "/dev/zero"]);
    assert_eq!(answer.code, 3);
    assert!(answer.err.contains("MiB"), "{}", answer.err);
    assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", begun.elapsed());
}

#[test]
fn ten_thousand_services_are_checked_at_once() {
    let folder = Folder::new("huge");
    let mut text = String::from("services:\n");
    for service in 0..10_000 {
        let (high, low) = (service / 256, service % 256);
        let _ = writeln!(text, "  - name: s{service}\n    address: 10.96.{high}.{low}:80\n    endpoints:");
        for endpoint in 1..=3 {
            let _ = writeln!(text, "      - 10.{endpoint}.{high}.{low}:8080");
        }
    }
    let file = folder.file("mesh.yaml", text);
    let answer = run(&["check", &file]);
    assert_eq!(answer.out, format!("{file}: 10000 services, 30000 endpoints: ok\n"), "{}", answer.err);
}

#[test]
fn a_budget_is_named_when_it_is_exceeded() {
    let folder = Folder::new("budget");
    let file = folder.file("mesh.yaml", GOOD);
    let answer = run(&["check", &file, "--max-endpoints", "1"]);
    assert_eq!(answer.code, 3);
    assert!(answer.err.contains("endpoint"), "{}", answer.err);
    assert_eq!(run(&["check", &file, "--max-endpoints", "0"]).code, 2);
}

#[test]
fn an_address_of_this_host_is_not_virtual() {
    let own = std::net::UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap().ip();
    let folder = Folder::new("host");
    let file = folder.file("mesh.yaml", GOOD.replace("10.96.0.10", &own.to_string()));
    assert_eq!(run(&["check", &file]).code, 3);
}

#[test]
fn it_needs_no_rights() {
    use std::os::unix::process::CommandExt;
    let folder = Folder::new("nobody");
    let file = folder.file("mesh.yaml", GOOD);
    let binary = folder.path("alize");
    copy_program(&binary);
    let mut command = std::process::Command::new(binary);
    let checked = answer(command.args(["check", &file]).uid(65_534).gid(65_534));
    assert_eq!((checked.code, checked.err.as_str()), (0, ""), "{}", checked.out);
    assert_eq!(answer(alize(&["check", &file]).current_dir("/")).code, 0);
}
