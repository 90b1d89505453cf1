//! A reader of JSON Schema, as far as the published schema goes, and of YAML as an editor has it.

use serde_json::{Map, Value};

/// Whether `value` keeps to `schema`: the keywords that the schema uses, and a panic at any other.
pub(crate) fn check(root: &Value, schema: &Value, value: &Value) -> Result<(), String> {
    for (keyword, rule) in schema.as_object().expect("a schema is an object") {
        let kept = match keyword.as_str() {
            "$schema" | "$defs" | "title" | "description" | "default" | "examples" | "format" => true,
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
pub(crate) fn document(text: &str) -> Result<Value, String> {
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
                text => match (text.parse::<u64>(), text.parse::<f64>()) {
                    (Ok(whole), _) => Value::from(whole),
                    (_, Ok(number)) if number.is_finite() => Value::from(number),
                    _ => Value::String(text.into()),
                },
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
