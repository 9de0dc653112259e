//! Writing messages: each function appends one message to a `Vec<u8>`.
//!
//! One helper reserves the length, runs a closure and back-patches it. A zero byte inside a string is an error, as it
//! would end the string early and shift what follows; only reports drop such bytes, so that an error can always be told.

use thiserror::Error;

use super::report::Report;
use super::startup::{CANCEL_REQUEST_CODE, GSSENC_REQUEST_CODE, PROTOCOL_MAJOR, SSL_REQUEST_CODE};

/// Why a message could not be written; the buffer is then as it was before.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum WriteError {
    /// A string holds a zero byte.
    #[error("{field} holds a zero byte")]
    Nul {
        /// The string.
        field: &'static str,
    },
    /// The message, or a count in it, does not fit its length field.
    #[error("{field} is too long for a message")]
    TooLong {
        /// What is too long.
        field: &'static str,
    },
}

type Written = Result<(), WriteError>;

/// Appends a message: the tag if there is one, the length, and the body that `write` appends.
///
/// # Errors
/// What `write` returns, or [`WriteError::TooLong`] for a body of 2 GiB; the buffer is then as it was before.
pub fn message(out: &mut Vec<u8>, tag: Option<u8>, write: impl FnOnce(&mut Vec<u8>) -> Written) -> Written {
    let start = out.len();
    out.extend(tag);
    let at = out.len();
    out.extend_from_slice(&[0; 4]);
    let result = write(out).and_then(|()| {
        let length = i32::try_from(out.len() - at).map_err(|_| WriteError::TooLong { field: "body" })?;
        match out.get_mut(at..).and_then(<[u8]>::first_chunk_mut::<4>) {
            Some(field) => *field = length.to_be_bytes(),
            None => return Err(WriteError::TooLong { field: "body" }),
        }
        Ok(())
    });
    if result.is_err() {
        out.truncate(start);
    }
    result
}

/// Appends a message whose body is given and short.
fn fixed(out: &mut Vec<u8>, tag: Option<u8>, parts: &[&[u8]]) {
    let body: usize = parts.iter().map(|p| p.len()).sum();
    debug_assert!(body < 1 << 16, "fixed messages are short");
    out.extend(tag);
    out.extend_from_slice(&u32::try_from(body + 4).unwrap_or(u32::MAX).to_be_bytes());
    parts.iter().for_each(|p| out.extend_from_slice(p));
}

fn cstr(out: &mut Vec<u8>, text: &[u8], field: &'static str) -> Written {
    if text.contains(&0) {
        return Err(WriteError::Nul { field });
    }
    out.extend_from_slice(text);
    out.push(0);
    Ok(())
}

fn count16(out: &mut Vec<u8>, n: usize, field: &'static str) -> Written {
    // Counts of the protocol are 16 bits; since 7.4 the server reads them as unsigned.
    let n = u16::try_from(n).map_err(|_| WriteError::TooLong { field })?;
    out.extend_from_slice(&n.to_be_bytes());
    Ok(())
}

fn value(out: &mut Vec<u8>, value: Option<&[u8]>, field: &'static str) -> Written {
    let Some(bytes) = value else {
        out.extend_from_slice(&(-1i32).to_be_bytes());
        return Ok(());
    };
    let length = i32::try_from(bytes.len()).map_err(|_| WriteError::TooLong { field })?;
    out.extend_from_slice(&length.to_be_bytes());
    out.extend_from_slice(bytes);
    Ok(())
}

// ---- What a server says ----

/// AuthenticationOk.
pub fn authentication_ok(out: &mut Vec<u8>) {
    fixed(out, Some(b'R'), &[&0i32.to_be_bytes()]);
}

/// AuthenticationCleartextPassword.
pub fn authentication_cleartext(out: &mut Vec<u8>) {
    fixed(out, Some(b'R'), &[&3i32.to_be_bytes()]);
}

/// AuthenticationMD5Password.
pub fn authentication_md5(out: &mut Vec<u8>, salt: [u8; 4]) {
    fixed(out, Some(b'R'), &[&5i32.to_be_bytes(), &salt]);
}

