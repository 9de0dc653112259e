//! What the operator asks of a running Howdah: main's end of the management socket.

use std::fmt::Write as _;
use std::io;
use std::os::fd::AsFd;
use std::os::fd::AsRawFd;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use log::{debug, info, warn};
use mio::unix::SourceFd;
use mio::{Interest, Token};
use serde_json::json;

use super::main_loop::{Main, SESSIONS_FROM};
use crate::config::{self, Difference};
use crate::management::server::{SESSION_TIME, SESSIONS_MAX, Session, SessionError};
use crate::management::{FlushMode, Reply, Request, ShutdownMode};
use crate::segment::PoolIndex;
use crate::sys::{clock, descriptors, socket, user};

/// An operator's connection.
pub struct OperatorSession {
    session: Session,
    raw: i32,
    /// It is closed then, so that nobody can occupy main's few places for ever.
    deadline: Duration,
}

impl Main {
    /// Accepts operators.
    pub fn accept_operators(&mut self) {
        loop {
            let accepted = match socket::accept(self.management.as_fd()) {
                Ok(accepted) => descriptors::move_to_own(accepted),
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return,
                Err(e) => Err(e),
            };
            let accepted = match accepted {
                Ok(accepted) => accepted,
                Err(e) => {
                    warn!("cannot accept an operator: {e}");
                    return;
                }
            };
            self.drop_expired_operators();
            if self.sessions.len() >= SESSIONS_MAX {
                warn!("too many operators at once: one is turned away");
                continue;
            }
            let raw = accepted.as_raw_fd();
            let session = match Session::new(accepted, user::current_uid()) {
                Ok(session) => session,
                Err(e) => {
                    warn!("an operator is turned away: {e}");
                    continue;
                }
            };
            self.add_operator(session, raw);
        }
    }

    fn add_operator(&mut self, session: Session, raw: i32) {
        let number = self.next_session;
        self.next_session = (self.next_session + 1) % (1 << 20);
        let interest = Interest::READABLE | Interest::WRITABLE;
        let registered =
            self.poll.registry().register(&mut SourceFd(&raw), Token(SESSIONS_FROM + number), interest);
        if let Err(e) = registered {
            warn!("cannot register an operator: {e}");
            return;
        }
        let deadline = clock::monotonic() + SESSION_TIME;
        self.sessions.insert(number, OperatorSession { session, raw, deadline });
        self.housekeeping.look_again();
    }

    /// Closes the connections of operators that say nothing.
    pub fn drop_expired_operators(&mut self) {
        let now = clock::monotonic();
        let expired: Vec<usize> =
            self.sessions.iter().filter(|(_, s)| s.deadline <= now).map(|(number, _)| *number).collect();
        for number in expired {
            self.drop_operator(number);
        }
    }

    /// When the first operator's time is up.
    #[must_use]
    pub fn next_operator_deadline(&self) -> Option<Duration> {
        self.sessions.values().map(|s| s.deadline).min()
    }

    fn drop_operator(&mut self, number: usize) {
        if let Some(operator) = self.sessions.remove(&number) {
            let _ = self.poll.registry().deregister(&mut SourceFd(&operator.raw));
        }
    }

    /// Something can be read from or written to an operator.
    pub fn on_operator(&mut self, number: usize, readable: bool, writable: bool) {
        if writable && let Err(e) = self.continue_reply(number) {
            return self.end_operator(number, &e);
        }
        if !readable {
            return;
        }
        loop {
            let Some(operator) = self.sessions.get_mut(&number) else { return };
            let request = match operator.session.on_readable() {
                Ok(Some(request)) => request,
                Ok(None) => return,
                Err(e) => return self.end_operator(number, &e),
            };
            let peer = operator.session.peer();
            debug!("operator: user {} process {} asks {:?}", peer.uid, peer.pid, request.verb());
            if !matches!(request, Request::Ping | Request::Status | Request::ConfGet { .. } | Request::ConfLs)
            {
                info!("operator: user {}, process {}: {}", peer.uid, peer.pid, request.verb());
            }
            let sent = self.obey(number, request);
            if let Err(e) = sent {
                return self.end_operator(number, &e);
            }
        }
    }

    fn continue_reply(&mut self, number: usize) -> Result<(), SessionError> {
        match self.sessions.get_mut(&number) {
            Some(operator) if operator.session.wants_write() => operator.session.on_writable().map(drop),
            _ => Ok(()),
        }
    }

