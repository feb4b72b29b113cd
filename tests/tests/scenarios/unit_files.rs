//! The unit files of the package, judged by systemd itself.

use reconciled_tests::{Host, scenario};

/// Highest exposure that `systemd-analyze security` may find, in tenths: the upper end of what it calls OK is 4.9.
const EXPOSURE: &str = "25";

fn our_services(host: &Host) -> Vec<String> {
    let files = host.sh("dpkg -L reconciled | grep -E '^(/usr)?/lib/systemd/system/.*[.]service$'").ok();
    files.lines().map(str::to_owned).collect()
}

scenario! {
    fn systemd_finds_nothing_to_complain_about(host: installed) {
        let services = our_services(host);
        assert!(services.len() >= 2, "the daemon and the recovery at boot: {services:?}");
        for service in services {
            let said = host.exec(&format!("systemd-analyze verify --recursive-errors=no {service}"));
            assert!(said.code == 0 && said.text().is_empty(), "{said}");
        }
    }
}

scenario! {
    fn a_service_is_exposed_no_more_than_it_must(host: installed) {
        for service in our_services(host) {
            host.exec(&format!("systemd-analyze security --no-pager --offline=true --threshold={EXPOSURE} {service}")).ok();
        }
    }
}
