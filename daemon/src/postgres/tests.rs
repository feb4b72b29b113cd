//! Answers, and the SQL that is asked and done.

use std::collections::BTreeMap;

use super::{ABSENT, Asked, Database, DatabaseFacts, Password, Role, RoleFacts, Setting, SettingSeen, sql};

fn flags(list: &[(&str, bool)]) -> BTreeMap<String, bool> {
    list.iter().map(|(name, on)| ((*name).to_owned(), *on)).collect()
}

fn settings(list: &[(&str, &str)]) -> BTreeMap<String, Option<String>> {
    list.iter().map(|(name, value)| ((*name).to_owned(), Some((*value).to_owned()))).collect()
}

fn verifier(text: &str) -> Option<Password> {
    Some(Password::Verifier(text.to_owned()))
}

#[test]
fn a_role_answers_what_is_managed_of_it() {
    let wanted = RoleFacts {
        attributes: flags(&[("login", true), ("superuser", false)]),
        connection_limit: Some(5),
        password: verifier("v1"),
        settings: settings(&[("client_encoding", "utf8"), ("timezone", "UTC")]),
        member_of: flags(&[("staff", true)]),
    };
    let role = Role { name: "x".to_owned(), facts: Some(wanted.clone()) };
    let goal =
        "login nosuperuser connection_limit=5 password=as wanted settings(client_encoding=utf8, timezone=UTC) member_of(staff)";
    assert_eq!(role.answer(role.facts.as_ref()), goal);
    assert_eq!(role.answer(None), ABSENT);
    assert_eq!(
        role.answer(Some(&RoleFacts::default())),
        "nologin nosuperuser connection_limit=-1 password=none settings() member_of()"
    );
    let other = RoleFacts { password: verifier("v2"), ..wanted.clone() };
    assert_eq!(role.answer(Some(&other)), goal.replace("as wanted", "other"));
    assert_eq!(wanted.differing(&other), ["password"]);
    let more = RoleFacts { settings: settings(&[("timezone", "a\nb"), ("work_mem", "1")]), ..wanted.clone() };
    assert_eq!(role.answer(Some(&more)), goal.replace("client_encoding=utf8, timezone=UTC", "timezone=a\\u{a}b"));
    assert_eq!(wanted.differing(&more), ["client_encoding", "timezone"]);
    assert_eq!(wanted.differing(&wanted), [""; 0]);
    // What only has a name is there or not.
    let plain = Role { name: "x".to_owned(), facts: Some(RoleFacts::default()) };
    assert_eq!([plain.answer(Some(&wanted)), plain.answer(None)], ["present", ABSENT]);
    // The way back of a change knows of what is managed alone, also that it was not there.
    let part = more.part(&wanted);
    assert_eq!(part.settings.get("client_encoding"), Some(&None));
    assert_eq!(part.settings.get("work_mem"), None);
    assert_eq!(RoleFacts::default().part(&wanted).member_of, flags(&[("staff", false)]));
    assert!(!format!("{wanted:?}").contains("v1"), "a verifier is not shown");
}

#[test]
fn a_database_answers_what_is_managed_of_it() {
    let facts = |owner: &str, extension, connect| DatabaseFacts {
        owner: Some(owner.to_owned()),
        encoding: Some("UTF8".to_owned()),
        extensions: flags(&[("pg_trgm", extension)]),
        grants: BTreeMap::from([("reports".to_owned(), flags(&[("CONNECT", connect), ("CREATE", connect)]))]),
        ..DatabaseFacts::default()
    };
    let wanted = facts("x", true, true);
    let database = Database { name: "d".to_owned(), facts: Some(wanted.clone()), disconnect: false };
    assert_eq!(database.answer(Some(&wanted)), "owner=x extensions(pg_trgm) grants(reports: CONNECT CREATE)");
    assert_eq!(database.answer(Some(&facts("y", false, false))), "owner=y extensions() grants()");
    assert_eq!(database.answer(None), ABSENT);
    assert_eq!(wanted.differing(&facts("y", false, false)), ["owner y → x", "extension pg_trgm", "grants to reports"]);
    let part = DatabaseFacts { owner: Some("y".to_owned()), ..DatabaseFacts::default() }.part(&wanted);
    assert_eq!(part, DatabaseFacts { encoding: None, ..facts("y", false, false) });
    assert_eq!(wanted.roles().into_iter().collect::<Vec<_>>(), ["reports", "x"]);
}

#[test]
fn a_setting_answers_what_the_files_say() {
    let setting = |value: Option<&str>| Setting { name: "log_line_prefix".to_owned(), value: value.map(str::to_owned) };
    let seen = |wanted: Option<&str>, former: Option<&str>, unread| SettingSeen {
        configured: "%m ".to_owned(),
        wanted: wanted.map(str::to_owned),
        former: former.map(str::to_owned),
        unread,
        ..SettingSeen::default()
    };
    let (set, reset) = (setting(Some("%m ")), setting(None));
    let there = seen(Some("%m "), None, false);
    assert_eq!([set.answer(&there), set.goal(&there)], ["'%m '", "'%m '"], "however it comes to be so");
    assert_eq!(set.answer(&seen(Some("%m "), None, true)), "'%m ' (not read yet)");
    assert_eq!([reset.answer(&seen(None, None, false)), reset.goal(&there)], [ABSENT, "'%m '"]);
    assert_eq!([reset.answer(&seen(None, Some("x"), false)), reset.goal(&seen(None, None, false))], ["'%m '", ABSENT]);
}

