//! The relay of a session: bytes go on as they came, through one scratch buffer; only message headers are walked.
//!
//! ```text
//!            ┌──── to_server (what the server did not take yet) ────┐
//! client ────┤  headers: Terminate? what is outstanding?            ├───▶ server
//!        ◀───┤  headers: what is answered? ParameterStatus          ├────
//!            └──── to_client (what the client did not take yet) ────┘
//! ```
//! Both directions go on independently, so a client and a server that both send before they read do not lock each
//! other up any earlier than they would without Howdah. While one side does not take what it is sent, the other is not
//! read: at most one scratch buffer is kept for each direction.

use std::cell::RefCell;
use std::io;
use std::sync::atomic::Ordering::Relaxed;
use std::task::Poll;
use std::time::Duration;

use super::control::{Control, Stop};
use crate::net::{Sleep, Stream, sleep_until};
use crate::protocol::tracker::Tracker;
use crate::protocol::walker::{FrameError, Walker};
use crate::segment::Slot;
use crate::server::ServerConnection;
use crate::sys::clock;

/// Bytes read at a time.
const SCRATCH_LEN: usize = 64 * 1024;

thread_local! {
    /// One for all clients of a worker. Zero pages of the executable's own: a worker pays for what it reads into.
    static SCRATCH: RefCell<[u8; SCRATCH_LEN]> = const { RefCell::new([0; SCRATCH_LEN]) };
}

fn with_scratch<T>(work: impl FnOnce(&mut [u8]) -> T) -> T {
    SCRATCH.with_borrow_mut(|scratch| work(&mut scratch[..]))
}

/// The longest ParameterStatus that is put together from several reads.
const STATUS_MAX: usize = 16 * 1024;

/// How a session ended.
#[derive(Debug)]
pub enum SessionEnd {
    /// The client said good-bye and has had all its answers.
    Terminated,
    /// The client is gone without a word.
    ClientGone,
    /// The client sent what is no message.
    ClientBroke(FrameError),
    /// The server is gone. Whether its last message was an error, which tells the client why.
    ServerGone {
        /// See above.
        told: bool,
    },
    /// The server sent what is no message.
    ServerBroke(FrameError),
    /// The client was idle for longer than `client_idle_timeout`.
    Idle(Duration),
    /// The client has to go.
    Stopped(Stop),
}

/// What became of one turn in one direction.
enum Turn {
    Moved,
    Blocked,
    End(SessionEnd),
}

/// One client with one server connection.
pub struct Session<'a> {
    client: &'a Stream,
    server: &'a mut ServerConnection,
    control: &'a Control,
    slot: &'a Slot,
    /// What the streams mean: what is outstanding, in which transaction state.
    pub tracker: Tracker,
    client_walker: Walker,
    server_walker: Walker,
    to_client: Backlog,
    to_server: Backlog,
    /// The client has sent Terminate: nothing is read from it any more.
    terminated: bool,
    /// The server does not take anything any more; what it still says is read to its end.
    server_deaf: bool,
    /// What came from the server is thrown away: the client is gone.
    discarding: bool,
    last_server_tag: u8,
    /// Part of a ParameterStatus that came in several reads.
    status: Vec<u8>,
    idle: IdleLimit,
}

impl<'a> Session<'a> {
    /// A session that has just begun: nothing is outstanding.
    pub fn new(
        client: &'a Stream,
        server: &'a mut ServerConnection,
        control: &'a Control,
        slot: &'a Slot,
        client_idle_timeout: Option<Duration>,
    ) -> Self {
        Session {
            client,
            server,
            control,
            slot,
            tracker: Tracker::new(),
            client_walker: Walker::new(),
            server_walker: Walker::new(),
            to_client: Backlog::default(),
            to_server: Backlog::default(),
            terminated: false,
            server_deaf: false,
            discarding: false,
            last_server_tag: 0,
            status: Vec::new(),
            idle: IdleLimit::new(client_idle_timeout),
        }
    }

    /// Relays until the session ends. `early` is what the client had sent before it was welcomed.
    pub async fn relay(&mut self, early: Vec<u8>) -> SessionEnd {
        if let Err(end) = self.take_from_client(&early) {
            return end;
        }
        drop(early);
        std::future::poll_fn(|context| {
            if let Some(stop) = self.control.stop() {
                return Poll::Ready(SessionEnd::Stopped(stop));
            }
            loop {
                let from_client = with_scratch(|scratch| self.client_to_server(scratch));
                if let Turn::End(end) = from_client {
                    return Poll::Ready(end);
                }
                let from_server = with_scratch(|scratch| self.server_to_client(scratch));
                if let Turn::End(end) = from_server {
                    return Poll::Ready(end);
                }
                if self.terminated && self.is_answered() {
                    return Poll::Ready(SessionEnd::Terminated);
                }
                if matches!((from_client, from_server), (Turn::Blocked, Turn::Blocked)) {
                    return self.idle.poll(context, self.tracker.is_idle()).map(SessionEnd::Idle);
                }
            }
        })
        .await
    }

