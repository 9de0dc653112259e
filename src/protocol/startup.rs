//! A client's first packet: no tag, a length, then a code or a protocol version.
//!
//! ```text
//! offset 0, 4 bytes, big-endian: length with itself · offset 4, 4 bytes: code or version · offset 8: the rest
//! ```
//!
//! **Source**: PostgreSQL 18 `ProcessStartupPacket` and `ProcessCancelRequestPacket` (backend_startup.c), whose texts
//! and SQLSTATEs are kept. Differences: a one-byte name without terminator as last byte is refused here, where
//! PostgreSQL takes it for the terminator; user and database names are not cut to 63 bytes (the server does so).

use thiserror::Error;

use super::reader::{ReadError, Reader};
use super::report::{Report, SqlState};
use super::write::{self, WriteError};

/// The greatest body of a first packet, without its length field (pqcomm.h `MAX_STARTUP_PACKET_LENGTH`).
pub const MAX_STARTUP_PACKET_LENGTH: usize = 10_000;
/// The only major version.
pub const PROTOCOL_MAJOR: u16 = 3;
/// The newest minor version that we speak: 3.2 has long cancel keys.
pub const PROTOCOL_MINOR: u16 = 2;
/// `CANCEL_REQUEST_CODE` of pqcomm.h.
pub const CANCEL_REQUEST_CODE: u32 = 1234 << 16 | 5678;
/// `NEGOTIATE_SSL_CODE` of pqcomm.h.
pub const SSL_REQUEST_CODE: u32 = 1234 << 16 | 5679;
/// `NEGOTIATE_GSS_CODE` of pqcomm.h.
pub const GSSENC_REQUEST_CODE: u32 = 1234 << 16 | 5680;
/// Bytes of the shortest cancel key (protocol 3.0).
pub const CANCEL_KEY_MIN: usize = 4;
/// Bytes of the longest cancel key (protocol 3.2).
pub const CANCEL_KEY_MAX: usize = 256;

/// Why a first packet is refused. [`StartupError::report`] tells it to the client.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum StartupError {
    /// The length field is too small or too great.
    #[error("invalid length of startup packet")]
    Length,
    /// A cancel request without a whole process id and key.
    #[error("invalid length of cancel request packet")]
    CancelLength,
    /// A cancel key shorter than 4 or longer than 256 bytes.
    #[error("invalid length of cancel key in cancel request packet")]
    CancelKeyLength,
    /// A major version other than 3.
    #[error(
        "unsupported frontend protocol {major}.{minor}: server supports {PROTOCOL_MAJOR}.0 to \
         {PROTOCOL_MAJOR}.{PROTOCOL_MINOR}"
    )]
    Version {
        /// The major version asked for.
        major: u16,
        /// The minor version asked for.
        minor: u16,
    },
    /// The parameters do not end where the packet ends.
    #[error("invalid startup packet layout: expected terminator as last byte")]
    Layout,
    /// No user, or an empty one.
    #[error("no PostgreSQL user name specified in startup packet")]
    NoUser,
    /// `replication` is neither a bool nor `database`.
    #[error("invalid value for parameter \"replication\": \"{0}\"")]
    Replication(String),
    /// A name that Howdah must compare with its configuration is not UTF-8.
    #[error("{0} in startup packet is not valid UTF-8")]
    NotUtf8(&'static str),
}

impl StartupError {
    /// Makes the FATAL report for the client.
    #[must_use]
    pub fn report(&self) -> Report {
        let code = match self {
            Self::Length | Self::CancelLength | Self::CancelKeyLength | Self::Layout => {
                SqlState::PROTOCOL_VIOLATION
            }
            Self::Version { .. } => SqlState::FEATURE_NOT_SUPPORTED,
            Self::NoUser => SqlState::INVALID_AUTHORIZATION,
            Self::Replication(_) => SqlState::INVALID_PARAMETER_VALUE,
            Self::NotUtf8(_) => SqlState::CHARACTER_NOT_IN_REPERTOIRE,
        };
        let report = Report::fatal(code, self.to_string());
        match self {
            Self::Replication(_) => {
                report.with_hint("Valid values are: \"false\", 0, \"true\", 1, \"database\".")
            }
            _ => report,
        }
    }
}

