//! A client that says exactly what a test wants, and shows each message that comes back.

use std::collections::BTreeMap;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::time::Duration;

use super::{Login, wire};

/// How long a read waits before the test fails.
const READ_TIMEOUT: Duration = Duration::from_secs(30);

/// A message from the server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// What kind of message it is.
    pub tag: u8,
    /// The rest, without the length.
    pub body: Vec<u8>,
}

/// An ErrorResponse.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PgError {
    /// `ERROR`, `FATAL`, …
    pub severity: String,
    /// SQLSTATE.
    pub code: String,
    /// The message for people.
    pub message: String,
}

impl PgError {
    fn parse(body: &[u8]) -> Self {
        let mut error = Self::default();
        for field in body.split(|&byte| byte == 0) {
            let Some((kind, text)) = field.split_first() else { continue };
            let text = String::from_utf8_lossy(text).into_owned();
            match kind {
                b'V' => error.severity = text,
                b'C' => error.code = text,
                b'M' => error.message = text,
                _ => {}
            }
        }
        error
    }
}

/// The rows of a result, NULL as `None`.
pub type Rows = Vec<Vec<Option<String>>>;

/// A connection to PostgreSQL or to Howdah, byte by byte.
pub struct RawClient {
    stream: TcpStream,
    /// The backend's process id, from BackendKeyData.
    pub process_id: i32,
    /// The cancel key, from BackendKeyData.
    pub secret: Vec<u8>,
    /// All parameters that were reported, with their last value.
    pub parameters: BTreeMap<String, String>,
    /// The transaction status of the last ReadyForQuery.
    pub status: u8,
}

impl RawClient {
    /// Connects and says nothing.
    #[track_caller]
    pub fn connect(port: u16) -> Self {
        Self::try_connect(port).expect("the port accepts")
    }

    /// Connects and says nothing.
    ///
    /// # Errors
    /// What connect(2) says.
    pub fn try_connect(port: u16) -> io::Result<Self> {
        let stream = TcpStream::connect(("127.0.0.1", port))?;
        stream.set_read_timeout(Some(READ_TIMEOUT))?;
        stream.set_write_timeout(Some(READ_TIMEOUT))?;
        stream.set_nodelay(true)?;
        Ok(Self { stream, process_id: 0, secret: Vec::new(), parameters: BTreeMap::new(), status: 0 })
    }

    /// Connects, sends the startup message and reads to ReadyForQuery; gives a password only in clear.
    ///
    /// # Errors
    /// The ErrorResponse that came instead.
    #[track_caller]
    pub fn log_in(login: &Login) -> Result<Self, PgError> {
        let mut client = Self::connect(login.port);
        client.send_startup(login);
        client.finish_log_in(login.password.as_deref())?;
        Ok(client)
    }

    /// Sends the startup message for a login.
    pub fn send_startup(&mut self, login: &Login) {
        let mut parameters = vec![("user", login.user.as_str()), ("database", login.database.as_str())];
        parameters.extend(login.parameters.iter().map(|(name, value)| (name.as_str(), value.as_str())));
        if let Some(options) = &login.options {
            parameters.push(("options", options));
        }
        self.send(&wire::startup(wire::PROTOCOL_3_0, &parameters));
    }

    /// Reads to the first ReadyForQuery.
    ///
    /// # Errors
    /// The ErrorResponse that came instead.
    #[track_caller]
    pub fn finish_log_in(&mut self, password: Option<&str>) -> Result<(), PgError> {
        loop {
            let message = self.read();
            match message.tag {
                b'R' if message.body == [0, 0, 0, 3] => {
                    self.send(&wire::password(password.expect("the server asks for a password")));
                }
                b'R' => assert_eq!(message.body, [0; 4], "the raw client knows trust and password alone"),
                b'E' => return Err(PgError::parse(&message.body)),
                b'Z' => return Ok(()),
                b'K' | b'S' | b'N' | b'v' => {}
                tag => panic!("unexpected message {:?} at login", char::from(tag)),
            }
        }
    }

    /// Sends bytes as they are.
    #[track_caller]
    pub fn send(&mut self, bytes: &[u8]) {
        self.try_send(bytes).expect("the peer takes the bytes");
    }

