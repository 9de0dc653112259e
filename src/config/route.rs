//! From the names in a client's startup message to the pool rule and server that serve it.
#![forbid(unsafe_code)]

use super::valid::{Config, DatabaseConfig, NamePattern, PoolRule};
use crate::auth::hba::pattern_matches;

/// The name that stands for every other name in `[databases.NAME]`.
pub(super) const FALLBACK: &str = "*";

/// A (database, user) pair resolved to a pool rule and a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Route<'a> {
    /// The rule that matched first.
    pub rule: &'a PoolRule,
    /// Its index in [`Config::pools`].
    pub rule_index: usize,
    /// Index into [`Config::servers`].
    pub server_index: usize,
    /// The database's name on the server.
    pub server_database: &'a str,
    /// The user to log in to the server as.
    pub server_user: &'a str,
}

/// Why a client cannot be served, whoever it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RouteError {
    /// No `[databases.NAME]` and no pool rule names the database.
    #[error("no such database")]
    UnknownDatabase,
    /// Pool rules name the database, but none for this user.
    #[error("no pool of this database is for this user")]
    NoPoolForUser,
}

impl RouteError {
    /// SQLSTATE for the client.
    pub fn sqlstate(self) -> &'static str {
        match self {
            RouteError::UnknownDatabase => "3D000",
            RouteError::NoPoolForUser => "28000",
        }
    }
}

impl Config {
    /// Finds the pool rule and the server for a client. Touches nothing but the configuration.
    pub fn route<'a>(&'a self, database: &'a str, user: &'a str) -> Result<Route<'a>, RouteError> {
        let entry = self.database_entry(database);
        if entry.is_none() && !self.databases.is_empty() {
            return Err(RouteError::UnknownDatabase);
        }
        let mut refusal = RouteError::UnknownDatabase;
        for (rule_index, rule) in self.pools.iter().enumerate() {
            if !rule.databases.iter().any(|it| it.matches(database)) {
                continue;
            }
            if !rule.users.iter().any(|it| it.matches(user)) {
                refusal = RouteError::NoPoolForUser;
                continue;
            }
            // One of the two says it in every valid configuration.
            let Some(server_index) = rule.server.or(entry.map(|it| it.server)) else { continue };
            let server_database = entry.and_then(|it| it.dbname.as_deref()).unwrap_or(database);
            let server_user = rule.server_user.as_deref().unwrap_or(user);
            return Ok(Route { rule, rule_index, server_index, server_database, server_user });
        }
        Err(refusal)
    }

    /// The entry of a database: its own, or that of `*`.
    fn database_entry(&self, database: &str) -> Option<&DatabaseConfig> {
        let named = |name: &str| self.databases.iter().find(|it| it.name == name);
        named(database).or_else(|| named(FALLBACK))
    }
}

impl NamePattern {
    /// Whether the name matches.
    pub fn matches(&self, name: &str) -> bool {
        pattern_matches(&self.0, name)
    }

    /// Whether it stands for itself alone.
    pub fn is_exact(&self) -> bool {
        !self.0.contains('*')
    }

    /// Whether every name that `other` matches is matched by this one too.
    pub fn covers(&self, other: &NamePattern) -> bool {
        pattern_matches(&self.0, &other.0)
    }
}
