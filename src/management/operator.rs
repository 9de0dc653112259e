//! What an operator asks main, and what main answers. Pure; the bytes are those of `frame.rs`.
//!
//! One enum per direction; a socket says who may send what. Ids are never used anew. 16 to 31 are kept for pause,
//! resume, reconnect and kill, which a later version knows; the last of them is what a header's slot is for.

use std::fmt;

use super::frame::{Frame, FrameError, NO_SLOT, Reader, Writer};

const PING: u8 = 1;
const STATUS: u8 = 2;
const FLUSH: u8 = 3;
const SHUTDOWN: u8 = 4;
const ENABLE: u8 = 5;
const DISABLE: u8 = 6;
const CLEAR: u8 = 7;
const CONF_RELOAD: u8 = 8;
const CONF_GET: u8 = 9;
const CONF_SET: u8 = 10;
const CONF_LS: u8 = 11;
const SWITCH_TO: u8 = 12;

const DONE: u8 = 128;
const REFUSED: u8 = 129;
const SEGMENT: u8 = 130;

/// Which server connections are flushed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FlushMode {
    /// Those that nobody uses are closed.
    Idle,
    /// As `Idle`; those in use are closed when they come back.
    Gracefully,
    /// All are closed now; clients that use one are cut off.
    All,
}

impl FlushMode {
    /// All modes, in the order of their numbers on the wire.
    pub const ALL: [FlushMode; 3] = [FlushMode::Idle, FlushMode::Gracefully, FlushMode::All];

    /// The name on the command line, in logs and in JSON.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            FlushMode::Idle => "idle",
            FlushMode::Gracefully => "gracefully",
            FlushMode::All => "all",
        }
    }

    fn number(self) -> u8 {
        match self {
            FlushMode::Idle => 0,
            FlushMode::Gracefully => 1,
            FlushMode::All => 2,
        }
    }
}

/// How the daemon is stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ShutdownMode {
    /// New clients are turned away, the daemon ends with the last client.
    Gracefully,
    /// All clients are told and cut off.
    Immediate,
    /// A graceful shutdown that is under way is called off.
    Cancel,
}

impl ShutdownMode {
    /// All modes, in the order of their numbers on the wire.
    pub const ALL: [ShutdownMode; 3] =
        [ShutdownMode::Gracefully, ShutdownMode::Immediate, ShutdownMode::Cancel];

    /// The name on the command line, in logs and in JSON.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            ShutdownMode::Gracefully => "gracefully",
            ShutdownMode::Immediate => "immediate",
            ShutdownMode::Cancel => "cancel",
        }
    }

    fn number(self) -> u8 {
        match self {
            ShutdownMode::Gracefully => 0,
            ShutdownMode::Immediate => 1,
            ShutdownMode::Cancel => 2,
        }
    }
}

/// What an operator asks.
#[derive(Clone, PartialEq, Eq)]
pub enum Request {
    /// Whether main answers. [`Reply::Done`].
    Ping,
    /// The shared segment, to read the status from. [`Reply::Segment`].
    Status,
    /// Close server connections.
    Flush {
        /// Which.
        mode: FlushMode,
        /// Of the pools of this database, as clients name it; `None`: of all.
        database: Option<String>,
    },
    /// Stop the daemon.
    Shutdown {
        /// How.
        mode: ShutdownMode,
    },
    /// Let clients use a database again.
    Enable {
        /// Which, as clients name it; `None`: all.
        database: Option<String>,
    },
    /// Let no new client use a database.
    Disable {
        /// Which, as clients name it; `None`: all.
        database: Option<String>,
    },
    /// Set the statistics to zero.
    Clear,
    /// Read the configuration's files again.
    ConfReload,
    /// The value of a key in force.
    ConfGet {
        /// The key, with dots between tables.
        key: String,
    },
    /// Change a key until the next reload.
    ConfSet {
        /// The key, with dots between tables.
        key: String,
        /// The value as it would stand in the file.
        value: String,
    },
    /// The files that the configuration in force was read from.
    ConfLs,
    /// Take another server for the one in use.
    SwitchTo {
        /// Its name in the configuration.
        server: String,
    },
}

