//! JSON Schemas (2020-12) of the whole manifest and of the table of each kind, from the types that read them.

use reconciled::kind::{KINDS, Kind};
use reconciled::probe::Probe;
use schemars::SchemaGenerator;
use schemars::generate::SchemaSettings;
use serde_json::{Map, Value, json};

use super::Files;

const DIALECT: &str = "https://json-schema.org/draft/2020-12/schema";

/// All schema files.
pub fn files() -> Files {
    let mut files: Files =
        KINDS.iter().map(|row| (format!("schemas/{}.schema.json", row.kind()).into(), text(&kind(*row)))).collect();
    files.insert("schemas/probe.schema.json".into(), text(&probe()));
    files.insert("schemas/manifest.schema.json".into(), text(&manifest()));
    files
}

/// The schema of one kind's table.
pub fn kind(row: &dyn Kind) -> Value {
    let mut generator = generator();
    let table = row.schema(&mut generator).to_value();
    standalone(table, row.kind(), generator)
}

/// The schema of a `[[probe]]` table.
pub fn probe() -> Value {
    let mut generator = generator();
    let table = <Probe as schemars::JsonSchema>::json_schema(&mut generator).to_value();
    standalone(table, "probe", generator)
}

/// The schema of `reconciled.toml`.
fn manifest() -> Value {
    let mut generator = generator();
    let mut tables = Map::new();
    let mut properties = Map::new();
    for row in KINDS {
        let table = row.schema(&mut generator).to_value();
        tables.insert(row.kind().to_owned(), table);
        let one = json!({"$ref": format!("#/$defs/{}", row.kind()), "description": row.about()});
        let value = if row.is_single() { one } else { list_of(row.kind(), row.about()) };
        properties.insert(row.kind().to_owned(), value);
        if let Some(short) = row.short() {
            let about = format!("Short form: each string is a [[{}]] table with only its {}.", row.kind(), row.key());
            properties.insert(short.to_owned(), json!({"type": "array", "items": {"type": "string"}, "description": about}));
        }
    }
    tables.insert("probe".to_owned(), <Probe as schemars::JsonSchema>::json_schema(&mut generator).to_value());
    properties.insert("probe".to_owned(), list_of("probe", "Health checks that a generation must pass."));
    let about = "Directories of this repository whose reconciled.toml and files/ lie over these, the later over the earlier; only in the one at the top.";
    properties.insert("include".to_owned(), json!({"type": "array", "items": {"type": "string"}, "description": about}));
    let about = "What templates and expressions see as vars.";
    properties.insert("vars".to_owned(), json!({"type": "object", "description": about}));
    let about = "A repository that declares nothing is meant; without this it is refused.";
    properties.insert("allow_empty".to_owned(), json!({"type": "boolean", "default": false, "description": about}));
    tables.extend(generator.take_definitions(true));
    let mut schema = json!({
        "$schema": DIALECT,
        "title": "reconciled.toml",
        "description": "What a repository declares.",
        "type": "object",
        "properties": properties,
        "additionalProperties": false,
        "$defs": tables,
    });
    without_null(&mut schema);
    schema
}

fn generator() -> SchemaGenerator {
    SchemaSettings::draft2020_12().for_deserialize().into_generator()
}

fn list_of(kind: &str, about: &str) -> Value {
    json!({"type": "array", "items": {"$ref": format!("#/$defs/{kind}")}, "description": about})
}

fn standalone(mut table: Value, title: &str, mut generator: SchemaGenerator) -> Value {
    table["$schema"] = json!(DIALECT);
    table["title"] = json!(title);
    let definitions = generator.take_definitions(true);
    if !definitions.is_empty() {
        table["$defs"] = definitions.into();
    }
    without_null(&mut table);
    table
}

/// TOML has no null: an optional key is left out.
fn without_null(schema: &mut Value) {
    match schema {
        Value::Array(items) => items.iter_mut().for_each(without_null),
        Value::Object(map) => {
            if let Some(Value::Array(types)) = map.get_mut("type") {
                types.retain(|t| t != "null");
                if let [one] = types.as_slice() {
                    let one = one.clone();
                    map.insert("type".to_owned(), one);
                }
            }
            if let Some(Value::Array(choices)) = map.get_mut("anyOf") {
                choices.retain(|c| c["type"] != "null");
                if let [Value::Object(one)] = choices.as_slice() {
                    let one = one.clone();
                    map.remove("anyOf");
                    map.extend(one);
                }
            }
            if map.get("default") == Some(&Value::Null) {
                map.remove("default");
            }
            map.values_mut().for_each(without_null);
        }
        _ => {}
    }
}

fn text(schema: &Value) -> String {
    format!("{schema:#}\n")
}
