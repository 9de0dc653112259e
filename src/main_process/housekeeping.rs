//! What main does from time to time, and when. Nothing is due while nothing can expire: an idle Howdah does not wake up.

use std::collections::HashMap;
use std::sync::atomic::Ordering::{Acquire, Relaxed};
use std::time::Duration;

use log::{debug, info, warn};

use super::main_loop::{BySignal, Main};
use crate::config::{ServerHost, Validation};
use crate::management::seed::Job;
use crate::segment::{ClientIndex, ClientState, Held, Owner, Pool, PoolIndex, ServerIndex, Slot, SlotState};
use crate::sys::clock;
use crate::sys::signals::{self, Signal};
use crate::sys::socket::PeerAddress;

/// Nothing is looked at more often than this.
const SHORTEST: Duration = Duration::from_millis(200);
/// How long a pool that could not be filled is left alone.
const PREFILL_AGAIN: Duration = Duration::from_secs(5);
/// Beyond its own deadline, a worker that is still logging a client in is stuck: it is killed.
const STUCK_AFTER: Duration = Duration::from_secs(5);
/// How often room is looked for while clients wait for it.
const MAKE_ROOM_AGAIN: Duration = Duration::from_secs(1);
/// How often a name that could not be found is looked up again.
const RESOLVE_AGAIN: Duration = Duration::from_secs(2);
/// Connections checked by one child.
const CHECK_BATCH: usize = 256;

/// When what is due.
pub struct Housekeeping {
    /// The next look at everything; `None`: nothing can become due.
    next: Option<Duration>,
    /// Something has changed: look before waiting.
    look: bool,
    watchdog: Option<Duration>,
    next_watchdog: Option<Duration>,
    /// Children at work.
    at_work: HashMap<ClientIndex, Chore>,
    /// No prefill of a pool before.
    prefill_not_before: HashMap<PoolIndex, Duration>,
    /// When each server's name was last looked up, and how many connections had been opened by then.
    resolved: HashMap<ServerIndex, (Duration, u64)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Chore {
    Prefill(PoolIndex),
    Check,
    Resolve(ServerIndex),
}

impl Housekeeping {
    /// With a sign of life for the service manager every `watchdog`.
    #[must_use]
    pub fn new(watchdog: Option<Duration>) -> Self {
        Housekeeping {
            next: None,
            look: true,
            watchdog,
            next_watchdog: watchdog.map(|_| Duration::ZERO),
            at_work: HashMap::new(),
            prefill_not_before: HashMap::new(),
            resolved: HashMap::new(),
        }
    }

    /// Something has changed that may have made something due.
    pub fn look_again(&mut self) {
        self.look = true;
    }

    /// A child has ended. A pool that it could not fill is left alone for a while.
    pub fn child_ended(&mut self, me: ClientIndex, has_failed: impl Fn(PoolIndex) -> bool) {
        if let Some(Chore::Prefill(pool)) = self.at_work.remove(&me)
            && has_failed(pool)
        {
            self.prefill_not_before.insert(pool, clock::monotonic() + PREFILL_AGAIN);
        }
    }

    /// How long main may wait for events.
    #[must_use]
    pub fn time_to_next(&self) -> Option<Duration> {
        if self.look {
            return Some(Duration::ZERO);
        }
        let now = clock::monotonic();
        let due = [self.next, self.next_watchdog].into_iter().flatten().min()?;
        let left = due.saturating_sub(now);
        // The poller counts milliseconds, rounded down.
        Some(if left.is_zero() { left } else { left + Duration::from_millis(1) })
    }

    fn is_at_work(&self, chore: Chore) -> bool {
        self.at_work.values().any(|c| *c == chore)
    }
}

/// The earliest of what becomes due.
#[derive(Default)]
struct Due(Option<Duration>);

impl Due {
    fn at(&mut self, moment: Duration) {
        self.0 = Some(self.0.map_or(moment, |m| m.min(moment)));
    }

    fn at_ms(&mut self, moment_ms: u64) {
        self.at(Duration::from_millis(moment_ms));
    }
}

impl Main {
    /// Does what is due.
    pub fn keep_house(&mut self) {
        let now = clock::monotonic();
        if let Some(every) = self.housekeeping.watchdog
            && self.housekeeping.next_watchdog.is_some_and(|at| at <= now)
        {
            self.service.tell("WATCHDOG=1");
            self.housekeeping.next_watchdog = Some(now + every);
        }
        let is_due = self.housekeeping.next.is_some_and(|at| at <= now);
        if !is_due && !self.housekeeping.look {
            self.note_new_startup(now);
            return;
        }
        self.housekeeping.look = false;
        let mut due = Due::default();
        self.look_at_slots(&mut due);
        self.make_room(now, &mut due);
        self.look_at_startups(now, &mut due);
        if self.shutdown.is_none() {
            self.fill_pools(now, &mut due);
            self.look_up_names(now, &mut due);
        }
        self.give_up_endings(now);
        if let Some(at) = self.next_give_up() {
            due.at(at);
        }
        self.drop_expired_operators();
        if let Some(at) = self.next_operator_deadline() {
            due.at(at);
        }
        if let Some(at) = self.admission.paused_until() {
            due.at(at);
        }
        if let Some(at) = self.kill_at() {
            due.at(at);
        }
        self.housekeeping.next = due.0.map(|at| at.max(now + SHORTEST));
    }

