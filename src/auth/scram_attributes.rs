//! The text of SCRAM messages: attributes between commas (RFC 5802 §5.1) and base64 (RFC 4648 §4).

#![forbid(unsafe_code)]

use super::scram::ScramError;

/// Takes attributes off the front of a message, one after the other.
#[derive(Clone, Copy)]
pub(super) struct Attributes<'a> {
    /// None once the message has ended.
    rest: Option<&'a [u8]>,
}

impl<'a> Attributes<'a> {
    pub(super) fn new(text: &'a [u8]) -> Self {
        Self { rest: Some(text) }
    }

    /// Takes everything up to the next comma.
    pub(super) fn part(&mut self) -> Option<&'a [u8]> {
        let text = self.rest.take()?;
        let mut parts = text.splitn(2, |&b| b == b',');
        let part = parts.next();
        self.rest = parts.next();
        part
    }

    /// Takes the attribute `name`, which must be next; gives its value.
    pub(super) fn value(&mut self, name: u8) -> Result<&'a [u8], ScramError> {
        match self.any()? {
            Some((found, value)) if found == name => Ok(value),
            _ => Err(ScramError::Malformed("Expected another attribute.")),
        }
    }

    /// Takes the next attribute, whatever it is; none at the end.
    pub(super) fn any(&mut self) -> Result<Option<(u8, &'a [u8])>, ScramError> {
        match self.part() {
            None => Ok(None),
            Some([name, b'=', value @ ..]) if name.is_ascii_alphabetic() => Ok(Some((*name, value))),
            Some(_) => Err(ScramError::Malformed("Attribute expected, but found another character.")),
        }
    }

    /// Gives what has not been taken.
    pub(super) fn rest(self) -> &'a [u8] {
        self.rest.unwrap_or_default()
    }

    /// Ends the reading.
    pub(super) fn finish(self) -> Result<(), ScramError> {
        match self.rest {
            None => Ok(()),
            Some(_) => Err(ScramError::Malformed("Garbage found at the end of the message.")),
        }
    }
}

/// Decodes base64, with padding and without white space; the library's decoder alone would take white space.
pub(super) fn decode_base64(text: &[u8]) -> Option<Vec<u8>> {
    let padding = text.iter().rev().take_while(|&&b| b == b'=').count();
    let digits = text.get(..text.len().checked_sub(padding)?)?;
    let is_digit = |b: &u8| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'/');
    if padding > 2 || !text.len().is_multiple_of(4) || !digits.iter().all(is_digit) {
        return None;
    }
    if text.is_empty() {
        return Some(Vec::new());
    }
    openssl::base64::decode_block(std::str::from_utf8(text).ok()?).ok()
}

/// Encodes base64.
pub(super) fn encode_base64(bytes: &[u8]) -> String {
    openssl::base64::encode_block(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_is_strict() {
        for (text, expected) in [
            ("", Some(&b""[..])),
            ("YQ==", Some(b"a")),
            ("YWI=", Some(b"ab")),
            ("YWJj", Some(b"abc")),
            ("+/+/", Some(b"\xfb\xff\xbf")),
            ("YQ=", None),
            ("YQ", None),
            ("Y===", None),
            ("====", None),
            (" YQ==", None),
            ("YQ==\n   ", None),
            ("YQ=a", None),
            ("YW-_", None),
            ("\u{e9}Q=", None),
        ] {
            assert_eq!(decode_base64(text.as_bytes()).as_deref(), expected, "{text:?}");
        }
        for length in 0..20 {
            let bytes: Vec<u8> = (0..length).map(|i| i * 13).collect();
            assert_eq!(decode_base64(encode_base64(&bytes).as_bytes()), Some(bytes));
        }
    }

    #[test]
    fn attributes_are_taken_in_order() {
        let mut a = Attributes::new(b"r=a=b,,s=,x");
        assert_eq!(a.value(b'r').ok(), Some(&b"a=b"[..]));
        assert_eq!(a.part(), Some(&b""[..]));
        assert_eq!(a.rest(), b"s=,x");
        assert_eq!(a.any().ok().flatten(), Some((b's', &b""[..])));
        assert!(a.finish().is_err());
        assert!(a.any().is_err());
        assert_eq!(a.any().ok(), Some(None));
        assert!(a.finish().is_ok());
    }
}
