//! PostgreSQL: a role, its database and the server's settings come with the package that brings the server, or none of it does.

use reconciled_tests::{Host, Output, Release, Repo, scenario};

/// What the tutorial of a Django site has an administrator type, and what its author would have wanted of the server.
const SITE: &str = "packages = [\"postgresql\"]\n\
    [[postgres_database]]\nname = \"myproject\"\nowner = \"myprojectuser\"\nextensions = [\"pg_trgm\"]\ngrants = { reports = [\"CREATE\"] }\n\
    [[postgres_role]]\nname = \"staff\"\nlogin = false\n\
    [[postgres_role]]\nname = \"myprojectuser\"\npassword = { secret = \"db_password\" }\nconnection_limit = 50\nmember_of = [\"staff\"]\n\
    settings = { client_encoding = \"utf8\", default_transaction_isolation = \"read committed\", timezone = \"UTC\" }\n\
    [[postgres_role]]\nname = \"reports\"\n\
    [[postgres_setting]]\nname = \"work_mem\"\nvalue = \"8192kB\"\n\
    [[postgres_setting]]\nname = \"shared_buffers\"\nvalue = \"64MB\"\n\
    [[postgres_setting]]\nname = \"log_line_prefix\"\nvalue = \"%m [%p] it's \"\n";
const RED: &str = "[[probe]]\nname = \"nothing\"\nattempts = 1\ntcp = \"127.0.0.1:1\"\n";

/// A host that has its server already.
#[track_caller]
fn with_postgresql(release: Release) -> Host {
    let image = Host::bare_image(release).derive("pg", &[], |host| {
        host.apt("update -qq && apt-get install -y -qq postgresql");
    });
    let host = Host::boot(&image);
    host.wait_until("PostgreSQL answers", || host.exec("runuser -u postgres -- psql -qc select").code == 0);
    host
}

/// What the server answers to this, asked by its superuser.
#[track_caller]
fn sql(host: &Host, words: &str) -> String {
    host.exec_with(&["runuser", "-u", "postgres", "--", "psql", "-XAtq", "-c", words], b"").ok()
}

/// All that a push could leave behind.
#[track_caller]
fn picture(host: &Host) -> String {
    let settings =
        "SELECT name, setting, pending_restart FROM pg_settings WHERE name IN ('work_mem', 'shared_buffers', 'log_line_prefix')";
    let roles = "SELECT rolname, rolcanlogin, rolconnlimit, rolconfig FROM pg_roles ORDER BY 1";
    let file = host.sh("cat /var/lib/postgresql/*/main/postgresql.auto.conf").ok();
    let mut file: Vec<&str> = file.lines().filter(|line| !line.starts_with('#')).collect();
    file.sort_unstable();
    [sql(host, settings), sql(host, roles), sql(host, "SELECT datname FROM pg_database ORDER BY 1"), file.join("\n")].join("\n")
}

/// What somebody gets who logs in over TCP with this password.
#[track_caller]
fn login(host: &Host, password: &str, words: &str) -> Output {
    let to = format!("host=127.0.0.1 user=myprojectuser password='{password}' dbname=myproject");
    host.exec_with(&["psql", "-XAtq", &to, "-c", words], b"")
}

/// This password lets in, and this one does not.
#[track_caller]
fn lets_in(host: &Host, password: &str, other: &str) {
    login(host, password, "SELECT").ok();
    assert!(login(host, other, "SELECT").stderr.contains("password authentication failed"));
}

/// The verifier that the server keeps.
#[track_caller]
fn verifier(host: &Host) -> String {
    sql(host, "SELECT rolpassword FROM pg_authid WHERE rolname = 'myprojectuser'")
}

/// Seals a password in the repository.
#[track_caller]
fn seal<'r>(host: &Host, repo: &'r Repo, password: &str) -> &'r Repo {
    let sealed = host.exec_with(&["reconcilectl", "secret", "seal"], password.as_bytes()).ok();
    repo.write("secrets/db_password.age", sealed + "\n")
}

