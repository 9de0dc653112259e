//! Main's end of the management socket: one [`Session`] per operator that is connected.
//!
//! Runs in main. Nothing here waits, and memory is bounded: one request and one reply at a time, each at most 64 KiB,
//! and room for a request's body grows with the bytes that have come, not with the length that was claimed. The clock
//! is main's: it drops a session that has not come to its end [`SESSION_TIME`] after it was accepted, or after its last
//! request.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use super::frame::{self, FrameError, HEADER_LENGTH};
use super::operator::{Reply, Request};
use crate::sys::{descriptor_passing, socket};

/// How long an operator may take to send a request, and to fetch its reply.
pub const SESSION_TIME: Duration = Duration::from_secs(10);
/// How many operators may be connected at once; main closes further ones unread.
pub const SESSIONS_MAX: usize = 32;

/// Bytes read at once.
const CHUNK_BYTES: usize = 4096;

/// Why a session is over. Main drops it, which closes the socket.
#[derive(Debug, thiserror::Error)]
pub enum SessionError {
    /// The operator hung up, as they do when they have their reply.
    #[error("the operator has left")]
    Gone,
    /// Somebody else than the daemon's user and root. They have been told.
    #[error("user {uid} (process {pid}) may not manage this daemon")]
    Denied {
        /// Their user id.
        uid: u32,
        /// Their process id.
        pid: i32,
    },
    /// What they sent is no request. They have been told.
    #[error("a management request is refused: {0}")]
    Malformed(#[from] FrameError),
    /// The kernel says so.
    #[error("management socket: {0}")]
    Io(#[from] io::Error),
}

/// Who is on the other end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Their user id.
    pub uid: u32,
    /// Their process id, when they connected.
    pub pid: i32,
}

/// An operator's connection.
///
/// Works with an edge-triggered poller: after [`Session::on_readable`] has returned a request, main replies to it and
/// calls `on_readable` again, until it returns `None`; while [`Session::wants_write`], nothing more is read, and main
/// calls `on_readable` again when [`Session::on_writable`] says that all is sent.
pub struct Session {
    socket: OwnedFd,
    peer: Peer,
    /// Bytes of one request that is not whole, and of nothing else.
    input: Vec<u8>,
    /// A reply of which `sent` bytes are sent; empty when all is.
    output: Vec<u8>,
    sent: usize,
    /// Goes with the first byte of `output`.
    descriptor: Option<OwnedFd>,
}

impl Session {
    /// Over an accepted socket, for the user `own_uid` of the daemon and root alone. `socket` never waits.
    ///
    /// # Errors
    /// [`SessionError::Denied`], [`SessionError::Io`].
    pub fn new(socket: OwnedFd, own_uid: u32) -> Result<Self, SessionError> {
        let (uid, pid) = socket::peer_credentials(socket.as_fd())?;
        let peer = Peer { uid, pid };
        let mut session =
            Session { socket, peer, input: Vec::new(), output: Vec::new(), sent: 0, descriptor: None };
        if !may_manage(uid, own_uid) {
            session.tell_and_leave(&Reply::refused(
                format!("user {uid} may not manage this daemon"),
                format!("run howdah-cli as root or as the user that howdah runs as (user id {own_uid})"),
            ));
            return Err(SessionError::Denied { uid, pid });
        }
        Ok(session)
    }

    /// Who is on the other end.
    #[must_use]
    pub fn peer(&self) -> Peer {
        self.peer
    }

    /// Whether a reply waits to be sent.
    #[must_use]
    pub fn wants_write(&self) -> bool {
        !self.output.is_empty()
    }

    /// The next request; `None`: it is not whole yet, or a reply is still to be sent.
    ///
    /// # Errors
    /// The session is over.
    pub fn on_readable(&mut self) -> Result<Option<Request>, SessionError> {
        if self.wants_write() {
            return Ok(None);
        }
        let mut chunk = [0u8; CHUNK_BYTES];
        loop {
            if let Some(request) = self.take_request()? {
                return Ok(Some(request));
            }
            let wanted = frame::missing(&self.input).clamp(1, CHUNK_BYTES);
            let space = chunk.get_mut(..wanted).unwrap_or_default();
            match socket::receive(self.socket.as_fd(), space) {
                Ok(0) => return Err(SessionError::Gone),
                Ok(received) => self.input.extend_from_slice(space.get(..received).unwrap_or_default()),
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(None),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) if e.kind() == io::ErrorKind::ConnectionReset => return Err(SessionError::Gone),
                Err(e) => return Err(e.into()),
            }
        }
    }

