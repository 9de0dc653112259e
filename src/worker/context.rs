//! What all parts of a worker use: the seed, the way to main, and the slot that is held.

use std::cell::{Cell, RefCell};
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use std::time::Duration;

use log::warn;

use super::control::Control;
use crate::config::Config;
use crate::management::seed::{Keepers, Seed};
use crate::management::worker::{Id, MainLink};
use crate::net::{SocketOptions, Stream, timeout};
use crate::protocol::write;
use crate::segment::{ClientIndex, ClientState, Held, Owner, Release as Released, Secrets, Segment, Wake};
use crate::sys::{clock, process, signals, socket};

/// How long a server may take to close its end of a connection.
const END_LIMIT: Duration = Duration::from_secs(2);

/// Who a worker is, and what it works with.
pub struct Context<'a> {
    /// Its entry in the client table.
    pub me: ClientIndex,
    /// As of its fork.
    pub config: &'a Config,
    /// Of that configuration.
    pub config_epoch: u32,
    /// The shared segment.
    pub segment: &'a Segment,
    /// Cancel keys.
    pub secrets: &'a Secrets,
    /// Inherited descriptors of server connections.
    pub keepers: &'a RefCell<Keepers>,
    /// The way to main.
    pub main: MainLink<'a>,
    /// Signals and wake-ups.
    pub control: Rc<Control>,
    /// For unknown users.
    pub mock_key: [u8; 32],
    /// The slot that is held, from the claim until it is given back: the last act of the worker gives back what is
    /// still here.
    held: Cell<Option<Held>>,
}

impl<'a> Context<'a> {
    /// From the seed, as the entry `me`.
    pub fn new(seed: &Seed<'a>, me: ClientIndex, control: Rc<Control>) -> Self {
        use std::os::fd::AsFd;
        Context {
            me,
            config: seed.config,
            config_epoch: seed.config_epoch,
            segment: seed.segment,
            secrets: seed.secrets,
            keepers: seed.keepers,
            main: MainLink::new(seed.to_main.as_fd(), me),
            control,
            mock_key: seed.mock_key,
            held: Cell::new(None),
        }
    }

    /// As an owner of slots.
    #[must_use]
    pub fn owner(&self) -> Owner {
        Owner::Client(self.me)
    }

    /// Options of TCP sockets.
    #[must_use]
    pub fn socket_options(&self) -> SocketOptions {
        SocketOptions(self.config.tcp)
    }

    /// Says in the segment how far this client is.
    pub fn set_state(&self, state: ClientState) {
        let entry = self.segment.client(self.me);
        entry.state_since_ms.store(clock::monotonic_ms(), Relaxed);
        // Release: main reads what the entry says once it sees the state.
        entry.state.store(state as u32, Release);
    }

    /// Notes the slot that is held.
    pub fn hold(&self, held: Held) {
        self.held.set(Some(held));
        self.segment.client(self.me).slot.store(held.slot.stored(), Release);
    }

    /// The slot has been given back by other means than [`Context::release`] and [`Context::close`].
    pub fn forget(&self) {
        self.let_go();
    }

    fn let_go(&self) -> Option<Held> {
        self.segment.client(self.me).slot.store(0, Release);
        self.held.take()
    }

    /// Whether main is still the parent: else nobody would keep a connection that is given back.
    #[must_use]
    pub fn main_is_there(&self) -> bool {
        std::os::unix::process::parent_id() == self.segment.header().main_pid.load(Acquire).unsigned_abs()
    }

    /// Gives back the slot, whose connection is clean. `stream` is this process's copy of its descriptor.
    pub async fn release(&self, stream: Stream) {
        let Some(held) = self.held.get() else { return };
        if self.main_is_there() {
            let now = clock::monotonic_ms();
            match self.segment.release(self.owner(), held, now, self) {
                Released::Free | Released::Granted(_) | Released::NotOwner => {
                    self.let_go();
                    return;
                }
                Released::ToClose => {}
            }
        }
        self.close(Some(&stream)).await;
    }

    /// Ends the connection in the slot and gives back the empty slot.
    pub async fn close(&self, stream: Option<&Stream>) {
        let Some(held) = self.let_go() else { return };
        if let Some(stream) = stream {
            end(stream).await;
        }
        let header = self.segment.header();
        header.closed.fetch_add(1, Relaxed);
        self.segment.close(self.owner(), held.slot, self);
        if let Err(e) = self.main.tell(Id::Closed, Some(held), None).await {
            warn!("cannot tell main that slot {} is closed: {e}", held.slot);
        }
    }

    /// Gives back whatever is still held, as the last act.
    pub async fn finish(&self) {
        self.segment.forbid_cancel(self.me);
        if self.held.get().is_some() {
            self.close(None).await;
        }
        self.set_state(ClientState::Gone);
    }

    /// A copy of the descriptor of the connection in a slot that is held: inherited, or from main.
    pub async fn descriptor(&self, held: Held) -> Option<OwnedFd> {
        if let Some(fd) = self.keepers.borrow_mut().take(held) {
            return Some(fd);
        }
        match self.main.fetch(held).await {
            Ok(fd) => Some(fd),
            Err(e) => {
                warn!("no descriptor for slot {}: {e}", held.slot);
                None
            }
        }
    }
}

impl Wake for Context<'_> {
    fn wake(&self, client: ClientIndex) {
        if client != self.me
            && let Some(entry) = self.segment.find_client(client)
        {
            signals::send(entry.pid.load(Relaxed), signals::WAKE);
        }
    }
}

/// Ends a server connection for all copies of its descriptor: Terminate, and the end of the stream. Waits, for a while,
/// until the server has closed its end, so that a new connection does not come on top of this one.
pub async fn end(stream: &Stream) {
    let mut bytes = Vec::with_capacity(8);
    write::terminate(&mut bytes);
    // A server that does not read, or is gone, needs no good-bye.
    let _ = socket::transmit(stream.descriptor(), &bytes);
    socket::shut_down(stream.descriptor(), std::net::Shutdown::Write);
    let gone = async {
        let mut nothing = [0u8; 1024];
        while matches!(stream.read(&mut nothing).await, Ok(n) if n > 0) {}
    };
    let _ = timeout(END_LIMIT, gone).await;
    stream.shut_down();
}

/// Random bytes; a kernel without a generator is the end of the process.
pub fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0u8; N];
    if let Err(e) = process::random_bytes(&mut bytes) {
        log::error!("no random bytes from the kernel: {e}");
        process::exit_now(1);
    }
    bytes
}