    fn end_operator(&mut self, number: usize, error: &SessionError) {
        if !matches!(error, SessionError::Gone) {
            info!("an operator's connection is closed: {error}");
        }
        self.drop_operator(number);
    }

    fn obey(&mut self, number: usize, request: Request) -> Result<(), SessionError> {
        if matches!(request, Request::Status) {
            let descriptor = self.segment.memory().read_only_descriptor();
            let Some(operator) = self.sessions.get_mut(&number) else { return Ok(()) };
            return match descriptor {
                Ok(fd) => {
                    let reply = Reply::Segment { version: env!("CARGO_PKG_VERSION").to_owned() };
                    operator.session.reply(&reply, Some(fd.as_fd()))
                }
                Err(e) => {
                    operator.session.reply(&Reply::refused(format!("cannot open the segment: {e}"), ""), None)
                }
            };
        }
        let reply = self.reply_to(request);
        match self.sessions.get_mut(&number) {
            Some(operator) => operator.session.reply(&reply, None),
            None => Ok(()),
        }
    }

    fn reply_to(&mut self, request: Request) -> Reply {
        match request {
            Request::Ping => Reply::done("howdah is alive", &json!({ "alive": true })),
            Request::Status => Reply::refused("the status is read from the segment", ""),
            Request::Flush { mode, database } => self.flush_for_operator(mode, database.as_deref()),
            Request::Shutdown { mode } => self.shut_down_for_operator(mode),
            Request::Enable { database } => self.enable(database.as_deref()),
            Request::Disable { database } => self.disable(database.as_deref()),
            Request::Clear => self.clear(),
            Request::ConfReload => match self.reload() {
                Ok(difference) => reply_with(&difference),
                Err(errors) => Reply::refused(
                    format!("the configuration has mistakes, nothing was changed\n{errors}"),
                    "correct the file and reload again; `howdah --check` checks it",
                ),
            },
            Request::ConfGet { key } => match self.config.get(&key) {
                Ok(value) => Reply::done(value.clone(), &json!({ "key": key, "value": value })),
                Err(e) => Reply::refused(e.to_string(), "`howdah --print-default-config` shows all keys"),
            },
            Request::ConfSet { key, value } => self.conf_set(&key, &value),
            Request::ConfLs => self.conf_ls(),
            Request::SwitchTo { server } => match self.switch_to(&server) {
                Ok(pools) => Reply::done(
                    format!("{pools} pools use server {server} now, until the configuration is read again"),
                    &json!({ "server": server, "pools": pools }),
                ),
                Err(message) => Reply::refused(message, "`howdah-cli status details` shows servers"),
            },
        }
    }

    fn flush_for_operator(&mut self, mode: FlushMode, database: Option<&str>) -> Reply {
        if let Some(name) = database
            && !self.segment.used_pools().any(|(_, pool)| pool.database.is(name))
        {
            return self.no_such_database(name);
        }
        let wanted: Vec<PoolIndex> = self
            .segment
            .used_pools()
            .filter(|(_, pool)| database.is_none_or(|name| pool.database.is(name)))
            .map(|(index, _)| index)
            .collect();
        let flushed = self.flush(mode, |pool| wanted.contains(&pool));
        let mut text = format!("closed {} idle connections", flushed.closed);
        if flushed.marked > 0 {
            let _ = write!(text, "; {} in use will be closed when they come back", flushed.marked);
        }
        if flushed.ended > 0 {
            let _ = write!(text, "; sent {} clients away", flushed.ended);
        }
        let json = json!({ "closed": flushed.closed, "marked": flushed.marked, "ended": flushed.ended });
        Reply::done(text, &json)
    }

    fn shut_down_for_operator(&mut self, mode: ShutdownMode) -> Reply {
        let clients = self.admission.clients();
        match mode {
            ShutdownMode::Gracefully => {
                self.stop_gracefully();
                let text =
                    format!("no new clients; howdah stops when the {clients} that are connected have left");
                Reply::done(text, &json!({ "mode": "gracefully", "clients": clients }))
            }
            ShutdownMode::Immediate => {
                self.stop_now();
                let text = format!("stopping; {clients} clients are being sent away");
                Reply::done(text, &json!({ "mode": "immediate", "clients": clients }))
            }
            ShutdownMode::Cancel => match self.cancel_shutdown() {
                Ok(true) => Reply::done("the shutdown was cancelled", &json!({ "mode": "cancel" })),
                Ok(false) => Reply::refused("no graceful shutdown is under way", ""),
                Err(e) => Reply::refused(e.to_string(), "the shutdown goes on"),
            },
        }
    }

