//! The operator's end of the management socket: asks main one thing and waits for the answer, with a deadline.
//!
//! Runs in `howdah-cli`. The socket itself never waits; all waiting is one `poll(2)` until the deadline, so a daemon
//! that accepts nothing, reads nothing or answers half cannot hold the program.

use std::fmt;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::frame::{self, FrameError, VERSION};
use super::operator::{Reply, Request};
use crate::sys::{descriptor_passing, socket};

/// Where nothing else says where the daemon's socket is.
pub const DEFAULT_SOCKET: &str = "/run/howdah/howdah.sock";
/// How long an answer may take.
pub const DEFAULT_TIMEOUT: Duration = Duration::from_secs(5);

/// How long to wait before trying again to connect to a daemon with a full backlog; it becomes free without a sign.
const RETRY: Duration = Duration::from_millis(10);

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody can be talked to.
    #[error("cannot reach howdah at {}: {}", path.display(), Reason(source))]
    Unreachable {
        /// The socket.
        path: PathBuf,
        /// What the kernel says.
        source: io::Error,
    },
    /// No answer in time.
    #[error("howdah at {} did not answer within {timeout:?}", path.display())]
    Timeout {
        /// The socket.
        path: PathBuf,
        /// The time it had.
        timeout: Duration,
    },
    /// It closed the socket without a whole answer.
    #[error("howdah at {} closed the connection without an answer", path.display())]
    Closed {
        /// The socket.
        path: PathBuf,
    },
    /// The connection broke.
    #[error("the connection to howdah at {} broke: {source}", path.display())]
    Broken {
        /// The socket.
        path: PathBuf,
        /// What the kernel says.
        source: io::Error,
    },
    /// The daemon speaks another version of the protocol.
    #[error("howdah at {} speaks management protocol {theirs}, this program speaks {VERSION}", path.display())]
    OtherVersion {
        /// The socket.
        path: PathBuf,
        /// The daemon's version.
        theirs: u8,
    },
    /// The answer cannot be understood.
    #[error("howdah at {} sent something that is no answer: {source}", path.display())]
    Malformed {
        /// The socket.
        path: PathBuf,
        /// What is wrong with it.
        source: FrameError,
    },
    /// The request does not fit the protocol; nothing was sent.
    #[error("the request cannot be sent: {0}")]
    Request(FrameError),
}

impl ClientError {
    /// What to do about it; may be empty.
    #[must_use]
    pub fn hint(&self) -> &'static str {
        match self {
            ClientError::Unreachable { source, .. } => match source.kind() {
                io::ErrorKind::NotFound => {
                    "is it running? Another place of the socket is given with -c FILE, --socket PATH or HOWDAH_SOCKET"
                }
                io::ErrorKind::ConnectionRefused => {
                    "the socket is there, but nobody listens on it: the daemon has ended without removing it"
                }
                io::ErrorKind::PermissionDenied => "run it as root or as the user that howdah runs as",
                _ => "",
            },
            ClientError::Timeout { .. } => {
                "the main process is stopped or very busy; --timeout allows it more time"
            }
            ClientError::OtherVersion { .. } | ClientError::Malformed { .. } => {
                "howdah-cli and howdah are to be of the same version; is that howdah's socket?"
            }
            ClientError::Closed { .. } | ClientError::Broken { .. } => "its log says why",
            ClientError::Request(_) => "",
        }
    }
}

/// The kernel's reason without "(os error 2)".
struct Reason<'a>(&'a io::Error);

impl fmt::Display for Reason<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.kind() {
            io::ErrorKind::NotFound => f.write_str("no such file"),
            io::ErrorKind::ConnectionRefused => f.write_str("connection refused"),
            io::ErrorKind::PermissionDenied => f.write_str("permission denied"),
            _ => self.0.fmt(f),
        }
    }
}

/// Sends `request` to the daemon at `path` and waits for the answer, and the descriptor that came with it.
///
/// **Blocking**: `timeout` in all.
///
/// # Errors
/// See [`ClientError`].
pub fn ask(
    path: &Path,
    request: &Request,
    timeout: Duration,
) -> Result<(Reply, Option<OwnedFd>), ClientError> {
    let bytes = request.encode().map_err(ClientError::Request)?;
    let mut call = Call { path, timeout, deadline: Instant::now().checked_add(timeout) };
    let socket = call.connect()?;
    call.send(socket.as_fd(), &bytes)?;
    call.receive(socket.as_fd())
}

