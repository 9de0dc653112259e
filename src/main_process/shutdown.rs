//! Stopping: at once, or when the last client has left.

use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use log::{info, warn};

use super::listeners::{self, ListenError};
use super::main_loop::Main;
use crate::sys::signals::{self, Signal};
use crate::sys::{clock, descriptors};

/// How long workers have to tell their clients and end, before they are killed.
const PATIENCE: Duration = Duration::from_secs(10);

/// How Howdah is stopping.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shutdown {
    /// Clients may finish their sessions.
    Gracefully,
    /// Clients were told to go; workers that are left at this moment are killed.
    Now {
        /// By the monotonic clock.
        kill_at: Duration,
    },
}

impl Main {
    /// Sends all clients away and stops. Asked a second time, it kills what is left.
    pub fn stop_now(&mut self) {
        if let Some(Shutdown::Now { .. }) = self.shutdown {
            return self.kill_children();
        }
        self.shutdown = Some(Shutdown::Now { kill_at: clock::monotonic() + PATIENCE });
        self.segment.header().phase.store(2, Relaxed);
        self.service.tell("STOPPING=1\nSTATUS=stopping");
        self.stop_listening();
        self.housekeeping.look_again();
        for pid in self.children.keys() {
            signals::send(pid.as_raw(), Signal::SIGTERM);
        }
    }

    /// Takes no more clients, and stops when the last has left.
    pub fn stop_gracefully(&mut self) {
        if self.shutdown.is_some() {
            return;
        }
        self.shutdown = Some(Shutdown::Gracefully);
        self.segment.header().phase.store(1, Relaxed);
        self.service.tell("STATUS=waiting for the last clients to leave");
        self.stop_listening();
        info!("{} clients are still connected", self.admission.clients());
    }

    /// Takes clients again.
    ///
    /// # Errors
    /// Somebody else listens on an address by now; the shutdown goes on.
    pub fn cancel_shutdown(&mut self) -> Result<bool, ListenError> {
        if self.shutdown != Some(Shutdown::Gracefully) {
            return Ok(false);
        }
        let mut opened = None;
        let among = descriptors::among_own(|| {
            opened = Some(listeners::open_all(&self.config, None));
            Ok(())
        });
        if let Err(e) = among {
            warn!("cannot listen again: {e}");
            return Ok(false);
        }
        self.listeners = opened.transpose()?.unwrap_or_default();
        if let Err(e) = self.register_listeners() {
            warn!("cannot listen again: {e}");
        }
        self.shutdown = None;
        self.segment.header().phase.store(0, Relaxed);
        self.service.tell("STATUS=serving clients");
        info!("the shutdown was cancelled");
        Ok(true)
    }

    /// Whether nothing keeps Howdah from stopping.
    #[must_use]
    pub fn shutdown_is_complete(&mut self) -> bool {
        match self.shutdown {
            None => false,
            Some(Shutdown::Gracefully) => {
                if self.admission.clients() > 0 {
                    return false;
                }
                // Children that are no clients are in the middle of something that nobody needs any more.
                self.stop_now();
                self.children.is_empty()
            }
            Some(Shutdown::Now { kill_at }) => {
                if !self.children.is_empty() && clock::monotonic() >= kill_at {
                    self.kill_children();
                }
                self.children.is_empty()
            }
        }
    }

    /// When what is left is to be killed.
    #[must_use]
    pub fn kill_at(&self) -> Option<Duration> {
        match self.shutdown {
            Some(Shutdown::Now { kill_at }) => Some(kill_at),
            _ => None,
        }
    }

    fn kill_children(&self) {
        warn!("killing {} processes that did not end in time", self.children.len());
        for pid in self.children.keys() {
            signals::send(pid.as_raw(), Signal::SIGKILL);
        }
    }

    fn stop_listening(&mut self) {
        listeners::close_all(&mut self.listeners);
        self.admission.forget_listeners();
    }
}
