//! SQL for psql: what is asked and what is done, with every name and value quoted here, since neither takes parameters. Pure.

use std::time::Duration;

use super::{APPLICATION, Database, DatabaseFacts, LEFT, Password, Role, RoleFacts, Setting, USER};

/// What a session begins with. Who owns a database sets its defaults, and may have put things of the same name before the server's own, or
/// another identity in the place of ours.
pub const OPTIONS: &str = "-c search_path=pg_catalog,pg_temp -c role=none -c default_transaction_read_only=off";

/// What comes before every script. Names are the server's own; its statements are in no log and no view of the server: one may hold a verifier.
/// What nobody waits for any more ends by itself. Not every server knows all of these settings.
pub const PREAMBLE: &str = "SET search_path = pg_catalog, pg_temp;\nSET standard_conforming_strings = on;\nSET log_statement = none;\nSET log_min_duration_statement = -1;\n\
    SET log_min_error_statement = panic;\nSET client_min_messages = warning;\n\
    SELECT count(set_config(name, value, false)) AS set FROM (VALUES ('log_duration', 'off'), ('log_min_duration_sample', '-1'), \
    ('log_transaction_sample_rate', '0'), ('debug_print_parse', 'off'), ('debug_print_rewritten', 'off'), ('debug_print_plan', 'off'), \
    ('track_activities', 'off'), ('pg_stat_statements.track_utility', 'off'), ('auto_explain.log_min_duration', '-1'), \
    ('client_connection_check_interval', '1s'), ('lock_timeout', '30s')) AS wanted(name, value) \
    WHERE EXISTS (SELECT FROM pg_settings AS known WHERE known.name = wanted.name) \\gset\n";

/// How long the server works on one statement.
#[must_use]
pub fn limit(limit: Duration) -> String {
    format!("SET statement_timeout = '{}s';\n", limit.as_secs())
}

/// Ends what other sessions of ours have going, and answers with how many there were: whoever waited for them has been killed.
#[must_use]
pub fn end_left_over() -> String {
    format!(
        "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE application_name = {} AND usename = {} AND backend_type = 'client backend' AND pid <> pg_backend_pid();\n",
        text(APPLICATION),
        text(USER)
    )
}

/// Settings whose values are lists of names: each is quoted for itself (`variable_is_guc_list_quote` of pg_dump).
const LISTS: [&str; 6] = [
    "local_preload_libraries",
    "search_path",
    "session_preload_libraries",
    "shared_preload_libraries",
    "temp_tablespaces",
    "unix_socket_directories",
];
/// Those of them whose names are of things in the database: in lower case, unless they are quoted.
const NAMES: [&str; 2] = ["search_path", "temp_tablespaces"];

/// A name.
#[must_use]
pub fn name(text: &str) -> String {
    format!("\"{}\"", text.replace('"', "\"\""))
}

/// A text.
#[must_use]
pub fn text(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

/// A list of texts that may be empty.
fn texts<'a>(items: impl IntoIterator<Item = &'a str>) -> String {
    format!("ARRAY[{}]::text[]", items.into_iter().map(text).collect::<Vec<_>>().join(", "))
}

/// The name of a setting: words with dots between them.
fn setting_name(setting: &str) -> String {
    setting.split('.').map(name).collect::<Vec<_>>().join(".")
}

/// The value of a setting.
fn setting_value(setting: &str, value: &str) -> String {
    match items(setting, value) {
        Some(items) if !items.is_empty() => items.iter().map(|item| text(item)).collect::<Vec<_>>().join(", "),
        _ => text(value),
    }
}