scenario! {
    fn a_bare_host_gets_its_database(host: reached) {
        let repo = host.clone_repo();
        let push = seal(host, &repo, "correct horse").write("reconciled.toml", SITE).commit_and_push();
        push.assert_live().says("+ postgres_role:myprojectuser (new)").says("+ postgres_database:myproject (new)");
        push.says("postgres_setting:shared_buffers (128MB → 64MB, with a restart)").says("shared_buffers takes effect with a restart");
        assert_eq!(sql(host, "SHOW shared_buffers"), "64MB");
        assert_eq!(sql(host, "SHOW work_mem"), "8MB");
        assert_eq!(sql(host, "SHOW log_line_prefix"), "%m [%p] it's ");
        assert_eq!(sql(host, "SELECT count(*) FROM pg_settings WHERE pending_restart"), "0");
        assert_eq!(sql(host, "SELECT pg_get_userbyid(datdba), pg_encoding_to_char(encoding) FROM pg_database WHERE datname = 'myproject'"), "myprojectuser|UTF8");
        assert_eq!(sql(host, "SELECT rolcanlogin, rolconnlimit, pg_has_role('myprojectuser', 'staff', 'MEMBER') FROM pg_roles WHERE rolname = 'myprojectuser'"), "t|50|t");
        assert_eq!(sql(host, "SELECT has_database_privilege('reports', 'myproject', 'CREATE'), has_database_privilege('staff', 'myproject', 'CREATE')"), "t|f");

        // The role logs in, and owns what it may make tables in. No log has its password, nor what it is compared with.
        let shown = login(host, "correct horse", "CREATE TABLE t (x int); SHOW client_encoding; SHOW timezone; SHOW transaction_isolation");
        assert_eq!(shown.ok(), "UTF8\nUTC\nread committed");
        lets_in(host, "correct horse", "wrong");
        let first = verifier(host);
        let logged = host.sh("cat /var/log/postgresql/*.log /var/log/reconciled/* ; journalctl -b --no-pager; reconcilectl audit log; reconcilectl audit show 5").stdout;
        for secret in ["correct horse", first.as_str()] {
            assert!(!logged.contains(secret), "{secret} in {logged}");
        }

        // Again there is nothing to do, also where a value is written otherwise; what somebody changes by hand comes back.
        let before = picture(host);
        assert!(host.ctl("sync").ok().contains("nothing to do"));
        repo.write("reconciled.toml", SITE.replace("8192kB", "8MB").replace("\"utf8\"", "\"UTF-8\"")).commit_and_push().assert_live().says("nothing to change");
        assert_eq!(picture(host), before);
        assert_eq!(verifier(host), first, "not salted anew");
        seal(host, &repo, "correct horse\n").write("reconciled.toml", SITE).commit_and_push().assert_live().says("nothing to change");
        assert_eq!(verifier(host), first);
        sql(host, "ALTER ROLE myprojectuser SET timezone = 'Europe/Belgrade'");
        sql(host, "ALTER ROLE myprojectuser PASSWORD 'by hand'");
        sql(host, "ALTER DATABASE myproject OWNER TO postgres");
        host.sh("runuser -u postgres -- psql -Xqc \"ALTER SYSTEM SET work_mem = '1MB'\" -c 'SELECT pg_reload_conf()'").ok();
        host.ctl("sync").ok();
        assert_eq!(picture(host), before);
        lets_in(host, "correct horse", "by hand");
        // So does what waits for a restart, which it then does not need. What is asked for as it waits gets that restart.
        let waits = |value: &str| {
            let set = format!("ALTER SYSTEM SET shared_buffers = '{value}'");
            host.exec_with(&["runuser", "-u", "postgres", "--", "psql", "-Xqc", &set, "-c", "SELECT pg_reload_conf()"], b"").ok();
            let pending = "SELECT pending_restart FROM pg_settings WHERE name = 'shared_buffers'";
            host.wait_until("it has read its files", || sql(host, pending) == "t");
        };
        let started = || sql(host, "SELECT pg_postmaster_start_time()");
        let since = started();
        waits("32MB");
        host.ctl("sync").ok();
        assert_eq!([picture(host), started()], [before.clone(), since.clone()]);
        waits("96MB");
        let other = SITE.replace("\"64MB\"", "\"96MB\"");
        repo.write("reconciled.toml", &other).commit_and_push().assert_live().says("shared_buffers takes effect with a restart");
        assert_eq!(sql(host, "SHOW shared_buffers"), "96MB");
        assert_ne!(started(), since);
        repo.write("reconciled.toml", SITE).commit_and_push().assert_live();
        assert_eq!(picture(host), before);
        let healed = verifier(host);
        // Another secret is another password, and nothing else; what fails later brings the former one back, to the byte.
        seal(host, &repo, "battery staple").write("reconciled.toml", format!("{SITE}{RED}")).commit_and_push().assert_refused("rolled back");
        assert_eq!(verifier(host), healed);
        let push = repo.write("reconciled.toml", SITE).commit_and_push();
        push.assert_live().says("~ postgres_role:myprojectuser (password)");
        assert_eq!(push.output.matches("remote: ~ ").count(), 1, "{}", push.output);
        lets_in(host, "battery staple", "correct horse");
        assert_eq!(picture(host), before);
        // Its version is a fact by now.
        repo.write("files/etc/motd.d/version.j2", "{{ facts.postgresql.version }}\n").commit_and_push().assert_live();
        assert_eq!(host.read("/etc/motd.d/version").trim(), host.sh("ls /usr/lib/postgresql").ok());
        // A cluster that does not run is said, with what to do, and keeps nothing else from going live.
        let unit = host.sh("systemctl list-units --plain --no-legend 'postgresql@*' | cut -d' ' -f1").ok();
        // Nor is another one taken in its place.
        host.sh("pg_createcluster --start $(ls /usr/lib/postgresql) other").ok();
        host.exec(&format!("systemctl stop {unit}")).ok();
        repo.write("files/etc/motd.d/x", "x\n").commit_and_push().assert_live().says("left as it is, since it is declared as before").says(&format!("systemctl start {unit}"));
        repo.write("reconciled.toml", SITE.replace("= 50", "= 51")).commit_and_push().assert_refused(&format!("systemctl start {unit}"));
        let other = host.sh("runuser -u postgres -- psql --cluster $(ls /usr/lib/postgresql)/other -XAtq -c 'SELECT datname FROM pg_database ORDER BY 1'");
        assert_eq!(other.ok(), "postgres\ntemplate0\ntemplate1");
        host.exec(&format!("systemctl start {unit}")).ok();
    }
}

