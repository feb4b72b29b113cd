//! `reconcilectl status` and `history`.

use super::{Problem, print, say};
use crate::client;
use crate::state::Generation;
use crate::tasks::Status;

fn read(text: &str) -> Result<Status, Problem> {
    serde_json::from_str(text).map_err(|e| Problem::new(format!("the daemon's answer cannot be read: {e}")))
}

/// Exit code 5 when stuck, 1 when a revision is held, 0 otherwise.
pub(super) fn status(json: bool) -> u8 {
    let answer = client::ask(async |m| m.status().await).map_err(Problem::from).and_then(|text| Ok((read(&text)?, text)));
    let (status, text) = match answer {
        Ok(answer) => answer,
        Err(problem) => return say(Err(problem)),
    };
    if json {
        print(&text);
    } else {
        print(&in_words(&status));
    }
    match (&status.stuck[..], &status.held) {
        ([_, ..], _) => 5,
        (_, Some(_)) => 1,
        _ => 0,
    }
}

fn in_words(status: &Status) -> String {
    let or_none = |value: &Option<String>| value.clone().unwrap_or_else(|| "none".to_owned());
    let generation = status.generation.map_or_else(String::new, |n| format!(" (generation {n})"));
    let mut text = format!(
        "phase      {}\nlive       {}{generation}\ndesired    {}\n",
        status.phase,
        or_none(&status.live),
        or_none(&status.desired)
    );
    if let Some(paused) = &status.paused {
        let why = if paused.reason.is_empty() { String::new() } else { format!(": {}", paused.reason) };
        text.push_str(&format!("paused     by {} since {}{why}\n", paused.by, paused.since));
    }
    if let Some(held) = &status.held {
        text.push_str(&format!(
            "held       {} since {}\n           {}\n",
            held.commit,
            held.since,
            held.reason.replace('\n', "\n           ")
        ));
    }
    if let Some(waiting) = &status.unconfirmed {
        let changed = waiting.changed.join(", ");
        text.push_str(&format!("WAITS      generation {} for its confirmation: {changed}\n", waiting.generation));
        text.push_str("           git fetch from elsewhere, or: sudo reconcilectl confirm\n");
    }
    for left in &status.drift {
        text.push_str(&format!("left       {left}\n"));
    }
    for remain in &status.stuck {
        text.push_str(&format!("STUCK      {remain}\n"));
    }
    for (name, remote) in &status.remotes {
        let tip = remote.tip.as_deref().map_or("nothing yet", crate::source::short);
        let answered = remote.answered.as_deref().unwrap_or("never");
        text.push_str(&format!("remote     {name}: {tip}, answered {answered}\n"));
        if let Some(error) = &remote.error {
            text.push_str(&format!("           {error}\n"));
        }
    }
    if let Some(last) = &status.last {
        text.push_str(&format!("last       {}\n", last.lines().next().unwrap_or_default()));
    }
    text.push_str(&format!("audit      {}\n", or_none(&status.audit_head)));
    text
}

pub(super) fn history(json: bool) -> u8 {
    let answer = client::ask(async |m| m.history().await).map_err(Problem::from);
    say(answer.and_then(|text| {
        if json {
            return Ok(text);
        }
        let generations: Vec<Generation> = serde_json::from_str(&text).map_err(|e| Problem::new(e.to_string()))?;
        let line = |g: &Generation| {
            format!("{:>5}  {}  {}  {:12}  {}\n", g.number, g.at, crate::source::short(&g.commit.id), g.actor, g.commit.summary)
        };
        if generations.is_empty() {
            return Ok("nothing has gone live yet".to_owned());
        }
        Ok(generations.iter().map(line).collect())
    }))
}
