//! The file format told to editors (JSON Schema) and to people (Markdown), out of the tables that the parser reads.

use std::fmt::Write;

use serde_json::{Map, Value, json};

use crate::http::{FieldName, FieldValue, Pattern};
use crate::parse::keys::{Absent, Field, FileKey, Keys, Kind, STATUS, TABLES, Table, Word};
use crate::parse::scalar::{Whole, show};

/// The JSON Schema (draft 2020-12) of the file, for completion and checks in editors.
///
/// What needs more than one value to judge, such as duplicate addresses, is beyond it: [`crate::parse`] judges that.
pub fn json_schema() -> Value {
    let mut schema = object(FileKey::TABLE);
    let head = [
        ("$schema", json!("https://json-schema.org/draft/2020-12/schema")),
        ("title", json!("Alizé services")),
    ];
    let definitions =
        TABLES.iter().skip(1).map(|table| (table.title.to_string(), Value::Object(object(table))));
    schema.extend(head.map(|(key, value)| (key.to_string(), value)));
    schema.insert("$defs".into(), Value::Object(definitions.collect()));
    Value::Object(schema)
}

fn object(table: &Table) -> Map<String, Value> {
    let properties = table.fields.iter().map(|field| (field.key.to_string(), property(field)));
    let required: Vec<_> =
        table.fields.iter().filter(|f| matches!(f.absent, Absent::Refused)).map(|f| f.key).collect();
    let mut object = Map::from_iter([
        ("description".into(), json!(table.about.trim())),
        ("type".into(), json!("object")),
        ("additionalProperties".into(), json!(false)),
        ("properties".into(), Value::Object(properties.collect())),
    ]);
    if !required.is_empty() {
        object.insert("required".into(), json!(required));
    }
    object
}

fn property(field: &Field) -> Value {
    let mut schema = kind_schema(&field.kind);
    let default = match field.absent {
        Absent::Refused | Absent::Means(_) => None,
        Absent::Whole(value) => Some(json!(value)),
        Absent::Lapse(duration) => Some(json!(show(duration))),
        Absent::Word(word) if matches!(field.kind, Kind::Boolean) => Some(json!(word == "true")),
        Absent::Word(word) => Some(json!(word)),
    };
    let about = match field.absent {
        Absent::Means(meaning) => format!("{} Without it: {meaning}.", field.about.trim()),
        _ => field.about.trim().to_string(),
    };
    schema.insert("description".into(), json!(about));
    schema.extend(default.map(|default| ("default".to_string(), default)));
    Value::Object(schema)
}

/// Plain scalars such as `7` or `true` are text where text is expected, as the parser takes them.
const TEXT: [&str; 3] = ["string", "number", "boolean"];

/// A token, RFC 9110, 5.6.2.
const HEADER_NAME: &str = "^[!#$%&'*+.^_`|~0-9A-Za-z-]+$";

fn kind_schema(kind: &Kind) -> Map<String, Value> {
    let schema = match kind {
        Kind::Name => json!({
            "type": TEXT, "pattern": "^[a-z0-9]([a-z0-9._/-]*[a-z0-9])?$", "maxLength": crate::ServiceName::MAX,
        }),
        Kind::Address => json!({
            "type": "string",
            "pattern": r"^(\[[0-9A-Fa-f:.]+\]|[0-9]{1,3}(\.[0-9]{1,3}){3}):[0-9]{1,5}$",
            "examples": ["10.0.0.1:80", "[fd00::1]:80"],
        }),
        Kind::Whole(range) => whole(*range),
        Kind::Lapse(range) => json!({
            "type": "string",
            "pattern": "^[0-9]+(ms|s|m|h)$",
            "examples": [show(range.min), show(range.max)],
        }),
        Kind::Boolean => json!({"type": "boolean"}),
        Kind::Choice(words) => json!({"oneOf": words.iter().map(word).collect::<Vec<_>>()}),
        Kind::Path => json!({"type": "string", "pattern": "^/[!-~]*$", "maxLength": 1024}),
        Kind::Host => json!({"type": TEXT, "minLength": 1, "maxLength": 255}),
        Kind::Statuses => json!({"anyOf": [
            whole(STATUS),
            {"type": "string", "pattern": "^[1-5][0-9]{2}(-[1-5][0-9]{2})?$", "examples": ["200-399"]},
        ]}),
        Kind::Labels => json!({
            "type": "object",
            "propertyNames": {"minLength": 1, "maxLength": 255},
            "additionalProperties": {"type": TEXT, "minLength": 1, "maxLength": 255},
        }),
        Kind::Split(range) => json!({
            "type": "object", "minProperties": 1, "maxProperties": 1,
            "additionalProperties": {
                "type": "object", "minProperties": 1, "additionalProperties": whole(*range),
            },
        }),
        Kind::Text => json!({"type": TEXT}),
        Kind::HeaderName => json!({"type": TEXT, "pattern": HEADER_NAME, "maxLength": FieldName::MAX}),
        Kind::Regex => json!({"type": TEXT, "format": "regex", "maxLength": Pattern::MAX}),
        Kind::Percent => json!({"type": "number", "minimum": 0, "maximum": 100}),
        Kind::Conditions(table) => json!({
            "type": "object", "minProperties": 1, "propertyNames": {"minLength": 1},
            "additionalProperties": {"anyOf": [{"type": TEXT}, kind_schema(&Kind::Table(table))]},
        }),
        Kind::Fields => json!({
            "type": "object", "minProperties": 1, "propertyNames": {"pattern": HEADER_NAME},
            "additionalProperties": {"type": TEXT, "maxLength": FieldValue::MAX},
        }),
        Kind::Table(table) => json!({"$ref": format!("#/$defs/{}", table.title)}),
        Kind::List(item) => json!({"type": "array", "items": kind_schema(item)}),
        Kind::Either(kinds) => json!({"anyOf": kinds.iter().map(kind_schema).collect::<Vec<_>>()}),
    };
    match schema {
        Value::Object(schema) => schema,
        _ => Map::new(),
    }
}