scenario! {
    fn what_fails_later_takes_it_back(host = with_postgresql) {
        let repo = host.clone_repo();
        repo.write("reconciled.toml", "packages = [\"postgresql\"]\n").commit_and_push().assert_live();
        let before = picture(host);
        seal(host, &repo, "correct horse").write("reconciled.toml", format!("{SITE}{RED}")).commit_and_push().assert_refused("rolled back");
        assert_eq!(picture(host), before);
        // A setting with which the server does not start: it has to be taken back without a server.
        let push = repo.write("reconciled.toml", SITE.replace("\"64MB\"", "\"8000GB\"")).commit_and_push();
        push.assert_refused("rolled back").says("restart postgresql@");
        assert_eq!(picture(host), before);
        // What the server would refuse is known before anything is touched.
        for (wrong, said) in [
            (SITE.replace("8192kB", "8 apples"), "invalid value for parameter \"work_mem\""),
            (SITE.replace("\"utf8\"", "\"utf9\""), "utf9"),
            (SITE.replace("\"work_mem\"", "\"wrok_mem\""), "PostgreSQL knows no setting `wrok_mem`"),
            (SITE.replace("pg_trgm", "pg_nothing"), "no extension `pg_nothing`"),
            (SITE.replace("owner = \"myprojectuser\"", "owner = \"nobody\""), "the role `nobody` is neither in PostgreSQL nor declared"),
        ] {
            repo.write("reconciled.toml", wrong).commit_and_push().assert_refused(said).says("nothing was touched");
        }
        assert_eq!(picture(host), before);
    }
}