/// What stands in a list of names, as the server reads it; `None` for a setting that is none.
#[must_use]
pub fn items(setting: &str, value: &str) -> Option<Vec<String>> {
    if !LISTS.contains(&setting) {
        return None;
    }
    let of_names = NAMES.contains(&setting);
    let (mut items, mut item, mut is_quoted) = (Vec::new(), String::new(), false);
    let mut chars = value.chars().peekable();
    let mut in_quotes = false;
    let mut end = |item: &mut String, is_quoted: &mut bool| {
        let text = std::mem::take(item);
        let plain = text.trim();
        match std::mem::take(is_quoted) {
            true => items.push(text),
            false if plain.is_empty() => {}
            false => items.push(if of_names { plain.to_lowercase() } else { plain.to_owned() }),
        }
    };
    while let Some(c) = chars.next() {
        match c {
            '"' if in_quotes && chars.peek() == Some(&'"') => item.extend(chars.next()),
            '"' => (in_quotes, is_quoted) = (!in_quotes, true),
            ',' if !in_quotes => end(&mut item, &mut is_quoted),
            c if in_quotes || !c.is_whitespace() || !(is_quoted || item.is_empty()) => item.push(c),
            _ => {}
        }
    }
    end(&mut item, &mut is_quoted);
    Some(items)
}

/// The value of a setting, so that those of two lists of the same names are the same: the server quotes some where nobody has.
#[must_use]
pub fn canonical(setting: &str, value: String) -> String {
    let Some(items) = items(setting, &value) else { return value };
    let is_plain = |item: &str| {
        let folds = NAMES.contains(&setting) && item.chars().any(char::is_uppercase);
        !item.is_empty() && !folds && !item.contains(|c: char| c == ',' || c == '"' || c.is_whitespace())
    };
    let quoted = |item: &String| if is_plain(item) { item.clone() } else { name(item) };
    items.iter().map(quoted).collect::<Vec<_>>().join(", ")
}

/// Names that are no roles here, as a list.
fn missing<'a>(roles: impl IntoIterator<Item = &'a str>) -> String {
    let roles = texts(roles);
    format!("ARRAY(SELECT named FROM unnest({roles}) AS named WHERE NOT EXISTS (SELECT FROM pg_roles WHERE rolname = named))")
}

/// Answers with one JSON object of a [`super::RoleSeen`] that has everything, its salt left out.
#[must_use]
pub fn look_at_role(role: &Role) -> String {
    let groups = role.facts.iter().flat_map(|facts| facts.member_of.keys()).map(String::as_str);
    let (own, missing) = (text(&role.name), missing(groups));
    // What was left is there for who wants it gone.
    let in_use = match role.facts {
        Some(_) => format!(" AND (rolcanlogin OR shobj_description(r.oid, 'pg_authid') IS DISTINCT FROM {})", text(LEFT)),
        None => String::new(),
    };
    format!(
        "SELECT json_build_object('missing', {missing}, 'salt', '', 'holds', coalesce(holds, ARRAY[]::text[]), 'facts', facts) FROM (VALUES (1)) AS one LEFT JOIN (
SELECT json_build_object(
  'attributes', json_build_object('login', rolcanlogin, 'superuser', rolsuper, 'createdb', rolcreatedb, 'createrole', rolcreaterole,
    'replication', rolreplication, 'inherit', rolinherit, 'bypassrls', rolbypassrls),
  'connection_limit', rolconnlimit,
  'password', CASE WHEN rolpassword IS NULL THEN '\"none\"'::json ELSE json_build_object('verifier', rolpassword) END,
  'settings', (SELECT coalesce(json_object_agg(lower(split_part(line, '=', 1)), substr(line, strpos(line, '=') + 1)), '{{}}')
    FROM pg_db_role_setting, unnest(setconfig) AS line WHERE setrole = r.oid AND setdatabase = 0),
  'member_of', (SELECT coalesce(json_object_agg(g.rolname, true), '{{}}') FROM pg_auth_members JOIN pg_roles AS g ON g.oid = roleid WHERE member = r.oid)
) AS facts,
ARRAY(SELECT DISTINCT CASE WHEN classid = 'pg_database'::regclass THEN concat('the database ', (SELECT datname FROM pg_database WHERE oid = objid))
    ELSE concat('objects in ', coalesce((SELECT datname FROM pg_database WHERE oid = dbid), 'the cluster')) END
  FROM pg_shdepend WHERE refclassid = 'pg_authid'::regclass AND refobjid = r.oid)
|| ARRAY(SELECT concat('the member ', m.rolname) FROM pg_auth_members JOIN pg_roles AS m ON m.oid = member WHERE roleid = r.oid) AS holds
FROM pg_authid AS r WHERE rolname = {own}{in_use}) AS found ON true;\n"
    )
}

