//! Views of what a server says: each borrows a message's body and decodes late.

use super::reader::{ReadError, Reader};
use super::report::SqlState;

/// The body of an ErrorResponse or a NoticeResponse: an iterator over its fields, (code, text). It ends at the
/// terminator or at the first malformed field.
#[derive(Clone, Copy, Debug)]
pub struct ErrorFields<'a> {
    rest: Reader<'a>,
}

impl<'a> ErrorFields<'a> {
    /// Looks at a body.
    #[must_use]
    pub fn new(body: &'a [u8]) -> Self {
        Self { rest: Reader::new(body) }
    }

    /// Finds a field by its code.
    #[must_use]
    pub fn get(&self, code: u8) -> Option<&'a [u8]> {
        let mut fields = *self;
        fields.find(|(c, _)| *c == code).map(|(_, text)| text)
    }

    /// Gives the severity: the one that is never translated (`V`, since 9.6) if there is one.
    #[must_use]
    pub fn severity(&self) -> Option<&'a [u8]> {
        self.get(b'V').or_else(|| self.get(b'S'))
    }

    /// Tells whether the server ends the session with this error.
    #[must_use]
    pub fn is_fatal(&self) -> bool {
        matches!(self.severity(), Some(b"FATAL" | b"PANIC"))
    }

    /// Gives the SQLSTATE, if there is a valid one.
    #[must_use]
    pub fn sqlstate(&self) -> Option<SqlState> {
        self.get(b'C').and_then(|code| <[u8; 5]>::try_from(code).ok()).and_then(SqlState::new)
    }

    /// Gives the primary message.
    #[must_use]
    pub fn message(&self) -> Option<&'a [u8]> {
        self.get(b'M')
    }
}

impl<'a> Iterator for ErrorFields<'a> {
    type Item = (u8, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let field = self.rest.u8("field code").ok().filter(|code| *code != 0);
        let item = field.and_then(|code| self.rest.cstr("field text").ok().map(|text| (code, text)));
        if item.is_none() {
            self.rest = Reader::new(&[]);
        }
        item
    }
}

/// A ParameterStatus.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ParameterStatus<'a> {
    /// The parameter's name as the server writes it (`DateStyle`).
    pub name: &'a [u8],
    /// Its value.
    pub value: &'a [u8],
}

impl<'a> ParameterStatus<'a> {
    /// Reads a body.
    ///
    /// # Errors
    /// [`ReadError`].
    pub fn parse(body: &'a [u8]) -> Result<Self, ReadError> {
        let mut reader = Reader::new(body);
        let name = reader.cstr("parameter name")?;
        let value = reader.cstr("parameter value")?;
        reader.finish("parameter value")?;
        Ok(Self { name, value })
    }
}

/// A BackendKeyData.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct BackendKeyData<'a> {
    /// The server process's id.
    pub process_id: i32,
    /// The secret that a cancel request must show, 4 to 256 bytes.
    pub secret: &'a [u8],
}

impl std::fmt::Debug for BackendKeyData<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "BackendKeyData({}, …)", self.process_id)
    }
}

impl<'a> BackendKeyData<'a> {
    /// Reads a body.
    ///
    /// # Errors
    /// [`ReadError`], also for secrets shorter than 4 or longer than 256 bytes.
    pub fn parse(body: &'a [u8]) -> Result<Self, ReadError> {
        let mut reader = Reader::new(body);
        let process_id = reader.i32("process id")?;
        let secret = reader.rest();
        if !(super::startup::CANCEL_KEY_MIN..=super::startup::CANCEL_KEY_MAX).contains(&secret.len()) {
            return Err(ReadError::Invalid { field: "secret key" });
        }
        Ok(Self { process_id, secret })
    }
}