impl Request {
    /// The verb as it is typed and logged.
    #[must_use]
    pub fn verb(&self) -> &'static str {
        match self {
            Request::Ping => "ping",
            Request::Status => "status",
            Request::Flush { .. } => "flush",
            Request::Shutdown { .. } => "shutdown",
            Request::Enable { .. } => "enable",
            Request::Disable { .. } => "disable",
            Request::Clear => "clear",
            Request::ConfReload => "conf reload",
            Request::ConfGet { .. } => "conf get",
            Request::ConfSet { .. } => "conf set",
            Request::ConfLs => "conf ls",
            Request::SwitchTo { .. } => "switch-to",
        }
    }

    /// The message to send.
    ///
    /// # Errors
    /// [`FrameError::TooLong`].
    pub fn encode(&self) -> Result<Vec<u8>, FrameError> {
        let empty = |id| Writer::new(id, NO_SLOT);
        match self {
            Request::Ping => empty(PING),
            Request::Status => empty(STATUS),
            Request::Flush { mode, database } => {
                empty(FLUSH).byte(mode.number()).optional_text(database.as_deref())
            }
            Request::Shutdown { mode } => empty(SHUTDOWN).byte(mode.number()),
            Request::Enable { database } => empty(ENABLE).optional_text(database.as_deref()),
            Request::Disable { database } => empty(DISABLE).optional_text(database.as_deref()),
            Request::Clear => empty(CLEAR),
            Request::ConfReload => empty(CONF_RELOAD),
            Request::ConfGet { key } => empty(CONF_GET).text(key),
            Request::ConfSet { key, value } => empty(CONF_SET).text(key).text(value),
            Request::ConfLs => empty(CONF_LS),
            Request::SwitchTo { server } => empty(SWITCH_TO).text(server),
        }
        .finish()
    }

    /// From a message received.
    ///
    /// # Errors
    /// It is none of these.
    pub fn decode(frame: Frame<'_>) -> Result<Self, FrameError> {
        let mut body = Reader::new(frame.body);
        let request = match frame.header.id {
            PING => Request::Ping,
            STATUS => Request::Status,
            FLUSH => Request::Flush {
                mode: body.choice(&FlushMode::ALL, "flush mode")?,
                database: body.optional_text("database")?,
            },
            SHUTDOWN => Request::Shutdown { mode: body.choice(&ShutdownMode::ALL, "shutdown mode")? },
            ENABLE => Request::Enable { database: body.optional_text("database")? },
            DISABLE => Request::Disable { database: body.optional_text("database")? },
            CLEAR => Request::Clear,
            CONF_RELOAD => Request::ConfReload,
            CONF_GET => Request::ConfGet { key: body.text("key")? },
            CONF_SET => Request::ConfSet { key: body.text("key")?, value: body.text("value")? },
            CONF_LS => Request::ConfLs,
            SWITCH_TO => Request::SwitchTo { server: body.text("server")? },
            id => return Err(FrameError::UnknownId { id }),
        };
        body.finish()?;
        about_no_slot(frame)?;
        Ok(request)
    }
}

impl fmt::Debug for Request {
    // For the log: everything but the value that is set, which may be a secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.verb())?;
        match self {
            Request::Flush { mode, database } => {
                write!(f, " {} {}", mode.name(), database.as_deref().unwrap_or("*"))
            }
            Request::Shutdown { mode } => write!(f, " {}", mode.name()),
            Request::Enable { database } | Request::Disable { database } => {
                write!(f, " {}", database.as_deref().unwrap_or("*"))
            }
            Request::ConfGet { key } | Request::ConfSet { key, .. } => write!(f, " {key:?}"),
            Request::SwitchTo { server } => write!(f, " {server:?}"),
            Request::Ping | Request::Status | Request::Clear | Request::ConfReload | Request::ConfLs => {
                Ok(())
            }
        }
    }
}

/// What main answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// It is done.
    Done {
        /// For people: lines, without the last line's end. May be empty.
        text: String,
        /// For programs: a JSON value.
        json: String,
    },
    /// It was not done, and nothing was changed.
    Refused {
        /// Why.
        message: String,
        /// What to do about it; may be empty.
        hint: String,
    },
    /// A descriptor of the shared segment, to read from, comes with this message.
    Segment {
        /// Main's version.
        version: String,
    },
}

impl Reply {
    /// [`Reply::Done`].
    #[must_use]
    pub fn done(text: impl Into<String>, json: &serde_json::Value) -> Self {
        Reply::Done { text: text.into(), json: json.to_string() }
    }

    /// [`Reply::Refused`].
    #[must_use]
    pub fn refused(message: impl Into<String>, hint: impl Into<String>) -> Self {
        Reply::Refused { message: message.into(), hint: hint.into() }
    }

    /// The message to send.
    ///
    /// # Errors
    /// [`FrameError::TooLong`].
    pub fn encode(&self) -> Result<Vec<u8>, FrameError> {
        match self {
            Reply::Done { text, json } => Writer::new(DONE, NO_SLOT).text(text).text(json),
            Reply::Refused { message, hint } => Writer::new(REFUSED, NO_SLOT).text(message).text(hint),
            Reply::Segment { version } => Writer::new(SEGMENT, NO_SLOT).text(version),
        }
        .finish()
    }

    /// From a message received.
    ///
    /// # Errors
    /// It is none of these.
    pub fn decode(frame: Frame<'_>) -> Result<Self, FrameError> {
        let mut body = Reader::new(frame.body);
        let reply = match frame.header.id {
            DONE => Reply::Done { text: body.text("text")?, json: body.text("json")? },
            REFUSED => Reply::Refused { message: body.text("message")?, hint: body.text("hint")? },
            SEGMENT => Reply::Segment { version: body.text("version")? },
            id => return Err(FrameError::UnknownId { id }),
        };
        body.finish()?;
        about_no_slot(frame)?;
        Ok(reply)
    }
}

