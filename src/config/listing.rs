//! The configuration that runs, as texts by key: what `howdah-cli conf get` and `conf ls` tell.
//!
//! Keys are `section.key`, `servers.NAME.key`, `pools.0.key`. Values are what holds, not what was written: defaults are
//! filled in and paths absolute. No secret is among them.
#![forbid(unsafe_code)]

use std::fmt::Display;
use std::time::Duration;

use super::as_written::suggestion;
use super::keys::{self, Key};
use super::units::format_duration;
use super::valid::{
    Config, DatabaseConfig, LogFormat, LogTarget, NamePattern, PoolMode, PoolRule, ServerConfig, ServerHost,
    Timeouts, Validation,
};
use crate::auth::hba::{ConnectionType, HbaRule};

/// There is no such key.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no key `{key}`{suggestion}")]
pub struct UnknownKey {
    /// The key as it was asked for.
    pub key: String,
    /// `; did you mean …?`, or nothing.
    pub suggestion: String,
}

/// A setting: its full name, its entry in the table of keys, and its value.
pub(super) struct Setting {
    pub(super) name: String,
    pub(super) key: &'static Key,
    pub(super) value: String,
}

impl Config {
    /// The value of a key, such as `pools.0.size`; empty when it is set to nothing.
    pub fn get(&self, key: &str) -> Result<String, UnknownKey> {
        let settings = self.settings();
        if let Some(found) = settings.iter().find(|it| it.name == key) {
            return Ok(found.value.clone());
        }
        let known = settings.iter().map(|it| it.name.as_str());
        // `port` alone is as good as `howdah.port` to a person, but it may be any section's.
        let by_last_part = settings.iter().find(|it| it.key.name == key);
        let suggestion = match by_last_part {
            Some(found) => format!("; did you mean `{}`?", found.name),
            None => suggestion(key, known),
        };
        Err(UnknownKey { key: key.to_owned(), suggestion })
    }

    /// Every key with its value, in the order of the manual.
    pub fn list(&self) -> Vec<(String, String)> {
        self.settings().into_iter().map(|it| (it.name, it.value)).collect()
    }

    pub(super) fn settings(&self) -> Vec<Setting> {
        let mut settings = Vec::new();
        for section in &keys::SECTIONS {
            let mut add = |path: &str, value: &dyn Fn(&str) -> Option<String>| {
                for key in keys::of_section(section.name) {
                    if let Some(value) = value(key.name) {
                        settings.push(Setting { name: format!("{path}.{}", key.name), key, value });
                    }
                }
            };
            match section.name {
                "howdah" => add("howdah", &|name| self.howdah_value(name)),
                "log" => add("log", &|name| self.log_value(name)),
                "tcp" => add("tcp", &|name| self.tcp_value(name)),
                "timeouts" => add("timeouts", &|name| timeouts_value(&self.timeouts, name)),
                "servers" => self.servers.iter().for_each(|server| {
                    add(&format!("servers.{}", server.name), &|name| server_value(server, name));
                }),
                "databases" => self.databases.iter().for_each(|database| {
                    add(&format!("databases.{}", database.name), &|name| self.database_value(database, name));
                }),
                "pools" => self.pools.iter().enumerate().for_each(|(number, rule)| {
                    add(&format!("pools.{number}"), &|name| self.pool_value(rule, name));
                }),
                "hba" => self.hba.iter().enumerate().for_each(|(number, rule)| {
                    add(&format!("hba.{number}"), &|name| hba_value(rule, name));
                }),
                _ => {}
            }
        }
        settings
    }

    fn howdah_value(&self, name: &str) -> Option<String> {
        let path = |it: &std::path::Path| it.display().to_string();
        Some(match name {
            "listen_addresses" => list(&self.listen_addresses),
            "port" => self.port.to_string(),
            "unix_socket_directories" => list(self.unix_socket_directories.iter().map(|it| it.display())),
            "unix_socket_permissions" => format!("{:04o}", self.unix_socket_permissions),
            "listen_backlog" => self.listen_backlog.to_string(),
            "max_connections" => self.max_connections.to_string(),
            "max_clients" => self.max_clients.to_string(),
            "max_pools" => self.max_pools.to_string(),
            "max_startups" => {
                let limits = self.max_startups;
                format!("{}:{}:{}", limits.begin, limits.rate, limits.full)
            }
            "user" => self.user.clone().unwrap_or_default(),
            "pid_file" => self.pid_file.as_deref().map(path).unwrap_or_default(),
            "management_socket" => path(&self.management_socket),
            "users_file" => self.users_file.as_deref().map(path).unwrap_or_default(),
            _ => return None,
        })
    }

    fn log_value(&self, name: &str) -> Option<String> {
        Some(match name {
            "level" => self.log.level.as_str().to_ascii_lowercase(),
            "format" => match self.log.format {
                LogFormat::Text => "text".to_owned(),
                LogFormat::Json => "json".to_owned(),
            },
            "target" => match &self.log.target {
                LogTarget::Stderr => "stderr".to_owned(),
                LogTarget::Syslog => "syslog".to_owned(),
                LogTarget::File(path) => path.display().to_string(),
            },
            "log_connections" => self.log.log_connections.to_string(),
            "log_disconnections" => self.log.log_disconnections.to_string(),
            _ => return None,
        })
    }