/// Answers with a line for each of these settings of sessions, a JSON list of both values as the server has them once they are set.
#[must_use]
pub fn normal(settings: &[(&str, &str, &str)]) -> String {
    // What only a new connection takes cannot be tried.
    let set = |name: &str, value: &str| {
        let (name, value) = (text(name), text(value));
        let late = format!(
            "EXISTS (SELECT FROM pg_settings WHERE lower(name) = {name} AND context IN ('backend', 'superuser-backend'))"
        );
        format!("CASE WHEN {late} THEN {value} ELSE set_config({name}, {value}, true) END")
    };
    let one =
        |(name, one, other): &(&str, &str, &str)| format!("SELECT json_build_array({}, {});\n", set(name, one), set(name, other));
    settings.iter().map(one).collect()
}

/// Makes a role as it is to be.
#[must_use]
pub fn make_role(role: &Role) -> String {
    let own = name(&role.name);
    let Some(facts) = &role.facts else { return format!("DROP ROLE IF EXISTS {own};\n") };
    let create = unless_there(&format!("CREATE ROLE {own}"), "pg_roles", "rolname", &role.name);
    // One that was left is in use again.
    let taken = format!(
        "SELECT {} FROM pg_roles WHERE rolname = {} AND shobj_description(oid, 'pg_authid') = {} \\gexec\n",
        text(&format!("COMMENT ON ROLE {own} IS NULL")),
        text(&role.name),
        text(LEFT)
    );
    format!("BEGIN;\n{create}{}{taken}COMMIT;\n", alter_role(&own, facts))
}

/// Makes a role what it was before; one that was not there stays if something depends on it, with nothing that it could be used by.
#[must_use]
pub fn undo_role(role: &Role) -> String {
    if role.facts.is_some() {
        return make_role(role);
    }
    let (own, named) = (name(&role.name), text(&role.name));
    let alter = "NOLOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION NOBYPASSRLS INHERIT CONNECTION LIMIT -1 PASSWORD NULL";
    let body = format!(
        "DECLARE other name; BEGIN DROP ROLE IF EXISTS {own}; EXCEPTION WHEN dependent_objects_still_exist THEN
ALTER ROLE {own} WITH {alter}; ALTER ROLE {own} RESET ALL; COMMENT ON ROLE {own} IS {};
FOR other IN SELECT g.rolname FROM pg_auth_members JOIN pg_roles AS g ON g.oid = roleid JOIN pg_roles AS r ON r.oid = member WHERE r.rolname = {named}
LOOP EXECUTE format('REVOKE %I FROM %I', other, {named}); END LOOP; END",
        text(LEFT)
    );
    format!("DO {};\n", text(&body))
}

fn alter_role(own: &str, facts: &RoleFacts) -> String {
    let mut words: Vec<String> = Vec::new();
    for (name, on) in &facts.attributes {
        words.push(format!("{}{}", if *on { "" } else { "NO" }, name.to_ascii_uppercase()));
    }
    words.extend(facts.connection_limit.map(|limit| format!("CONNECTION LIMIT {limit}")));
    words.extend(facts.password.as_ref().map(|password| match password {
        Password::None => "PASSWORD NULL".to_owned(),
        Password::Verifier(verifier) => format!("PASSWORD {}", text(verifier)),
    }));
    let mut sql = if words.is_empty() { String::new() } else { format!("ALTER ROLE {own} WITH {};\n", words.join(" ")) };
    for (setting, value) in &facts.settings {
        let named = setting_name(setting);
        sql += &match value {
            Some(value) => format!("ALTER ROLE {own} SET {named} TO {};\n", setting_value(setting, value)),
            None => format!("ALTER ROLE {own} RESET {named};\n"),
        };
    }
    for (group, is_member) in &facts.member_of {
        let group = name(group);
        sql += &if *is_member { format!("GRANT {group} TO {own};\n") } else { format!("REVOKE {group} FROM {own};\n") };
    }
    sql
}

/// A statement that is carried out when nothing has this name.
fn unless_there(statement: &str, catalog: &str, column: &str, own: &str) -> String {
    format!("SELECT {} WHERE NOT EXISTS (SELECT FROM {catalog} WHERE {column} = {}) \\gexec\n", text(statement), text(own))
}