    /// Reads the rest of what is outstanding and throws it away, until the server has nothing left to say.
    ///
    /// # Errors
    /// The server is gone, or sent nonsense.
    pub async fn settle(&mut self) -> Result<(), SessionEnd> {
        self.discarding = true;
        self.to_client = Backlog::default();
        std::future::poll_fn(|_| {
            loop {
                if let Poll::Ready(Err(_)) = self.to_server.poll_flush(&self.server.stream) {
                    return Poll::Ready(Err(SessionEnd::ServerGone { told: false }));
                }
                if self.tracker.pending_ready() == 0
                    && self.server_walker.at_boundary()
                    && self.to_server.is_empty()
                {
                    return Poll::Ready(Ok(()));
                }
                match with_scratch(|scratch| self.server_to_client(scratch)) {
                    Turn::Moved => {}
                    Turn::Blocked => return Poll::Pending,
                    Turn::End(end) => return Poll::Ready(Err(end)),
                }
            }
        })
        .await
    }

    /// Sends messages of Howdah's own, and has the tracker know of them.
    pub fn inject(&mut self, bytes: &[u8], tags: &[u8]) {
        for tag in tags {
            self.tracker.on_client(*tag);
        }
        self.to_server.stash(bytes);
    }

    /// Whether what the client was sent stands between two messages: an error in the middle of one would be taken for
    /// part of it.
    #[must_use]
    pub fn is_client_between_messages(&self) -> bool {
        self.server_walker.at_boundary() && self.to_client.is_empty()
    }

    /// Whether nothing is outstanding, and nothing half said: the connection can be cleaned as it is.
    #[must_use]
    pub fn is_at_rest(&self) -> bool {
        self.tracker.is_at_rest()
            && self.client_at_boundary()
            && self.server_walker.at_boundary()
            && self.to_server.is_empty()
    }

    /// Whether the client's stream stands between two messages: only then can the server take others.
    #[must_use]
    pub fn client_at_boundary(&self) -> bool {
        self.client_walker.at_boundary()
    }

    fn is_answered(&self) -> bool {
        self.tracker.pending_ready() == 0 && self.to_client.is_empty() && self.to_server.is_empty()
    }

    fn client_to_server(&mut self, scratch: &mut [u8]) -> Turn {
        match self.to_server.poll_flush(&self.server.stream) {
            Poll::Pending => {
                // The client is not read now, but its disappearance is noticed.
                let _ = self.client.is_hung_up();
                return Turn::Blocked;
            }
            Poll::Ready(Err(_)) => self.server_does_not_listen(),
            Poll::Ready(Ok(())) => {}
        }
        if self.terminated {
            // It waits for the answers to what it asked before; or it does not.
            return if self.client.is_hung_up() { Turn::End(SessionEnd::ClientGone) } else { Turn::Blocked };
        }
        if self.tracker.is_full() {
            return Turn::Blocked;
        }
        let n = match self.client.poll_read(scratch) {
            Poll::Pending => return Turn::Blocked,
            Poll::Ready(Ok(n)) if n > 0 => n,
            Poll::Ready(_) => return Turn::End(self.client_closed()),
        };
        self.idle.touch();
        match self.take_from_client(&scratch[..n]) {
            Ok(()) => Turn::Moved,
            Err(end) => Turn::End(end),
        }
    }

    fn client_closed(&self) -> SessionEnd {
        // Without Terminate, but owed nothing: some clients do.
        if self.tracker.is_idle() && self.client_walker.at_boundary() && self.to_client.is_empty() {
            SessionEnd::Terminated
        } else {
            SessionEnd::ClientGone
        }
    }

    fn take_from_client(&mut self, chunk: &[u8]) -> Result<(), SessionEnd> {
        let forward = self.walk_client(chunk).map_err(SessionEnd::ClientBroke)?;
        if forward == 0 || self.server_deaf {
            return Ok(());
        }
        add(&self.slot.bytes_to_server, forward);
        if self.to_server.send(&self.server.stream, &chunk[..forward]).is_err() {
            self.server_does_not_listen();
        }
        Ok(())
    }

    /// How much of the chunk is for the server: all before Terminate.
    fn walk_client(&mut self, chunk: &[u8]) -> Result<usize, FrameError> {
        let mut at = 0;
        while let Some(piece) = self.client_walker.next(chunk, &mut at)? {
            if !piece.begins {
                continue;
            }
            if piece.tag == b'X' {
                self.terminated = true;
                self.client_walker = Walker::new();
                return Ok(piece.start);
            }
            self.tracker.on_client(piece.tag);
        }
        Ok(chunk.len())
    }

    /// What it has said before it went is still to be read, its reason among it.
    fn server_does_not_listen(&mut self) {
        self.server_deaf = true;
        self.to_server = Backlog::default();
        self.server.stream.expect_bytes();
    }

