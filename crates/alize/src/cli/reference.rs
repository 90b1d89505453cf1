//! docs/reference/cli.md, made from the definition of the command line.

use clap::{Command, CommandFactory};

use super::args::Cli;

const HEAD: &str = "\
# Command line
Generated from the program's own help; `ALIZE_BLESS=1 cargo test -p alize reference` writes it anew.
";

#[test]
fn the_reference_is_current() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/reference/cli.md");
    let fresh = reference();
    if std::env::var_os("ALIZE_BLESS").is_some() {
        std::fs::create_dir_all(concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/reference")).unwrap();
        std::fs::write(path, &fresh).unwrap();
    }
    let kept = std::fs::read_to_string(path).unwrap_or_default();
    assert!(kept == fresh, "docs/reference/cli.md is stale: run ALIZE_BLESS=1 cargo test -p alize reference");
}

fn reference() -> String {
    let mut root = Cli::command().term_width(100);
    root.build();
    let mut text = HEAD.to_owned();
    section(&mut text, &mut root);
    for command in root.get_subcommands_mut() {
        section(&mut text, command);
    }
    text
}

fn section(text: &mut String, command: &mut Command) {
    let title = command.get_bin_name().unwrap_or_else(|| command.get_name()).to_owned();
    let help = command.render_long_help().to_string();
    let lines: Vec<&str> = help.lines().map(str::trim_end).collect();
    text.push_str(&format!("\n## {title}\n```text\n{}\n```\n", lines.join("\n").trim_end()));
}