#[test]
fn what_was_asked_before_clusters_had_names() {
    let asked: Asked = serde_json::from_str("{\"make\":{\"role\":{\"name\":\"x\",\"facts\":null}}}").unwrap();
    assert!(asked.cluster.is_none() && matches!(asked.request, super::Request::Make(_)));
    let asked = Asked { cluster: Some("15/main".to_owned()), ..asked };
    let text = serde_json::to_string(&asked).unwrap();
    assert_eq!(serde_json::from_str::<Asked>(&text).unwrap().cluster.as_deref(), Some("15/main"));
}

/// Whoever owns a database chooses where names are looked up in it, unless the session has said so first.
#[test]
fn names_are_the_servers_own() {
    assert!(sql::PREAMBLE.starts_with("SET search_path = pg_catalog, pg_temp;\n"));
    assert!(sql::OPTIONS.starts_with("-c search_path=pg_catalog,pg_temp "));
    assert!(
        sql::PREAMBLE.ends_with(" \\gset\n") && sql::PREAMBLE.contains("'debug_print_plan', 'off'), ('track_activities', 'off')")
    );
}

#[test]
fn what_was_begun_ends() {
    use super::{LOOK, MAKE, MARGIN, Request, Thing};
    let thing = || Thing::Role(Role { name: "x".to_owned(), facts: None });
    let limits = [Request::Look(vec![thing()]), Request::Ask(thing()), Request::Make(thing()), Request::Undo(thing())]
        .map(|of| of.limit());
    assert_eq!(limits, [LOOK, LOOK, MAKE, MAKE]);
    assert_eq!(sql::limit(LOOK - MARGIN), "SET statement_timeout = '50s';\n");
    assert!(sql::PREAMBLE.contains("('client_connection_check_interval', '1s'), ('lock_timeout', '30s')"));
    let end = sql::end_left_over();
    assert!(end.contains("application_name = 'reconciled'") && end.contains("pid <> pg_backend_pid()"));
}

#[test]
fn quoting() {
    for (given, name, text) in [
        ("x", "\"x\"", "'x'"),
        ("a b", "\"a b\"", "'a b'"),
        ("a\"b", "\"a\"\"b\"", "'a\"b'"),
        ("it's", "\"it's\"", "'it''s'"),
        ("\\'; DROP", "\"\\'; DROP\"", "'\\''; DROP'"),
        (":x", "\":x\"", "':x'"),
    ] {
        assert_eq!([sql::name(given), sql::text(given)], [name, text]);
    }
}

#[test]
fn a_role_is_made() {
    let facts = RoleFacts {
        attributes: flags(&[("login", true), ("superuser", false)]),
        connection_limit: Some(-1),
        password: verifier("S$'"),
        settings: [
            settings(&[("search_path", "app, \"pub lic\""), ("app.user", "it's")]),
            [("timezone".to_owned(), None)].into(),
        ]
        .into_iter()
        .flatten()
        .collect(),
        member_of: flags(&[("a", true), ("b", false)]),
    };
    let made = sql::make_role(&Role { name: "o\"x'".to_owned(), facts: Some(facts) });
    assert_eq!(
        made.lines().collect::<Vec<_>>(),
        [
            "BEGIN;",
            "SELECT 'CREATE ROLE \"o\"\"x''\"' WHERE NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'o\"x''') \\gexec",
            "ALTER ROLE \"o\"\"x'\" WITH LOGIN NOSUPERUSER CONNECTION LIMIT -1 PASSWORD 'S$''';",
            "ALTER ROLE \"o\"\"x'\" SET \"app\".\"user\" TO 'it''s';",
            "ALTER ROLE \"o\"\"x'\" SET \"search_path\" TO 'app', 'pub lic';",
            "ALTER ROLE \"o\"\"x'\" RESET \"timezone\";",
            "GRANT \"a\" TO \"o\"\"x'\";",
            "REVOKE \"b\" FROM \"o\"\"x'\";",
            "SELECT 'COMMENT ON ROLE \"o\"\"x''\" IS NULL' FROM pg_roles WHERE rolname = 'o\"x''' AND shobj_description(oid, 'pg_authid') = 'reconciled: taken back, and stays since something depends on it' \\gexec",
            "COMMIT;",
        ]
    );
    let gone = Role { name: "o\"x'".to_owned(), facts: None };
    assert_eq!(sql::make_role(&gone), "DROP ROLE IF EXISTS \"o\"\"x'\";\n");
    // Taken back it may have to stay, out of use; whoever wants it gone sees it all the same.
    let undone = sql::undo_role(&gone);
    assert!(undone.starts_with(
        "DO 'DECLARE other name; BEGIN DROP ROLE IF EXISTS \"o\"\"x''\"; EXCEPTION WHEN dependent_objects_still_exist THEN"
    ));
    assert!(
        undone.contains("ALTER ROLE \"o\"\"x''\" WITH NOLOGIN NOSUPERUSER ") && undone.contains("WHERE r.rolname = ''o\"x''''''")
    );
    let left = |role: &Role| sql::look_at_role(role).contains("IS DISTINCT FROM 'reconciled: taken back");
    assert_eq!([left(&gone), left(&Role { facts: Some(RoleFacts::default()), ..gone.clone() })], [false, true]);
}