/// AuthenticationSASL, with the mechanisms offered.
///
/// # Errors
/// [`WriteError::Nul`] in a mechanism's name.
pub fn authentication_sasl(out: &mut Vec<u8>, mechanisms: &[&str]) -> Written {
    message(out, Some(b'R'), |out| {
        out.extend_from_slice(&10i32.to_be_bytes());
        mechanisms.iter().try_for_each(|name| cstr(out, name.as_bytes(), "mechanism"))?;
        out.push(0);
        Ok(())
    })
}

/// AuthenticationSASLContinue.
///
/// # Errors
/// [`WriteError::TooLong`].
pub fn authentication_sasl_continue(out: &mut Vec<u8>, data: &[u8]) -> Written {
    authentication_data(out, 11, data)
}

/// AuthenticationSASLFinal.
///
/// # Errors
/// [`WriteError::TooLong`].
pub fn authentication_sasl_final(out: &mut Vec<u8>, data: &[u8]) -> Written {
    authentication_data(out, 12, data)
}

fn authentication_data(out: &mut Vec<u8>, code: i32, data: &[u8]) -> Written {
    message(out, Some(b'R'), |out| {
        out.extend_from_slice(&code.to_be_bytes());
        out.extend_from_slice(data);
        Ok(())
    })
}

/// ParameterStatus.
///
/// # Errors
/// [`WriteError`].
pub fn parameter_status(out: &mut Vec<u8>, name: &[u8], value: &[u8]) -> Written {
    message(out, Some(b'S'), |out| {
        cstr(out, name, "parameter name")?;
        cstr(out, value, "parameter value")
    })
}

/// BackendKeyData; protocol 3.0 has secrets of 4 bytes, 3.2 of up to 256.
///
/// # Errors
/// [`WriteError::TooLong`].
pub fn backend_key_data(out: &mut Vec<u8>, process_id: i32, secret: &[u8]) -> Written {
    message(out, Some(b'K'), |out| {
        out.extend_from_slice(&process_id.to_be_bytes());
        out.extend_from_slice(secret);
        Ok(())
    })
}

/// ReadyForQuery, with the status `b'I'`, `b'T'` or `b'E'`.
pub fn ready_for_query(out: &mut Vec<u8>, status: u8) {
    fixed(out, Some(b'Z'), &[&[status]]);
}

/// ErrorResponse.
pub fn error(out: &mut Vec<u8>, report: &Report) {
    report_message(out, b'E', report);
}

/// NoticeResponse.
pub fn notice(out: &mut Vec<u8>, report: &Report) {
    report_message(out, b'N', report);
}

/// Fields as PostgreSQL orders them (`send_message_to_frontend`). Zero bytes are dropped, and the texts are cut at
/// 64 KiB, so that writing a report cannot fail.
fn report_message(out: &mut Vec<u8>, tag: u8, report: &Report) {
    const TEXT_MAX: usize = 65_536;
    let severity = report.severity.as_str();
    let fields = [
        (b'S', Some(severity)),
        (b'V', Some(severity)),
        (b'C', Some(report.sqlstate.as_str())),
        (b'M', Some(&*report.message)),
        (b'D', report.detail.as_deref()),
        (b'H', report.hint.as_deref()),
    ];
    let written = message(out, Some(tag), |out| {
        for (code, text) in fields {
            if let Some(text) = text {
                out.push(code);
                let end = text.floor_char_boundary_at(TEXT_MAX);
                out.extend(text.as_bytes().iter().take(end).filter(|&&b| b != 0));
                out.push(0);
            }
        }
        out.push(0);
        Ok(())
    });
    debug_assert!(written.is_ok(), "bounded texts fit a message");
}

/// `str::floor_char_boundary`, which the oldest supported compiler lacks.
trait FloorCharBoundary {
    fn floor_char_boundary_at(&self, at: usize) -> usize;
}