scenario! {
    fn what_leaves_and_what_is_absent(host = with_postgresql) {
        let repo = host.clone_repo();
        let alone = "packages = [\"postgresql\"]\n";
        seal(host, &repo, "correct horse").write("reconciled.toml", SITE).commit_and_push().assert_live();
        let before = picture(host);
        let push = repo.write("reconciled.toml", alone).commit_and_push();
        push.assert_live().says("postgres_role:myprojectuser is let go").says("postgres_database:myproject is let go");
        assert_eq!(picture(host), before);

        let gone = |kind: &str, name: &str, more: &str| format!("[[{kind}]]\nname = \"{name}\"\nstate = \"absent\"\n{more}");
        let role = gone("postgres_role", "myprojectuser", "");
        repo.write("reconciled.toml", format!("{alone}{role}")).commit_and_push().assert_refused("cannot be dropped").says("the database myproject");
        repo.write("reconciled.toml", format!("{alone}{}", gone("postgres_database", "myproject", ""))).commit_and_push().assert_refused("would be lost");
        // Dropped once all else has succeeded; what fails before that leaves it there.
        let database = gone("postgres_database", "myproject", "drop_data = true\n");
        let wrong = "[[postgres_role]]\nname = \"other\"\nsettings = { search_path = \"a, b\" }\nmember_of = [\"postgres\"]\n";
        let units = "[[unit]]\nname = \"postgresql.service\"\nenabled = true\nactive = true\n";
        repo.write("files/etc/postgresql-common/x", "x\n");
        let push = repo.write("reconciled.toml", format!("{alone}{units}{wrong}{database}")).commit_and_push();
        push.assert_live().says("- postgres_database:myproject (drop with all that is in it) [undo: none]");
        assert_eq!(sql(host, "SELECT rolconfig FROM pg_roles WHERE rolname = 'other'"), "{\"search_path=a, b\"}");
        let settings = gone("postgres_setting", "shared_buffers", "") + &gone("postgres_setting", "work_mem", "");
        let push = repo.write("reconciled.toml", format!("{alone}{role}{settings}")).commit_and_push();
        push.assert_live().says("- postgres_role:myprojectuser (drop)").says("with a restart");
        assert_eq!(sql(host, "SHOW shared_buffers"), "128MB");
        assert_eq!(sql(host, "SELECT count(*) FROM pg_roles WHERE rolname = 'myprojectuser'"), "0");
    }
}