/// What a server asks for during authentication.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AuthenticationRequest<'a> {
    /// The client is in.
    Ok,
    /// The password as it is.
    Cleartext,
    /// `md5` of the stored form and the salt.
    Md5 {
        /// The salt.
        salt: [u8; 4],
    },
    /// A SASL exchange with one of the mechanisms.
    Sasl(Mechanisms<'a>),
    /// The next challenge of the exchange.
    SaslContinue(&'a [u8]),
    /// The last message of the exchange.
    SaslFinal(&'a [u8]),
    /// A method that is not spoken here; [`AuthenticationRequest::unsupported_name`] knows some.
    Unsupported(i32),
}

impl<'a> AuthenticationRequest<'a> {
    /// Reads a body.
    ///
    /// # Errors
    /// [`ReadError`].
    pub fn parse(body: &'a [u8]) -> Result<Self, ReadError> {
        let mut reader = Reader::new(body);
        let request = match reader.i32("authentication request")? {
            0 => Self::Ok,
            3 => Self::Cleartext,
            5 => Self::Md5 { salt: reader.array("salt")? },
            10 => Self::Sasl(Mechanisms { rest: Reader::new(reader.rest()) }),
            11 => Self::SaslContinue(reader.rest()),
            12 => Self::SaslFinal(reader.rest()),
            code => return Ok(Self::Unsupported(code)),
        };
        reader.finish("authentication request")?;
        Ok(request)
    }

    /// Names the methods behind the codes of [`AuthenticationRequest::Unsupported`].
    #[must_use]
    pub fn unsupported_name(code: i32) -> &'static str {
        match code {
            1 => "kerberos 4",
            2 => "kerberos 5",
            4 => "crypt",
            6 => "scm credential",
            7 | 8 => "gss",
            9 => "sspi",
            _ => "unknown",
        }
    }
}

/// The names of the SASL mechanisms offered; ends at the empty name or at the first malformed one.
#[derive(Clone, Copy, Debug)]
pub struct Mechanisms<'a> {
    rest: Reader<'a>,
}

impl PartialEq for Mechanisms<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.eq_by_names(*other)
    }
}

impl Eq for Mechanisms<'_> {}

impl Mechanisms<'_> {
    fn eq_by_names(self, other: Mechanisms<'_>) -> bool {
        Iterator::eq(self, other)
    }
}

impl<'a> Iterator for Mechanisms<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<Self::Item> {
        let name = self.rest.cstr("mechanism").ok().filter(|name| !name.is_empty());
        if name.is_none() {
            self.rest = Reader::new(&[]);
        }
        name
    }
}

/// A NegotiateProtocolVersion: the server speaks less than was asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NegotiateProtocolVersion<'a> {
    /// The minor version that the server speaks.
    pub minor: u16,
    /// The protocol options that it does not know.
    pub unrecognised: Vec<&'a [u8]>,
}