/// What a client's first packet is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FirstPacket<'a> {
    /// SSLRequest: answer one byte, `S` or `N`.
    Ssl,
    /// GSSENCRequest: answer one byte, `G` or `N`.
    Gss,
    /// CancelRequest: no answer.
    Cancel {
        /// The process id of the session whose query is to be cancelled.
        process_id: i32,
        /// Its secret, 4 to 256 bytes.
        secret: &'a [u8],
    },
    /// StartupMessage: a session begins.
    Startup(StartupMessage),
}

/// Tells the whole length of the first packet, with its length field, once that is known: at most
/// [`MAX_STARTUP_PACKET_LENGTH`] + 4 bytes.
///
/// # Errors
/// [`StartupError::Length`].
pub fn first_packet_length(bytes: &[u8]) -> Result<Option<usize>, StartupError> {
    let Some(field) = bytes.first_chunk::<4>() else { return Ok(None) };
    let total = i32::from_be_bytes(*field);
    match usize::try_from(total) {
        Ok(total) if (8..=MAX_STARTUP_PACKET_LENGTH + 4).contains(&total) => Ok(Some(total)),
        _ => Err(StartupError::Length),
    }
}

/// Parses a first packet, given exactly its bytes with the length field.
///
/// # Errors
/// [`StartupError`].
pub fn parse(packet: &[u8]) -> Result<FirstPacket<'_>, StartupError> {
    if first_packet_length(packet)? != Some(packet.len()) {
        return Err(StartupError::Length);
    }
    let mut reader = Reader::new(packet);
    let _length = reader.i32("length").map_err(|_| StartupError::Length)?;
    let code = u32::from_be_bytes(reader.array("version").map_err(|_| StartupError::Length)?);
    match code {
        SSL_REQUEST_CODE => Ok(FirstPacket::Ssl),
        GSSENC_REQUEST_CODE => Ok(FirstPacket::Gss),
        CANCEL_REQUEST_CODE => parse_cancel(reader),
        version => StartupMessage::parse(version, reader).map(FirstPacket::Startup),
    }
}

fn parse_cancel(mut reader: Reader<'_>) -> Result<FirstPacket<'_>, StartupError> {
    let process_id = reader.i32("process id").map_err(|_| StartupError::CancelLength)?;
    let secret = reader.rest();
    if !(CANCEL_KEY_MIN..=CANCEL_KEY_MAX).contains(&secret.len()) {
        return Err(StartupError::CancelKeyLength);
    }
    Ok(FirstPacket::Cancel { process_id, secret })
}

/// What `replication` asks for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Replication {
    /// An ordinary session.
    #[default]
    No,
    /// Physical replication: bound to no database.
    Physical,
    /// Logical replication in a database.
    Database,
}

/// A StartupMessage: the minor version and the parameters in the client's order, as bytes (PostgreSQL does not know
/// their encoding either).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StartupMessage {
    minor: u16,
    replication: Replication,
    parameters: Vec<Parameter>,
}

/// A parameter's name and value.
pub type Parameter = (Box<[u8]>, Box<[u8]>);

/// Parameters with this prefix are protocol options, not settings.
const PROTOCOL_OPTION_PREFIX: &[u8] = b"_pq_.";

impl StartupMessage {
    fn parse(version: u32, reader: Reader<'_>) -> Result<Self, StartupError> {
        let [m0, m1, n0, n1] = version.to_be_bytes();
        let (major, minor) = (u16::from_be_bytes([m0, m1]), u16::from_be_bytes([n0, n1]));
        if major != PROTOCOL_MAJOR {
            return Err(StartupError::Version { major, minor });
        }
        let parameters = read_parameters(reader).map_err(|_| StartupError::Layout)?;
        let mut message = Self { minor, replication: Replication::No, parameters };
        if let Some(value) = message.get(b"replication") {
            message.replication = parse_replication(value)?;
        }
        if message.get(b"user").is_none_or(<[u8]>::is_empty) {
            return Err(StartupError::NoUser);
        }
        Ok(message)
    }