    /// A client that has just connected has a deadline, which is later than all that are known.
    fn note_new_startup(&mut self, now: Duration) {
        if self.housekeeping.next.is_none() && !self.admission.startups().is_empty() {
            self.housekeeping.next = Some(now + self.config.timeouts.authentication_timeout + STUCK_AFTER);
        }
        if let Some(at) = self.admission.paused_until() {
            self.housekeeping.next = Some(self.housekeeping.next.map_or(at, |next| next.min(at)));
        }
    }

    /// Idle time, age, validation, and what was left half closed.
    fn look_at_slots(&mut self, due: &mut Due) {
        let now = clock::monotonic_ms();
        let mut sizes = self.connections_by_pool();
        let (mut to_close, mut to_check, mut left_over) = (Vec::new(), Vec::new(), Vec::new());
        for (index, slot) in self.segment.used_slots() {
            let s = slot.word.snapshot();
            let Some(pool_index) = PoolIndex::from_stored(slot.pool.load(Relaxed)) else { continue };
            let Some(pool) = self.segment.find_pool(pool_index) else { continue };
            match s.state {
                SlotState::Flush if s.owner == Owner::Main && !self.is_ending(index) => {
                    left_over.push(Held { slot: index, generation: s.generation });
                }
                SlotState::Free => {
                    let size = sizes.entry(pool_index).or_default();
                    if is_expired(slot, pool, *size, now, due) {
                        *size = size.saturating_sub(1);
                        to_close.push(index);
                    } else if self.wants_check(slot, pool, now, due) {
                        to_check.push(Held { slot: index, generation: s.generation });
                    }
                }
                SlotState::InUse | SlotState::Init | SlotState::IdleCheck | SlotState::Gracefully => {
                    // It cannot expire before it has come back.
                    note_earliest(pool, self.check_interval(pool), now, due);
                }
                SlotState::NotInit | SlotState::Flush => {}
            }
        }
        for held in left_over {
            self.close_slot(held, Owner::Main);
        }
        for index in to_close {
            if self.flush_idle(index) {
                debug!("slot {index}: closed an idle connection");
            }
        }
        self.check_idle(to_check);
    }

    /// Closes idle connections that are in the way of clients of other pools. Whoever joins a queue has that done once;
    /// what it had closed may have gone to a third pool.
    fn make_room(&mut self, now: Duration, due: &mut Due) {
        for held in self.segment.make_room_for_waiters(&BySignal(&self.segment)) {
            self.close_slot(held, Owner::Main);
        }
        let is_waited_for = |(index, pool): (PoolIndex, &Pool)| {
            pool.wants_room.load(Relaxed) != 0 && !self.segment.queue(index).is_empty()
        };
        if self.segment.used_pools().any(is_waited_for) {
            due.at(now + MAKE_ROOM_AGAIN);
        }
    }

    fn connections_by_pool(&self) -> HashMap<PoolIndex, u32> {
        let mut sizes = HashMap::new();
        for (_, slot) in self.segment.used_slots() {
            if slot.word.snapshot().state != SlotState::NotInit
                && let Some(pool) = PoolIndex::from_stored(slot.pool.load(Relaxed))
            {
                *sizes.entry(pool).or_insert(0) += 1;
            }
        }
        sizes
    }

    fn check_interval(&self, pool: &Pool) -> Option<u64> {
        match self.config.pools.get(pool.rule.load(Relaxed) as usize)?.validation {
            Validation::Background(every) => u64::try_from(every.as_millis()).ok(),
            Validation::Off | Validation::Foreground => None,
        }
    }

    fn wants_check(&self, slot: &Slot, pool: &Pool, now: u64, due: &mut Due) -> bool {
        let Some(every) = self.check_interval(pool) else { return false };
        let last = slot.checked_at_ms.load(Relaxed).max(slot.used_at_ms.load(Relaxed));
        if now.saturating_sub(last) >= every {
            due.at_ms(now + every);
            return true;
        }
        due.at_ms(last + every);
        false
    }

    fn check_idle(&mut self, mut slots: Vec<Held>) {
        if slots.is_empty() || self.housekeeping.is_at_work(Chore::Check) {
            return;
        }
        slots.truncate(CHECK_BATCH);
        self.spawn_chore(Chore::Check, Job::Check { slots });
    }

