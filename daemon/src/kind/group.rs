//! Groups of group(5).

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::user::{accounts, check_name, claim, declared};
use super::{Claim, Drift, KindError, Mistake, Phase, Sight, Spec, State, UserSpec};
use crate::accounts::{FIRST_OF_HOST, GroupRequest, Request};

/// A group. One that is there keeps its id and its members unless `gid` is set.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct GroupSpec {
    /// The group's name: `deployers`.
    pub name: String,
    /// Its id; by default the next one that is free.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gid: Option<u32>,
    /// A new one gets an id of those for the system's groups.
    #[serde(default)]
    pub system: bool,
    /// `absent`: it is removed. Files that belong to it stay.
    #[serde(default)]
    pub state: State,
    /// What to do when the host no longer matches: `repair` (the default), `report` (told, and left until the next push), or `ignore`
    /// (somebody else sees to it).
    #[serde(default, skip_serializing_if = "Drift::is_default")]
    pub drift: Drift,
}

impl Spec for GroupSpec {
    const KIND: &'static str = "group";
    const SHORT: Option<&'static str> = Some("groups");
    const KEY: &'static str = "name";
    const PHASE: Phase = Phase::Accounts;
    const ABOUT: &'static str = "A group. Users are put into it by their own `groups`. One that leaves the repository is let go: `state = \"absent\"` removes it.";
    const EXAMPLE: &'static str = "[[group]]\nname = \"deployers\"\n";

    fn name(&self) -> String {
        self.name.clone()
    }

    fn check(&self) -> Result<(), Mistake> {
        check_name("name", &self.name)?;
        match self.state {
            State::Absent if self.gid.is_some() => Err(Mistake {
                key: "gid",
                message: "an absent group has no id".to_owned(),
                help: "drop `gid`, or `state`".to_owned(),
            }),
            _ => Ok(()),
        }
    }

    fn claims(&self, sight: &Sight<'_>) -> Result<Vec<Claim>, KindError> {
        let accounts = accounts(sight, self.state == State::Absent)?;
        let there = accounts.group(&self.name);
        let is_systems = there.is_some_and(|group| group.gid < FIRST_OF_HOST) || self.name == "reconciled";
        if self.state == State::Absent && is_systems {
            return Err(KindError::Impossible(format!(
                "the group {} belongs to the system and is not removed: drop `state = \"absent\"`",
                self.name
            )));
        }
        let request = Request::Group(GroupRequest {
            name: self.name.clone(),
            present: self.state == State::Present,
            gid: self.gid,
            system: self.system,
            before: there.map(|group| (group.gid, group.members.clone())),
            secret: accounts.secret(&self.name).map(str::to_owned),
            declared: if self.state == State::Absent { declared(UserSpec::KIND, sight) } else { BTreeSet::new() },
        });
        let reason = match (self.state, there, self.gid) {
            (State::Absent, ..) => "remove".to_owned(),
            (_, Some(group), Some(gid)) => format!("gid {} → {gid}", group.gid),
            _ => "new".to_owned(),
        };
        let before = accounts.answer(&request, |_| None);
        Ok(vec![claim(format!("group:{}", self.name), &request, before, reason)])
    }
}
