//! One repository for several hosts, from the installed package: layers, variables, templates, facts and sealed secrets.

use reconciled_tests::{Host, Push, Repo, scenario};

use crate::shop::look::{assert_untouched, quiet};

const BASE: &str = r#"
include = ["roles/web"]
units = ["{{ vars.app }}.service"]

[vars]
domain = "shop.example"
port = 80

[[probe]]
name = "here"
command = ["/usr/bin/test", "-s", "/etc/{{ vars.app }}/site.conf"]
"#;

const SITE: &str = "{{ facts.hostname }} on {{ facts.os.codename }} at {{ facts.addresses[0] }}\n\
                    {% for port in [vars.port, 8443] %}\nhttps://{{ vars.domain }}:{{ port }}\n{% endfor %}\n\
                    {% include 'tail.conf' %}\n\
                    {{ 2 * facts.cpus + 1 }} workers, {{ facts.memory_mb // 4 }}MB of memory\n";

/// A repository with a base, a role and the layers of two hosts.
fn repository(host: &Host) -> Repo {
    let repo = host.clone_repo();
    repo.write("reconciled.toml", BASE)
        .write("templates/tail.conf", "{{ vars.app }} {{ facts.postgresql.version | default('none') }}\n");
    repo.write("roles/web/reconciled.toml", "[vars]\napp = \"shop\"\nport = 8080\n");
    repo.write("roles/web/files/etc/shop/site.conf.j2", SITE).write("roles/web/files/etc/shop/plain.conf", "the role's\n");
    repo.write(
        "roles/web/files/etc/systemd/system/shop.service.j2",
        "[Service]\nExecStart=/bin/sleep {{ vars.nap | default('infinity') }}\n",
    );
    repo.write("files/etc/shop/plain.conf", "the base's\n").write("files/etc/shop/base.conf", "the base's\n");
    repo.write(&format!("hosts/{}/files/etc/shop/host.conf.j2", host.name()), "{{ vars.domain | upper }}\n");
    repo.write("hosts/other/files/etc/shop/plain.conf", "another host's\n");
    repo
}

/// The lines of the plan that a push showed.
fn changes(push: &Push) -> Vec<&str> {
    let lines = push.output.lines().filter_map(|line| line.strip_prefix("remote: ")).map(str::trim_end);
    lines.filter(|line| ["+ ", "~ ", "- ", "! "].iter().any(|sign| line.starts_with(sign))).collect()
}

scenario! {
    fn one_repository_serves_several_hosts(host: installed on bookworm) {
        let repo = repository(host);
        repo.commit_and_push().assert_live().says("+ file:/etc/shop/site.conf (new)").says("~ unit:shop.service (enable, start)");
        let site = host.read("/etc/shop/site.conf");
        let own = host.sh("echo $((2 * $(nproc) + 1)) workers, $(awk '/^MemTotal:/ { print int(int($2 / 1024) / 4) }' /proc/meminfo)MB of memory").ok();
        let wanted = format!(
            "{} on {} at {}\nhttps://shop.example:8080\nhttps://shop.example:8443\nshop none\n{own}\n",
            host.name(), host.release().name(), host.ip(),
        );
        assert_eq!(site, wanted);
        assert_eq!(host.read("/etc/shop/plain.conf"), "the role's\n");
        assert_eq!(host.read("/etc/shop/base.conf"), "the base's\n");
        assert_eq!(host.read("/etc/shop/host.conf"), "SHOP.EXAMPLE\n");
        assert!(!host.exists("/etc/shop/site.conf.j2"));
        assert_eq!(host.exec("systemctl is-active shop.service").ok().trim(), "active");

        // What renders to the same changes nothing; a variable changes what uses it.
        assert!(host.ctl("sync").ok().contains("nothing to do"));
        repo.write("README.md", "Words.\n");
        let push = repo.commit_and_push();
        assert_eq!(changes(push.assert_live()), [""; 0]);
        repo.write(&format!("hosts/{}/reconciled.toml", host.name()), "[vars]\nport = 8081\n");
        let push = repo.commit_and_push();
        assert_eq!(changes(push.assert_live()), ["~ file:/etc/shop/site.conf (content) [undo: exact]"]);
        assert_eq!(host.read("/etc/shop/site.conf"), wanted.replace("8080", "8081"));
        repo.write("reconciled.toml", BASE.replace("port = 80\n", "port = 80\nnap = \"2h\"\n"));
        let push = repo.commit_and_push();
        push.assert_live().says("~ file:/etc/systemd/system/shop.service (content)").says("! restart shop.service");

        // Drift goes back to what is stored: the host says something else of itself by now.
        host.exec("hostname elsewhere").ok();
        host.write("/etc/shop/site.conf", "by hand\n");
        let _ = host.ctl("sync").ok();
        assert_eq!(host.read("/etc/shop/site.conf"), wanted.replace("8080", "8081"));
        // The next push asks it again.
        let other = repo.write("README.md", "More words.\n").commit_and_push();
        other.assert_live().says("hosts/ has no layer for this host, elsewhere (there are: other, ").says("- file:/etc/shop/host.conf");
        assert_eq!(host.read("/etc/shop/site.conf"), wanted.replace(host.name(), "elsewhere"));
        let settings = format!("host = \"{}\"\n", host.name());
        host.write("/etc/reconciled/reconciled.d/host.toml", settings);
        host.exec("systemctl reload reconciled").ok();
        repo.write("README.md", "Still more.\n").commit_and_push().assert_live().says("+ file:/etc/shop/host.conf (new)");
    }
}

