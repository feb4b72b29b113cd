//! The `files/` trees of a repository's layers: what stands at `files/etc/x` is wanted at `/etc/x`.

use std::collections::BTreeMap;

use super::diagnostic::{Diagnostic, Faults};
use super::layers::Layer;
use crate::path::{ManagedPath, is_hidden};
use crate::source::{Snapshot, SourceEntry};

/// The folder of the tree.
const FILES: &str = "files";
/// Git keeps no empty directories; this is how people keep one anyway.
const PLACEHOLDER: &str = ".gitkeep";
/// The ending of a template.
const TEMPLATE: &str = ".j2";
/// The ending of a sealed file.
const SEALED: &str = ".age";

/// The entries of the tree by their place on the host.
pub(super) type Tree<'a> = BTreeMap<String, Entry<'a>>;

/// One entry.
#[derive(Clone, Copy, Debug)]
pub(super) struct Entry<'a> {
    /// Its path in the repository.
    pub(super) source: &'a str,
    pub(super) entry: &'a SourceEntry,
    /// Which layer brings it.
    pub(super) layer: usize,
    /// How its content is come by.
    pub(super) form: Form,
}

/// How the content of a file is come by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    /// As it is.
    Plain,
    /// Rendered.
    Template,
    /// Opened on the host that it is sealed to.
    Sealed,
}

impl Form {
    /// By the name of a file, and the name without what says so.
    fn of(name: &str) -> (Self, &str) {
        let of = |ending: &str, form| Some((form, name.strip_suffix(ending)?));
        of(TEMPLATE, Self::Template).or_else(|| of(SEALED, Self::Sealed)).unwrap_or((Self::Plain, name))
    }
}

/// The sealed files of these layers, by their paths in the repository.
pub(super) fn sealed<'a>(snapshot: &'a Snapshot, layers: &[Layer<'_>]) -> Vec<&'a str> {
    let in_layer = |layer: &Layer<'_>| {
        let folder = format!("{}{FILES}/", layer.prefix);
        let paths = snapshot.entries.range(folder.clone()..).map(|(path, _)| path.as_str());
        paths.take_while(move |path| path.starts_with(&folder)).filter(|path| path.ends_with(SEALED))
    };
    layers.iter().flat_map(in_layer).collect()
}

/// Reads the trees of all layers; a place in a later one takes that of an earlier one.
pub(super) fn read<'a>(snapshot: &'a Snapshot, layers: &[Layer<'_>], faults: &mut Faults) -> Tree<'a> {
    let mut tree = Tree::new();
    for (layer, Layer { prefix, .. }) in layers.iter().enumerate() {
        let folder = format!("{prefix}{FILES}");
        if snapshot.entries.contains_key(&folder) {
            let fault = Diagnostic::of_file(&folder, "`files` is no directory");
            faults.push(fault.help("make it one: files/etc/x is /etc/x"));
        }
        for (source, entry) in snapshot.entries.range(format!("{folder}/")..format!("{folder}0")) {
            if source.rsplit('/').next() == Some(PLACEHOLDER) {
                continue;
            }
            let (form, place) = Form::of(&source[folder.len()..]);
            let path = match check(source, place, (form, entry)) {
                Ok(path) => path.as_str().to_owned(),
                Err(fault) => {
                    faults.push(fault);
                    continue;
                }
            };
            let taken = tree.insert(path, Entry { source, entry, layer, form });
            if let Some(other) = taken.filter(|other| other.layer == layer) {
                let fault = Diagnostic::of_file(source, &format!("{} has the same place", crate::path::escape(other.source)));
                faults.push(fault.help("keep one of the two"));
            }
        }
    }
    tree
}

fn check(source: &str, place: &str, (form, entry): (Form, &SourceEntry)) -> Result<ManagedPath, Diagnostic> {
    if form == Form::Sealed && place.ends_with(TEMPLATE) {
        let help = format!("seal what is secret in it alone, and write {{{{ secrets.NAME }}}} in a {TEMPLATE} file");
        return Err(Diagnostic::of_file(source, "a sealed file is not rendered").help(&help));
    }
    if form != Form::Plain && matches!(entry, SourceEntry::Link { .. }) {
        let (ending, what) = if form == Form::Template { (TEMPLATE, "template") } else { (SEALED, "sealed file") };
        let help = format!("take {ending} off its name, or put a file there");
        return Err(Diagnostic::of_file(source, &format!("a symbolic link is no {what}")).help(&help));
    }
    let path = ManagedPath::new(place).map_err(|why| Diagnostic::of_file(source, &why).help("remove it from files/"))?;
    if let SourceEntry::Link { target } = entry
        && let Some(why) = unfit_target(target)
    {
        return Err(Diagnostic::of_file(source, why).help("make the link again: ln -s ../sites-available/shop"));
    }
    Ok(path)
}

/// Why a text can be no link's target.
pub(super) fn unfit_target(target: &str) -> Option<&'static str> {
    match target {
        "" => Some("the link has no target"),
        target if target.len() >= crate::path::PATH_LIMIT => Some("the link's target is too long"),
        target if target.chars().any(is_hidden) => Some("the link's target has an invisible character"),
        _ => None,
    }
}