#[test]
fn a_database_is_made() {
    let facts = DatabaseFacts {
        owner: Some("u".to_owned()),
        encoding: Some("UTF8".to_owned()),
        extensions: flags(&[("a", true), ("b", false)]),
        grants: BTreeMap::from([("r".to_owned(), flags(&[("CONNECT", true), ("CREATE", false)]))]),
        ..DatabaseFacts::default()
    };
    let lines = |sql: String| sql.lines().map(str::to_owned).collect::<Vec<_>>();
    let mut made = lines(sql::make_extensions(&facts));
    assert!(made[2].ends_with("WHERE extname = 'a' AND obj_description(oid, 'pg_extension') = 'reconciled: taken back, and stays since something depends on it' \\gexec"));
    // Whoever owns the database can put functions into `public`: nothing is called once names are looked up there.
    made.remove(2);
    let [drop, create] = ["DROP EXTENSION IF EXISTS \"b\";", "CREATE EXTENSION IF NOT EXISTS \"a\";"];
    assert_eq!(made, ["BEGIN;", drop, "SET LOCAL search_path = public;", create, "COMMIT;"]);
    let undone = lines(sql::undo_extensions(&facts));
    assert!(undone[1].starts_with("DO 'BEGIN DROP EXTENSION IF EXISTS \"b\"; EXCEPTION WHEN dependent_objects_still_exist THEN COMMENT ON EXTENSION \"b\" IS ''reconciled: "));
    let of = |facts: Option<DatabaseFacts>, disconnect| sql::make_database(&Database { name: "d".to_owned(), facts, disconnect });
    assert_eq!(
        of(Some(facts), false).lines().collect::<Vec<_>>(),
        [
            "SELECT 'CREATE DATABASE \"d\" TEMPLATE template0 ENCODING ''UTF8'' OWNER \"u\"' WHERE NOT EXISTS (SELECT FROM pg_database WHERE datname = 'd') \\gexec",
            "ALTER DATABASE \"d\" OWNER TO \"u\";",
            "GRANT CONNECT ON DATABASE \"d\" TO \"r\";",
            "REVOKE CREATE ON DATABASE \"d\" FROM \"r\";",
        ]
    );
    assert_eq!(of(None, false), "DROP DATABASE IF EXISTS \"d\";\n");
    assert_eq!(of(None, true), "DROP DATABASE IF EXISTS \"d\" WITH (FORCE);\n");
    assert_eq!(sql::make_extensions(&DatabaseFacts::default()), "");
}

#[test]
fn lists_are_the_same_however_they_are_quoted() {
    for (setting, value, same) in [
        ("shared_preload_libraries", "a,b", "a, b"),
        ("shared_preload_libraries", "\"a\" , b", "a, b"),
        ("shared_preload_libraries", "Lib", "Lib"),
        ("shared_preload_libraries", "", ""),
        ("unix_socket_directories", "\"/var/run/postgresql\"", "/var/run/postgresql"),
        ("unix_socket_directories", "\"/a, b\",/c", "\"/a, b\", /c"),
        ("search_path", "\"$user\", public", "$user, public"),
        ("search_path", "$user,Public", "$user, public"),
        ("search_path", "\"App\",\"a\"\"b\",\"\"", "\"App\", \"a\"\"b\", \"\""),
        ("search_path", "a b,c", "\"a b\", c"),
        ("log_line_prefix", "a,\"b\"", "a,\"b\""),
    ] {
        assert_eq!(sql::canonical(setting, value.to_owned()), same);
        assert_eq!(sql::canonical(setting, same.to_owned()), same, "again");
    }
}

#[test]
fn a_setting_is_made() {
    let of = |name: &str, value: Option<&str>| {
        sql::make_setting(&Setting { name: name.to_owned(), value: value.map(str::to_owned) }).lines().next().unwrap().to_owned()
    };
    assert_eq!(of("work_mem", Some("8MB")), "ALTER SYSTEM SET \"work_mem\" TO '8MB';");
    assert_eq!(of("shared_preload_libraries", Some("a,b")), "ALTER SYSTEM SET \"shared_preload_libraries\" TO 'a', 'b';");
    assert_eq!(
        of("unix_socket_directories", Some("\"/a, b\",/c")),
        "ALTER SYSTEM SET \"unix_socket_directories\" TO '/a, b', '/c';"
    );
    assert_eq!(of("shared_preload_libraries", Some("")), "ALTER SYSTEM SET \"shared_preload_libraries\" TO '';");
    assert_eq!(of("x.y", None), "ALTER SYSTEM RESET \"x\".\"y\";");
}
