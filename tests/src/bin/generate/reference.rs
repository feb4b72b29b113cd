//! docs/manifest.md: the text around is written by hand, the tables of keys come from the schemas.

use std::fmt::Write as _;

use reconciled::kind::KINDS;
use serde_json::Value;

use super::schemas;

const HEAD: &str = include_str!("manifest.head.md");
const LAYERS: &str = include_str!("manifest.layers.md");
const PROBES: &str = include_str!("manifest.probes.md");

/// The page.
pub fn page() -> String {
    let mut page = HEAD.to_owned();
    page.push_str(LAYERS);
    for row in KINDS {
        let short = row.short().map(|s| format!(" Short form: `{s} = [\"…\"]`, each with only its `{}`.", row.key()));
        let _ = write!(page, "\n## `{}`\n\n{}{}\n\n", row.header(), row.about(), short.unwrap_or_default());
        let _ = write!(page, "```toml\n{}```\n\n", row.example());
        let schema = schemas::kind(row);
        if let Some(more) = schema["description"].as_str() {
            let _ = write!(page, "{}\n\n", more.replace('\n', " "));
        }
        keys(&schema, &mut page);
    }
    page.push('\n');
    page.push_str(PROBES);
    page.push('\n');
    let probe = schemas::probe();
    keys(&probe, &mut page);
    for (key, table) in [("http", "Http"), ("postgres", "Postgres"), ("redis", "Redis"), ("certificate", "Certificate")] {
        let _ = write!(page, "\n### `{key}`\n\n");
        let mut table = probe["$defs"][table].clone();
        table["$defs"] = probe["$defs"].clone();
        keys(&table, &mut page);
    }
    page
}

/// A table of the keys of a schema.
fn keys(schema: &Value, page: &mut String) {
    page.push_str("| Key | Type | Default | Meaning |\n| --- | --- | --- | --- |\n");
    let required = schema["required"].as_array().map(Vec::as_slice).unwrap_or_default();
    let is_required = |key: &str| required.iter().any(|r| r == key);
    let mut properties: Vec<_> = schema["properties"].as_object().into_iter().flatten().collect();
    properties.sort_by_key(|(key, _)| !is_required(key));
    for (key, property) in properties {
        let default = match &property["default"] {
            _ if is_required(key) => "required".to_owned(),
            Value::Null => String::new(),
            Value::String(text) if text.is_empty() => String::new(),
            default => format!("`{default}`"),
        };
        let target = resolve(property, schema);
        let meaning = meaning(property, target);
        let _ = writeln!(page, "| `{key}` | {} | {default} | {meaning} |", type_of(target, schema));
    }
}

/// What a property points to.
fn resolve<'a>(property: &'a Value, schema: &'a Value) -> &'a Value {
    let name = property["$ref"].as_str().and_then(|path| path.strip_prefix("#/$defs/"));
    name.map_or(property, |name| &schema["$defs"][name])
}

fn type_of(property: &Value, schema: &Value) -> String {
    if let Some(words) = words(property) {
        return words.iter().map(|(word, _)| format!("`\"{word}\"`")).collect::<Vec<_>>().join(", ");
    }
    if let Some(choices) = property["anyOf"].as_array() {
        return choices.iter().map(|c| type_of(resolve(c, schema), schema)).collect::<Vec<_>>().join(" or ");
    }
    match property["type"].as_str() {
        Some("array") => format!("list of {}s", type_of(resolve(&property["items"], schema), schema)),
        Some("object") => "table".to_owned(),
        Some("string") if property["pattern"].as_str().is_some_and(|p| p.contains("ms|s|m")) => "time span".to_owned(),
        Some(kind) => kind.to_owned(),
        None => String::new(),
    }
}

/// The key's own words, and those of each value that it may have.
fn meaning(property: &Value, target: &Value) -> String {
    let one_line = |text: &Value| text.as_str().unwrap_or_default().split_whitespace().collect::<Vec<_>>().join(" ");
    let mut text = one_line(&property["description"]);
    for (word, about) in words(target).into_iter().flatten() {
        let about = one_line(about);
        // What the key itself says of a value is more to the point than what its type says.
        if !about.is_empty() && !property["description"].as_str().unwrap_or_default().contains(&format!("`{word}`")) {
            let _ = write!(text, " `{word}`: {}{}", about[..1].to_lowercase(), &about[1..]);
        }
    }
    text.trim().replace('|', "\\|")
}

/// The words of an enumeration, with what is said of each.
fn words(schema: &Value) -> Option<Vec<(&str, &Value)>> {
    if let Some(list) = schema["enum"].as_array() {
        return Some(list.iter().filter_map(|word| Some((word.as_str()?, &Value::Null))).collect());
    }
    schema["oneOf"].as_array()?.iter().map(|one| Some((one["const"].as_str()?, &one["description"]))).collect()
}
