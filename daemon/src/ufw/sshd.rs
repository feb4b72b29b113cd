//! Where sshd listens, as its files have it (sshd_config(5), systemd.socket(5)). Pure.

use std::collections::BTreeSet;

/// Where sshd is told.
pub const CONFIG: &str = "/etc/ssh/sshd_config";
/// What Debian's configuration includes: the files here that end in `.conf`.
pub const DROP_INS: &str = "/etc/ssh/sshd_config.d";
/// The line that does it, from where it may stand.
const INCLUDED: [&str; 2] = ["/etc/ssh/sshd_config.d/*.conf", "sshd_config.d/*.conf"];
/// Where words for its command line come from.
pub const OPTIONS: &str = "/etc/default/ssh";
/// Its command line, as Debian has it.
const COMMAND: &str = "/usr/sbin/sshd -D $SSHD_OPTS";
/// Where it listens when it is not told.
pub const PORT: u16 = 22;

/// Where it can be reached from outside.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Listening {
    /// The ports.
    pub ports: BTreeSet<u16>,
    /// Whether that is all, and is so: nothing was said that is not understood here.
    pub is_sure: bool,
}

impl Listening {
    /// What its configuration says, with the drop-ins that it may include.
    #[must_use]
    pub fn configured(main: &str, drop_ins: &[String]) -> Self {
        let mut told = Told { is_sure: true, ..Told::default() };
        told.read(main, drop_ins);
        if told.ports.is_empty() {
            told.ports.insert(PORT);
        }
        if told.addresses.is_empty() {
            return Self { ports: told.ports, is_sure: told.is_sure };
        }
        let mut ports = BTreeSet::new();
        for (_, port) in told.addresses.iter().filter(|(host, _)| !is_of_the_host_itself(host)) {
            match port {
                Some(port) => drop(ports.insert(*port)),
                None => ports.extend(&told.ports),
            }
        }
        // Reached it is all the same, by a way that is not seen here.
        Self { is_sure: told.is_sure && !ports.is_empty(), ports }
    }

    /// What its socket says.
    #[must_use]
    pub fn of_socket(streams: &[String]) -> Self {
        let mut listening = Self { is_sure: true, ..Self::default() };
        for stream in streams.iter().filter(|stream| !stream.starts_with(['/', '@']) && !stream.starts_with("vsock:")) {
            match address(stream) {
                Some((host, Some(port))) if !is_of_the_host_itself(&host) => drop(listening.ports.insert(port)),
                Some((_, Some(_))) => {}
                _ => match stream.parse() {
                    Ok(port) => drop(listening.ports.insert(port)),
                    Err(_) => listening.is_sure = false,
                },
            }
        }
        listening.is_sure &= !listening.ports.is_empty();
        listening
    }

    /// Both.
    #[must_use]
    pub fn and(mut self, other: Self) -> Self {
        self.ports.extend(other.ports);
        Self { is_sure: self.is_sure && other.is_sure, ..self }
    }
}

/// Whether words on its command line may say otherwise than its files.
#[must_use]
pub fn has_options(defaults: &str, commands: &[String]) -> bool {
    let values = defaults.lines().filter_map(|line| line.trim().strip_prefix("SSHD_OPTS="));
    values.map(|value| value.trim().trim_matches(['"', '\''])).any(|value| !value.is_empty())
        || commands.iter().any(|command| command != COMMAND)
}

#[derive(Default)]
struct Told {
    ports: BTreeSet<u16>,
    addresses: Vec<(String, Option<u16>)>,
    is_sure: bool,
}

impl Told {
    fn read(&mut self, text: &str, drop_ins: &[String]) {
        for line in text.lines() {
            let (keyword, arguments) = words(line);
            match keyword.as_str() {
                "port" => match arguments.first().map(|port| port.parse()) {
                    Some(Ok(port)) => drop(self.ports.insert(port)),
                    _ => self.is_sure = false,
                },
                "listenaddress" => match arguments.first().and_then(|word| address(word)) {
                    Some(address) if arguments.len() == 1 => self.addresses.push(address),
                    // With a routing domain, or none at all.
                    _ => self.is_sure = false,
                },
                // No drop-in of Debian's includes another.
                "include" if !arguments.is_empty() && arguments.iter().all(|word| INCLUDED.contains(&word.as_str())) => {
                    drop_ins.iter().for_each(|text| self.read(text, &[]));
                }
                "include" => self.is_sure = false,
                _ => {}
            }
        }
    }
}