fn whole(Whole { min, max }: Whole) -> Value {
    json!({"type": "integer", "minimum": min, "maximum": max})
}

fn word(Word { text, about }: &Word) -> Value {
    json!({"const": text, "description": about})
}

/// The field reference in Markdown.
pub fn reference() -> String {
    let mut out = String::from(HEAD);
    for table in TABLES {
        let _ = write!(out, "\n## {}\n\n{}\n", table.title, table.about.trim());
        for field in table.fields {
            describe(&mut out, field);
        }
    }
    out
}

const HEAD: &str = "\
<!-- Generated from crates/model/src/parse/keys.rs: ALIZE_BLESS=1 cargo test -p alize-model -->
# The file

One YAML file says what a host does. It is read whole or refused whole; `alize check FILE` tells every mistake with its
place. Anchors, aliases, tags, merge keys and several documents in one file are not supported. Addresses in brackets
stand in quotes: `\"[fd00::1]:80\"`. A duration is one number and one unit: `ms`, `s`, `m` or `h`.
";

fn describe(out: &mut String, field: &Field) {
    let Field { key, kind, absent, about } = field;
    let _ = write!(out, "\n### `{key}`\n\n{}\n\n- Takes: {}.\n", about.trim(), Linked(kind));
    let _ = match absent {
        Absent::Refused => writeln!(out, "- Required."),
        Absent::Whole(value) => writeln!(out, "- Default: `{value}`."),
        Absent::Lapse(duration) => writeln!(out, "- Default: `{}`.", show(*duration)),
        Absent::Word(word) => writeln!(out, "- Default: `{word}`."),
        Absent::Means(meaning) => writeln!(out, "- Without it: {meaning}."),
    };
    for Word { text, about } in words(kind) {
        let _ = writeln!(out, "- `{text}`: {about}.");
    }
}

fn words(kind: &Kind) -> &[Word] {
    match kind {
        Kind::Choice(words) => words,
        Kind::Either(kinds) => kinds.iter().map(words).find(|words| !words.is_empty()).unwrap_or_default(),
        _ => &[],
    }
}

/// A kind with links to the sections of its mappings.
struct Linked<'a>(&'a Kind);

impl std::fmt::Display for Linked<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0 {
            Kind::Table(table) => write!(f, "a mapping of [{0}](#{0}) keys", table.title),
            Kind::List(item) => write!(f, "a list; each item {}", Linked(item)),
            Kind::Either(kinds) => {
                for (index, kind) in kinds.iter().enumerate() {
                    let separator = if index == 0 { "" } else { ", or " };
                    write!(f, "{separator}{}", Linked(kind))?;
                }
                Ok(())
            }
            Kind::Choice(words) => {
                for (index, Word { text, .. }) in words.iter().enumerate() {
                    let separator = match index {
                        0 => "",
                        _ if index + 1 == words.len() => " or ",
                        _ => ", ",
                    };
                    write!(f, "{separator}`{text}`")?;
                }
                Ok(())
            }
            kind => write!(f, "{kind}"),
        }
    }
}