/// Answers with one JSON object of a [`super::DatabaseSeen`], its installed extensions left out.
#[must_use]
pub fn look_at_database(database: &Database) -> String {
    let managed = database.facts.clone().unwrap_or_default();
    let (own, missing) = (text(&database.name), missing(managed.roles()));
    let extensions = texts(managed.extensions.keys().map(String::as_str));
    let fixed = |what: &str, wanted: Option<&String>, is: &str, shown: &str| match wanted {
        None => "NULL".to_owned(),
        Some(wanted) => format!("CASE WHEN {} THEN NULL ELSE concat('{what} ', {shown}) END", is.replace("$1", &text(wanted))),
    };
    // `C.UTF-8` and `C.utf8` are one locale.
    let same = |column: &str| format!("lower(replace({column}, '-', '')) = lower(replace($1, '-', ''))");
    let encoding = "pg_char_to_encoding($1) = encoding";
    let fixed = [
        fixed("encoding", managed.encoding.as_ref(), encoding, "pg_encoding_to_char(encoding)"),
        fixed("lc_collate", managed.lc_collate.as_ref(), &same("datcollate"), "datcollate"),
        fixed("lc_ctype", managed.lc_ctype.as_ref(), &same("datctype"), "datctype"),
    ];
    format!(
        "SELECT json_build_object('missing', {missing}, 'fixed', coalesce(fixed, ARRAY[]::text[]), 'facts', facts, 'unknown',
  ARRAY(SELECT named FROM unnest({extensions}) AS named WHERE NOT EXISTS (SELECT FROM pg_available_extensions WHERE name = named))
) FROM (VALUES (1)) AS one LEFT JOIN (
SELECT json_build_object('owner', pg_get_userbyid(datdba), 'grants', {}) AS facts, array_remove(ARRAY[{}]::text[], NULL) AS fixed
FROM pg_database AS d WHERE datname = {own}) AS found ON true;\n",
        granted(&managed),
        fixed.join(", "),
    )
}

/// Which of the managed privileges there are, also by way of PUBLIC or another role.
fn granted(managed: &DatabaseFacts) -> String {
    let of_role = |(role, privileges): (&String, &std::collections::BTreeMap<String, bool>)| {
        let own = text(role);
        let has = |privilege: &String| {
            let privilege = text(privilege);
            format!(
                "{privilege}, coalesce((SELECT has_database_privilege(oid, d.oid, {privilege}) FROM pg_roles WHERE rolname = {own}), false)"
            )
        };
        format!("{own}, json_build_object({})", privileges.keys().map(has).collect::<Vec<_>>().join(", "))
    };
    format!("json_build_object({})", managed.grants.iter().map(of_role).collect::<Vec<_>>().join(", "))
}

/// Answers with the extensions of the database that it is asked in, as a JSON object: those in use, or those that were left.
#[must_use]
pub fn extensions(are_in_use: bool) -> String {
    let is = if are_in_use { "IS DISTINCT FROM" } else { "=" };
    format!(
        "SELECT coalesce(pg_catalog.json_object_agg(extname, true), '{{}}') FROM pg_catalog.pg_extension WHERE pg_catalog.obj_description(oid, 'pg_extension') {is} {};\n",
        text(LEFT)
    )
}

/// Makes a database as it is to be, but for its extensions; asked in another database.
#[must_use]
pub fn make_database(database: &Database) -> String {
    let own = name(&database.name);
    let Some(facts) = &database.facts else {
        let force = if database.disconnect { " WITH (FORCE)" } else { "" };
        return format!("DROP DATABASE IF EXISTS {own}{force};\n");
    };
    // Another encoding or locale than the model's is possible with this one alone.
    let mut create = format!("CREATE DATABASE {own} TEMPLATE template0");
    for (word, value) in [
        ("ENCODING", facts.encoding.as_ref().map(|value| text(value))),
        ("LC_COLLATE", facts.lc_collate.as_ref().map(|value| text(value))),
        ("LC_CTYPE", facts.lc_ctype.as_ref().map(|value| text(value))),
        ("OWNER", facts.owner.as_ref().map(|value| name(value))),
    ] {
        create += &value.map(|value| format!(" {word} {value}")).unwrap_or_default();
    }
    let mut sql = unless_there(&create, "pg_database", "datname", &database.name);
    sql += &facts.owner.as_ref().map(|owner| format!("ALTER DATABASE {own} OWNER TO {};\n", name(owner))).unwrap_or_default();
    for (role, privileges) in &facts.grants {
        for (privilege, has) in privileges {
            let role = name(role);
            sql += &if *has {
                format!("GRANT {privilege} ON DATABASE {own} TO {role};\n")
            } else {
                format!("REVOKE {privilege} ON DATABASE {own} FROM {role};\n")
            };
        }
    }
    sql
}