scenario! {
    fn who_owns_a_database_stays_who_he_is(host = with_postgresql) {
        let repo = host.clone_repo();
        let site = "packages = [\"postgresql\"]\n[[postgres_role]]\nname = \"mallory\"\n\
            [[postgres_database]]\nname = \"shop\"\nowner = \"mallory\"\nextensions = [\"pg_trgm\"]\n";
        repo.write("reconciled.toml", site).commit_and_push().assert_live();
        // What is looked for in the database is his own, and makes whoever looks give him everything.
        host.write("/tmp/trap.sql", "SET ROLE mallory;\nCREATE SCHEMA x;\n\
            CREATE FUNCTION x.trap() RETURNS name LANGUAGE plpgsql AS $$ BEGIN ALTER ROLE mallory SUPERUSER; RETURN 'x'; END $$;\n\
            CREATE VIEW x.pg_extension AS SELECT x.trap() AS extname;\n\
            CREATE VIEW x.pg_available_extensions AS SELECT x.trap() AS name;\n\
            ALTER DATABASE shop SET search_path = x, pg_catalog;\n");
        host.sh("chmod 644 /tmp/trap.sql && runuser -u postgres -- psql -Xq -v ON_ERROR_STOP=1 -d shop -f /tmp/trap.sql").ok();
        let is_super = || sql(host, "SELECT rolsuper FROM pg_roles WHERE rolname = 'mallory'");
        assert!(host.ctl("sync").ok().contains("nothing to do"));
        assert_eq!(is_super(), "f");
        let more = site.replace("\"pg_trgm\"", "\"pg_trgm\", \"citext\", \"adminpack\"");
        let more = if host.exists("/usr/share/postgresql/15") { more } else { more.replace(", \"adminpack\"", "") };
        repo.write("reconciled.toml", &more).commit_and_push().assert_live();
        assert_eq!(is_super(), "f");
        // They are where everybody looks for them, but for one that says itself where it belongs.
        let schemas = host.sh("runuser -u postgres -- psql -XAtq -d shop -c \"SELECT e.extname, n.nspname FROM pg_catalog.pg_extension e JOIN pg_catalog.pg_namespace n ON n.oid = extnamespace ORDER BY 1\"").ok();
        assert!(schemas.contains("citext|public\n") && schemas.contains("pg_trgm|public"), "{schemas}");
        // As somebody else: nothing can be made by him, and it is made all the same.
        sql(host, "ALTER DATABASE shop SET role = mallory");
        sql(host, "ALTER DATABASE shop SET default_transaction_read_only = on");
        repo.write("reconciled.toml", more.replace("\"citext\"", "\"citext\", \"amcheck\"")).commit_and_push().assert_live();
        assert_eq!(is_super(), "f");
    }
}

scenario! {
    fn settings_in_other_words(host = with_postgresql) {
        let repo = host.clone_repo();
        let set = |name: &str, value: &str| format!("[[postgres_setting]]\nname = \"{name}\"\nvalue = '{value}'\n");
        let lists = "packages = [\"postgresql\"]\n[[postgres_role]]\nname = \"shop\"\nsettings = { search_path = 'app,\"$user\", Public', session_preload_libraries = 'auto_explain' }\n".to_owned()
            + &set("shared_preload_libraries", "pg_stat_statements,auto_explain");
        repo.write("reconciled.toml", &lists).commit_and_push().assert_live();
        assert_eq!(sql(host, "SHOW shared_preload_libraries"), "pg_stat_statements, auto_explain");
        assert_eq!(sql(host, "SELECT rolconfig[1] FROM pg_roles WHERE rolname = 'shop'"), "search_path=app, \"$user\", public");
        assert!(host.ctl("sync").ok().contains("nothing to do"));
        // Those of extensions, which only a server knows that has loaded them.
        let more = lists + &set("pg_stat_statements.max", "7000") + &set("auto_explain.log_min_duration", "1s");
        repo.write("reconciled.toml", &more).commit_and_push().assert_live().says("with a restart");
        assert_eq!([sql(host, "SHOW pg_stat_statements.max"), sql(host, "SHOW auto_explain.log_min_duration")], ["7000", "1s"]);
        assert!(host.ctl("sync").ok().contains("nothing to do"));
        repo.write("reconciled.toml", more.replace("7000", "many") + RED).commit_and_push().assert_refused("rolled back");
        assert_eq!(sql(host, "SHOW pg_stat_statements.max"), "7000");
    }
}

