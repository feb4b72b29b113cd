//! A plan in words: one line a step, as `git push` and `reconcilectl plan` show it.

use super::{GONE, Plan, Step};
use crate::change::Change;

impl Plan {
    /// The lines of the plan, without line breaks.
    #[must_use]
    pub fn lines(&self) -> Vec<String> {
        let mut lines: Vec<String> = self.steps.iter().map(step_line).collect();
        lines.extend(self.wakes_in_words().map(|wake| format!("! {wake}")));
        if lines.is_empty() {
            lines.push("nothing to change".to_owned());
        }
        lines
    }
}

/// `~ file:/etc/nginx/nginx.conf (content) [undo: exact]`.
fn step_line(step: &Step) -> String {
    let change = &step.change;
    let name = match (step.resource.as_str(), change) {
        // Implied directories, parts of services and what left the repository have no resource of their own.
        (GONE, _) | (_, Change::Dir { .. } | Change::Unit { .. }) => change.target(),
        (resource, _) => resource.to_owned(),
    };
    let mut line = format!("{} {name}", change.sign());
    if !step.reason.is_empty() {
        line.push_str(&format!(" ({})", step.reason));
    }
    line.push_str(&format!(" [undo: {}]", change.reversibility()));
    line
}