fn about_no_slot(frame: Frame<'_>) -> Result<(), FrameError> {
    match frame.header.slot {
        NO_SLOT => Ok(()),
        slot => Err(FrameError::Slot { id: frame.header.id, slot }),
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use proptest::collection::vec;
    use proptest::option;
    use proptest::prelude::*;
    use proptest::sample::select;

    use super::super::frame::{HEADER_LENGTH, Header, next};
    use super::*;

    fn any_request() -> impl Strategy<Value = Request> {
        let database = || option::of(any::<String>());
        prop_oneof![
            Just(Request::Ping),
            Just(Request::Status),
            (select(&FlushMode::ALL[..]), database())
                .prop_map(|(mode, database)| Request::Flush { mode, database }),
            select(&ShutdownMode::ALL[..]).prop_map(|mode| Request::Shutdown { mode }),
            database().prop_map(|database| Request::Enable { database }),
            database().prop_map(|database| Request::Disable { database }),
            Just(Request::Clear),
            Just(Request::ConfReload),
            any::<String>().prop_map(|key| Request::ConfGet { key }),
            any::<(String, String)>().prop_map(|(key, value)| Request::ConfSet { key, value }),
            Just(Request::ConfLs),
            any::<String>().prop_map(|server| Request::SwitchTo { server }),
        ]
    }

    fn any_reply() -> impl Strategy<Value = Reply> {
        prop_oneof![
            any::<(String, String)>().prop_map(|(text, json)| Reply::Done { text, json }),
            any::<(String, String)>().prop_map(|(message, hint)| Reply::Refused { message, hint }),
            any::<String>().prop_map(|version| Reply::Segment { version }),
        ]
    }

    proptest! {
        #[test]
        fn requests_survive(request in any_request()) {
            let bytes = request.encode().unwrap();
            prop_assert_eq!(Request::decode(next(&bytes).unwrap().unwrap()), Ok(request));
        }

        #[test]
        fn replies_survive(reply in any_reply()) {
            let bytes = reply.encode().unwrap();
            prop_assert_eq!(Reply::decode(next(&bytes).unwrap().unwrap()), Ok(reply));
        }

        #[test]
        fn a_changed_byte_never_panics(request in any_request(), at: usize, to: u8) {
            let mut bytes = request.encode().unwrap();
            let at = at % bytes.len();
            bytes[at] = to;
            if let Ok(Some(frame)) = next(&bytes) {
                let _ = Request::decode(frame);
                let _ = Reply::decode(frame);
            }
        }

        #[test]
        fn what_is_accepted_is_what_would_be_sent(id: u8, body in vec(any::<u8>(), 0..64)) {
            let length = u32::try_from(body.len()).unwrap();
            let frame = Frame { header: Header { id, slot: NO_SLOT, length }, body: &body };
            if let Ok(request) = Request::decode(frame) {
                prop_assert_eq!(&request.encode().unwrap()[HEADER_LENGTH..], &body[..]);
            }
            if let Ok(reply) = Reply::decode(frame) {
                prop_assert_eq!(&reply.encode().unwrap()[HEADER_LENGTH..], &body[..]);
            }
        }
    }

    #[test]
    fn directions_are_not_mixed_up() {
        let request = Request::Ping.encode().unwrap();
        assert_eq!(Reply::decode(next(&request).unwrap().unwrap()), Err(FrameError::UnknownId { id: PING }));
        let reply = Reply::refused("no", "").encode().unwrap();
        assert_eq!(
            Request::decode(next(&reply).unwrap().unwrap()),
            Err(FrameError::UnknownId { id: REFUSED })
        );
    }

    #[test]
    fn bodies_that_are_refused() {
        let cases: [(u8, &[u8], FrameError); 7] = [
            (PING, b"x", FrameError::LeftOver { bytes: 1 }),
            (FLUSH, b"", FrameError::Truncated { field: "flush mode" }),
            (FLUSH, &[3, 0], FrameError::NoSuchChoice { field: "flush mode", found: 3 }),
            (SHUTDOWN, &[9], FrameError::NoSuchChoice { field: "shutdown mode", found: 9 }),
            (ENABLE, &[2], FrameError::NoSuchChoice { field: "database", found: 2 }),
            (CONF_GET, &[0xff, 0xff, 0xff, 0xff, b'x'], FrameError::Truncated { field: "key" }),
            (CONF_GET, &[0, 0, 0, 1, 0xff], FrameError::NotText { field: "key" }),
        ];
        for (id, body, expected) in cases {
            let length = u32::try_from(body.len()).unwrap();
            let frame = Frame { header: Header { id, slot: NO_SLOT, length }, body };
            assert_eq!(Request::decode(frame), Err(expected), "{id} {body:?}");
        }
    }

    #[test]
    fn a_slot_that_nobody_asked_for_is_refused() {
        let frame = Frame { header: Header { id: PING, slot: 3, length: 0 }, body: &[] };
        assert_eq!(Request::decode(frame), Err(FrameError::Slot { id: PING, slot: 3 }));
    }

    #[test]
    fn the_log_does_not_show_values_that_are_set() {
        let request = Request::ConfSet { key: "log.level".into(), value: "hunter2".into() };
        assert_eq!(format!("{request:?}"), "conf set \"log.level\"");
    }
}
