//! What a worker takes from itself once it runs (landlock(7)): cheaper by far than a mount namespace for each, and just as
//! final. It adds to what the unit's own directives take; on a kernel without Landlock those have to do.

use landlock::{
    ABI, Access, AccessFs, BitFlags, CompatLevel, Compatible, Ruleset, RulesetAttr, RulesetCreatedAttr, RulesetError,
    path_beneath_rules,
};

/// The newest Landlock version that is asked for; older kernels grant what they know.
const VERSION: ABI = ABI::V5;

/// From here on this process and its children can read only below `readable` and write only below `writable`.
///
/// # Errors
/// When the kernel has Landlock and refuses.
pub fn confine(readable: &[&str], writable: &[&str]) -> Result<(), String> {
    restrict(AccessFs::from_all(VERSION), readable, writable).map_err(|e| format!("landlock: {e}"))
}

/// From here on this process and its children can write nothing.
///
/// # Errors
/// When the kernel has Landlock and refuses.
pub fn write_nothing() -> Result<(), String> {
    restrict(AccessFs::from_write(VERSION), &[], &[]).map_err(|e| format!("landlock: {e}"))
}

fn restrict(handled: BitFlags<AccessFs>, readable: &[&str], writable: &[&str]) -> Result<(), RulesetError> {
    Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(handled)?
        .create()?
        .add_rules(path_beneath_rules(readable, AccessFs::from_read(VERSION)))?
        .add_rules(path_beneath_rules(writable, AccessFs::from_all(VERSION)))?
        .restrict_self()
        .map(drop)
}