scenario! {
    fn what_others_depend_on_stays_out_of_use(host = with_postgresql) {
        let repo = host.clone_repo();
        let site = "packages = [\"postgresql\"]\n[[postgres_database]]\nname = \"shop\"\n";
        repo.write("reconciled.toml", site).commit_and_push().assert_live();
        // A migration uses what has come with it; and the push fails.
        let words = "CREATE TABLE IF NOT EXISTS t (x text); ALTER TABLE t OWNER TO worker; CREATE INDEX IF NOT EXISTS i ON t USING gin (x public.gin_trgm_ops)";
        let more = format!("{site}extensions = [\"pg_trgm\", \"citext\"]\n[[postgres_role]]\nname = \"group\"\nlogin = false\n\
            [[postgres_role]]\nname = \"worker\"\ncreatedb = true\nmember_of = [\"group\"]\nsettings = {{ timezone = \"UTC\" }}\n\
            [[command]]\nname = \"migrate\"\nuser = \"postgres\"\nforward = [\"psql\", \"-Xqd\", \"shop\", \"-c\", \"{words}\"]\n");
        repo.write("reconciled.toml", format!("{more}{RED}")).commit_and_push().assert_refused("rolled back").says("stays without its login, since ");
        assert_eq!(host.status()["phase"], "idle");
        let role = "SELECT rolcanlogin, rolcreatedb, rolconfig, shobj_description(oid, 'pg_authid') FROM pg_roles WHERE rolname = 'worker'";
        assert_eq!(sql(host, role), "f|f||reconciled: taken back, and stays since something depends on it");
        assert_eq!(sql(host, "SELECT count(*) FROM pg_roles WHERE rolname = 'group'"), "0");
        let extensions = || host.sh("runuser -u postgres -- psql -XAtqd shop -c \"SELECT extname, obj_description(oid, 'pg_extension') FROM pg_extension ORDER BY 1\"").ok();
        assert!(extensions().contains("pg_trgm|reconciled: taken back") && !extensions().contains("citext"), "{}", extensions());
        // Wanted again, they are new, and in use again.
        let push = repo.write("reconciled.toml", &more).commit_and_push();
        push.assert_live().says("+ postgres_role:worker (new)").says("~ postgres_database:shop (extension citext, extension pg_trgm)");
        assert_eq!(sql(host, role), "t|t|{TimeZone=UTC}|");
        assert!(extensions().contains("pg_trgm|text similarity"), "{}", extensions());
        assert!(host.ctl("sync").ok().contains("nothing to do"));
    }
}

scenario! {
    fn a_verifier_is_nowhere_else(host = with_postgresql) {
        let repo = host.clone_repo();
        // A server that keeps all that it is told.
        let set = |(name, value): (&str, &str)| format!("[[postgres_setting]]\nname = \"{name}\"\nvalue = \"{value}\"\n");
        let all = [
            ("shared_preload_libraries", "pg_stat_statements"), ("log_statement", "all"), ("log_duration", "on"), ("log_min_duration_sample", "0"),
            ("log_statement_sample_rate", "1"), ("log_transaction_sample_rate", "1"), ("debug_print_parse", "on"), ("log_min_error_statement", "debug5"),
        ];
        let keeps = format!("packages = [\"postgresql\"]\n{}", all.map(set).concat());
        repo.write("reconciled.toml", &keeps).commit_and_push().assert_live();
        sql(host, "CREATE EXTENSION pg_stat_statements");
        let role = "[[postgres_role]]\nname = \"myprojectuser\"\npassword = { secret = \"db_password\" }\n";
        seal(host, &repo, "correct horse").write("reconciled.toml", format!("{keeps}{role}")).commit_and_push().assert_live();
        let verifier = verifier(host);
        assert!(verifier.starts_with("SCRAM-SHA-256$"));
        let logged = host.sh("cat /var/log/postgresql/*.log").ok();
        assert!(logged.contains("CREATE EXTENSION pg_stat_statements"), "it is kept");
        assert!(!logged.contains(&verifier) && !logged.contains("PASSWORD 'SCRAM"), "{logged}");
        assert_eq!(sql(host, "SELECT count(*) FROM pg_stat_statements WHERE query LIKE 'ALTER ROLE%'"), "0");
        // What a killed worker has left going in the server is ended before anything is asked; it would change what was seen. Others go on.
        let sleep = |name: &str| host.sh(&format!("systemd-run -q --uid=postgres -E PGAPPNAME={name} psql -Xc 'SELECT pg_sleep(3600)'")).ok();
        let asleep = |name: &str| sql(host, &format!("SELECT count(*) FROM pg_stat_activity WHERE application_name = '{name}' AND query LIKE '%pg_sleep(3600)'"));
        for name in ["reconciled", "other"] {
            sleep(name);
            host.wait_until("it sleeps", || asleep(name) == "1");
        }
        repo.write("reconciled.toml", format!("{keeps}{role}login = true\nconnection_limit = 7\n")).commit_and_push().assert_live();
        assert_eq!([asleep("reconciled"), asleep("other")], ["0", "1"]);
    }
}