    fn enable(&mut self, database: Option<&str>) -> Reply {
        if database.is_some() && self.disabled.all() {
            return Reply::refused("all databases are disabled", "enable them all: howdah-cli enable");
        }
        let was = self.disabled.remove(database);
        self.apply_disabled();
        let what =
            database.map_or_else(|| "all databases are".to_owned(), |name| format!("database {name} is"));
        let text = if was { format!("{what} enabled") } else { format!("{what} enabled already") };
        Reply::done(text, &json!({ "database": database, "changed": was }))
    }

    fn disable(&mut self, database: Option<&str>) -> Reply {
        if let Some(name) = database
            && !self.is_known(name)
        {
            return self.no_such_database(name);
        }
        self.disabled.add(database);
        self.apply_disabled();
        let what =
            database.map_or_else(|| "all databases are".to_owned(), |name| format!("database {name} is"));
        Reply::done(
            format!("{what} disabled: new clients are turned away, those that are there stay"),
            &json!({ "database": database, "changed": true }),
        )
    }

    fn is_known(&self, database: &str) -> bool {
        self.segment.used_pools().any(|(_, pool)| pool.database.is(database))
            || self.config.databases.iter().any(|d| d.name == database)
            || self.config.pools.iter().any(|rule| rule.databases.iter().any(|name| name.matches(database)))
    }

    fn no_such_database(&self, name: &str) -> Reply {
        let mut names: Vec<String> = self.segment.used_pools().map(|(_, pool)| pool.database.get()).collect();
        names.sort();
        names.dedup();
        let there = if names.is_empty() {
            "none is in use".to_owned()
        } else {
            format!("in use: {}", names.join(", "))
        };
        Reply::refused(format!("no pool of a database {name:?}"), there)
    }

    /// Sets the statistics to zero. What a worker counts at this very moment may be lost.
    fn clear(&mut self) -> Reply {
        let header = self.segment.header();
        for counter in [&header.accepted, &header.refused, &header.crashed, &header.opened, &header.closed] {
            counter.store(0, Relaxed);
        }
        for (_, pool) in self.segment.used_pools() {
            for counter in
                [&pool.waits, &pool.waited_us, &pool.wait_timeouts, &pool.claims, &pool.open_failures]
            {
                counter.store(0, Relaxed);
            }
            pool.failed_at_ms.store(0, Relaxed);
        }
        for (_, slot) in self.segment.used_slots() {
            for counter in [&slot.sessions, &slot.bytes_to_server, &slot.bytes_to_client, &slot.ready] {
                counter.store(0, Relaxed);
            }
        }
        Reply::done("the statistics are zero", &json!({ "cleared": true }))
    }

    fn conf_set(&mut self, key: &str, value: &str) -> Reply {
        match config::set(&self.config_text, &self.config.path, key, value) {
            Ok(loaded) => reply_with(&self.take_over(loaded)),
            Err(errors) => Reply::refused(errors.to_string(), "nothing was changed"),
        }
    }

    fn conf_ls(&self) -> Reply {
        let mut files = vec![("configuration", self.config.path.display().to_string())];
        if let Some(users) = &self.config.users_file {
            files.push(("users", users.display().to_string()));
        }
        let text: Vec<String> = files.iter().map(|(what, path)| format!("{what}: {path}")).collect();
        let settings = self.config.list();
        let keys: serde_json::Map<_, _> =
            settings.into_iter().map(|(key, value)| (key, value.into())).collect();
        let files: serde_json::Map<_, _> =
            files.into_iter().map(|(what, path)| (what.to_owned(), path.into())).collect();
        Reply::done(text.join("\n"), &json!({ "files": files, "settings": keys }))
    }
}

fn reply_with(difference: &Difference) -> Reply {
    if difference.is_empty() {
        return Reply::done("nothing has changed", &json!({ "changed": [], "needs_restart": [] }));
    }
    let mut text = String::new();
    for change in &difference.changed {
        let _ = writeln!(text, "changed: {change}");
    }
    for change in &difference.needs_restart {
        let _ = writeln!(text, "needs a restart: {change}");
    }
    let list = |changes: &[config::Change]| -> Vec<_> {
        changes.iter().map(|c| json!({ "key": c.key, "old": c.old, "new": c.new })).collect()
    };
    let json =
        json!({ "changed": list(&difference.changed), "needs_restart": list(&difference.needs_restart) });
    Reply::done(text.trim_end(), &json)
}