impl<'a> NegotiateProtocolVersion<'a> {
    /// Reads a body. Servers before 18 send the minor version alone, later ones the whole version number.
    ///
    /// # Errors
    /// [`ReadError`].
    pub fn parse(body: &'a [u8]) -> Result<Self, ReadError> {
        let mut reader = Reader::new(body);
        let [_, _, high, low] = reader.array("version")?;
        let count = reader.i32("option count")?;
        let count = usize::try_from(count).map_err(|_| ReadError::Invalid { field: "option count" })?;
        let mut unrecognised = Vec::new();
        // Each name takes at least its terminator: a count that lies ends with an error, not with an allocation.
        for _ in 0..count {
            unrecognised.push(reader.cstr("option name")?);
        }
        reader.finish("option names")?;
        Ok(Self { minor: u16::from_be_bytes([high, low]), unrecognised })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::report::Report;
    use super::super::write;
    use super::*;

    fn body(write: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
        let mut out = Vec::new();
        write(&mut out);
        out.split_off(5)
    }

    #[test]
    fn an_error_s_fields_are_found() {
        let report = Report::fatal(SqlState::ADMIN_SHUTDOWN, "bye").with_detail("d");
        let bytes = body(|out| write::error(out, &report));
        let fields = ErrorFields::new(&bytes);
        assert_eq!(fields.sqlstate(), Some(SqlState::ADMIN_SHUTDOWN));
        assert_eq!(fields.message(), Some(&b"bye"[..]));
        assert_eq!(fields.get(b'H'), None);
        assert!(fields.is_fatal());
        assert_eq!(fields.count(), 5);
        let translated = ErrorFields::new(b"SFATALE\0VERROR\0C0800\0\0");
        assert_eq!(translated.severity(), Some(&b"ERROR"[..]));
        assert!(!translated.is_fatal());
        assert_eq!(translated.sqlstate(), None);
        assert_eq!(ErrorFields::new(b"SPANIC\0Mx").count(), 1, "the unterminated field is left out");
        assert!(ErrorFields::new(b"SPANIC\0").is_fatal());
        assert_eq!(ErrorFields::new(b"").next(), None);
    }

    #[test]
    fn authentication_requests_are_told_apart() {
        use AuthenticationRequest as A;
        let check = |bytes: Vec<u8>, expected: A<'_>| assert_eq!(A::parse(&bytes), Ok(expected));
        check(body(write::authentication_ok), A::Ok);
        check(body(write::authentication_cleartext), A::Cleartext);
        check(body(|o| write::authentication_md5(o, *b"abcd")), A::Md5 { salt: *b"abcd" });
        check(body(|o| write::authentication_sasl_continue(o, b"x").expect("short")), A::SaslContinue(b"x"));
        check(body(|o| write::authentication_sasl_final(o, b"x").expect("short")), A::SaslFinal(b"x"));
        check(b"\0\0\0\x07".to_vec(), A::Unsupported(7));
        assert_eq!(A::unsupported_name(7), "gss");
        let sasl =
            body(|o| write::authentication_sasl(o, &["SCRAM-SHA-256-PLUS", "SCRAM-SHA-256"]).expect("ok"));
        let Ok(A::Sasl(mechanisms)) = A::parse(&sasl) else { panic!("not SASL") };
        assert_eq!(mechanisms.collect::<Vec<_>>(), [&b"SCRAM-SHA-256-PLUS"[..], b"SCRAM-SHA-256"]);
        assert!(A::parse(b"\0\0\0\x05abc").is_err());
        assert!(A::parse(b"\0\0\0\0x").is_err());
    }

    #[test]
    fn small_messages_are_read_and_malformed_ones_refused() {
        let status = ParameterStatus { name: b"a", value: b"b" };
        assert_eq!(ParameterStatus::parse(b"a\0b\0"), Ok(status));
        assert!(ParameterStatus::parse(b"a\0b").is_err());
        assert!(ParameterStatus::parse(b"a\0b\0c").is_err());
        let key = BackendKeyData { process_id: 7, secret: b"wxyz" };
        assert_eq!(BackendKeyData::parse(b"\0\0\0\x07wxyz"), Ok(key));
        assert_eq!(format!("{key:?}"), "BackendKeyData(7, …)");
        assert!(BackendKeyData::parse(b"\0\0\0\x07wxy").is_err());
        assert!(BackendKeyData::parse(&[0; 4 + 257]).is_err());
        let names = [&b"_pq_.a"[..]];
        let bytes = body(|o| write::negotiate_protocol_version(o, 2, names.into_iter()).expect("short"));
        let expected = NegotiateProtocolVersion { minor: 2, unrecognised: names.to_vec() };
        assert_eq!(NegotiateProtocolVersion::parse(&bytes), Ok(expected));
        assert!(NegotiateProtocolVersion::parse(b"\0\x03\0\0\x7f\xff\xff\xffa\0").is_err());
        assert!(NegotiateProtocolVersion::parse(b"\0\x03\0\0\xff\xff\xff\xff").is_err());
    }

    proptest! {
        #[test]
        fn garbage_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..40)) {
            let _ = ErrorFields::new(&bytes).count();
            let _ = ParameterStatus::parse(&bytes);
            let _ = BackendKeyData::parse(&bytes);
            let _ = NegotiateProtocolVersion::parse(&bytes);
            if let Ok(AuthenticationRequest::Sasl(m)) = AuthenticationRequest::parse(&bytes) {
                let _ = m.count();
            }
        }
    }
}