scenario! {
    fn what_nothing_takes_back_is_dumped_before_and_remembered(host = with_postgresql) {
        let repo = host.clone_repo();
        let site = "packages = [\"postgresql\"]\n[[postgres_database]]\nname = \"shop\"\nowner = \"postgres\"\n";
        let migrates = |dump: &str, what: &str| {
            format!(
                "{site}[[command]]\nname = \"migrate\"\nuser = \"postgres\"\ndirectory = \"/\"\ndump = \"{dump}\"\n\
                 forward = [\"psql\", \"-Xq\", \"-v\", \"ON_ERROR_STOP=1\", \"-d\", \"shop\", \"-c\", \"{what}\"]\n"
            )
        };
        let tables = || host.exec("runuser -u postgres -- psql -XAtq -d shop -c \\dt").ok();
        repo.write("reconciled.toml", site).commit_and_push().assert_live();
        // Where there is nothing to dump nothing runs.
        repo.write("reconciled.toml", migrates("no-such", "CREATE TABLE t(n int)"));
        repo.commit_and_push().assert_refused("rolled back").says("before command:migrate").says("no-such");
        assert_eq!(tables(), "");
        repo.write("reconciled.toml", migrates("shop", "CREATE TABLE t(n int)")).commit_and_push().assert_live().says("/var/lib/reconciled/dumps/shop.");
        repo.write("reconciled.toml", migrates("shop", "DROP TABLE t")).commit_and_push().assert_live();
        assert_eq!(tables(), "");
        // The last dump is a whole one, from before.
        let dumps = host.sh("cd /var/lib/reconciled/dumps && stat -c '%n %a %U' * && stat -c %a .").ok();
        assert_eq!(dumps.lines().filter(|line| line.starts_with("shop.") && line.ends_with(".dump 600 root")).count(), 2, "{dumps}");
        assert!(dumps.ends_with("\n700"), "{dumps}");
        host.sh("cat /var/lib/reconciled/dumps/$(ls -t /var/lib/reconciled/dumps | head -n 1) | runuser -u postgres -- pg_restore --clean --if-exists --dbname=shop").ok();
        assert!(tables().contains("|t|"), "{}", tables());
        // Going back past it is said, or refused where the administrator says so.
        let refuses = "rollback_past_irreversible = \"refuse\"\n";
        host.write("/etc/reconciled/reconciled.d/back.toml", refuses);
        host.exec("systemctl reload-or-restart reconciled").ok();
        let said = host.ctl("rollback 1").text();
        assert!(said.contains("command:migrate") && said.contains("mend it with a commit on top of generation"), "{said}");
        assert_eq!(host.status()["generation"], 3, "{}", host.status());
        host.sh("rm /etc/reconciled/reconciled.d/back.toml && systemctl reload-or-restart reconciled").ok();
        let said = host.ctl("rollback 1").ok();
        assert!(said.contains("which nothing takes back: what it runs has to live with that"), "{said}");
    }
}