    /// A worker has a deadline of its own for the login; one that does not keep it is stuck.
    fn look_at_startups(&mut self, now: Duration, due: &mut Due) {
        if self.admission.startups().is_empty() {
            return;
        }
        self.forget_logged_in();
        let limit = self.config.timeouts.authentication_timeout + STUCK_AFTER;
        for index in self.admission.startups() {
            let entry = self.segment.client(*index);
            let deadline = Duration::from_millis(entry.since_ms.load(Relaxed)) + limit;
            if deadline <= now {
                warn!("client {index} is still logging in after {} s: its worker is killed", limit.as_secs());
                signals::send(entry.pid.load(Acquire), Signal::SIGKILL);
                due.at(now + STUCK_AFTER);
            } else {
                due.at(deadline);
            }
        }
    }

    /// Opens connections up to `min_size`.
    fn fill_pools(&mut self, now: Duration, due: &mut Due) {
        let sizes = self.connections_by_pool();
        let mut short = Vec::new();
        for (index, pool) in self.segment.used_pools() {
            let wanted = pool.min_size.load(Relaxed);
            let missing = wanted.saturating_sub(sizes.get(&index).copied().unwrap_or(0));
            if missing == 0 || self.segment.is_disabled(index) {
                continue;
            }
            match self.housekeeping.prefill_not_before.get(&index) {
                Some(at) if *at > now => due.at(*at),
                _ => short.push((index, missing)),
            }
        }
        for (pool, count) in short {
            if !self.housekeeping.is_at_work(Chore::Prefill(pool)) {
                debug!("pool {pool}: opening {count} connections to reach min_size");
                self.spawn_chore(Chore::Prefill(pool), Job::Prefill { pool, count });
            }
        }
    }

    /// Looks names up at first, and again when they are old and connections have been opened since.
    fn look_up_names(&mut self, now: Duration, due: &mut Due) {
        let opened =
            self.segment.header().opened.load(Relaxed) + self.segment.header().accepted.load(Relaxed);
        let mut wanted = Vec::new();
        for (i, server) in (0..).map(ServerIndex).zip(&self.config.servers) {
            if !matches!(server.host, ServerHost::Name(_)) {
                continue;
            }
            let table = self.segment.server(i);
            let failed = table.resolved_at_ms.load(Acquire) == 0;
            let ttl = if failed { RESOLVE_AGAIN } else { self.config.timeouts.dns_max_ttl };
            match self.housekeeping.resolved.get(&i) {
                Some((at, _)) if *at + ttl > now => due.at(*at + ttl),
                Some((_, before)) if !failed && *before == opened => {}
                _ => wanted.push(i),
            }
        }
        for server in wanted {
            if !self.housekeeping.is_at_work(Chore::Resolve(server)) {
                self.housekeeping.resolved.insert(server, (now, opened));
                self.spawn_chore(Chore::Resolve(server), Job::Resolve { server });
                due.at(now + RESOLVE_AGAIN);
            }
        }
    }

    /// Has names looked up again, after the configuration has changed.
    pub fn forget_names(&mut self) {
        self.housekeeping.resolved.clear();
        self.housekeeping.look_again();
    }

    fn spawn_chore(&mut self, chore: Chore, job: Job) {
        let Some(me) = self.admission.take_entry(false) else {
            info!("no entry of the client table is left for {chore:?}");
            return;
        };
        self.enter(me, ClientState::Child, PeerAddress::Unix);
        match self.spawn(job, Some(me), false) {
            Ok(_) => {
                self.housekeeping.at_work.insert(me, chore);
            }
            Err(e) => {
                warn!("cannot fork a child for {chore:?}: {e}");
                self.leave(me, false);
            }
        }
    }
}

/// Whether an idle connection is to be closed: too old, or idle for too long and not needed for `min_size`.
fn is_expired(slot: &Slot, pool: &Pool, size: u32, now: u64, due: &mut Due) -> bool {
    let mut expired = false;
    let mut look = |limit: u64, since: u64, counts: bool| {
        if limit != 0 && counts {
            if now.saturating_sub(since) >= limit {
                expired = true;
            } else {
                due.at_ms(since + limit);
            }
        }
    };
    look(pool.server_lifetime_ms.load(Relaxed), slot.opened_at_ms.load(Relaxed), true);
    let is_spare = size > pool.min_size.load(Relaxed);
    look(pool.server_idle_timeout_ms.load(Relaxed), slot.used_at_ms.load(Relaxed), is_spare);
    expired || slot.epoch.load(Relaxed) < pool.epoch.load(Relaxed) || pool.used.load(Relaxed) == 0
}

/// When a connection that is in use now could become due at the earliest.
fn note_earliest(pool: &Pool, check_every: Option<u64>, now: u64, due: &mut Due) {
    let limits = [pool.server_idle_timeout_ms.load(Relaxed), check_every.unwrap_or(0)];
    for limit in limits.into_iter().filter(|l| *l != 0) {
        due.at_ms(now + limit);
    }
}
