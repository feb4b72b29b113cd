//! Roles of PostgreSQL, with their passwords. A password is compared by the verifier that the server keeps, and set as a new one.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::cluster::{Found, InCluster, ROLE, Step, check_missing, check_name, is_setting, look, reason};
use super::{Claim, Drift, KindError, Mistake, Phase, Sealed, Sight, Spec, State};
use crate::postgres::{Password, Role, RoleFacts, RoleSeen, Thing, USER, scram};

/// A role of the PostgreSQL cluster at port 5432. What is not named is not managed; a new role may log in unless `login = false`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct PostgresRoleSpec {
    /// The role's name.
    pub name: String,
    /// Its password: `{ secret = "db_password" }`. It is set as a SCRAM-SHA-256 verifier, and only when another one is there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub password: Option<PasswordSpec>,
    /// Settings of its sessions (`ALTER ROLE … SET`): `{ client_encoding = "utf8", timezone = "UTC" }`. Others stay, also one that
    /// leaves the table: `ALTER ROLE … RESET`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub settings: BTreeMap<String, String>,
    /// It may log in. Where this is not said a new role may, and one with a `password` is kept so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub login: Option<bool>,
    /// It may do everything.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub superuser: Option<bool>,
    /// It may make databases.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub createdb: Option<bool>,
    /// It may make roles.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub createrole: Option<bool>,
    /// What the roles that it is a member of may do, it may as well.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub inherit: Option<bool>,
    /// Row-level security does not hold for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bypassrls: Option<bool>,
    /// It may connect for replication.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replication: Option<bool>,
    /// How many connections it may have at once; -1 is any number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub connection_limit: Option<i32>,
    /// Roles that it is a member of; declared above it where they are new. It stays a member of others, also of one that
    /// leaves the list: `REVOKE` it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub member_of: Vec<String>,
    /// `absent`: it is dropped; refused as long as it owns anything or may do something with it.
    #[serde(default)]
    pub state: State,
    /// What to do when the cluster no longer matches: `repair` (the default), `report` (told, and left until the next push), or `ignore`
    /// (somebody else sees to it).
    #[serde(default, skip_serializing_if = "Drift::is_default")]
    pub drift: Drift,
}

/// Where a password comes from.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema), schemars(with = "Sealed"))]
#[serde(untagged)]
pub enum PasswordSpec {
    /// A secret of the repository.
    Sealed(Sealed),
    /// In plain text, which is refused.
    Plain(String),
}

/// Never the text.
impl std::fmt::Debug for PasswordSpec {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Sealed(sealed) => sealed.fmt(f),
            Self::Plain(_) => f.write_str("Plain"),
        }
    }
}

impl Spec for PostgresRoleSpec {
    const KIND: &'static str = ROLE;
    const KEY: &'static str = "name";
    const PHASE: Phase = Phase::Databases;
    const ABOUT: &'static str =
        "A role of PostgreSQL. It is let go when it leaves the repository: `state = \"absent\"` drops one that owns nothing.";
    const EXAMPLE: &'static str = "[[postgres_role]]\nname = \"myprojectuser\"\npassword = { secret = \"db_password\" }\nsettings = { client_encoding = \"utf8\", timezone = \"UTC\" }\n";

    fn name(&self) -> String {
        self.name.clone()
    }

    fn check(&self) -> Result<(), Mistake> {
        let bad = |key, message: &str, help: &str| Err(Mistake { key, message: message.to_owned(), help: help.to_owned() });
        check_name("name", &self.name)?;
        self.member_of.iter().try_for_each(|name| check_name("member_of", name))?;
        if matches!(self.password, Some(PasswordSpec::Plain(_))) {
            let help = "seal it with `ssh HOST reconcilectl secret seal <plain >secrets/db_password.age`, commit that, \
                and write password = { secret = \"db_password\" }";
            return bad("password", "a password does not stand in a repository as it is", help);
        }
        if let Some(name) = self.settings.keys().find(|name| !is_setting(name)) {
            let message = format!("`{}` is not a setting", crate::path::escape(name));
            return bad("settings", &message, "write names as pg_settings has them: letters, digits and _");
        }
        if self.settings.keys().any(|name| matches!(name.to_ascii_lowercase().as_str(), "role" | "session_authorization")) {
            return bad("settings", "a role that becomes another one is not managed", "use member_of");
        }
        if self.connection_limit.is_some_and(|limit| limit < -1) {
            return bad("connection_limit", "a limit is not negative", "write a number, or -1 for any number");
        }
        let loses = self.login == Some(false) || self.superuser == Some(false) || self.state == State::Absent;
        if self.name == USER && loses {
            return bad("name", "everything in PostgreSQL is done by way of `postgres`", "leave it what it is");
        }
        let plain = Self { name: self.name.clone(), state: State::Absent, drift: self.drift, ..Self::default() };
        if self.state == State::Absent && *self != plain {
            return bad("state", "an absent role has nothing else", "drop the other keys, or `state`");
        }
        Ok(())
    }