impl FloorCharBoundary for str {
    fn floor_char_boundary_at(&self, at: usize) -> usize {
        if at >= self.len() {
            return self.len();
        }
        (0..=at).rev().find(|&i| self.is_char_boundary(i)).unwrap_or(0)
    }
}

/// NegotiateProtocolVersion: the newest minor version that we speak and the options that we do not know.
///
/// # Errors
/// [`WriteError`].
pub fn negotiate_protocol_version<'a>(
    out: &mut Vec<u8>,
    minor: u16,
    unrecognised: impl ExactSizeIterator<Item = &'a [u8]>,
) -> Written {
    message(out, Some(b'v'), |out| {
        out.extend_from_slice(&protocol_version(minor).to_be_bytes());
        let n =
            i32::try_from(unrecognised.len()).map_err(|_| WriteError::TooLong { field: "option count" })?;
        out.extend_from_slice(&n.to_be_bytes());
        for name in unrecognised {
            cstr(out, name, "option name")?;
        }
        Ok(())
    })
}

// ---- What a client says ----

/// The 32-bit version number of protocol 3.`minor`.
#[must_use]
pub fn protocol_version(minor: u16) -> u32 {
    u32::from(PROTOCOL_MAJOR) << 16 | u32::from(minor)
}

/// StartupMessage for protocol 3.`minor`.
///
/// # Errors
/// [`WriteError`]; an empty parameter name is [`WriteError::Nul`], as it would end the list.
pub fn startup<'a>(
    out: &mut Vec<u8>,
    minor: u16,
    parameters: impl IntoIterator<Item = (&'a [u8], &'a [u8])>,
) -> Written {
    message(out, None, |out| {
        out.extend_from_slice(&protocol_version(minor).to_be_bytes());
        for (name, value) in parameters {
            if name.is_empty() {
                return Err(WriteError::Nul { field: "parameter name" });
            }
            cstr(out, name, "parameter name")?;
            cstr(out, value, "parameter value")?;
        }
        out.push(0);
        Ok(())
    })
}

/// SSLRequest.
pub fn ssl_request(out: &mut Vec<u8>) {
    fixed(out, None, &[&SSL_REQUEST_CODE.to_be_bytes()]);
}

/// GSSENCRequest.
pub fn gssenc_request(out: &mut Vec<u8>) {
    fixed(out, None, &[&GSSENC_REQUEST_CODE.to_be_bytes()]);
}

/// CancelRequest.
///
/// # Errors
/// [`WriteError::TooLong`].
pub fn cancel_request(out: &mut Vec<u8>, process_id: i32, secret: &[u8]) -> Written {
    message(out, None, |out| {
        out.extend_from_slice(&CANCEL_REQUEST_CODE.to_be_bytes());
        out.extend_from_slice(&process_id.to_be_bytes());
        out.extend_from_slice(secret);
        Ok(())
    })
}

/// Query.
///
/// # Errors
/// [`WriteError`].
pub fn query(out: &mut Vec<u8>, sql: &[u8]) -> Written {
    message(out, Some(b'Q'), |out| cstr(out, sql, "query"))
}

/// Sync.
pub fn sync(out: &mut Vec<u8>) {
    fixed(out, Some(b'S'), &[]);
}

/// Flush.
pub fn flush(out: &mut Vec<u8>) {
    fixed(out, Some(b'H'), &[]);
}

/// Terminate.
pub fn terminate(out: &mut Vec<u8>) {
    fixed(out, Some(b'X'), &[]);
}

/// PasswordMessage: a password, or `md5…`.
///
/// # Errors
/// [`WriteError`].
pub fn password(out: &mut Vec<u8>, password: &[u8]) -> Written {
    message(out, Some(b'p'), |out| cstr(out, password, "password"))
}

/// SASLInitialResponse.
///
/// # Errors
/// [`WriteError`].
pub fn sasl_initial_response(out: &mut Vec<u8>, mechanism: &str, response: Option<&[u8]>) -> Written {
    message(out, Some(b'p'), |out| {
        cstr(out, mechanism.as_bytes(), "mechanism")?;
        value(out, response, "response")
    })
}

