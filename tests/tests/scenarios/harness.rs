//! The harness itself: a host boots, can be asked and changed, keeps its disk, and leaves nothing behind.

use reconciled_tests::{Host, Release, scenario};

scenario! {
    fn a_bare_host_is_a_running_debian(host: bare) {
        assert_eq!(host.exec("systemctl is-system-running").ok(), "running");
        assert!(host.read("/etc/os-release").contains(&format!("VERSION_CODENAME={}", host.release().name())));
        assert!(host.exec("ip -br addr show host0").ok().contains(host.ip()));
        assert_eq!(host.exec("hostname").ok(), host.name());
        assert!(!host.exists("/usr/bin/git"));
        let _ = host.exec("false").fails(1);
    }
}

scenario! {
    fn a_host_keeps_its_disk(host: bare) {
        host.write("/srv/deep/note", "kept\n");
        let boot = "/proc/sys/kernel/random/boot_id";
        let boots = [host.read(boot), { host.reboot(); host.read(boot) }, { host.off(); host.boot_again(); host.read(boot) }];
        assert!(boots[0] != boots[1] && boots[1] != boots[2], "three boots: {boots:?}");
        assert_eq!(host.read("/srv/deep/note"), "kept\n");
        host.stop();
        let _ = host.exec("true").says("is not up");
    }
}

scenario! {
    fn a_stack_has_what_scenarios_need(host: stack) {
        for tool in ["git", "age", "nginx", "sqlite3", "strace", "python3", "man"] {
            host.sh(&format!("command -v {tool}")).ok();
        }
        assert_eq!(host.exec("systemctl is-active ssh").ok(), "active");
        assert_eq!(host.http("/", "x").status, 0, "nginx does not run yet");
        host.exec("systemctl start nginx").ok();
        host.wait_until("nginx answers", || host.http("/", "x").status == 200);
    }
}

#[test]
fn hosts_have_a_disk_and_an_address_of_their_own() {
    let (one, two) = (Host::bare(Release::Bookworm), Host::bare(Release::Bookworm));
    one.write("/srv/mine", "");
    assert!(!two.exists("/srv/mine"));
    assert!(one.name() != two.name() && one.ip() != two.ip());
    assert_ne!(one.read("/etc/machine-id"), two.read("/etc/machine-id"));
}

#[test]
fn a_host_goes_with_its_value_even_in_a_panic() {
    let (name, ip) = std::thread::spawn(|| {
        let host = Host::bare(Release::Trixie);
        let known = (host.name().to_owned(), host.ip().to_owned());
        let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(move || {
            assert!(host.name().is_empty(), "a failing test, on purpose");
        }));
        assert!(panicked.is_err());
        known
    })
    .join()
    .expect("the thread catches its own panic");
    let port = format!("{ip}:22").parse().expect("an address");
    let tried = std::net::TcpStream::connect_timeout(&port, std::time::Duration::from_secs(1));
    let kind = tried.expect_err("nobody is there").kind();
    assert_ne!(kind, std::io::ErrorKind::ConnectionRefused, "{name} is still there to refuse");
}
