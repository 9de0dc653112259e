//! A server connection outside the relay: whole messages, one after the other.

use std::io;
use std::ops::Range;

use crate::net::Stream;
use crate::protocol::backend::ParameterStatus;
use crate::protocol::parameters::ParameterSet;

/// The longest message that is taken in whole: everything around a session is short, but for errors and values that
/// somebody made long.
const MESSAGE_MAX: usize = 1 << 20;
/// Bytes read at a time: what is said around a session is short, and a fresh child pays for each page that it touches.
const CHUNK: usize = 960;

/// The stream ended, or is no PostgreSQL.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The socket failed, or the server closed it.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// What came is no message.
    #[error("the server sent a message of type {tag:?} with length {length}")]
    Malformed {
        /// The type byte.
        tag: char,
        /// The length field.
        length: u32,
    },
}

/// A stream to a server and what was read from it and not yet used.
pub struct ServerConnection {
    /// The socket.
    pub stream: Stream,
    /// What the server reports of its parameters.
    pub parameters: ParameterSet,
    /// Whether a reported value was too long to keep: such a connection is not given to another client.
    pub parameters_lost: bool,
    /// `consumed <= buffer.len()`.
    buffer: Vec<u8>,
    consumed: usize,
}

/// One message: its type, and where its body stands in the buffer.
pub struct Message {
    /// The type byte.
    pub tag: u8,
    body: Range<usize>,
}

impl ServerConnection {
    /// Over a connected stream.
    #[must_use]
    pub fn new(stream: Stream, parameters: ParameterSet) -> Self {
        ServerConnection { stream, parameters, parameters_lost: false, buffer: Vec::new(), consumed: 0 }
    }

    /// The next message.
    ///
    /// # Errors
    /// See [`ReadError`].
    pub async fn read_message(&mut self) -> Result<Message, ReadError> {
        loop {
            if let Some(message) = self.take_message()? {
                return Ok(message);
            }
            self.fill().await?;
        }
    }

    /// The body of the message that was read last.
    #[must_use]
    pub fn body(&self, message: &Message) -> &[u8] {
        self.buffer.get(message.body.clone()).unwrap_or_default()
    }

    /// Whether nothing was read that has not been used.
    #[must_use]
    pub fn is_drained(&self) -> bool {
        self.consumed == self.buffer.len()
    }

    /// Gives up the buffer, which is empty between sessions.
    pub fn forget_buffer(&mut self) {
        self.buffer = Vec::new();
        self.consumed = 0;
    }

    /// Takes in the value of a ParameterStatus message.
    pub fn note_parameter(&mut self, body: &[u8]) {
        let kept = ParameterStatus::parse(body)
            .ok()
            .is_some_and(|status| self.parameters.set(status.name, status.value).is_ok());
        self.parameters_lost |= !kept;
    }

    fn take_message(&mut self) -> Result<Option<Message>, ReadError> {
        let rest = &self.buffer[self.consumed..];
        let Some((&[tag, a, b, c, d], body)) = rest.split_first_chunk::<5>() else { return Ok(None) };
        let length = u32::from_be_bytes([a, b, c, d]);
        let body_length = (length as usize).checked_sub(4).filter(|n| *n <= MESSAGE_MAX);
        let Some(body_length) = body_length else {
            return Err(ReadError::Malformed { tag: char::from(tag), length });
        };
        if body.len() < body_length {
            return Ok(None);
        }
        let start = self.consumed + 5;
        self.consumed = start + body_length;
        Ok(Some(Message { tag, body: start..self.consumed }))
    }

    async fn fill(&mut self) -> Result<(), ReadError> {
        self.buffer.drain(..self.consumed);
        self.consumed = 0;
        let filled = self.buffer.len();
        self.buffer.resize(filled + CHUNK, 0);
        let read = self.stream.read(&mut self.buffer[filled..]).await;
        self.buffer.truncate(filled + *read.as_ref().unwrap_or(&0));
        match read? {
            0 => Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()),
            _ => Ok(()),
        }
    }
}
