//! The whole live host at a glance, to insist that nothing of it has moved.

use std::collections::BTreeSet;

use reconciled_tests::Host;

use super::nginx;

/// Everything that can be seen of the live host from outside: every object's place, type, mode, owner, size, times, inode
/// and link text; contents of `/etc`; mounts, System V objects, processes of nginx.
///
/// Left out is what others write meanwhile by design: our own state (the pushed objects, the record of the refusal), the
/// journal's files, `/run/systemd`, where PID 1 keeps the transient units that workers run in, `/run/user`, where logind
/// keeps the pusher's session, the data, shared memory and logs of a PostgreSQL that runs, and the package mirror that test hosts share.
pub fn snapshot(host: &Host) -> String {
    let places = "/etc /var /run /usr/local /opt /home /root /srv /dev /tmp /boot /mnt";
    let noise = "-path /var/lib/reconciled -o -path /var/log/journal -o -path /run/log/journal -o -path /run/systemd \
                 -o -path /srv/mirror -o -path /run/user -o -path /var/lib/postgresql -o -path /var/log/postgresql -o -path /dev/shm/PostgreSQL.\\*";
    let script = format!(
        "find {places} \\( {noise} \\) -prune -o -printf '%p %y %m %U %G %s %T@ %C@ %i %n %l\\n' | LC_ALL=C sort
         find /etc -type f -exec sha256sum {{}} + | LC_ALL=C sort -k2
         cut -d' ' -f3- /proc/self/mountinfo | grep -v ' /run/user/'; ipcs -mqs; hostname; systemctl is-active nginx ssh dbus reconciled systemd-journald"
    );
    let processes = if host.exec("systemctl is-active nginx").code == 0 { nginx(host) } else { Vec::new() };
    format!("{}\n{processes:?}", host.sh(&script).stdout)
}

/// Insists that nothing differs, and says what does.
#[track_caller]
pub fn assert_untouched(host: &Host, before: &str) {
    let after = snapshot(host);
    let lines = |text: &str| text.lines().map(str::to_owned).collect::<BTreeSet<_>>();
    let (old, new) = (lines(before), lines(&after));
    let gone = old.difference(&new).map(|line| format!("- {line}"));
    let changed: Vec<String> = gone.chain(new.difference(&old).map(|line| format!("+ {line}"))).collect();
    assert!(changed.is_empty(), "the live host shows traces:\n{}", changed.join("\n"));
}

/// A snapshot of a quiet host: two in a row that are the same.
///
/// Each login over SSH writes `/run/motd.dynamic`: switched off. The disk of a test host is an overlay, which copies a
/// directory up when another overlay first looks at it (it needs a file handle of its own): done beforehand, by a chmod
/// that changes nothing. The console's getty is an idle job, which first runs up to five seconds after the boot and writes
/// `/run/agetty.reload`: stopped.
#[track_caller]
pub fn quiet(host: &Host) -> String {
    host.sh(
        "systemctl stop console-getty.service; sed -i /pam_motd/d /etc/pam.d/sshd /etc/pam.d/login; find /etc /usr/local /var /opt /home /root /boot /mnt /srv -xdev \
             -path /srv/mirror -prune -o -type d -exec chmod u+x {} +",
    )
    .ok();
    let mut last = snapshot(host);
    host.wait_until("nothing changes by itself", || {
        let now = snapshot(host);
        let same = now == last;
        last = now;
        same
    });
    last
}