    fn server_to_client(&mut self, scratch: &mut [u8]) -> Turn {
        match self.to_client.poll_flush(self.client) {
            Poll::Pending => return Turn::Blocked,
            Poll::Ready(Err(_)) => return Turn::End(SessionEnd::ClientGone),
            Poll::Ready(Ok(())) => {}
        }
        let n = match self.server.stream.poll_read(scratch) {
            Poll::Pending => return Turn::Blocked,
            Poll::Ready(Ok(n)) if n > 0 => n,
            Poll::Ready(_) => {
                return Turn::End(SessionEnd::ServerGone { told: self.last_server_tag == b'E' });
            }
        };
        let chunk = &scratch[..n];
        if let Err(e) = self.walk_server(chunk) {
            return Turn::End(SessionEnd::ServerBroke(e));
        }
        if self.discarding {
            return Turn::Moved;
        }
        add(&self.slot.bytes_to_client, n);
        match self.to_client.send(self.client, chunk) {
            Ok(()) => Turn::Moved,
            Err(_) => Turn::End(SessionEnd::ClientGone),
        }
    }

    fn walk_server(&mut self, chunk: &[u8]) -> Result<(), FrameError> {
        let mut at = 0;
        while let Some(piece) = self.server_walker.next(chunk, &mut at)? {
            if piece.tag == b'S' {
                self.note_status(piece.whole_body(chunk), &chunk[piece.start..piece.end], piece.ends);
            }
            if piece.ends {
                self.last_server_tag = piece.tag;
                self.tracker.on_server(piece.tag, piece.first_body_byte);
                if piece.tag == b'Z' {
                    add(&self.slot.ready, 1);
                    self.idle.touch();
                }
            }
        }
        Ok(())
    }

    /// ParameterStatus is rare: what the server reports is kept, so that the next client is told the truth.
    fn note_status(&mut self, whole: Option<&[u8]>, part: &[u8], ends: bool) {
        if let Some(body) = whole {
            self.server.note_parameter(body);
            return;
        }
        if self.status.len() + part.len() <= STATUS_MAX {
            self.status.extend_from_slice(part);
        } else {
            self.server.parameters_lost = true;
        }
        if ends {
            let message = std::mem::take(&mut self.status);
            self.server.note_parameter(message.get(5..).unwrap_or_default());
        }
    }
}

/// What a socket did not take yet. Empty, it holds no memory.
#[derive(Default)]
struct Backlog {
    bytes: Vec<u8>,
    /// `sent <= bytes.len()`.
    sent: usize,
}

impl Backlog {
    fn is_empty(&self) -> bool {
        self.sent == self.bytes.len()
    }

    /// Sends `chunk` after what is kept already; keeps what the socket does not take.
    fn send(&mut self, stream: &Stream, chunk: &[u8]) -> io::Result<()> {
        let mut rest = chunk;
        if self.is_empty()
            && let Poll::Ready(n) = stream.poll_write(chunk)
        {
            rest = &chunk[n?..];
        }
        if !rest.is_empty() {
            self.stash(rest);
        }
        Ok(())
    }

    fn stash(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    fn poll_flush(&mut self, stream: &Stream) -> Poll<io::Result<()>> {
        while self.sent < self.bytes.len() {
            match stream.poll_write(&self.bytes[self.sent..]) {
                Poll::Ready(Ok(n)) => self.sent += n,
                Poll::Ready(Err(e)) => return Poll::Ready(Err(e)),
                Poll::Pending => return Poll::Pending,
            }
        }
        if self.sent > 0 {
            *self = Backlog::default();
        }
        Poll::Ready(Ok(()))
    }
}

/// `client_idle_timeout`: time since the last message in either direction while nothing is open. Without a limit it
/// costs nothing; with one, a timer is set only while the client is idle.
struct IdleLimit {
    limit: Option<Duration>,
    since: Duration,
    /// Some iff the client is idle.
    timer: Option<Sleep>,
}

impl IdleLimit {
    fn new(limit: Option<Duration>) -> Self {
        let since = limit.map_or(Duration::ZERO, |_| clock::monotonic());
        IdleLimit { limit, since, timer: None }
    }

    fn touch(&mut self) {
        if self.limit.is_some() {
            self.since = clock::monotonic();
            self.timer = None;
        }
    }

    /// Ready with the limit when it has passed.
    fn poll(&mut self, context: &mut std::task::Context<'_>, is_idle: bool) -> Poll<Duration> {
        let Some(limit) = self.limit.filter(|_| is_idle) else { return Poll::Pending };
        let timer = self.timer.get_or_insert_with(|| sleep_until(self.since + limit));
        std::future::Future::poll(std::pin::Pin::new(timer), context).map(|()| limit)
    }
}

fn add(counter: &std::sync::atomic::AtomicU64, n: usize) {
    // Rule 4 of `segment/state.rs`: only the owner writes.
    counter.store(counter.load(Relaxed).wrapping_add(n as u64), Relaxed);
}