    /// Gives the minor version that the client asked for.
    #[must_use]
    pub fn requested_minor(&self) -> u16 {
        self.minor
    }

    /// Gives the minor version to speak: what the client asked for, at most ours.
    #[must_use]
    pub fn effective_minor(&self) -> u16 {
        self.minor.min(PROTOCOL_MINOR)
    }

    /// Looks up a parameter; as in PostgreSQL names are compared as they are and the last one counts.
    #[must_use]
    pub fn get(&self, name: &[u8]) -> Option<&[u8]> {
        self.parameters.iter().rev().find(|(n, _)| **n == *name).map(|(_, v)| &**v)
    }

    /// Gives the user's name as bytes; never empty.
    #[must_use]
    pub fn user_bytes(&self) -> &[u8] {
        self.get(b"user").unwrap_or_default()
    }

    /// Gives the database's name as bytes: the user's name when the client gave none.
    #[must_use]
    pub fn database_bytes(&self) -> &[u8] {
        match self.get(b"database") {
            None | Some([]) => self.user_bytes(),
            Some(name) => name,
        }
    }

    /// Gives the user's name.
    ///
    /// # Errors
    /// [`StartupError::NotUtf8`].
    pub fn user(&self) -> Result<&str, StartupError> {
        std::str::from_utf8(self.user_bytes()).map_err(|_| StartupError::NotUtf8("user name"))
    }

    /// Gives the database's name.
    ///
    /// # Errors
    /// [`StartupError::NotUtf8`].
    pub fn database(&self) -> Result<&str, StartupError> {
        std::str::from_utf8(self.database_bytes()).map_err(|_| StartupError::NotUtf8("database name"))
    }

    /// Tells whether a replication connection is asked for.
    #[must_use]
    pub fn replication(&self) -> Replication {
        self.replication
    }

    /// Gives the `options` value, if any.
    #[must_use]
    pub fn options(&self) -> Option<&[u8]> {
        self.get(b"options")
    }

    /// Gives all parameters in the client's order.
    pub fn parameters(&self) -> impl ExactSizeIterator<Item = (&[u8], &[u8])> {
        self.parameters.iter().map(|(n, v)| (&**n, &**v))
    }

    /// Gives the names of the protocol options (`_pq_.…`), none of which we know.
    #[must_use]
    pub fn unrecognised_options(&self) -> Vec<&[u8]> {
        self.parameters().map(|(n, _)| n).filter(|n| is_protocol_option(n)).collect()
    }

    /// Gives the NegotiateProtocolVersion message, when the client asked for more than we speak: a newer minor
    /// version or protocol options. It is sent before anything else. PostgreSQL 18 names our newest minor version
    /// when the client's is newer, and the client's own otherwise.
    #[must_use]
    pub fn negotiate(&self) -> Option<Vec<u8>> {
        let unrecognised = self.unrecognised_options();
        if self.minor <= PROTOCOL_MINOR && unrecognised.is_empty() {
            return None;
        }
        let mut out = Vec::new();
        let written: Result<(), WriteError> =
            write::negotiate_protocol_version(&mut out, self.effective_minor(), unrecognised.into_iter());
        written.ok().map(|()| out)
    }
}

/// Tells whether a startup parameter is a protocol option.
pub(super) fn is_protocol_option(name: &[u8]) -> bool {
    name.starts_with(PROTOCOL_OPTION_PREFIX)
}

fn read_parameters(mut reader: Reader<'_>) -> Result<Vec<Parameter>, ReadError> {
    let mut parameters = Vec::new();
    loop {
        let name = reader.cstr("parameter name")?;
        if name.is_empty() {
            reader.finish("terminator")?;
            return Ok(parameters);
        }
        let value = reader.cstr("parameter value")?;
        parameters.push((name.into(), value.into()));
    }
}

fn parse_replication(value: &[u8]) -> Result<Replication, StartupError> {
    if value == b"database" {
        return Ok(Replication::Database);
    }
    match parse_bool(value) {
        Some(true) => Ok(Replication::Physical),
        Some(false) => Ok(Replication::No),
        None => Err(StartupError::Replication(String::from_utf8_lossy(value).into_owned())),
    }
}