scenario! {
    fn a_name_that_is_not_defined_is_refused(host: installed on bookworm) {
        let repo = repository(host);
        repo.commit_and_push().assert_live();
        let before = quiet(host);
        let site = "roles/web/files/etc/shop/site.conf.j2";
        repo.write(site, SITE.replace("vars.domain", "vars.domian"));
        let push = repo.commit_and_push();
        push.assert_refused(&format!("{site}:3:12: `vars.domian` is undefined: did you mean `vars.domain`?"));
        push.says("3 | https://{{ vars.domian }}:{{ port }}").says("  |            ^^^^^^^^^^^");
        assert_untouched(host, &before);
        repo.write(site, SITE).write("reconciled.toml", BASE.replace("vars.app }}/", "vars.ap }}/"));
        repo.commit_and_push().assert_refused("reconciled.toml:11:44: `vars.ap` is undefined: did you mean `vars.app`?");
        repo.write("reconciled.toml", BASE.replace("roles/web", "roles/wbe"));
        repo.commit_and_push().assert_refused("reconciled.toml:2:12: this repository has no directory roles/wbe: did you mean `roles/web`?");
        repo.write("reconciled.toml", BASE).write(site, "{{ facts.postgresql.version }}\n");
        repo.commit_and_push().assert_refused(&format!("{site}:1:4: `facts.postgresql.version` is undefined: PostgreSQL is not installed"));
        // A template that would never end costs a moment, and not the daemon.
        repo.write(site, "{% for a in range(100000) %}{% for b in range(100000) %}{% endfor %}{% endfor %}");
        repo.commit_and_push().assert_refused("this template does too much");
        repo.write(site, format!("{{{{ {}1 }}}}", "-".repeat(65_000)));
        let _ = repo.commit_and_push().assert_live();
        assert_eq!(host.read("/etc/shop/site.conf"), "1");
    }
}

scenario! {
    fn templates_see_sealed_secrets(host: installed on bookworm) {
        let repo = repository(host);
        let sealed = host.exec_with(&["reconcilectl", "secret", "seal"], b"correct-horse-battery\n").ok();
        repo.write("secrets/db.age", sealed).write("files/etc/shop/db.conf.j2", "{{ vars.app }}:{{ secrets.db }}\n");
        let push = repo.commit_and_push();
        push.assert_live().says("+ file:/etc/shop/db.conf");
        assert!(!push.output.contains("correct-horse"), "{}", push.output);
        assert_eq!(host.read("/etc/shop/db.conf"), "shop:correct-horse-battery\n");
        assert_eq!(host.exec("stat -c %a:%U /etc/shop/db.conf").ok().trim(), "600:root");
        host.write("/etc/shop/db.conf", "by hand\n");
        assert!(!host.ctl("sync").ok().contains("correct-horse"));
        assert_eq!(host.read("/etc/shop/db.conf"), "shop:correct-horse-battery\n");
        let _ = host.sh("grep -rl correct-horse /var/lib/reconciled /var/log /run/log").fails(1);
    }
}

scenario! {
    fn facts_that_change_make_a_generation(host: installed on bookworm) {
        let repo = host.clone_repo();
        let rendered = "{{ facts.addresses | join(' ') }}\n";
        repo.write("files/etc/addresses.j2", rendered).commit_and_push().assert_live();
        let before = host.status();
        host.exec("ip addr add 192.0.2.7/32 dev host0").ok();
        // By this, or by the daemon's own look once the host is up.
        host.ctl("sync").ok();
        assert!(host.read("/etc/addresses").contains("192.0.2.7"));
        let now = host.status();
        assert_eq!((&now["live"], now["generation"].as_u64()), (&before["live"], before["generation"].as_u64().map(|n| n + 1)));
        host.ctl("audit log").says("facts").ok();
        assert!(host.ctl("sync").ok().contains("nothing to do"));
        // What is not healthy with them is taken back, and not tried again and again.
        let green = "[[probe]]\nname = \"green\"\nattempts = 1\ncommand = [\"/usr/bin/grep\", \"-q\", \"192.0.2.7\", \"/etc/addresses\"]\n";
        repo.write("reconciled.toml", green).commit_and_push().assert_live();
        host.exec("ip addr del 192.0.2.7/32 dev host0").ok();
        let said = host.ctl("sync").text();
        assert!(said.contains("rolled back"), "{said}");
        assert!(host.read("/etc/addresses").contains("192.0.2.7"));
        let said = host.ctl("sync").text();
        assert!(said.contains("nothing to do"), "{said}");
    }
}
