//! `[vars]`: what a repository tells its templates, merged from all layers.

use std::collections::BTreeMap;

use minijinja::Value as Var;
use toml::de::{DeTable, DeValue};

use super::diagnostic::{Faults, Text};
use super::layers::Layer;
use super::syntax::Value;
use super::table::with_article;

/// Its key.
pub(super) const VARS: &str = "vars";

/// Takes the variables out of the manifests; key by key, also in nested tables, the later layer wins.
pub(super) fn take(layers: &mut [Layer<'_>], text: &Text<'_>, faults: &mut Faults) -> Var {
    let mut all = DeTable::new();
    for layer in layers {
        let Some((key, value)) = layer.root.remove_entry(VARS) else { continue };
        match value.into_inner() {
            DeValue::Table(table) => lay_over(&mut all, table),
            other => {
                let message = format!("`{VARS}` is a table, not {}", with_article(other.type_str()));
                faults.push(text.fault(&key.span(), &message).help("write [vars], and below it domain = \"shop.example\""));
            }
        }
    }
    table(&all, text, faults)
}

fn lay_over<'a>(under: &mut DeTable<'a>, over: DeTable<'a>) {
    for (key, value) in over {
        let span = value.span();
        match (under.get_mut(&key).map(serde_spanned::Spanned::get_mut), value.into_inner()) {
            (Some(DeValue::Table(below)), DeValue::Table(above)) => lay_over(below, above),
            (_, value) => {
                // Not only the value: where it stands is said of its key too.
                under.remove(&key);
                under.insert(key, serde_spanned::Spanned::new(span, value));
            }
        }
    }
}

fn table(table: &DeTable<'_>, text: &Text<'_>, faults: &mut Faults) -> Var {
    let entries = table.iter().map(|(key, value)| (key.get_ref().to_string(), var(value, text, faults)));
    Var::from(entries.collect::<BTreeMap<String, Var>>())
}

/// A value as templates see it; dates and times are their text.
fn var(value: &Value<'_>, text: &Text<'_>, faults: &mut Faults) -> Var {
    match value.get_ref() {
        DeValue::String(written) => Var::from(written.as_ref()),
        DeValue::Boolean(written) => Var::from(*written),
        DeValue::Datetime(written) => Var::from(written.to_string()),
        DeValue::Float(written) => Var::from(written.as_str().parse::<f64>().unwrap_or(f64::NAN)),
        DeValue::Integer(written) => match i64::from_str_radix(written.as_str(), written.radix()) {
            Ok(number) => Var::from(number),
            Err(_) => {
                faults.push(text.fault(&value.span(), "this number is too large").help("put it in quotes"));
                Var::UNDEFINED
            }
        },
        DeValue::Array(items) => Var::from(items.iter().map(|item| var(item, text, faults)).collect::<Vec<_>>()),
        DeValue::Table(inner) => table(inner, text, faults),
    }
}