/// SASLResponse.
///
/// # Errors
/// [`WriteError::TooLong`].
pub fn sasl_response(out: &mut Vec<u8>, response: &[u8]) -> Written {
    message(out, Some(b'p'), |out| {
        out.extend_from_slice(response);
        Ok(())
    })
}

/// Parse.
///
/// # Errors
/// [`WriteError`].
pub fn parse(out: &mut Vec<u8>, name: &[u8], sql: &[u8], types: &[u32]) -> Written {
    message(out, Some(b'P'), |out| {
        cstr(out, name, "statement name")?;
        cstr(out, sql, "query")?;
        count16(out, types.len(), "parameter types")?;
        types.iter().for_each(|oid| out.extend_from_slice(&oid.to_be_bytes()));
        Ok(())
    })
}

/// Bind, with parameters and results in text format.
///
/// # Errors
/// [`WriteError`].
pub fn bind(out: &mut Vec<u8>, portal: &[u8], statement: &[u8], values: &[Option<&[u8]>]) -> Written {
    message(out, Some(b'B'), |out| {
        cstr(out, portal, "portal name")?;
        cstr(out, statement, "statement name")?;
        count16(out, 0, "parameter formats")?;
        count16(out, values.len(), "parameters")?;
        values.iter().try_for_each(|v| value(out, *v, "parameter"))?;
        count16(out, 0, "result formats")
    })
}

/// What a Describe or a Close is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// A prepared statement.
    Statement,
    /// A portal.
    Portal,
}

impl Target {
    fn byte(self) -> u8 {
        match self {
            Self::Statement => b'S',
            Self::Portal => b'P',
        }
    }
}

/// Describe.
///
/// # Errors
/// [`WriteError`].
pub fn describe(out: &mut Vec<u8>, target: Target, name: &[u8]) -> Written {
    message(out, Some(b'D'), |out| {
        out.push(target.byte());
        cstr(out, name, "name")
    })
}

/// Close.
///
/// # Errors
/// [`WriteError`].
pub fn close(out: &mut Vec<u8>, target: Target, name: &[u8]) -> Written {
    message(out, Some(b'C'), |out| {
        out.push(target.byte());
        cstr(out, name, "name")
    })
}

/// Execute; `max_rows` 0 means all.
///
/// # Errors
/// [`WriteError`].
pub fn execute(out: &mut Vec<u8>, portal: &[u8], max_rows: i32) -> Written {
    message(out, Some(b'E'), |out| {
        cstr(out, portal, "portal name")?;
        out.extend_from_slice(&max_rows.to_be_bytes());
        Ok(())
    })
}

#[cfg(test)]
mod tests {
    use super::super::report::{Severity, SqlState};
    use super::*;

    fn bytes(write: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
        let mut out = Vec::new();
        write(&mut out);
        out
    }

    fn sure(write: impl FnOnce(&mut Vec<u8>) -> Written) -> Vec<u8> {
        bytes(|out| write(out).expect("writable"))
    }