    /// Sends bytes as they are.
    ///
    /// # Errors
    /// What send(2) says: the peer may have closed.
    pub fn try_send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes)
    }

    /// Reads exactly so many bytes.
    #[track_caller]
    pub fn read_bytes(&mut self, count: usize) -> Vec<u8> {
        let mut bytes = vec![0; count];
        self.stream.read_exact(&mut bytes).expect("the peer sends");
        bytes
    }

    /// Reads one message, or `None` at the end of the stream.
    ///
    /// # Errors
    /// A time-out, a reset, a length that cannot be.
    pub fn try_read(&mut self) -> io::Result<Option<Message>> {
        let mut head = [0; 5];
        let mut filled = 0;
        while filled < head.len() {
            match self.stream.read(&mut head[filled..])? {
                0 if filled == 0 => return Ok(None),
                0 => return Err(ErrorKind::UnexpectedEof.into()),
                count => filled += count,
            }
        }
        let length = u32::from_be_bytes([head[1], head[2], head[3], head[4]]);
        let length = usize::try_from(length).ok().and_then(|length| length.checked_sub(4));
        let mut body = vec![0; length.ok_or(ErrorKind::InvalidData)?];
        self.stream.read_exact(&mut body)?;
        let message = Message { tag: head[0], body };
        self.note(&message);
        Ok(Some(message))
    }

    /// Reads one message, which must come.
    #[track_caller]
    pub fn read(&mut self) -> Message {
        match self.try_read() {
            Ok(Some(message)) => message,
            Ok(None) => panic!("the server closed the connection"),
            Err(error) => panic!("no message: {error}"),
        }
    }

    fn note(&mut self, message: &Message) {
        match message.tag {
            b'K' => {
                let (pid, secret) = message.body.split_at(4);
                self.process_id = i32::from_be_bytes(pid.try_into().expect("split at 4"));
                self.secret = secret.to_vec();
            }
            b'S' => {
                let mut parts = message.body.split(|&byte| byte == 0).map(String::from_utf8_lossy);
                let (name, value) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
                self.parameters.insert(name.into_owned(), value.into_owned());
            }
            b'Z' => self.status = message.body.first().copied().unwrap_or(0),
            _ => {}
        }
    }

    /// Reads all messages up to and including the next ReadyForQuery.
    #[track_caller]
    pub fn read_until_ready(&mut self) -> Vec<Message> {
        let mut messages = Vec::new();
        loop {
            let message = self.read();
            let last = message.tag == b'Z';
            messages.push(message);
            if last {
                return messages;
            }
        }
    }

    /// Runs a simple query.
    ///
    /// # Errors
    /// The ErrorResponse of the query; the connection is ready again, unless it was FATAL.
    #[track_caller]
    pub fn query(&mut self, sql: &str) -> Result<Rows, PgError> {
        self.send(&wire::query(sql));
        let mut rows = Rows::new();
        let mut failure = None;
        loop {
            let message = self.read();
            match message.tag {
                b'D' => rows.push(row(&message.body)),
                b'E' => {
                    let error = PgError::parse(&message.body);
                    if error.severity == "FATAL" {
                        return Err(error);
                    }
                    failure = Some(error);
                }
                b'Z' => return failure.map_or(Ok(rows), Err),
                _ => {}
            }
        }
    }

    /// Runs a simple query that must succeed with one row of one column at least, and returns that.
    #[track_caller]
    pub fn value(&mut self, sql: &str) -> String {
        match self.query(sql) {
            Ok(rows) => rows.into_iter().flatten().flatten().next().unwrap_or_default(),
            Err(error) => panic!("{sql}: {error:?}"),
        }
    }

    /// Runs a simple query that must succeed.
    #[track_caller]
    pub fn run(&mut self, sql: &str) {
        if let Err(error) = self.query(sql) {
            panic!("{sql}: {error:?}");
        }
    }

    /// Reads to the next ErrorResponse, passing over everything else.
    #[track_caller]
    pub fn read_error(&mut self) -> PgError {
        loop {
            let message = self.read();
            if message.tag == b'E' {
                return PgError::parse(&message.body);
            }
        }
    }

    /// Everything that comes until the peer closes: the messages and whether it closed (not: went silent).
    pub fn read_to_end(&mut self, limit: Duration) -> (Vec<Message>, bool) {
        self.set_read_timeout(limit);
        let mut messages = Vec::new();
        let closed = loop {
            match self.try_read() {
                Ok(Some(message)) => messages.push(message),
                Ok(None) => break true,
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                    break false;
                }
                Err(_) => break true,
            }
        };
        self.set_read_timeout(READ_TIMEOUT);
        (messages, closed)
    }

    /// The first error among messages.
    pub fn first_error(messages: &[Message]) -> Option<PgError> {
        messages.iter().find(|message| message.tag == b'E').map(|message| PgError::parse(&message.body))
    }

    /// Whether nothing comes for so long: no byte, no end.
    pub fn is_silent_for(&mut self, period: Duration) -> bool {
        self.set_read_timeout(period);
        let silent = match self.stream.peek(&mut [0]) {
            Err(error) => matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut),
            Ok(_) => false,
        };
        self.set_read_timeout(READ_TIMEOUT);
        silent
    }

    /// Whether a byte or the end of the stream can be read now.
    pub fn has_news(&mut self) -> bool {
        self.stream.set_nonblocking(true).expect("a socket can be set non-blocking");
        let news = self.stream.peek(&mut [0]).is_ok();
        self.stream.set_nonblocking(false).expect("a socket can be set blocking");
        news
    }

    /// How long reads wait.
    pub fn set_read_timeout(&mut self, limit: Duration) {
        self.stream.set_read_timeout(Some(limit)).expect("a time-out above zero");
    }

    /// The port at this end.
    pub fn local_port(&self) -> u16 {
        self.stream.local_addr().expect("a connected socket has an address").port()
    }

    /// Says Terminate and waits for the end of the stream.
    pub fn terminate(mut self) {
        // The peer may have closed already, which is what Terminate asks for.
        let _ = self.try_send(&wire::terminate());
        let _ = self.read_to_end(READ_TIMEOUT);
    }

    /// Closes the sending half alone.
    pub fn close_write(&self) {
        // The peer may have closed already.
        let _ = self.stream.shutdown(Shutdown::Write);
    }

    /// A second handle of the same connection, to send from one thread while another reads.
    pub fn second_handle(&self) -> TcpStream {
        self.stream.try_clone().expect("a descriptor can be duplicated")
    }
}

fn row(body: &[u8]) -> Vec<Option<String>> {
    let (count, mut rest) = body.split_at(2);
    let count = u16::from_be_bytes(count.try_into().expect("split at 2"));
    let mut values = Vec::new();
    for _ in 0..count {
        let (length, after) = rest.split_at(4);
        let length = i32::from_be_bytes(length.try_into().expect("split at 4"));
        if let Ok(length) = usize::try_from(length) {
            let (value, after) = after.split_at(length);
            values.push(Some(String::from_utf8_lossy(value).into_owned()));
            rest = after;
        } else {
            values.push(None);
            rest = after;
        }
    }
    values
}