/// One request under way.
struct Call<'a> {
    path: &'a Path,
    timeout: Duration,
    /// `None`: later than the clock can tell.
    deadline: Option<Instant>,
}

impl Call<'_> {
    fn connect(&mut self) -> Result<OwnedFd, ClientError> {
        loop {
            match socket::begin_connect_unix(self.path) {
                Ok(socket) => return Ok(socket),
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                    std::thread::sleep(self.left()?.min(RETRY));
                }
                Err(source) => return Err(ClientError::Unreachable { path: self.path.to_owned(), source }),
            }
        }
    }

    fn send(&mut self, socket: BorrowedFd<'_>, mut bytes: &[u8]) -> Result<(), ClientError> {
        while !bytes.is_empty() {
            match socket::transmit(socket, bytes) {
                Ok(count) => bytes = bytes.get(count..).unwrap_or_default(),
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => self.wait(socket, PollFlags::POLLOUT)?,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                // It may have said why before it closed the socket.
                Err(e) if e.kind() == io::ErrorKind::BrokenPipe => return Ok(()),
                Err(e) => return Err(self.broken(e)),
            }
        }
        Ok(())
    }

    fn receive(&mut self, socket: BorrowedFd<'_>) -> Result<(Reply, Option<OwnedFd>), ClientError> {
        let mut answer = Vec::new();
        let mut descriptor = None;
        let mut chunk = [0u8; 4096];
        loop {
            match frame::next(&answer).and_then(|f| f.map(Reply::decode).transpose()) {
                Ok(Some(reply)) => return Ok((reply, descriptor)),
                Ok(None) => {}
                Err(e) => return Err(self.malformed(e)),
            }
            let wanted = frame::missing(&answer).clamp(1, chunk.len());
            let space = chunk.get_mut(..wanted).unwrap_or_default();
            match descriptor_passing::receive(socket, space) {
                Ok((0, _)) => return Err(ClientError::Closed { path: self.path.to_owned() }),
                Ok((count, with_it)) => {
                    answer.extend_from_slice(space.get(..count).unwrap_or_default());
                    descriptor = descriptor.or(with_it);
                }
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => self.wait(socket, PollFlags::POLLIN)?,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) if e.kind() == io::ErrorKind::ConnectionReset => {
                    return Err(ClientError::Closed { path: self.path.to_owned() });
                }
                Err(e) => return Err(self.broken(e)),
            }
        }
    }

    fn wait(&self, socket: BorrowedFd<'_>, flags: PollFlags) -> Result<(), ClientError> {
        let left = self.left()?;
        // Rounded up: a wait of 0 ms would spin through the last millisecond.
        let timeout = PollTimeout::try_from(left.as_millis().saturating_add(1)).unwrap_or(PollTimeout::MAX);
        match poll(&mut [PollFd::new(socket, flags)], timeout) {
            Ok(_) | Err(Errno::EINTR) => Ok(()),
            Err(e) => Err(self.broken(e.into())),
        }
    }

    fn left(&self) -> Result<Duration, ClientError> {
        let left = self.deadline.map_or(Duration::MAX, |d| d.saturating_duration_since(Instant::now()));
        if left.is_zero() {
            return Err(ClientError::Timeout { path: self.path.to_owned(), timeout: self.timeout });
        }
        Ok(left)
    }

    fn broken(&self, source: io::Error) -> ClientError {
        ClientError::Broken { path: self.path.to_owned(), source }
    }

    fn malformed(&self, source: FrameError) -> ClientError {
        let path = self.path.to_owned();
        match source {
            FrameError::Version { found } => ClientError::OtherVersion { path, theirs: found },
            source => ClientError::Malformed { path, source },
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use std::io::{Read, Write};
    use std::os::unix::net::UnixListener;
    use std::thread;

    use super::super::server::Session;
    use super::*;
    use crate::segment::{Dimensions, Segment};
    use crate::sys::user::current_uid;

    const LONG: Duration = Duration::from_secs(20);

    fn place() -> (tempfile::TempDir, PathBuf) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("howdah.sock");
        (directory, path)
    }

    /// A daemon that takes one client and does `what` with it.
    fn daemon(path: &Path, what: impl FnOnce(std::os::unix::net::UnixStream) + Send + 'static) {
        let listener = UnixListener::bind(path).unwrap();
        thread::spawn(move || what(listener.accept().unwrap().0));
    }

    fn request_of(session: &mut Session) -> Request {
        loop {
            let mut polled = [PollFd::new(session.as_fd(), PollFlags::POLLIN)];
            poll(&mut polled, PollTimeout::from(20_000u16)).unwrap();
            if let Some(request) = session.on_readable().unwrap() {
                return request;
            }
        }
    }

    #[test]
    fn a_request_is_answered_with_a_descriptor_that_maps() {
        let (_directory, path) = place();
        daemon(&path, |stream| {
            stream.set_nonblocking(true).unwrap();
            let mut session = Session::new(stream.into(), current_uid()).unwrap();
            assert_eq!(request_of(&mut session), Request::Status);
            let segment = Segment::create(Dimensions { slots: 4, clients: 4, pools: 2 }).unwrap();
            let fd = segment.memory().read_only_descriptor().unwrap();
            session.reply(&Reply::Segment { version: "9.9".into() }, Some(fd.as_fd())).unwrap();
        });
        let (reply, descriptor) = ask(&path, &Request::Status, LONG).unwrap();
        assert_eq!(reply, Reply::Segment { version: "9.9".into() });
        let segment = Segment::open_read_only(descriptor.unwrap()).unwrap();
        assert_eq!(segment.dimensions().slots, 4);
    }

    #[test]
    fn what_cannot_be_reached_is_told_with_its_reason() {
        let (_directory, path) = place();
        let error = ask(&path, &Request::Ping, LONG).unwrap_err();
        assert_eq!(error.to_string(), format!("cannot reach howdah at {}: no such file", path.display()));
        assert!(error.hint().contains("is it running?"));
        drop(UnixListener::bind(&path).unwrap());
        let error = ask(&path, &Request::Ping, LONG).unwrap_err();
        assert!(error.to_string().ends_with("connection refused"), "{error}");
        let error = ask(Path::new(&"x".repeat(200)), &Request::Ping, LONG).unwrap_err();
        assert!(matches!(error, ClientError::Unreachable { .. }), "{error}");
    }

    #[test]
    fn a_silent_daemon_costs_no_more_than_the_timeout() {
        let (_directory, path) = place();
        let _listener = UnixListener::bind(&path).unwrap();
        let error = ask(&path, &Request::Ping, Duration::from_millis(50)).unwrap_err();
        assert!(matches!(error, ClientError::Timeout { .. }), "{error}");
    }

    #[test]
    fn other_programs_and_versions_are_recognised() {
        type Case = (&'static [u8], fn(&ClientError) -> bool);
        let cases: [Case; 4] = [
            (b"HTTP/1.1 400 Bad Request\r\n", |e| {
                matches!(e, ClientError::OtherVersion { theirs: b'H', .. })
            }),
            (&[2, 128], |e| matches!(e, ClientError::OtherVersion { theirs: 2, .. })),
            (&[1, 7, 0, 0, 255, 255, 255, 255, 0, 0, 0, 0], |e| matches!(e, ClientError::Malformed { .. })),
            (&[1, 128, 0, 0], |e| matches!(e, ClientError::Closed { .. })),
        ];
        for (sent, expected) in cases {
            let (_directory, path) = place();
            daemon(&path, |mut stream| {
                stream.read_exact(&mut [0; 12]).unwrap();
                stream.write_all(sent).unwrap();
            });
            let error = ask(&path, &Request::Ping, LONG).unwrap_err();
            assert!(expected(&error), "{sent:?}: {error}");
        }
    }

    #[test]
    fn a_refusal_before_the_request_is_read_arrives() {
        let (_directory, path) = place();
        daemon(&path, |mut stream| stream.write_all(&Reply::refused("no", "why").encode().unwrap()).unwrap());
        let (reply, _) = ask(&path, &Request::Ping, LONG).unwrap();
        assert_eq!(reply, Reply::refused("no", "why"));
    }
}
