//! The published schema and the field reference are current, and the examples keep to them.
//!
//! `ALIZE_BLESS=1 cargo test -p alize-model` writes them anew.

mod schema;

use std::fs;
use std::path::{Path, PathBuf};

use alize_model::{Budgets, HostFacts, Source, json_schema, parse, reference};
use schema::{check, document};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn assert_current(path: &str, expected: &str) {
    let file = root().join(path);
    if std::env::var_os("ALIZE_BLESS").is_some() {
        fs::write(&file, expected).unwrap();
    }
    let found = fs::read_to_string(&file).unwrap_or_default();
    assert!(found == expected, "{path} is out of date: run ALIZE_BLESS=1 cargo test -p alize-model");
}

#[test]
fn the_published_schema_is_current() {
    let schema = serde_json::to_string_pretty(&json_schema()).unwrap() + "\n";
    assert_current("deploy/alize.schema.json", &schema);
}

#[test]
fn the_field_reference_is_current() {
    assert_current("docs/reference/file.md", &reference());
}

fn examples() -> Vec<(String, String)> {
    let folder = fs::read_dir(root().join("examples")).unwrap();
    let paths =
        folder.map(|entry| entry.unwrap().path()).filter(|path| path.extension() == Some("yaml".as_ref()));
    let mut all: Vec<_> =
        paths.map(|path| (path.display().to_string(), fs::read_to_string(&path).unwrap())).collect();
    all.sort();
    assert!(all.len() >= 4, "the examples are gone");
    all
}

#[test]
fn every_example_is_accepted_without_a_remark() {
    for (name, text) in examples() {
        let (snapshot, warnings) =
            parse(Source { name: &name, text: &text }, &Budgets::default(), &HostFacts::default())
                .unwrap_or_else(|diagnostics| panic!("{diagnostics}"));
        assert!(warnings.is_empty(), "{warnings:?}");
        assert!(!snapshot.services().is_empty());
    }
}

/// The guide's examples: whole files, or keys of a service with endpoints of two versions.
#[test]
fn every_example_of_the_guide_to_routing_is_accepted_without_a_remark() {
    let guide = fs::read_to_string(root().join("docs/guide/routing.md")).unwrap();
    let blocks: Vec<_> =
        guide.split("```yaml\n").skip(1).map(|rest| rest.split("```").next().unwrap()).collect();
    assert!(blocks.len() >= 6, "{}", blocks.len());
    for block in blocks {
        let text = match block.starts_with("services:") {
            true => block.to_owned(),
            false => {
                let keys: String = block.lines().map(|line| format!("    {line}\n")).collect();
                let endpoint = |n| format!("{{address: '10.0.0.{n}:80', labels: {{version: v{n}}}}}");
                let endpoints = format!("[{}, {}]", endpoint(1), endpoint(2));
                format!(
                    "services:\n  - name: web\n    protocol: http\n    address: 10.96.0.1:80\n    endpoints: {endpoints}\n{keys}"
                )
            }
        };
        let source = Source { name: "routing.md", text: &text };
        let (_, warnings) = parse(source, &Budgets::default(), &HostFacts::default())
            .unwrap_or_else(|diagnostics| panic!("{diagnostics}\n{text}"));
        assert!(warnings.is_empty(), "{warnings:?}\n{text}");
        let schema = json_schema();
        check(&schema, &schema, &document(&text).unwrap())
            .unwrap_or_else(|problem| panic!("{problem}\n{text}"));
    }
}

#[test]
fn every_example_keeps_to_the_schema() {
    let schema = json_schema();
    for (name, text) in examples() {
        let document = document(&text).unwrap();
        check(&schema, &schema, &document).unwrap_or_else(|problem| panic!("{name}: {problem}"));
    }
}

/// An editor must not underline what the parser takes; the files are those of the parser's own tests.
#[test]
fn the_schema_refuses_nothing_that_the_parser_accepts() {
    let schema = json_schema();
    let folder = fs::read_dir(root().join("crates/model/tests/parse")).unwrap();
    let mut compared = 0;
    for path in
        folder.map(|entry| entry.unwrap().path()).filter(|path| path.extension() == Some("yaml".as_ref()))
    {
        let text = fs::read_to_string(&path).unwrap();
        let Ok(document) = document(&text) else { continue };
        let accepted =
            parse(Source { name: "f", text: &text }, &Budgets::default(), &HostFacts::default()).is_ok();
        if accepted {
            compared += 1;
            check(&schema, &schema, &document)
                .unwrap_or_else(|problem| panic!("{}: {problem}", path.display()));
        }
    }
    assert!(compared > 3, "only {compared} accepted files");
}

#[test]
fn the_schema_sees_what_it_should() {
    let schema = json_schema();
    let refused = |text: &str| check(&schema, &schema, &document(text).unwrap()).is_err();
    let service = |rest: &str| format!("services: [{{name: a, address: '10.0.0.1:80', {rest}}}]");
    assert!(!refused(&service("mode: shadow")));
    assert!(refused(&service("mode: fast")));
    assert!(refused(&service("modus: shadow")));
    assert!(refused(&service("affinity: 3 hours")));
    assert!(refused(&service("endpoints: ['10.0.0.1']")));
    assert!(refused(&service("endpoints: [{address: '10.0.0.1:80', weight: 70000}]")));
    assert!(refused(&service("balance: {maglev: {size: 7}}")));
    assert!(refused(&service("split: {a: {b: 1}, c: {d: 1}}")));
    assert!(refused("services: [{address: '10.0.0.1:80'}]"));
    assert!(refused("{}"));
}
