//! What a service runs in, for what is to run like it: whose it is, where, with which environment. Pure.

use super::definition::Definition;
use super::inputs::{command_words, expanded, words};

/// See systemd.exec(5); each is `None` or empty when the unit does not say.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Surroundings {
    /// `User=`.
    pub user: Option<String>,
    /// `DynamicUser=`: its user is there while it runs, and nobody else can be it.
    pub is_dynamic: bool,
    /// `Group=`.
    pub group: Option<String>,
    /// `WorkingDirectory=`: a path, or `~`.
    pub directory: Option<String>,
    /// `Environment=`, one `NAME=value` each.
    pub environment: Vec<String>,
    /// `EnvironmentFile=`; those that may be missing begin with `-`.
    pub environment_files: Vec<String>,
    /// The folder of the program that it starts.
    pub folder: Option<String>,
}

/// What the definition of a service says of it; `None` where it starts no program. What has specifiers that only PID 1 knows is left out.
#[must_use]
pub fn of_service(unit: &str, definition: &Definition) -> Option<Surroundings> {
    let value = |key: &str| definition.value("Service", key).and_then(|value| expanded(unit, value));
    let program = definition.values("Service", "ExecStart").iter().find_map(|line| command_words(line).into_iter().next())?;
    let environment = definition.values("Service", "Environment").iter().flat_map(|line| words(line));
    let files = definition.values("Service", "EnvironmentFile").iter();
    Some(Surroundings {
        user: value("User"),
        is_dynamic: definition.is_on("Service", "DynamicUser"),
        group: value("Group"),
        directory: value("WorkingDirectory").map(|path| path.trim_start_matches('-').to_owned()),
        environment: environment.filter_map(|word| expanded(unit, &word)).collect(),
        environment_files: files.filter_map(|file| expanded(unit, file)).collect(),
        folder: expanded(unit, &program).and_then(|program| Some(program.rsplit_once('/')?.0.to_owned())),
    })
}

#[cfg(test)]
mod tests {
    use super::{Definition, Surroundings, of_service};

    #[test]
    fn what_a_service_says() {
        let read = |text: &str| of_service("shop@1.service", &Definition::read([format!("[Service]\n{text}").as_str()]));
        let text = "User=sammy\nGroup=www-data\nWorkingDirectory=-/srv/%i\nEnvironment=\"A=b c\" D=%i\nEnvironment=E=%H F=1\n\
            EnvironmentFile=-/etc/shop/%i.env\nEnvironmentFile=/etc/all.env\nExecStart=-/srv/env/bin/gunicorn --x shop.wsgi";
        let wanted = Surroundings {
            user: Some("sammy".to_owned()),
            is_dynamic: false,
            group: Some("www-data".to_owned()),
            directory: Some("/srv/1".to_owned()),
            environment: ["A=b c", "D=1", "F=1"].map(str::to_owned).to_vec(),
            environment_files: ["-/etc/shop/1.env", "/etc/all.env"].map(str::to_owned).to_vec(),
            folder: Some("/srv/env/bin".to_owned()),
        };
        assert_eq!(read(text), Some(wanted));
        assert_eq!(read("User=sammy"), None);
        assert!(read("DynamicUser=yes\nExecStart=/bin/true").is_some_and(|s| s.is_dynamic && s.user.is_none()));
    }
}
