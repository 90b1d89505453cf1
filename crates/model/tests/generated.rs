//! The published schema and the field reference are current, and the examples keep to them.
//!
//! `ALIZE_BLESS=1 cargo test -p alize-model` writes them anew.

use std::fs;
use std::path::{Path, PathBuf};

use alize_model::{Budgets, HostFacts, Source, json_schema, parse, reference};
use serde_json::{Map, Value};

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

/// Whether `value` keeps to `schema`: the keywords that the schema uses, and a panic at any other.
fn check(root: &Value, schema: &Value, value: &Value) -> Result<(), String> {
    for (keyword, rule) in schema.as_object().expect("a schema is an object") {
        let kept = match keyword.as_str() {
            "$schema" | "$defs" | "title" | "description" | "default" | "examples" => true,
            "$ref" => {
                let pointer = rule.as_str().unwrap().strip_prefix('#').unwrap();
                check(root, root.pointer(pointer).expect(pointer), value)?;
                true
            }
            "anyOf" => rule.as_array().unwrap().iter().any(|schema| check(root, schema, value).is_ok()),
            "oneOf" => {
                rule.as_array().unwrap().iter().filter(|schema| check(root, schema, value).is_ok()).count()
                    == 1
            }
            "const" => rule == value,
            "type" => match rule {
                Value::Array(types) => types.iter().any(|rule| has_type(rule, value)),
                rule => has_type(rule, value),
            },
            "minimum" => value.as_u64().is_none_or(|n| n >= rule.as_u64().unwrap()),
            "maximum" => value.as_u64().is_none_or(|n| n <= rule.as_u64().unwrap()),
            "minLength" => value.as_str().is_none_or(|t| t.chars().count() as u64 >= rule.as_u64().unwrap()),
            "maxLength" => value.as_str().is_none_or(|t| t.chars().count() as u64 <= rule.as_u64().unwrap()),
            "pattern" => {
                let pattern = regex::Regex::new(rule.as_str().unwrap()).unwrap();
                value.as_str().is_none_or(|text| pattern.is_match(text))
            }
            "items" => {
                value.as_array().into_iter().flatten().try_for_each(|item| check(root, rule, item))?;
                true
            }
            "required" => {
                let has = |key: &Value| value.get(key.as_str().unwrap()).is_some();
                !value.is_object() || rule.as_array().unwrap().iter().all(has)
            }
            "minProperties" => value.as_object().is_none_or(|o| o.len() as u64 >= rule.as_u64().unwrap()),
            "maxProperties" => value.as_object().is_none_or(|o| o.len() as u64 <= rule.as_u64().unwrap()),
            "propertyNames" => {
                let mut names = value.as_object().into_iter().flat_map(Map::keys);
                names.try_for_each(|name| check(root, rule, &Value::String(name.clone())))?;
                true
            }
            "properties" => {
                for (key, value) in value.as_object().into_iter().flatten() {
                    if let Some(schema) = rule.get(key) {
                        check(root, schema, value)?;
                    }
                }
                true
            }
            "additionalProperties" => {
                let listed = |key: &str| schema.get("properties").is_some_and(|p| p.get(key).is_some());
                let mut others = value.as_object().into_iter().flatten().filter(|(key, _)| !listed(key));
                match rule {
                    Value::Bool(allowed) => *allowed || others.next().is_none(),
                    rule => {
                        others.try_for_each(|(_, value)| check(root, rule, value))?;
                        true
                    }
                }
            }
            other => panic!("the schema uses {other}, which this check does not know"),
        };
        if !kept {
            return Err(format!("{value} breaks {keyword}: {rule}"));
        }
    }
    Ok(())
}

fn has_type(rule: &Value, value: &Value) -> bool {
    match rule.as_str().unwrap() {
        "string" => value.is_string(),
        "integer" => value.is_u64() || value.is_i64(),
        "number" => value.is_number(),
        "boolean" => value.is_boolean(),
        "array" => value.is_array(),
        "object" => value.is_object(),
        other => panic!("type {other}"),
    }
}

/// YAML as an editor reads it: plain scalars by the core schema, everything else text.
fn document(text: &str) -> Result<Value, String> {
    use saphyr_parser::{Event, Parser, ScalarStyle};
    enum Open {
        List(Vec<Value>),
        Mapping(Map<String, Value>, Option<String>),
    }
    let mut open = vec![Open::List(Vec::new())];
    for event in Parser::new_from_str(text) {
        let done = match event.map_err(|e| e.to_string())?.0 {
            Event::Scalar(text, ScalarStyle::Plain, ..) => match &*text {
                "" | "~" | "null" => Value::Null,
                "true" => Value::Bool(true),
                "false" => Value::Bool(false),
                text => text.parse::<u64>().map_or_else(|_| Value::String(text.into()), Value::from),
            },
            Event::Scalar(text, ..) => Value::String(text.into()),
            Event::SequenceStart(..) => {
                open.push(Open::List(Vec::new()));
                continue;
            }
            Event::MappingStart(..) => {
                open.push(Open::Mapping(Map::new(), None));
                continue;
            }
            Event::SequenceEnd | Event::MappingEnd => match open.pop().expect("balanced") {
                Open::List(items) => Value::Array(items),
                Open::Mapping(entries, _) => Value::Object(entries),
            },
            Event::Alias(_) => return Err("alias".into()),
            _ => continue,
        };
        match open.last_mut().expect("balanced") {
            Open::List(items) => items.push(done),
            Open::Mapping(entries, key) => match key.take() {
                None => *key = Some(done.as_str().map_or_else(|| done.to_string(), str::to_string)),
                Some(key) => {
                    entries.insert(key, done);
                }
            },
        }
    }
    match open.pop() {
        Some(Open::List(mut items)) if items.len() == 1 => Ok(items.remove(0)),
        _ => Err("not one document".into()),
    }
}