    fn take_request(&mut self) -> Result<Option<Request>, SessionError> {
        let taken = match frame::next(&self.input) {
            Ok(None) => return Ok(None),
            Ok(Some(frame)) => Request::decode(frame),
            Err(e) => Err(e),
        };
        // No more than one request is ever read, so nothing follows it.
        self.input = Vec::new();
        taken.map(Some).map_err(|e| {
            self.tell_and_leave(&Reply::refused(
                e.to_string(),
                "howdah-cli and howdah are to be of the same version; see `howdah-cli --version`",
            ));
            SessionError::Malformed(e)
        })
    }

    /// Sends a reply, or keeps what does not fit for [`Session::on_writable`]. `descriptor` goes with it; it is copied
    /// when it has to be kept. A reply that is too long is replaced by a refusal that says so.
    ///
    /// # Errors
    /// The session is over.
    pub fn reply(&mut self, reply: &Reply, descriptor: Option<BorrowedFd<'_>>) -> Result<(), SessionError> {
        self.output = reply.encode().or_else(|e| {
            let hint = "ask for less, for one key of the configuration for example";
            Reply::refused(format!("the answer does not fit: {e}"), hint).encode()
        })?;
        self.sent = 0;
        self.descriptor = descriptor.map(|fd| fd.try_clone_to_owned()).transpose()?;
        self.on_writable().map(drop)
    }

    /// Sends what can be sent; `true`: nothing is left.
    ///
    /// # Errors
    /// The session is over.
    pub fn on_writable(&mut self) -> Result<bool, SessionError> {
        while let Some(rest) = self.output.get(self.sent..).filter(|rest| !rest.is_empty()) {
            let sent = match &self.descriptor {
                // A header is one piece for the kernel, so the descriptor cannot go with half of it.
                Some(fd) => {
                    let head = rest.get(..HEADER_LENGTH).unwrap_or(rest);
                    descriptor_passing::send(self.socket.as_fd(), head, Some(fd.as_fd())).map(|()| head.len())
                }
                None => socket::transmit(self.socket.as_fd(), rest),
            };
            match sent {
                Ok(count) => {
                    self.sent = self.sent.saturating_add(count);
                    self.descriptor = None;
                }
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) if matches!(e.kind(), io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset) => {
                    return Err(SessionError::Gone);
                }
                Err(e) => return Err(e.into()),
            }
        }
        self.output = Vec::new();
        self.sent = 0;
        Ok(true)
    }

    /// The last word before the socket is closed. What does not fit at once is dropped: the daemon owes a peer that
    /// breaks the rules no memory.
    fn tell_and_leave(&mut self, reply: &Reply) {
        if let Ok(bytes) = reply.encode() {
            let _ = socket::transmit(self.socket.as_fd(), &bytes);
        }
    }
}

/// Whether user `uid` may manage the daemon of user `own_uid`.
fn may_manage(uid: u32, own_uid: u32) -> bool {
    uid == own_uid || uid == 0
}

impl AsFd for Session {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use std::io::{Read, Write};
    use std::os::unix::net::UnixStream;

    use super::super::frame::{BODY_MAX, Header, NO_SLOT};
    use super::*;
    use crate::sys::user::current_uid;

