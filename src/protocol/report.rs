//! What Howdah itself tells a client: severity, SQLSTATE, message, detail and hint.

use std::borrow::Cow;
use std::fmt;

/// A five-character SQLSTATE code.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct SqlState([u8; 5]);

impl SqlState {
    /// 00000
    pub const SUCCESSFUL_COMPLETION: Self = Self(*b"00000");
    /// 08006
    pub const CONNECTION_FAILURE: Self = Self(*b"08006");
    /// 08P01
    pub const PROTOCOL_VIOLATION: Self = Self(*b"08P01");
    /// 0A000
    pub const FEATURE_NOT_SUPPORTED: Self = Self(*b"0A000");
    /// 22023
    pub const INVALID_PARAMETER_VALUE: Self = Self(*b"22023");
    /// 22021
    pub const CHARACTER_NOT_IN_REPERTOIRE: Self = Self(*b"22021");
    /// 28000
    pub const INVALID_AUTHORIZATION: Self = Self(*b"28000");
    /// 28P01
    pub const INVALID_PASSWORD: Self = Self(*b"28P01");
    /// 3D000
    pub const UNDEFINED_DATABASE: Self = Self(*b"3D000");
    /// 53300
    pub const TOO_MANY_CONNECTIONS: Self = Self(*b"53300");
    /// 57014
    pub const QUERY_CANCELED: Self = Self(*b"57014");
    /// 57P01
    pub const ADMIN_SHUTDOWN: Self = Self(*b"57P01");
    /// 57P03
    pub const CANNOT_CONNECT_NOW: Self = Self(*b"57P03");
    /// 57P05
    pub const IDLE_SESSION_TIMEOUT: Self = Self(*b"57P05");
    /// 58000
    pub const SYSTEM_ERROR: Self = Self(*b"58000");
    /// XX000
    pub const INTERNAL_ERROR: Self = Self(*b"XX000");

    /// Makes a code of five ASCII bytes; none when a byte is no digit or upper-case letter.
    #[must_use]
    pub fn new(code: [u8; 5]) -> Option<Self> {
        code.iter().all(|b| b.is_ascii_digit() || b.is_ascii_uppercase()).then_some(Self(code))
    }

    /// Gives the code as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.0).unwrap_or("XX000")
    }
}

impl fmt::Display for SqlState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for SqlState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Severity {
    /// The session ends.
    Fatal,
    /// The statement fails, the session goes on.
    Error,
    /// A warning (NoticeResponse).
    Warning,
    /// A notice (NoticeResponse).
    Notice,
}

impl Severity {
    /// Gives the word on the wire.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Fatal => "FATAL",
            Self::Error => "ERROR",
            Self::Warning => "WARNING",
            Self::Notice => "NOTICE",
        }
    }
}

/// An error or a notice of Howdah's own, to be written by [`write::error`](super::write::error) or
/// [`write::notice`](super::write::notice).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// How bad it is.
    pub severity: Severity,
    /// The SQLSTATE code.
    pub sqlstate: SqlState,
    /// The primary message: lower case, no full stop.
    pub message: Cow<'static, str>,
    /// What more there is to know, as a sentence.
    pub detail: Option<Cow<'static, str>>,
    /// What to do about it, as a sentence.
    pub hint: Option<Cow<'static, str>>,
}

impl Report {
    /// Makes a report without detail and hint.
    pub fn new(severity: Severity, sqlstate: SqlState, message: impl Into<Cow<'static, str>>) -> Self {
        Self { severity, sqlstate, message: message.into(), detail: None, hint: None }
    }

    /// Makes a FATAL report: the session ends with it.
    pub fn fatal(sqlstate: SqlState, message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(Severity::Fatal, sqlstate, message)
    }

    /// Makes an ERROR report.
    pub fn error(sqlstate: SqlState, message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(Severity::Error, sqlstate, message)
    }

    /// Adds a detail.
    #[must_use]
    pub fn with_detail(mut self, detail: impl Into<Cow<'static, str>>) -> Self {
        self.detail = Some(detail.into());
        self
    }

    /// Adds a hint.
    #[must_use]
    pub fn with_hint(mut self, hint: impl Into<Cow<'static, str>>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {} (SQLSTATE {})", self.severity.as_str(), self.message, self.sqlstate)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_code_is_five_digits_or_capitals() {
        assert_eq!(SqlState::new(*b"08P01"), Some(SqlState::PROTOCOL_VIOLATION));
        assert_eq!(SqlState::new(*b"08p01"), None);
        assert_eq!(SqlState::new(*b"08\0 1"), None);
        let report = Report::fatal(SqlState::PROTOCOL_VIOLATION, "bad");
        assert_eq!(report.to_string(), "FATAL: bad (SQLSTATE 08P01)");
    }
}
