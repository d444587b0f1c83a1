//! Every answer of every test is held against `openapi.json`: its status, its media type, its members.

use serde_json::Value;

use super::Answer;

/// Checks one answer. Paths and methods that the document does not know must be refused.
pub(crate) fn check(method: &str, path: &str, answer: &Answer) {
    let document: Value = serde_json::from_str(include_str!("../../openapi.json")).unwrap();
    let paths = document["paths"].as_object().unwrap();
    let Some((_, item)) = paths.iter().find(|(template, _)| matches(template, path)) else {
        assert_eq!(answer.status, 404, "{path} is not described");
        return;
    };
    let operation = &item[method.to_ascii_lowercase()];
    if operation.is_null() {
        assert_eq!(answer.status, 405, "{method} {path} is not described");
        return;
    }
    let status = answer.status.as_u16().to_string();
    let response = resolve(&document, &operation["responses"][&status]);
    assert!(!response.is_null(), "{method} {path} is not said to answer {status}: {answer:?}");
    let kind = answer.kind.split(';').next().unwrap();
    let schema = &response["content"][kind]["schema"];
    assert!(!schema.is_null(), "{method} {path} {status} is not said to be {kind}");
    if kind.ends_with("json")
        && let Err(why) = fits(&document, schema, &answer.json(), true)
    {
        panic!("{method} {path} {status}: {why}\n{}", answer.text);
    }
}

fn matches(template: &str, path: &str) -> bool {
    let (template, path): (Vec<_>, Vec<_>) =
        (template.split('/').collect(), path.split('/').collect());
    template.len() == path.len()
        && template
            .iter()
            .zip(&path)
            .all(|(wanted, found)| wanted == found || wanted.starts_with('{') && !found.is_empty())
}

fn resolve<'a>(document: &'a Value, value: &'a Value) -> &'a Value {
    match value["$ref"].as_str() {
        Some(reference) => document.pointer(&reference[1..]).expect(reference),
        None => value,
    }
}

fn is_of(kind: &str, value: &Value) -> bool {
    match kind {
        "null" => value.is_null(),
        "string" => value.is_string(),
        "boolean" => value.is_boolean(),
        "integer" => value.is_i64() || value.is_u64(),
        "number" => value.is_number(),
        "array" => value.is_array(),
        "object" => value.is_object(),
        other => panic!("the document has a type {other}"),
    }
}

/// Whether a value is as a schema says; `closed`: it may not have members that are not described.
fn fits(document: &Value, schema: &Value, value: &Value, closed: bool) -> Result<(), String> {
    let schema = resolve(document, schema);
    let shown = || value.to_string().chars().take(200).collect::<String>();
    if let Some(choices) = schema["oneOf"].as_array() {
        let faults: Vec<String> = choices
            .iter()
            .filter_map(|choice| fits(document, choice, value, closed).err())
            .collect();
        return match choices.len() - faults.len() {
            1 => Ok(()),
            count => Err(format!("{count} of the choices fit {}: {faults:?}", shown())),
        };
    }
    for part in schema["allOf"].as_array().into_iter().flatten() {
        fits(document, part, value, false)?;
    }
    let kinds: Vec<&str> = match &schema["type"] {
        Value::String(kind) => vec![kind],
        Value::Array(kinds) => kinds.iter().filter_map(Value::as_str).collect(),
        _ => Vec::new(),
    };
    if !kinds.is_empty() && !kinds.iter().any(|kind| is_of(kind, value)) {
        return Err(format!("{} is not of type {kinds:?}", shown()));
    }
    if let Some(words) = schema["enum"].as_array()
        && !words.contains(value)
    {
        return Err(format!("{} is none of {words:?}", shown()));
    }
    if schema.get("const").is_some_and(|wanted| wanted != value) {
        return Err(format!("{} is not {}", shown(), schema["const"]));
    }
    if let (Some(items), Some(list)) = (schema.get("items"), value.as_array()) {
        for item in list {
            fits(document, items, item, closed)?;
        }
    }
    let Some(members) = value.as_object() else { return Ok(()) };
    for name in schema["required"].as_array().into_iter().flatten() {
        if !members.contains_key(name.as_str().unwrap()) {
            return Err(format!("{name} is missing in {}", shown()));
        }
    }
    let Some(described) = schema["properties"].as_object() else { return Ok(()) };
    for (name, member) in members {
        match described.get(name) {
            Some(schema) => {
                fits(document, schema, member, true).map_err(|why| format!("{name}: {why}"))?;
            }
            None if closed => return Err(format!("{name} is not described")),
            None => {}
        }
    }
    Ok(())
}