/// A line's keyword, in lower case, and its arguments up to a comment.
fn words(line: &str) -> (String, Vec<String>) {
    let line = line.trim();
    let end = line.find(|c: char| c.is_ascii_whitespace() || c == '=').unwrap_or(line.len());
    let (keyword, rest) = line.split_at(end);
    let rest = rest.trim_start();
    let rest = rest.strip_prefix('=').unwrap_or(rest);
    let arguments = rest.split_ascii_whitespace().take_while(|word| !word.starts_with('#'));
    (keyword.to_ascii_lowercase(), arguments.map(|word| word.trim_matches('"').to_owned()).collect())
}

/// `host`, `host:port`, `[host]:port`, `2001:db8::1`.
fn address(word: &str) -> Option<(String, Option<u16>)> {
    let (host, port) = match word.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((host, "")) => (host, None),
        Some((host, rest)) => (host, Some(rest.strip_prefix(':')?)),
        None if word.matches(':').count() == 1 => word.split_once(':').map(|(host, port)| (host, Some(port)))?,
        None => (word, None),
    };
    let port = port.map(str::parse).transpose().ok()?;
    (!host.is_empty()).then(|| (host.to_owned(), port))
}

/// Nobody comes this way from outside, and nothing keeps the host from itself.
fn is_of_the_host_itself(host: &str) -> bool {
    host.starts_with("127.") || host == "::1" || host.eq_ignore_ascii_case("localhost")
}

#[cfg(test)]
mod tests {
    use super::{Listening, has_options};

    fn configured(main: &str, drop_ins: &[&str]) -> (Vec<u16>, bool) {
        let drop_ins: Vec<String> = drop_ins.iter().map(|text| (*text).to_owned()).collect();
        let Listening { ports, is_sure } = Listening::configured(main, &drop_ins);
        (ports.into_iter().collect(), is_sure)
    }

    #[test]
    fn where_it_is_told() {
        const INCLUDE: &str = "Include /etc/ssh/sshd_config.d/*.conf\n";
        for (main, drop_ins, ports, is_sure) in [
            ("", &[][..], &[22][..], true),
            ("# Port 1\nPort 22\nport=2222\nPortX 3\nPermitRootLogin no\n", &[], &[22, 2222], true),
            ("Port 2222 # not 22\nListenAddress 0.0.0.0 # all\n", &[], &[2222], true),
            ("\tPort = \"2222\"\n", &[], &[2222], true),
            ("Port twenty\n", &[], &[22], false),
            // One with a port of its own needs no other.
            ("Port 22\nListenAddress 192.0.2.1:2222\n", &[], &[2222], true),
            ("ListenAddress [2001:db8::1]:2222\nListenAddress 2001:db8::1\nListenAddress [::]\n", &[], &[22, 2222], true),
            ("ListenAddress 127.0.0.1:2222\nListenAddress host.example\n", &[], &[22], true),
            ("ListenAddress 127.0.0.1\nListenAddress [::1]:5\n", &[], &[], false),
            ("ListenAddress 0.0.0.0 rdomain x\n", &[], &[22], false),
            ("ListenAddress 0.0.0.0:port\n", &[], &[22], false),
            (INCLUDE, &["Port 2222\n", "ListenAddress 10.0.0.1:9\n"], &[9], true),
            (INCLUDE, &[], &[22], true),
            // What nothing includes counts for nothing; what is included and not read here, nobody knows.
            ("Port 22\n", &["Port 2222\n"], &[22], true),
            ("Include /etc/ssh/more\n", &[], &[22], false),
            (INCLUDE, &["Include more\n"], &[22], false),
            ("Match User ana\n\tPermitTTY no\n", &[], &[22], true),
        ] {
            assert_eq!(configured(main, drop_ins), (ports.to_vec(), is_sure), "{main}{drop_ins:?}");
        }
    }

    #[test]
    fn where_its_socket_listens() {
        for (streams, ports, is_sure) in [
            (&["22"][..], &[22][..], true),
            (&["0.0.0.0:2222", "[::]:2222", "/run/ssh.sock", "vsock::22", "127.0.0.1:5"], &[2222], true),
            (&["/run/ssh.sock"], &[], false),
            (&["22", "what"], &[22], false),
        ] {
            let streams: Vec<String> = streams.iter().map(|word| (*word).to_owned()).collect();
            let said = Listening::of_socket(&streams);
            assert_eq!((said.ports.into_iter().collect::<Vec<_>>(), said.is_sure), (ports.to_vec(), is_sure), "{streams:?}");
        }
    }

    #[test]
    fn what_its_command_line_says() {
        let debian = ["/usr/sbin/sshd -D $SSHD_OPTS".to_owned()];
        assert!(!has_options("# x\nSSHD_OPTS=\n", &debian) && !has_options("SSHD_OPTS=\"\"", &[]));
        assert!(has_options("SSHD_OPTS='-p 2222'\n", &debian) && has_options("", &["/usr/sbin/sshd -D -p 9".to_owned()]));
    }
}
