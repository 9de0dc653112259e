//! Main's loop: wait for an event, handle it, look whether housekeeping is due. Nothing in here waits for anything else.

use std::cell::RefCell;
use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::rc::Rc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use log::{info, warn};
use mio::unix::SourceFd;
use mio::{Events, Interest, Token};

use super::accept::Admission;
use super::children::Child;
use super::ending::Ending;
use super::hangups::Hangups;
use super::housekeeping::Housekeeping;
use super::listeners::Listener;
use super::operator::OperatorSession;
use super::pools::Disabled;
use super::service::{PidFile, ServiceManager};
use super::shutdown::Shutdown;
use crate::config::Config;
use crate::management::seed::{Entry, Job, Keepers, Seed};
use crate::segment::{ClientIndex, Secrets, Segment, SlotIndex, Wake};
use crate::sys::process::{self, Pid};
use crate::sys::signals::{self, Signal, Signals};

/// The signal descriptor.
pub const SIGNALS: Token = Token(0);
/// The socket that workers send to.
pub const WORKERS: Token = Token(1);
/// The socket that operators connect to.
pub const MANAGEMENT: Token = Token(2);
/// The poller of the keepers.
pub const HANGUPS: Token = Token(3);
/// Listeners are `LISTENERS_FROM + index`.
pub const LISTENERS_FROM: usize = 16;
/// Operators' sessions are `SESSIONS_FROM + number`.
pub const SESSIONS_FROM: usize = 4096;

/// Connections that end are `ENDING_FROM + slot`.
pub const ENDING_FROM: usize = 1 << 24;

/// Everything that main has.
pub struct Main {
    /// Its poller.
    pub poll: mio::Poll,
    /// What is in force.
    pub config: Config,
    /// The text that it was read from, with what `conf set` has changed.
    pub config_text: String,
    /// The shared segment.
    pub segment: Segment,
    /// Cancel keys.
    pub secrets: Secrets,
    /// Descriptors of pooled server connections.
    pub keepers: RefCell<Keepers>,
    /// Tells when servers close them.
    pub hangups: Hangups,
    /// Its signals.
    pub signals: Rc<Signals>,
    /// The end of the socket that children inherit.
    pub to_main: OwnedFd,
    /// The other end.
    pub from_workers: OwnedFd,
    /// Where clients connect.
    pub listeners: Vec<Listener>,
    /// Where operators connect.
    pub management: OwnedFd,
    /// Removed at the end.
    pub pid_file: Option<PidFile>,
    /// systemd.
    pub service: ServiceManager,
    /// Where children begin.
    pub entry: Entry,
    /// Its children, by process id.
    pub children: HashMap<Pid, Child>,
    /// Who may come in, and which entries of the client table are free.
    pub admission: Admission,
    /// Operators.
    pub sessions: HashMap<usize, OperatorSession>,
    /// Number of the next session.
    pub next_session: usize,
    /// Databases that the operator has disabled.
    pub disabled: Disabled,
    /// What is due when.
    pub housekeeping: Housekeeping,
    /// Connections whose end the server has not closed yet.
    pub ending: HashMap<SlotIndex, Ending>,
    /// Some iff Howdah is shutting down.
    pub shutdown: Option<Shutdown>,
    /// For mock challenges.
    pub mock_key: [u8; 32],
}

/// Wakes workers by a signal.
pub struct BySignal<'a>(pub &'a Segment);

impl Wake for BySignal<'_> {
    fn wake(&self, client: ClientIndex) {
        if let Some(entry) = self.0.find_client(client) {
            signals::send(entry.pid.load(Relaxed), signals::WAKE);
        }
    }
}

impl Main {
    /// Runs until the shutdown is complete.
    ///
    /// # Errors
    /// The poller broke.
    pub fn run(&mut self) -> io::Result<()> {
        let mut events = Events::with_capacity(256);
        loop {
            let limit = self.time_to_next_chore();
            match self.poll.poll(&mut events, limit) {
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                other => other?,
            }
            for event in &events {
                self.on_event(
                    event.token(),
                    event.is_readable() || event.is_read_closed(),
                    event.is_writable(),
                );
            }
            self.accept_more();
            self.keep_house();
            if self.shutdown_is_complete() {
                self.finish();
                return Ok(());
            }
        }
    }

    fn on_event(&mut self, token: Token, readable: bool, writable: bool) {
        match token {
            SIGNALS => self.on_signals(),
            WORKERS => self.on_worker_messages(),
            MANAGEMENT => self.accept_operators(),
            HANGUPS => self.on_hangups(),
            Token(n) if n >= ENDING_FROM => {
                self.on_ending(SlotIndex(u32::try_from(n - ENDING_FROM).unwrap_or(u32::MAX)));
            }
            Token(n) if n >= SESSIONS_FROM => self.on_operator(n - SESSIONS_FROM, readable, writable),
            Token(n) => self.admission.listener_is_ready(n - LISTENERS_FROM),
        }
    }

    fn on_signals(&mut self) {
        let signals = Rc::clone(&self.signals);
        let mut children_ended = false;
        for (signal, sender) in signals.take() {
            match signal {
                Signal::SIGCHLD => children_ended = true,
                Signal::SIGTERM | Signal::SIGINT => {
                    info!("{} from process {sender}: stopping", signal.as_str());
                    self.stop_now();
                }
                Signal::SIGTRAP => {
                    info!("SIGTRAP from process {sender}: stopping when the last client has left");
                    self.stop_gracefully();
                }
                Signal::SIGHUP => {
                    info!("SIGHUP from process {sender}: reading the configuration again");
                    self.reload_and_log();
                }
                other => info!("{} from process {sender}: nothing to do", other.as_str()),
            }
        }
        // Several children may stand behind one signal.
        if children_ended {
            self.reap();
        }
    }

    /// Forks a child for `job`, with an entry of the client table if it may own slots.
    pub fn spawn(&mut self, job: Job, me: Option<ClientIndex>, is_client: bool) -> io::Result<Pid> {
        let entry = self.entry;
        let seed = Seed {
            job,
            me,
            config: &self.config,
            config_epoch: self.segment.header().config_epoch.load(Relaxed),
            segment: &self.segment,
            secrets: &self.secrets,
            keepers: &self.keepers,
            to_main: &self.to_main,
            signals: &self.signals,
            mock_key: self.mock_key,
        };
        let pid = process::spawn(|| entry(seed))?;
        self.children.insert(pid, Child { me, is_client });
        Ok(pid)
    }

    /// Registers the listeners.
    ///
    /// # Errors
    /// What epoll says.
    pub fn register_listeners(&self) -> io::Result<()> {
        for (i, listener) in self.listeners.iter().enumerate() {
            let raw = listener.fd.as_fd().as_raw_fd();
            self.poll.registry().register(
                &mut SourceFd(&raw),
                Token(LISTENERS_FROM + i),
                Interest::READABLE,
            )?;
        }
        Ok(())
    }

    fn time_to_next_chore(&self) -> Option<Duration> {
        if self.admission.has_ready_listeners() {
            return Some(Duration::ZERO);
        }
        self.housekeeping.time_to_next()
    }

    /// The last act: ends the pooled server connections and removes files.
    fn finish(&mut self) {
        self.service.tell("STOPPING=1");
        self.end_all_connections();
        super::listeners::close_all(&mut self.listeners);
        if let Err(e) = std::fs::remove_file(&self.config.management_socket) {
            warn!("cannot remove {}: {e}", self.config.management_socket.display());
        }
        if let Some(pid_file) = &self.pid_file {
            pid_file.remove();
        }
        info!("howdah has stopped");
    }
}
