//! Pools and servers as workers see them: main alone writes them into the segment.

use std::collections::BTreeSet;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use std::time::Duration;

use log::{info, warn};

use super::main_loop::Main;
use crate::config::{Config, Route, ServerHost};
use crate::management::worker::Denied;
use crate::segment::{POOL_DISABLED, Pool, PoolIndex, ServerIndex, SlotState};

/// Databases that the operator has disabled.
#[derive(Default)]
pub struct Disabled {
    all: bool,
    databases: BTreeSet<String>,
}

impl Disabled {
    /// Disables a database, or all.
    pub fn add(&mut self, database: Option<&str>) {
        match database {
            None => self.all = true,
            Some(name) => {
                self.databases.insert(name.to_owned());
            }
        }
    }

    /// Enables a database, or all. Whether it was disabled.
    pub fn remove(&mut self, database: Option<&str>) -> bool {
        match database {
            None => {
                let was = self.all || !self.databases.is_empty();
                *self = Disabled::default();
                was
            }
            Some(name) => self.databases.remove(name),
        }
    }

    /// Whether a database is disabled.
    #[must_use]
    pub fn contains(&self, database: &str) -> bool {
        self.all || self.databases.contains(database)
    }

    /// Whether all are.
    #[must_use]
    pub fn all(&self) -> bool {
        self.all
    }
}

impl Main {
    /// Writes servers and the pools with exact names into the segment, at the start.
    pub fn apply_configuration_first_time(&self) {
        self.apply_servers();
        self.make_exact_pools();
    }

    /// Writes the servers into the segment.
    pub fn apply_servers(&self) {
        for (i, server) in (0..).zip(&self.config.servers) {
            let Some(table) = self.segment.find_server(ServerIndex(i)) else { return };
            let host = match &server.host {
                ServerHost::Ip(ip) => ip.to_string(),
                ServerHost::Name(name) => name.clone(),
                ServerHost::UnixDirectory(directory) => directory.display().to_string(),
            };
            if !table.host.is(&host) || table.port.load(Relaxed) != u32::from(server.port) {
                table.resolved_at_ms.store(0, Relaxed);
                table.resolve_failed_at_ms.store(0, Relaxed);
                table.addresses_count.store(0, Relaxed);
                table.major_version.store(0, Relaxed);
            }
            table.name.set(&server.name);
            table.host.set(&host);
            table.port.store(u32::from(server.port), Relaxed);
            table.max_connections.store(server.max_connections.unwrap_or(0), Relaxed);
            table.used.store(1, Release);
        }
    }

    /// Makes the pools whose database and user stand in a rule, so that they can be filled ahead of demand.
    pub fn make_exact_pools(&self) {
        for rule in self.config.pools.iter().filter(|rule| rule.min_size > 0) {
            for database in rule.databases.iter().filter(|name| name.is_exact()) {
                for user in rule.users.iter().filter(|name| name.is_exact()) {
                    if let Err(e) = self.make_pool(&database.0, &user.0) {
                        warn!("no pool for database {:?}, user {:?}: {e}", database.0, user.0);
                    }
                }
            }
        }
    }

    /// The pool of (database, user), made if it is not there.
    ///
    /// # Errors
    /// No rule matches, or all entries are in use.
    pub fn make_pool(&self, database: &str, user: &str) -> Result<PoolIndex, Denied> {
        let route = self.config.route(database, user).map_err(|_| Denied::NoRule)?;
        if let Some(pool) = self.segment.pool_of(database, user) {
            return Ok(pool);
        }
        let index = self.free_pool().ok_or(Denied::TooManyPools)?;
        let pool = self.segment.pool(index);
        pool.database.set(database);
        pool.user.set(user);
        self.apply_rule(pool, &self.config, &route, database);
        pool.epoch.store(0, Relaxed);
        let high = &self.segment.header().pools_high;
        high.fetch_max(index.0 + 1, Relaxed);
        pool.used.store(1, Release);
        info!("made pool {index} of database {database:?}, user {user:?}");
        Ok(index)
    }

    /// Writes the settings of a rule into its pool.
    pub fn apply_rule(&self, pool: &Pool, config: &Config, route: &Route<'_>, database: &str) {
        let rule = route.rule;
        let ms =
            |limit: Option<Duration>| limit.map_or(0, |l| u64::try_from(l.as_millis()).unwrap_or(u64::MAX));
        let index = |i: usize| u32::try_from(i).unwrap_or(u32::MAX);
        pool.size.store(rule.size.min(config.max_connections), Relaxed);
        pool.min_size.store(rule.min_size, Relaxed);
        pool.server.store(ServerIndex(index(route.server_index)).stored(), Relaxed);
        pool.rule.store(index(route.rule_index), Relaxed);
        pool.rule_epoch.store(self.segment.header().config_epoch.load(Relaxed), Relaxed);
        pool.server_idle_timeout_ms.store(ms(rule.server_idle_timeout), Relaxed);
        pool.server_lifetime_ms.store(ms(rule.server_lifetime), Relaxed);
        let flags = if self.disabled.contains(database) { POOL_DISABLED } else { 0 };
        pool.flags.store(flags, Release);
    }

    /// Says in every pool whether its database is disabled.
    pub fn apply_disabled(&self) {
        for (_, pool) in self.segment.used_pools() {
            let flags = if self.disabled.contains(&pool.database.get()) { POOL_DISABLED } else { 0 };
            pool.flags.store(flags, Release);
        }
    }

    fn free_pool(&self) -> Option<PoolIndex> {
        let all = (0..self.segment.dimensions().pools).map(PoolIndex);
        let unused = all.clone().find(|i| self.segment.pool(*i).used.load(Acquire) == 0);
        unused.or_else(|| all.into_iter().find(|i| self.give_up_pool(*i)))
    }

    /// Gives up a pool that nobody uses: no connection, no client that names it.
    fn give_up_pool(&self, index: PoolIndex) -> bool {
        let pool = self.segment.pool(index);
        if pool.min_size.load(Relaxed) > 0 {
            return false;
        }
        pool.used.store(0, Release);
        // A worker notes the pool in its entry and then looks whether it is still there: one of the two sees the other.
        std::sync::atomic::fence(std::sync::atomic::Ordering::SeqCst);
        let is_named =
            self.segment.used_clients().any(|(_, client)| client.pool.load(Acquire) == index.stored());
        let has_slots = self.segment.used_slots().any(|(_, slot)| {
            slot.pool.load(Relaxed) == index.stored() && slot.word.snapshot().state != SlotState::NotInit
        });
        if is_named || has_slots || !self.segment.queue(index).is_empty() {
            pool.used.store(1, Release);
            return false;
        }
        true
    }
}
