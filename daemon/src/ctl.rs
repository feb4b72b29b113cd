//! `reconcilectl`: the operator's verbs, one file each.

pub mod validate;