    fn claims(&self, sight: &Sight<'_>) -> Result<Vec<Claim>, KindError> {
        let mut role = self.role();
        let Found { cluster, seen }: Found<RoleSeen> = look(&self.thing(), sight)?;
        check_missing(&seen.missing, (ROLE, &self.name), sight)?;
        if role.facts.is_none() && !seen.holds.is_empty() {
            return Err(KindError::Impossible(format!(
                "the role `{}` cannot be dropped, since there is still {}: see REASSIGN OWNED and DROP OWNED",
                crate::path::escape(&self.name),
                crate::path::escape(&seen.holds.join(", "))
            )));
        }
        if let (Some(facts), Some(PasswordSpec::Sealed(sealed))) = (&mut role.facts, &self.password) {
            facts.password = Some(password(sight.secret(&sealed.secret)?, &sealed.secret, &seen)?);
        }
        let (before, after) = (role.answer(seen.facts.as_ref()), role.answer(role.facts.as_ref()));
        let mut new = role.clone();
        if let (Some(facts), None) = (&mut new.facts, &seen.facts) {
            facts.attributes.entry("login".to_owned()).or_insert(true);
        }
        let differing = match (&role.facts, &seen.facts) {
            (Some(wanted), Some(there)) => wanted.differing(there),
            _ => vec!["drop".to_owned()],
        };
        let step = Step {
            cluster,
            target: format!("{ROLE}:{}", self.name),
            reason: reason(&before, &differing),
            before,
            after,
            managed: Thing::Role(role.clone()),
            forward: Thing::Role(new),
            backward: Some(Thing::Role(Role { name: role.name, facts: seen.facts })),
        };
        Ok(vec![step.claim()])
    }
}

impl InCluster for PostgresRoleSpec {
    fn thing(&self) -> Thing {
        Thing::Role(self.role())
    }
}

impl PostgresRoleSpec {
    /// What is asked for; of a password only that there is one.
    fn role(&self) -> Role {
        Role { name: self.name.clone(), facts: (self.state == State::Present).then(|| self.facts()) }
    }

    /// What is managed; of a password only that it is.
    fn facts(&self) -> RoleFacts {
        let attributes = [
            ("login", self.login.or(self.password.is_some().then_some(true))),
            ("superuser", self.superuser),
            ("createdb", self.createdb),
            ("createrole", self.createrole),
            ("inherit", self.inherit),
            ("bypassrls", self.bypassrls),
            ("replication", self.replication),
        ];
        RoleFacts {
            attributes: attributes.into_iter().filter_map(|(name, on)| Some((name.to_owned(), on?))).collect(),
            connection_limit: self.connection_limit,
            password: self.password.as_ref().map(|_| Password::None),
            settings: self.settings.iter().map(|(name, value)| (name.to_ascii_lowercase(), Some(value.clone()))).collect(),
            member_of: self.member_of.iter().map(|name| (name.clone(), true)).collect(),
        }
    }
}

/// What the server is to keep: what it keeps where that is of this password (another salt would look like a change each time, and take the
/// connections of poolers that keep verifiers themselves), else a new verifier.
fn password(secret: &[u8], name: &str, seen: &RoleSeen) -> Result<Password, KindError> {
    let name = crate::path::escape(name);
    let text = crate::secrets::text(secret).unwrap_or_default();
    // Of other characters every client makes something else (SASLprep, RFC 4013).
    if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_graphic() || byte == b' ') {
        return Err(KindError::Impossible(format!(
            "the secret `{name}` is no password for PostgreSQL: use printable ASCII characters, at least one, and seal it anew"
        )));
    }
    if let Some(Password::Verifier(there)) = seen.facts.as_ref().and_then(|facts| facts.password.as_ref())
        && scram::is_of(there, text)
    {
        return Ok(Password::Verifier(there.clone()));
    }
    if seen.salt.len() != 2 * scram::SALT || !seen.salt.is_ascii() {
        return Err(KindError::Impossible("the look at PostgreSQL gave no salt".to_owned()));
    }
    let byte = |at: usize| u8::from_str_radix(&seen.salt[2 * at..2 * at + 2], 16);
    let salt: Result<Vec<u8>, _> = (0..scram::SALT).map(byte).collect();
    let salt = salt.map_err(|_| KindError::Impossible("the look at PostgreSQL gave no salt".to_owned()))?;
    Ok(Password::Verifier(scram::verifier(text, &salt)))
}