    fn pair() -> (UnixStream, Session) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        theirs.set_nonblocking(true).unwrap();
        ours.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        (ours, Session::new(theirs.into(), current_uid()).unwrap())
    }

    fn reply_in(bytes: &[u8]) -> Reply {
        Reply::decode(frame::next(bytes).unwrap().expect("a whole reply")).unwrap()
    }

    #[test]
    fn a_request_in_single_bytes_is_read_when_it_is_whole() {
        let (mut operator, mut session) = pair();
        let request = Request::ConfGet { key: "log.level".into() };
        let bytes = request.encode().unwrap();
        for byte in &bytes[..bytes.len() - 1] {
            operator.write_all(&[*byte]).unwrap();
            assert_eq!(session.on_readable().unwrap(), None);
        }
        operator.write_all(&bytes[bytes.len() - 1..]).unwrap();
        assert_eq!(session.on_readable().unwrap(), Some(request));
        assert_eq!(session.on_readable().unwrap(), None);
        drop(operator);
        assert!(matches!(session.on_readable(), Err(SessionError::Gone)));
    }

    #[test]
    fn requests_in_one_write_are_taken_one_by_one() {
        let (mut operator, mut session) = pair();
        let both = [Request::Ping.encode().unwrap(), Request::Clear.encode().unwrap()].concat();
        operator.write_all(&both).unwrap();
        assert_eq!(session.on_readable().unwrap(), Some(Request::Ping));
        assert_eq!(session.on_readable().unwrap(), Some(Request::Clear));
        assert_eq!(session.on_readable().unwrap(), None);
    }

    #[test]
    fn garbage_is_answered_and_ends_the_session() {
        let no_such = Header { id: 99, slot: NO_SLOT, length: 0 }.encode();
        let long = {
            let mut bytes = Header { id: 1, slot: NO_SLOT, length: 0 }.encode();
            bytes[8..12].copy_from_slice(&(BODY_MAX + 1).to_be_bytes());
            bytes
        };
        for (sent, told) in [
            (&b"GET / HTTP/1.1\r\n\r\n"[..], "version 71"),
            (&[0u8; 100][..], "version 0"),
            (&no_such[..], "message 99 is unknown"),
            (&long[..], "longer than 65536"),
        ] {
            let (mut operator, mut session) = pair();
            operator.write_all(sent).unwrap();
            assert!(matches!(session.on_readable(), Err(SessionError::Malformed(_))), "{told}");
            drop(session);
            let mut answer = Vec::new();
            // Closing with unread bytes is a reset for the operator, after the answer.
            let _ = operator.read_to_end(&mut answer);
            let Reply::Refused { message, .. } = reply_in(&answer) else { panic!("refused") };
            assert!(message.contains(told), "{message}");
        }
    }

    #[test]
    fn a_claimed_length_takes_no_memory() {
        let (mut operator, mut session) = pair();
        operator.write_all(&Header { id: 9, slot: NO_SLOT, length: BODY_MAX }.encode()).unwrap();
        assert_eq!(session.on_readable().unwrap(), None);
        assert!(session.input.capacity() < 1024, "{}", session.input.capacity());
    }

    #[test]
    fn a_reply_that_does_not_fit_is_kept_and_nothing_is_read_meanwhile() {
        let (mut operator, mut session) = pair();
        let fill = vec![0u8; 4096];
        let mut filled = 0;
        while let Ok(count) = socket::transmit(session.as_fd(), &fill) {
            filled += count;
        }
        let (reader, _writer) = io::pipe().unwrap();
        let reply = Reply::Segment { version: "0.1.0".into() };
        session.reply(&reply, Some(reader.as_fd())).unwrap();
        assert!(session.wants_write());
        drop(reader);
        operator.write_all(&Request::Ping.encode().unwrap()).unwrap();
        assert_eq!(session.on_readable().unwrap(), None);

        operator.read_exact(&mut vec![0; filled]).unwrap();
        assert!(session.on_writable().unwrap());
        let mut head = [0u8; HEADER_LENGTH];
        let (count, descriptor) = descriptor_passing::receive(operator.as_fd(), &mut head).unwrap();
        assert_eq!(count, HEADER_LENGTH);
        assert!(descriptor.is_some());
        let mut body = vec![0; frame::missing(&head)];
        operator.read_exact(&mut body).unwrap();
        assert_eq!(reply_in(&[&head[..], &body].concat()), reply);
        assert_eq!(session.on_readable().unwrap(), Some(Request::Ping));
    }

    #[test]
    fn a_reply_that_is_too_long_is_replaced() {
        let (mut operator, mut session) = pair();
        let text = "x".repeat(70_000);
        session.reply(&Reply::Done { text, json: String::new() }, None).unwrap();
        let mut answer = vec![0; HEADER_LENGTH];
        operator.read_exact(&mut answer).unwrap();
        let mut body = vec![0; frame::missing(&answer)];
        operator.read_exact(&mut body).unwrap();
        answer.append(&mut body);
        assert!(
            matches!(reply_in(&answer), Reply::Refused { message, .. } if message.contains("does not fit"))
        );
    }

    #[test]
    fn root_and_the_daemon_s_user_may_manage_it() {
        for (uid, own_uid, may) in
            [(0, 0, true), (0, 1000, true), (1000, 1000, true), (1001, 1000, false), (1000, 0, false)]
        {
            assert_eq!(may_manage(uid, own_uid), may, "{uid} {own_uid}");
        }
    }

    #[test]
    fn the_other_end_is_known() {
        let (_operator, session) = pair();
        assert_eq!(session.peer().uid, current_uid());
    }
}