    fn tcp_value(&self, name: &str) -> Option<String> {
        Some(match name {
            "nodelay" => self.tcp.nodelay.to_string(),
            "keepalive" => self.tcp.keepalive.to_string(),
            "keepalives_idle" => duration_or(self.tcp.keepalives_idle, "system"),
            "keepalives_interval" => duration_or(self.tcp.keepalives_interval, "system"),
            "keepalives_count" => self.tcp.keepalives_count.unwrap_or(0).to_string(),
            "user_timeout" => duration_or(self.tcp.user_timeout, "system"),
            _ => return None,
        })
    }

    fn server_name(&self, index: usize) -> String {
        self.servers.get(index).map(|it| it.name.clone()).unwrap_or_default()
    }

    fn database_value(&self, database: &DatabaseConfig, name: &str) -> Option<String> {
        Some(match name {
            "server" => self.server_name(database.server),
            "dbname" => database.dbname.clone().unwrap_or_default(),
            _ => return None,
        })
    }

    fn pool_value(&self, rule: &PoolRule, name: &str) -> Option<String> {
        Some(match name {
            "database" => patterns(&rule.databases),
            "user" => patterns(&rule.users),
            "server" => rule.server.map(|it| self.server_name(it)).unwrap_or_default(),
            "mode" => match rule.mode {
                PoolMode::Session => "session".to_owned(),
            },
            "size" => rule.size.to_string(),
            "min_size" => rule.min_size.to_string(),
            "server_user" => rule.server_user.clone().unwrap_or_default(),
            "wait_timeout" => duration_or(rule.wait_timeout, "off"),
            "client_idle_timeout" => duration_or(rule.client_idle_timeout, "off"),
            "server_idle_timeout" => duration_or(rule.server_idle_timeout, "off"),
            "server_lifetime" => duration_or(rule.server_lifetime, "off"),
            "reset_query" => rule.reset_query.clone(),
            "validation" => match rule.validation {
                Validation::Off => "off".to_owned(),
                Validation::Foreground => "foreground".to_owned(),
                Validation::Background(every) => format!("background {}", format_duration(every)),
            },
            "set_on_claim" => list(&rule.set_on_claim),
            _ => return None,
        })
    }
}

fn timeouts_value(timeouts: &Timeouts, name: &str) -> Option<String> {
    Some(match name {
        "authentication_timeout" => format_duration(timeouts.authentication_timeout),
        "connect_timeout" => format_duration(timeouts.connect_timeout),
        "reset_timeout" => format_duration(timeouts.reset_timeout),
        "cancel_timeout" => format_duration(timeouts.cancel_timeout),
        "dns_max_ttl" => format_duration(timeouts.dns_max_ttl),
        "wait_timeout" => duration_or(timeouts.wait_timeout, "off"),
        "client_idle_timeout" => duration_or(timeouts.client_idle_timeout, "off"),
        "server_idle_timeout" => duration_or(timeouts.server_idle_timeout, "off"),
        "server_lifetime" => duration_or(timeouts.server_lifetime, "off"),
        _ => return None,
    })
}

fn server_value(server: &ServerConfig, name: &str) -> Option<String> {
    Some(match name {
        "host" => match &server.host {
            ServerHost::Ip(address) => address.to_string(),
            ServerHost::Name(name) => name.clone(),
            ServerHost::UnixDirectory(path) => path.display().to_string(),
        },
        "port" => server.port.to_string(),
        "max_connections" => server.max_connections.unwrap_or(0).to_string(),
        _ => return None,
    })
}

fn hba_value(rule: &HbaRule, name: &str) -> Option<String> {
    Some(match name {
        "type" => rule.connection.to_string(),
        "database" => one_or_list(&rule.databases),
        "user" => one_or_list(&rule.users),
        // A local rule has no address.
        "address" if rule.connection == ConnectionType::Local => String::new(),
        "address" => rule.address.to_string(),
        "method" => rule.method.to_string(),
        _ => return None,
    })
}

fn patterns(patterns: &[NamePattern]) -> String {
    one_or_list(&patterns.iter().map(|it| it.0.as_str()).collect::<Vec<_>>())
}

fn one_or_list<T: Display>(items: &[T]) -> String {
    match items {
        [one] => one.to_string(),
        several => list(several),
    }
}

/// An array as in TOML.
fn list<T: Display>(items: impl IntoIterator<Item = T>) -> String {
    let items: Vec<String> = items.into_iter().map(|it| quote(&it.to_string())).collect();
    format!("[{}]", items.join(", "))
}

/// A string as in TOML.
pub(super) fn quote(text: &str) -> String {
    toml::Value::String(text.to_owned()).to_string()
}

fn duration_or(duration: Option<Duration>, none: &str) -> String {
    duration.map_or_else(|| none.to_owned(), format_duration)
}
