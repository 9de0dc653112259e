//! Reading the configuration again: validated as a whole before anything changes; sessions that are there go on with
//! what they began with, new ones get what is new.

use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};

use log::{error, info, warn};

use super::main_loop::Main;
use crate::config::{self, Config, Difference, Errors, Loaded, MAX_SERVERS, difference};
use crate::logging;
use crate::management::FlushMode;
use crate::segment::{PoolIndex, ServerIndex};

impl Main {
    /// Reads the file again and tells the log what came of it.
    pub fn reload_and_log(&mut self) {
        self.service.tell(&format!("RELOADING=1\nMONOTONIC_USEC={}", crate::sys::clock::monotonic_us()));
        match self.reload() {
            Ok(difference) => log_difference(&difference),
            Err(errors) => {
                // The log file may have been rotated all the same.
                if let Err(e) = logging::reopen(&self.config.log) {
                    error!("the log stays where it is: {e}");
                }
                error!("the configuration is not changed, as it has mistakes: {errors}");
            }
        }
        self.service.tell("READY=1");
    }

    /// Reads the file again.
    ///
    /// # Errors
    /// Every mistake in it; nothing has changed then.
    pub fn reload(&mut self) -> Result<Difference, Errors> {
        let loaded = config::load(&self.config.path)?;
        Ok(self.take_over(loaded))
    }

    /// Puts a valid configuration in force, but for what needs a new start.
    pub fn take_over(&mut self, loaded: Loaded) -> Difference {
        for warning in &loaded.warnings {
            warn!("{warning}");
        }
        let difference = difference(&self.config, &loaded.config);
        let mut new = self.config.reloaded(loaded.config);
        keep_server_numbers(&self.config, &mut new);
        let old = std::mem::replace(&mut self.config, new);
        self.config_text = loaded.text;
        if let Err(e) = logging::reopen(&self.config.log) {
            error!("the log stays where it is: {e}");
        }
        self.put_in_force(&old);
        difference
    }

    /// Writes the configuration into the segment. Pools whose connections go elsewhere than before get new ones.
    pub fn put_in_force(&mut self, old: &Config) {
        let epoch = self.segment.header().config_epoch.fetch_add(1, Relaxed) + 1;
        self.apply_servers();
        let mut moved = Vec::new();
        for (index, pool) in self.segment.used_pools() {
            let (database, user) = (pool.database.get(), pool.user.get());
            let goes_to = |config: &Config| {
                let route = config.route(&database, &user).ok()?;
                let server = config.servers.get(route.server_index)?.clone();
                Some((
                    server.host,
                    server.port,
                    route.server_database.to_owned(),
                    route.server_user.to_owned(),
                ))
            };
            if let Ok(route) = self.config.route(&database, &user) {
                self.apply_rule(pool, &self.config, &route, &database);
            }
            if goes_to(old) != goes_to(&self.config) {
                pool.epoch.store(epoch, Release);
                moved.push(index);
            }
        }
        self.make_exact_pools();
        if !moved.is_empty() {
            info!("{} pools go to another server, database or user now", moved.len());
            self.flush(FlushMode::Gracefully, |pool: PoolIndex| moved.contains(&pool));
        }
        self.forget_names();
        // What a smaller pool has too many of is closed when it comes back; a larger one serves who waits.
        self.segment.serve_all(&super::main_loop::BySignal(&self.segment));
    }

    /// Sends every pool to another server, until the configuration is read again.
    ///
    /// # Errors
    /// There is no such server.
    pub fn switch_to(&mut self, name: &str) -> Result<u32, String> {
        let Some(index) = self.config.servers.iter().position(|server| server.name == name) else {
            let names: Vec<&str> = self.config.servers.iter().map(|server| server.name.as_str()).collect();
            return Err(format!("there is no server {name:?}; there are: {}", names.join(", ")));
        };
        let old = self.config.clone();
        for rule in &mut self.config.pools {
            rule.server = Some(index);
        }
        for database in &mut self.config.databases {
            database.server = index;
        }
        self.put_in_force(&old);
        info!("all pools use server {name:?} now");
        let stored = ServerIndex(u32::try_from(index).unwrap_or(0)).stored();
        let pools = self.segment.used_pools().filter(|(_, pool)| pool.server.load(Acquire) == stored).count();
        Ok(u32::try_from(pools).unwrap_or(u32::MAX))
    }
}

/// Servers are known by number in the segment and in workers that were forked before: a server that is still there
/// keeps its number, and the number of one that is gone is not given to another while there is room.
fn keep_server_numbers(old: &Config, new: &mut Config) {
    let mut servers = old.servers.clone();
    let mut numbers = Vec::with_capacity(new.servers.len());
    for server in &new.servers {
        let known = servers.iter().position(|s| s.name == server.name);
        let number = known.unwrap_or(servers.len());
        match known {
            Some(number) => servers[number] = server.clone(),
            None => servers.push(server.clone()),
        }
        numbers.push(number);
    }
    if servers.len() > MAX_SERVERS {
        warn!("more than {MAX_SERVERS} servers were named since the start: they are numbered anew");
        return;
    }
    for rule in &mut new.pools {
        rule.server = rule.server.and_then(|i| numbers.get(i).copied());
    }
    for database in &mut new.databases {
        database.server = numbers.get(database.server).copied().unwrap_or(database.server);
    }
    new.servers = servers;
}

fn log_difference(difference: &Difference) {
    if difference.is_empty() {
        info!("the configuration was read again: nothing has changed");
    }
    for change in &difference.changed {
        info!("changed: {change}");
    }
    for change in &difference.needs_restart {
        warn!("needs a restart: {change}");
    }
}
