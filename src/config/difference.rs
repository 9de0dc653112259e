//! What a reload changes, told to people: by key, old value and new, and whether it needs a new start.
#![forbid(unsafe_code)]

use std::collections::HashMap;
use std::fmt;

use super::keys::Applies;
use super::listing::Setting;
use super::user_list::UserList;
use super::valid::Config;

/// A key whose value is another one now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// The key with its section.
    pub key: String,
    /// What held before; `None`: there was no such section.
    pub old: Option<String>,
    /// What holds now; `None`: there is no such section any more.
    pub new: Option<String>,
}

/// What differs between two configurations.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Difference {
    /// Applies to the sessions that begin from now on.
    pub changed: Vec<Change>,
    /// Applies only after a new start.
    pub needs_restart: Vec<Change>,
}

/// Compares the running configuration with a new one. Secrets are compared, never told.
pub fn difference(old: &Config, new: &Config) -> Difference {
    let (before, after) = (old.settings(), new.settings());
    let mut difference = Difference::default();
    let mut values: HashMap<&str, &Setting> = before.iter().map(|it| (it.name.as_str(), it)).collect();
    for setting in &after {
        let old = values.remove(setting.name.as_str()).map(|it| it.value.clone());
        if old.as_ref() != Some(&setting.value) {
            difference.add(setting, old, Some(setting.value.clone()));
        }
    }
    for gone in before.iter().filter(|it| values.contains_key(it.name.as_str())) {
        difference.add(gone, Some(gone.value.clone()), None);
    }
    difference.changed.extend(user_changes(&old.users, &new.users));
    difference
}

impl Difference {
    /// Whether nothing differs.
    pub fn is_empty(&self) -> bool {
        self.changed.is_empty() && self.needs_restart.is_empty()
    }

    fn add(&mut self, setting: &Setting, old: Option<String>, new: Option<String>) {
        let change = Change { key: setting.name.clone(), old, new };
        match setting.key.applies {
            Applies::Reload => self.changed.push(change),
            Applies::Restart => self.needs_restart.push(change),
        }
    }
}

impl Config {
    /// What holds after a reload of `new` into a running daemon: `new`, but with the old value of every key that only a
    /// new start changes.
    pub fn reloaded(&self, new: Config) -> Config {
        let old = self.clone();
        Config {
            listen_addresses: old.listen_addresses,
            port: old.port,
            unix_socket_directories: old.unix_socket_directories,
            unix_socket_permissions: old.unix_socket_permissions,
            listen_backlog: old.listen_backlog,
            max_connections: old.max_connections,
            max_clients: old.max_clients,
            max_pools: old.max_pools,
            user: old.user,
            pid_file: old.pid_file,
            management_socket: old.management_socket,
            ..new
        }
    }
}

/// One line for the users: how many came, went and have another secret.
fn user_changes(old: &UserList, new: &UserList) -> Option<Change> {
    let added = new.names().filter(|it| !old.contains(it)).count();
    let removed = old.names().filter(|it| !new.contains(it)).count();
    let other_secret = new.names().filter(|it| old.contains(it) && !old.agrees_with(new, it)).count();
    if added + removed + other_secret == 0 {
        return None;
    }
    let new_text =
        format!("{} ({added} added, {removed} removed, {other_secret} with another secret)", new.len());
    Some(Change { key: "users".to_owned(), old: Some(old.len().to_string()), new: Some(new_text) })
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = |value: &str| if value.is_empty() { "(none)".to_owned() } else { value.to_owned() };
        match (&self.old, &self.new) {
            (Some(old), Some(new)) => write!(f, "{}: {} -> {}", self.key, shown(old), shown(new)),
            (None, Some(new)) => write!(f, "{}: new: {}", self.key, shown(new)),
            (Some(old), None) => write!(f, "{}: removed: {}", self.key, shown(old)),
            (None, None) => write!(f, "{}", self.key),
        }
    }
}
