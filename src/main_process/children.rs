//! The reaper: what becomes of what a child held when it ends. This is the guarantee; a worker that cleans up behind
//! itself is only a courtesy.

use std::sync::atomic::Ordering::{Acquire, Relaxed};

use log::{debug, error, warn};

use super::main_loop::{BySignal, Main};
use crate::management::seed::{CancelTarget, Job};
use crate::segment::{ClientIndex, ClientState, Held, Owner, ServerIndex};
use crate::sys::clock;
use crate::sys::process::{self, Ended, Pid};

/// A failure that is no older has to do with the child that has just ended.
const JUST_NOW_MS: u64 = 2000;

/// A child of main.
#[derive(Clone, Copy, Debug)]
pub struct Child {
    /// Its entry of the client table; `None`: it owns nothing.
    pub me: Option<ClientIndex>,
    /// Whether it serves a client.
    pub is_client: bool,
}

impl Main {
    /// Reaps all children that have ended.
    pub fn reap(&mut self) {
        while let Some((pid, ended)) = process::reap_one() {
            if let Some(child) = self.children.remove(&pid) {
                self.child_ended(pid, child, ended);
            }
        }
        self.housekeeping.look_again();
    }

    fn child_ended(&mut self, pid: Pid, child: Child, ended: Ended) {
        let Some(me) = child.me else {
            self.admission.refusal_ended();
            return;
        };
        let state = ClientState::from_stored(self.segment.client(me).state.load(Acquire));
        if ended == Ended::Exited(0) && state == ClientState::Gone {
            debug!("process {pid} of client {me} has ended");
        } else {
            self.recover(pid, me, ended);
        }
        let just_now = clock::monotonic_ms().saturating_sub(JUST_NOW_MS);
        let segment = &self.segment;
        self.housekeeping.child_ended(me, |pool| segment.pool(pool).failed_at_ms.load(Relaxed) > just_now);
        self.leave(me, child.is_client);
    }

    /// Closes what a dead process held and sees to it that others get what it had promised them.
    fn recover(&mut self, pid: Pid, me: ClientIndex, ended: Ended) {
        self.segment.header().crashed.fetch_add(1, Relaxed);
        match ended {
            Ended::Killed(signal) => warn!("process {pid} of client {me} was killed by signal {signal}"),
            Ended::Exited(code) => {
                error!("process {pid} of client {me} ended with code {code} without cleaning up")
            }
        }
        self.segment.forbid_cancel(me);
        let now = clock::monotonic_ms();
        let recovered = self.segment.recover(me, now, &BySignal(&self.segment));
        let mut targets = Vec::new();
        for (held, was_used) in recovered.to_close {
            if was_used {
                targets.extend(self.cancel_target(held));
            }
            self.close_slot(held, Owner::Main);
        }
        if !targets.is_empty()
            && let Err(e) = self.spawn(Job::Cancel { targets }, None, false)
        {
            warn!("cannot fork a child to cancel what was left running: {e}");
        }
    }

    /// How to cancel what may still run on a connection.
    fn cancel_target(&self, held: Held) -> Option<CancelTarget> {
        let slot = self.segment.slot(held.slot);
        let server = ServerIndex::from_stored(slot.server.load(Relaxed))?;
        let key = self.secrets.server_key(held.slot);
        let process_id = slot.backend_pid.load(Relaxed);
        (process_id != 0 && !key.is_empty()).then_some(CancelTarget { server, process_id, key })
    }
}
