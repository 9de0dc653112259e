//! The client's side before the relay: reading packets and messages, and telling it why it cannot stay.

use std::io;
use std::time::Duration;

use crate::net::{Stream, timeout};
use crate::protocol::{Report, SqlState, write};
use crate::sys::socket::PeerAddress;

/// How long a client may take to take its last error.
const LAST_WORDS: Duration = Duration::from_secs(2);
/// How long what it still sends is read, and thrown away, after that.
const LAST_BYTES: Duration = Duration::from_millis(200);

/// A client's socket, and what it sent that has not been used yet.
pub struct Client {
    /// The socket.
    pub stream: Stream,
    /// Where it connects from.
    pub peer: PeerAddress,
    /// Bytes that were read and not used: a client may send on before it is answered.
    pub inbound: Vec<u8>,
}

/// Why a client is not served (any longer).
#[derive(Debug)]
pub enum Ending {
    /// It is told.
    Report(Report),
    /// It is told what the server said: the body of an ErrorResponse.
    ServerError(Vec<u8>),
    /// It is not there any more, or nothing is owed to it.
    Silent,
}

impl From<Report> for Ending {
    fn from(report: Report) -> Self {
        Ending::Report(report)
    }
}

impl From<io::Error> for Ending {
    fn from(_: io::Error) -> Self {
        Ending::Silent
    }
}

impl Client {
    /// A client that has just been accepted.
    pub fn new(stream: Stream, peer: PeerAddress) -> Self {
        // What a client sends first is there by the time that its worker runs.
        stream.expect_bytes();
        Client { stream, peer, inbound: Vec::new() }
    }

    /// Reads more into `inbound`.
    ///
    /// # Errors
    /// `UnexpectedEof` when the client has closed.
    pub async fn read_more(&mut self) -> io::Result<()> {
        let mut chunk = [0u8; 1024];
        match self.stream.read(&mut chunk).await? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            n => {
                self.inbound.extend_from_slice(&chunk[..n]);
                Ok(())
            }
        }
    }

    /// The body of the next message, which has to be of type `tag` and no longer than `limit`.
    ///
    /// # Errors
    /// The client is gone, or sent something else.
    pub async fn read_message(&mut self, tag: u8, limit: usize) -> Result<Vec<u8>, Ending> {
        loop {
            if let Some((&[found, a, b, c, d], _)) = self.inbound.split_first_chunk::<5>() {
                if found != tag {
                    let text = format!(
                        "expected a message of type {:?}, got {:?}",
                        char::from(tag),
                        char::from(found)
                    );
                    return Err(Report::fatal(SqlState::PROTOCOL_VIOLATION, text).into());
                }
                let length =
                    (u32::from_be_bytes([a, b, c, d]) as usize).checked_sub(4).filter(|n| *n <= limit);
                let Some(length) = length else {
                    return Err(Report::fatal(SqlState::PROTOCOL_VIOLATION, "invalid message length").into());
                };
                if let Some(body) = self.inbound.get(5..5 + length) {
                    let body = body.to_vec();
                    self.inbound.drain(..5 + length);
                    return Ok(body);
                }
            }
            self.read_more().await?;
        }
    }

    /// Tells the client why it cannot stay, and lets it read that before the socket is closed: unread bytes in the
    /// socket would turn the close into a reset that takes the message away.
    pub async fn dismiss(&self, ending: &Ending) {
        let mut bytes = Vec::with_capacity(256);
        match ending {
            Ending::Report(report) => write::error(&mut bytes, report),
            Ending::ServerError(body) => {
                let written = write::message(&mut bytes, Some(b'E'), |out| {
                    out.extend_from_slice(body);
                    Ok(())
                });
                if written.is_err() {
                    return;
                }
            }
            Ending::Silent => return,
        }
        self.last_words(&bytes).await;
    }

    /// Writes `bytes` and closes the writing side; reads and throws away what the client still sends, for a moment.
    pub async fn last_words(&self, bytes: &[u8]) {
        if !matches!(timeout(LAST_WORDS, self.stream.write_all(bytes)).await, Ok(Ok(()))) {
            return;
        }
        crate::sys::socket::shut_down(self.stream.descriptor(), std::net::Shutdown::Write);
        let draining = async {
            let mut chunk = [0u8; 1024];
            let mut read = 0;
            while read < 1 << 20 {
                match self.stream.read(&mut chunk).await? {
                    0 => break,
                    n => read += n,
                }
            }
            Ok::<(), io::Error>(())
        };
        let _ = timeout(LAST_BYTES, draining).await;
    }
}