/// Makes the extensions of the database that it is asked in as they are to be; nothing where none is managed.
#[must_use]
pub fn make_extensions(facts: &DatabaseFacts) -> String {
    all_extensions(facts, |extension| format!("DROP EXTENSION IF EXISTS {};\n", name(extension)))
}

/// Makes them what they were before; one that was not there stays if something depends on it.
#[must_use]
pub fn undo_extensions(facts: &DatabaseFacts) -> String {
    all_extensions(facts, |extension| {
        let (own, left) = (name(extension), text(LEFT));
        let body = format!(
            "BEGIN DROP EXTENSION IF EXISTS {own}; EXCEPTION WHEN dependent_objects_still_exist THEN COMMENT ON EXTENSION {own} IS {left}; END"
        );
        format!("DO {};\n", text(&body))
    })
}

fn all_extensions(facts: &DatabaseFacts, drop: impl Fn(&String) -> String) -> String {
    if facts.extensions.is_empty() {
        return String::new();
    }
    let of = |wanted: bool| {
        facts.extensions.iter().filter(move |(_, is_wanted)| **is_wanted == wanted).map(|(extension, _)| extension)
    };
    // One that was left gets back what its package says of it.
    let take = |extension: &String| {
        format!(
            "SELECT format('COMMENT ON EXTENSION %I IS %L', extname, comment) FROM pg_extension LEFT JOIN pg_available_extensions ON name = extname WHERE extname = {} AND obj_description(oid, 'pg_extension') = {} \\gexec\n",
            text(extension),
            text(LEFT)
        )
    };
    let create = |extension: &String| format!("CREATE EXTENSION IF NOT EXISTS {};\n", name(extension));
    let (gone, taken, made): (String, String, String) =
        (of(false).map(drop).collect(), of(true).map(take).collect(), of(true).map(create).collect());
    // Those that name no schema of their own go where everybody looks for them. Nothing else is looked up there: whoever owns the database
    // may make what he likes in it.
    format!("BEGIN;\n{gone}{taken}SET LOCAL search_path = public;\n{made}COMMIT;\n")
}

/// Answers with one JSON object of a [`super::Live`], and with when the server has read its files, in microseconds since 1970; with nothing
/// for a setting that there is not. What the session has set for itself is no setting of the server.
#[must_use]
pub fn look_at_setting(setting: &Setting) -> String {
    format!(
        "SELECT json_build_array(json_build_object('setting', CASE source WHEN 'session' THEN reset_val ELSE setting END,
  'shown', CASE source WHEN 'session' THEN reset_val ELSE current_setting(name) END, 'context', context, 'pending_restart', pending_restart),
  (extract(epoch FROM pg_conf_load_time()) * 1000000)::bigint) FROM pg_settings WHERE lower(name) = {};\n",
        text(&setting.name)
    )
}

/// Sets a setting of the server, and has it read its files.
#[must_use]
pub fn make_setting(setting: &Setting) -> String {
    let named = setting_name(&setting.name);
    let change = match &setting.value {
        Some(value) => format!("ALTER SYSTEM SET {named} TO {};\n", setting_value(&setting.name, value)),
        None => format!("ALTER SYSTEM RESET {named};\n"),
    };
    format!("{change}SELECT pg_reload_conf();\n")
}

/// Answers with when the server has read its files, in microseconds since 1970.
#[must_use]
pub fn loaded_at() -> &'static str {
    "SELECT (extract(epoch FROM pg_conf_load_time()) * 1000000)::bigint;\n"
}