    #[test]
    fn messages_have_the_documented_bytes() {
        assert_eq!(bytes(authentication_ok), b"R\0\0\0\x08\0\0\0\0");
        assert_eq!(bytes(authentication_cleartext), b"R\0\0\0\x08\0\0\0\x03");
        assert_eq!(bytes(|o| authentication_md5(o, *b"salt")), b"R\0\0\0\x0c\0\0\0\x05salt");
        assert_eq!(sure(|o| authentication_sasl(o, &["A", "B"])), b"R\0\0\0\x0d\0\0\0\x0aA\0B\0\0");
        assert_eq!(sure(|o| authentication_sasl_continue(o, b"xy")), b"R\0\0\0\x0a\0\0\0\x0bxy");
        assert_eq!(sure(|o| authentication_sasl_final(o, b"xy")), b"R\0\0\0\x0a\0\0\0\x0cxy");
        assert_eq!(sure(|o| parameter_status(o, b"a", b"b")), b"S\0\0\0\x08a\0b\0");
        assert_eq!(sure(|o| backend_key_data(o, 258, b"wxyz")), b"K\0\0\0\x0c\0\0\x01\x02wxyz");
        assert_eq!(bytes(|o| ready_for_query(o, b'I')), b"Z\0\0\0\x05I");
        let names = [&b"_pq_.x"[..]];
        assert_eq!(
            sure(|o| negotiate_protocol_version(o, 2, names.into_iter())),
            b"v\0\0\0\x13\0\x03\0\x02\0\0\0\x01_pq_.x\0"
        );
        assert_eq!(sure(|o| startup(o, 0, [(&b"user"[..], &b"u"[..])])), b"\0\0\0\x10\0\x03\0\0user\0u\0\0");
        assert_eq!(bytes(ssl_request), b"\0\0\0\x08\x04\xd2\x16\x2f");
        assert_eq!(bytes(gssenc_request), b"\0\0\0\x08\x04\xd2\x16\x30");
        assert_eq!(sure(|o| cancel_request(o, 1, b"abcd")), b"\0\0\0\x10\x04\xd2\x16\x2e\0\0\0\x01abcd");
        assert_eq!(sure(|o| query(o, b"q")), b"Q\0\0\0\x06q\0");
        assert_eq!(bytes(sync), b"S\0\0\0\x04");
        assert_eq!(bytes(flush), b"H\0\0\0\x04");
        assert_eq!(bytes(terminate), b"X\0\0\0\x04");
        assert_eq!(sure(|o| password(o, b"pw")), b"p\0\0\0\x07pw\0");
        assert_eq!(sure(|o| sasl_initial_response(o, "M", Some(b"r"))), b"p\0\0\0\x0bM\0\0\0\0\x01r");
        assert_eq!(sure(|o| sasl_initial_response(o, "M", None)), b"p\0\0\0\x0aM\0\xff\xff\xff\xff");
        assert_eq!(sure(|o| sasl_response(o, b"r")), b"p\0\0\0\x05r");
        assert_eq!(sure(|o| parse(o, b"s", b"q", &[23])), b"P\0\0\0\x0es\0q\0\0\x01\0\0\0\x17");
        assert_eq!(
            sure(|o| bind(o, b"", b"s", &[None, Some(b"v")])),
            b"B\0\0\0\x16\0s\0\0\0\0\x02\xff\xff\xff\xff\0\0\0\x01v\0\0"
        );
        assert_eq!(sure(|o| describe(o, Target::Portal, b"")), b"D\0\0\0\x06P\0");
        assert_eq!(sure(|o| close(o, Target::Statement, b"s")), b"C\0\0\0\x07Ss\0");
        assert_eq!(sure(|o| execute(o, b"", 5)), b"E\0\0\0\x09\0\0\0\0\x05");
    }

    #[test]
    fn a_report_has_postgresql_s_fields_and_cannot_break_out_of_one() {
        let report =
            Report::new(Severity::Fatal, SqlState::INVALID_PASSWORD, "bad\0M\"x\"").with_hint("Try.");
        let out = bytes(|o| error(o, &report));
        assert_eq!(&out[..1], b"E");
        assert_eq!(&out[5..], b"SFATAL\0VFATAL\0C28P01\0MbadM\"x\"\0HTry.\0\0");
        let long = Report::error(SqlState::INTERNAL_ERROR, "é".repeat(70_000)).with_detail("d");
        let out = bytes(|o| notice(o, &long));
        assert_eq!(out[0], b'N');
        assert!(out.len() < 66_000 && out.ends_with(b"\0Dd\0\0"));
    }

    #[test]
    fn a_zero_byte_is_an_error_and_leaves_the_buffer() {
        let mut out = b"before".to_vec();
        assert_eq!(query(&mut out, b"a\0b"), Err(WriteError::Nul { field: "query" }));
        let empty = [(&b""[..], &b"v"[..])];
        assert_eq!(startup(&mut out, 0, empty), Err(WriteError::Nul { field: "parameter name" }));
        assert_eq!(out, b"before");
    }
}