/// A bool as PostgreSQL's `parse_bool_with_len` takes it: unique prefixes of true, false, yes, no, on, off; 1 and 0.
fn parse_bool(value: &[u8]) -> Option<bool> {
    let lower = value.to_ascii_lowercase();
    let prefix_of = |word: &[u8], least: usize| lower.len() >= least && word.starts_with(&lower);
    match lower.as_slice() {
        b"1" => Some(true),
        b"0" => Some(false),
        _ if prefix_of(b"true", 1) || prefix_of(b"yes", 1) || prefix_of(b"on", 2) => Some(true),
        _ if prefix_of(b"false", 1) || prefix_of(b"no", 1) || prefix_of(b"off", 2) => Some(false),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn packet(version: u32, rest: &[u8]) -> Vec<u8> {
        let length = u32::try_from(8 + rest.len()).expect("small");
        [&length.to_be_bytes()[..], &version.to_be_bytes(), rest].concat()
    }

    fn startup(rest: &[u8]) -> Result<StartupMessage, StartupError> {
        match parse(&packet(3 << 16, rest))? {
            FirstPacket::Startup(message) => Ok(message),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_length_is_known_from_four_bytes_and_bounded() {
        assert_eq!(first_packet_length(b"\0\0\0"), Ok(None));
        let cases =
            [(7i32, None), (8, Some(8)), (10_004, Some(10_004)), (10_005, None), (-1, None), (0, None)];
        for (field, expected) in cases {
            assert_eq!(first_packet_length(&field.to_be_bytes()).ok().flatten(), expected, "{field}");
        }
        assert_eq!(
            parse(b"\0\0\0\x08\0\x03\0\0x"),
            Err(StartupError::Length),
            "more bytes than the length says"
        );
    }

    #[test]
    fn requests_are_told_apart() {
        assert_eq!(parse(&packet(SSL_REQUEST_CODE, b"")), Ok(FirstPacket::Ssl));
        assert_eq!(parse(&packet(GSSENC_REQUEST_CODE, b"")), Ok(FirstPacket::Gss));
        let cancel = packet(CANCEL_REQUEST_CODE, b"\0\0\0\x07key!");
        assert_eq!(parse(&cancel), Ok(FirstPacket::Cancel { process_id: 7, secret: b"key!" }));
        let long = [&b"\0\0\0\x07"[..], &[9; 256]].concat();
        assert!(parse(&packet(CANCEL_REQUEST_CODE, &long)).is_ok());
        let longer = [&b"\0\0\0\x07"[..], &[9; 257]].concat();
        assert_eq!(parse(&packet(CANCEL_REQUEST_CODE, &longer)), Err(StartupError::CancelKeyLength));
        assert_eq!(parse(&packet(CANCEL_REQUEST_CODE, b"\0\0\0\x07abc")), Err(StartupError::CancelKeyLength));
        assert_eq!(parse(&packet(CANCEL_REQUEST_CODE, b"\0\0")), Err(StartupError::CancelLength));
    }

    #[test]
    fn parameters_keep_their_order_and_the_last_one_counts() {
        let m = startup(b"user\0a\0user\0b\0application_name\0x\0options\0-c a=1\0\0").expect("valid");
        assert_eq!((m.user(), m.database()), (Ok("b"), Ok("b")));
        assert_eq!(m.options(), Some(&b"-c a=1"[..]));
        assert_eq!(m.parameters().len(), 4);
        let m = startup(b"database\0d\0user\0\xff\0\0").expect("valid");
        assert_eq!(m.database(), Ok("d"));
        assert_eq!(m.user(), Err(StartupError::NotUtf8("user name")));
        assert_eq!(startup(b"database\0\0user\0u\0\0").map(|m| m.database() == Ok("u")), Ok(true));
    }

    #[test]
    fn malformed_packets_get_postgresql_s_words() {
        for rest in [
            &b""[..],
            b"user\0u\0",
            b"user\0u",
            b"user\0",
            b"user",
            b"user\0u\0x",
            b"user\0u\0\0x",
            b"user\0u\0\0\0",
        ] {
            assert_eq!(startup(rest), Err(StartupError::Layout), "{rest:?}");
        }
        for rest in [&b"\0"[..], b"user\0\0\0", b"database\0d\0\0"] {
            assert_eq!(startup(rest), Err(StartupError::NoUser), "{rest:?}");
        }
        let report = StartupError::NoUser.report();
        assert_eq!(report.sqlstate.as_str(), "28000");
        assert_eq!(report.message, "no PostgreSQL user name specified in startup packet");
        let error = parse(&packet(2 << 16 | 1, b"")).expect_err("version 2");
        assert_eq!(error.to_string(), "unsupported frontend protocol 2.1: server supports 3.0 to 3.2");
        assert_eq!(error.report().sqlstate, SqlState::FEATURE_NOT_SUPPORTED);
        assert_eq!(StartupError::Layout.report().sqlstate, SqlState::PROTOCOL_VIOLATION);
    }

    #[test]
    fn replication_is_a_bool_or_database() {
        for (value, expected) in [
            ("database", Some(Replication::Database)),
            ("DATABASE", None),
            ("true", Some(Replication::Physical)),
            ("T", Some(Replication::Physical)),
            ("yes", Some(Replication::Physical)),
            ("on", Some(Replication::Physical)),
            ("1", Some(Replication::Physical)),
            ("off", Some(Replication::No)),
            ("of", Some(Replication::No)),
            ("0", Some(Replication::No)),
            ("n", Some(Replication::No)),
            ("o", None),
            ("", None),
            ("truer", None),
            ("2", None),
        ] {
            let rest = [b"user\0u\0replication\0", value.as_bytes(), b"\0\0"].concat();
            assert_eq!(startup(&rest).ok().map(|m| m.replication()), expected, "{value}");
        }
        let report = startup(b"user\0u\0replication\0maybe\0\0").expect_err("no bool").report();
        assert_eq!(report.message, "invalid value for parameter \"replication\": \"maybe\"");
        assert!(report.hint.is_some());
    }

    #[test]
    fn newer_versions_and_unknown_options_are_negotiated() {
        let message = |minor: u32, rest: &[u8]| match parse(&packet(3 << 16 | minor, rest)) {
            Ok(FirstPacket::Startup(m)) => m,
            other => panic!("{other:?}"),
        };
        assert_eq!(message(0, b"user\0u\0\0").negotiate(), None);
        assert_eq!(message(2, b"user\0u\0\0").negotiate(), None);
        let newer = message(9999, b"user\0u\0_pq_.a\0x\0_pq_.b\0y\0\0");
        assert_eq!((newer.requested_minor(), newer.effective_minor()), (9999, 2));
        let expected = b"v\0\0\0\x1a\0\x03\0\x02\0\0\0\x02_pq_.a\0_pq_.b\0";
        assert_eq!(newer.negotiate().as_deref(), Some(&expected[..]));
        let old = message(0, b"user\0u\0_pq_.a\0x\0\0");
        assert_eq!(old.negotiate().as_deref(), Some(&b"v\0\0\0\x13\0\x03\0\0\0\0\0\x01_pq_.a\0"[..]));
    }

    proptest! {
        #[test]
        fn garbage_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..80), version in 0u32..5) {
            let _ = parse(&bytes);
            let _ = parse(&packet(version << 16, &bytes));
        }

        #[test]
        fn what_is_written_is_read(
            pairs in prop::collection::vec(("[a-z_.]{1,8}", "[ -~]{0,8}"), 0..6), minor in 0u16..4,
        ) {
            let mut all = vec![("user".to_owned(), "me".to_owned())];
            all.extend(pairs.into_iter().filter(|(n, _)| n != "user" && n != "replication"));
            let mut out = Vec::new();
            write::startup(&mut out, minor, all.iter().map(|(n, v)| (n.as_bytes(), v.as_bytes()))).expect("writable");
            prop_assert_eq!(first_packet_length(&out), Ok(Some(out.len())));
            let Ok(FirstPacket::Startup(m)) = parse(&out) else { panic!("not a startup message") };
            prop_assert_eq!(m.requested_minor(), minor);
            prop_assert!(m.parameters().eq(all.iter().map(|(n, v)| (n.as_bytes(), v.as_bytes()))));
        }
    }
}
