//! Reading fields from the bytes of one message.
//!
//! [`Reader`] borrows the body and hands out fields in order; each error names the field. It never panics, whatever
//! the bytes are. It is used in every process; it does no I/O.

use thiserror::Error;

/// Why a message could not be read. The field's name is the protocol documentation's.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum ReadError {
    /// The message ends inside the field.
    #[error("message ends before the end of {field}")]
    Short {
        /// What was being read.
        field: &'static str,
    },
    /// A string has no terminating zero byte.
    #[error("{field} is not terminated")]
    Unterminated {
        /// What was being read.
        field: &'static str,
    },
    /// The field holds a value that the protocol does not allow.
    #[error("{field} has an invalid value")]
    Invalid {
        /// What was being read.
        field: &'static str,
    },
    /// The message goes on after its last field.
    #[error("{extra} bytes are left over after {field}")]
    LeftOver {
        /// The last field.
        field: &'static str,
        /// How many bytes follow it.
        extra: usize,
    },
}

/// A cursor over one message's body.
#[derive(Clone, Copy, Debug)]
pub struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    /// Starts at the first byte of `bytes`.
    #[must_use]
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    /// Takes one byte.
    ///
    /// # Errors
    /// [`ReadError::Short`] at the end of the message.
    pub fn u8(&mut self, field: &'static str) -> Result<u8, ReadError> {
        let [byte] = self.array(field)?;
        Ok(byte)
    }

    /// Takes a big-endian 16-bit integer.
    ///
    /// # Errors
    /// [`ReadError::Short`] at the end of the message.
    pub fn i16(&mut self, field: &'static str) -> Result<i16, ReadError> {
        self.array(field).map(i16::from_be_bytes)
    }

    /// Takes a big-endian 32-bit integer.
    ///
    /// # Errors
    /// [`ReadError::Short`] at the end of the message.
    pub fn i32(&mut self, field: &'static str) -> Result<i32, ReadError> {
        self.array(field).map(i32::from_be_bytes)
    }

    /// Takes exactly `N` bytes by value.
    ///
    /// # Errors
    /// [`ReadError::Short`] at the end of the message.
    pub fn array<const N: usize>(&mut self, field: &'static str) -> Result<[u8; N], ReadError> {
        let (head, rest) = self.rest.split_first_chunk::<N>().ok_or(ReadError::Short { field })?;
        self.rest = rest;
        Ok(*head)
    }

    /// Takes a zero-terminated string, without its terminator.
    ///
    /// # Errors
    /// [`ReadError::Unterminated`] when no zero byte follows.
    pub fn cstr(&mut self, field: &'static str) -> Result<&'a [u8], ReadError> {
        let end = self.rest.iter().position(|&b| b == 0).ok_or(ReadError::Unterminated { field })?;
        let (head, rest) = self.rest.split_at_checked(end).ok_or(ReadError::Unterminated { field })?;
        self.rest = rest.get(1..).unwrap_or_default();
        Ok(head)
    }

    /// Takes `n` bytes.
    ///
    /// # Errors
    /// [`ReadError::Short`] when fewer are left.
    pub fn take(&mut self, n: usize, field: &'static str) -> Result<&'a [u8], ReadError> {
        let (head, rest) = self.rest.split_at_checked(n).ok_or(ReadError::Short { field })?;
        self.rest = rest;
        Ok(head)
    }

    /// Takes a 32-bit length and that many bytes; -1 means none (null).
    ///
    /// # Errors
    /// [`ReadError::Invalid`] for any other negative length, [`ReadError::Short`] when fewer bytes are left.
    pub fn nullable(&mut self, field: &'static str) -> Result<Option<&'a [u8]>, ReadError> {
        let length = self.i32(field)?;
        if length == -1 {
            return Ok(None);
        }
        let length = usize::try_from(length).map_err(|_| ReadError::Invalid { field })?;
        self.take(length, field).map(Some)
    }

    /// Takes `n` bytes as a reader of their own.
    ///
    /// # Errors
    /// [`ReadError::Short`] when fewer are left.
    pub fn sub(&mut self, n: usize, field: &'static str) -> Result<Reader<'a>, ReadError> {
        self.take(n, field).map(Reader::new)
    }

    /// Takes everything that is left.
    pub fn rest(&mut self) -> &'a [u8] {
        std::mem::take(&mut self.rest)
    }

    /// Tells how many bytes are left.
    #[must_use]
    pub fn remaining(&self) -> usize {
        self.rest.len()
    }

    /// Ends the reading; `field` names the last field.
    ///
    /// # Errors
    /// [`ReadError::LeftOver`] when bytes are left.
    pub fn finish(self, field: &'static str) -> Result<(), ReadError> {
        match self.rest.len() {
            0 => Ok(()),
            extra => Err(ReadError::LeftOver { field, extra }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_come_out_in_order() {
        let mut r = Reader::new(b"\x07\xff\xfe\0\0\x01\0name\0ab\0\0\0\x01x\xff\xff\xff\xffrest");
        assert_eq!(r.u8("a"), Ok(7));
        assert_eq!(r.i16("b"), Ok(-2));
        assert_eq!(r.i32("c"), Ok(256));
        assert_eq!(r.cstr("d"), Ok(&b"name"[..]));
        assert_eq!(r.sub(2, "e").map(|mut s| s.rest()), Ok(&b"ab"[..]));
        assert_eq!(r.nullable("f"), Ok(Some(&b"x"[..])));
        assert_eq!(r.nullable("g"), Ok(None));
        assert_eq!(r.remaining(), 4);
        assert_eq!(r.finish("g"), Err(ReadError::LeftOver { field: "g", extra: 4 }));
        assert_eq!(r.rest(), b"rest");
        assert_eq!(r.finish("g"), Ok(()));
    }

    #[test]
    fn an_error_names_the_field_and_takes_nothing() {
        let mut r = Reader::new(b"abc");
        assert_eq!(r.i32("count"), Err(ReadError::Short { field: "count" }));
        assert_eq!(r.cstr("name"), Err(ReadError::Unterminated { field: "name" }));
        assert_eq!(r.take(usize::MAX, "data"), Err(ReadError::Short { field: "data" }));
        assert_eq!(r.take(3, "data"), Ok(&b"abc"[..]));
        assert_eq!(Reader::new(b"\xff\xff\xff\xfe").nullable("v"), Err(ReadError::Invalid { field: "v" }));
        assert_eq!(ReadError::Short { field: "salt" }.to_string(), "message ends before the end of salt");
    }
}
