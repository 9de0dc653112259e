//! The frame of every management message, and the pieces that bodies are made of. Pure: bytes in, bytes out.
//!
//! ```text
//! offset  size  meaning (integers big-endian)
//!      0     1  version, 1
//!      1     1  id: what the body is; 1..=127 from the operator, 128..=255 from main
//!      2     2  reserved, 0
//!      4     4  slot that the message is about; -1: none
//!      8     4  length of the body, at most 64 KiB
//!     12     …  body: texts as u32 length and UTF-8, choices as one byte
//! ```
//! Every length is checked before it is believed. Version, reserved bytes, body and what is left over are refused when
//! they are not as told here, so that a message of a later version is never taken for one of this.

use std::fmt;

/// The version of the protocol that this build speaks.
pub const VERSION: u8 = 1;
/// Bytes of a header.
pub const HEADER_LENGTH: usize = 12;
/// The most bytes of a body.
pub const BODY_MAX: u32 = 64 * 1024;
/// The slot of a message that is about none.
pub const NO_SLOT: i32 = -1;

/// Why bytes are no message.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// Another version of the protocol.
    #[error("management protocol version {found} is not understood here, version {VERSION} is")]
    Version {
        /// The version in the header.
        found: u8,
    },
    /// The reserved bytes are not zero.
    #[error("reserved bytes of a management message are {found:#06x} instead of 0")]
    Reserved {
        /// What they are.
        found: u16,
    },
    /// The body is longer than [`BODY_MAX`].
    #[error("a management message of {length} bytes is longer than {BODY_MAX}")]
    TooLong {
        /// The length in the header, or that of the message to be sent.
        length: usize,
    },
    /// No message has this id in this direction.
    #[error("management message {id} is unknown")]
    UnknownId {
        /// The id.
        id: u8,
    },
    /// The message is about no slot, but names one.
    #[error("management message {id} names slot {slot}, but is about none")]
    Slot {
        /// The id.
        id: u8,
        /// The slot.
        slot: i32,
    },
    /// The body ends too soon.
    #[error("a management message ends within its {field}")]
    Truncated {
        /// What could not be read.
        field: &'static str,
    },
    /// A text is not UTF-8.
    #[error("the {field} in a management message is not UTF-8")]
    NotText {
        /// Which.
        field: &'static str,
    },
    /// A choice that does not exist.
    #[error("the {field} in a management message is {found}, which is none")]
    NoSuchChoice {
        /// Which choice.
        field: &'static str,
        /// The byte found.
        found: u8,
    },
    /// The body goes on after its end.
    #[error("a management message has {bytes} bytes too many")]
    LeftOver {
        /// How many.
        bytes: usize,
    },
}

/// The head of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// What the body is.
    pub id: u8,
    /// The slot that the message is about; [`NO_SLOT`]: none.
    pub slot: i32,
    /// Bytes of the body, at most [`BODY_MAX`].
    pub length: u32,
}

impl Header {
    /// As it is sent.
    #[must_use]
    pub fn encode(self) -> [u8; HEADER_LENGTH] {
        let mut bytes = [0; HEADER_LENGTH];
        bytes[0] = VERSION;
        bytes[1] = self.id;
        bytes[4..8].copy_from_slice(&self.slot.to_be_bytes());
        bytes[8..12].copy_from_slice(&self.length.to_be_bytes());
        bytes
    }

    /// From how it was sent.
    ///
    /// # Errors
    /// [`FrameError::Version`], [`FrameError::Reserved`], [`FrameError::TooLong`].
    pub fn decode(bytes: &[u8; HEADER_LENGTH]) -> Result<Self, FrameError> {
        let [version, id, r0, r1, s0, s1, s2, s3, l0, l1, l2, l3] = *bytes;
        if version != VERSION {
            return Err(FrameError::Version { found: version });
        }
        match u16::from_be_bytes([r0, r1]) {
            0 => {}
            found => return Err(FrameError::Reserved { found }),
        }
        let length = u32::from_be_bytes([l0, l1, l2, l3]);
        if length > BODY_MAX {
            return Err(FrameError::TooLong { length: usize::try_from(length).unwrap_or(usize::MAX) });
        }
        Ok(Header { id, slot: i32::from_be_bytes([s0, s1, s2, s3]), length })
    }

    /// Bytes of the body.
    #[must_use]
    pub fn body_length(self) -> usize {
        usize::try_from(self.length).unwrap_or(usize::MAX)
    }
}

/// One message at the head of a buffer.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Frame<'a> {
    /// Its head.
    pub header: Header,
    /// Its body.
    pub body: &'a [u8],
}

impl Frame<'_> {
    /// Bytes of the buffer that it takes.
    #[must_use]
    pub fn total_length(&self) -> usize {
        HEADER_LENGTH.saturating_add(self.body.len())
    }
}

impl fmt::Debug for Frame<'_> {
    // A body may hold a secret that an operator sets.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Frame({:?})", self.header)
    }
}

/// The message at the head of `buffer`; `None`: it is not whole yet.
///
/// # Errors
/// As [`Header::decode`]; a wrong version is told as soon as its byte is there.
pub fn next(buffer: &[u8]) -> Result<Option<Frame<'_>>, FrameError> {
    if let Some(&found) = buffer.first()
        && found != VERSION
    {
        return Err(FrameError::Version { found });
    }
    let Some((head, rest)) = buffer.split_first_chunk::<HEADER_LENGTH>() else { return Ok(None) };
    let header = Header::decode(head)?;
    Ok(rest.get(..header.body_length()).map(|body| Frame { header, body }))
}

/// How many bytes are missing of the message at the head of `buffer`; at least 1 while it is not whole.
#[must_use]
pub fn missing(buffer: &[u8]) -> usize {
    let whole = match buffer.first_chunk::<HEADER_LENGTH>().map(Header::decode) {
        Some(Ok(header)) => HEADER_LENGTH.saturating_add(header.body_length()),
        Some(Err(_)) | None => HEADER_LENGTH,
    };
    whole.saturating_sub(buffer.len())
}

/// Builds one message.
pub struct Writer {
    id: u8,
    slot: i32,
    body: Vec<u8>,
}

impl Writer {
    /// A message with an empty body.
    #[must_use]
    pub fn new(id: u8, slot: i32) -> Self {
        Writer { id, slot, body: Vec::new() }
    }

    /// Appends a byte.
    #[must_use]
    pub fn byte(mut self, byte: u8) -> Self {
        self.body.push(byte);
        self
    }

    /// Appends a text.
    #[must_use]
    pub fn text(mut self, text: &str) -> Self {
        // A text that long is refused by `finish`.
        let length = u32::try_from(text.len()).unwrap_or(u32::MAX);
        self.body.extend_from_slice(&length.to_be_bytes());
        self.body.extend_from_slice(text.as_bytes());
        self
    }

    /// Appends a text that may be missing.
    #[must_use]
    pub fn optional_text(self, text: Option<&str>) -> Self {
        match text {
            None => self.byte(0),
            Some(text) => self.byte(1).text(text),
        }
    }

    /// The message, with its header.
    ///
    /// # Errors
    /// [`FrameError::TooLong`].
    pub fn finish(self) -> Result<Vec<u8>, FrameError> {
        let length = u32::try_from(self.body.len())
            .ok()
            .filter(|&length| length <= BODY_MAX)
            .ok_or(FrameError::TooLong { length: self.body.len() })?;
        let mut bytes = Vec::with_capacity(HEADER_LENGTH + self.body.len());
        bytes.extend_from_slice(&Header { id: self.id, slot: self.slot, length }.encode());
        bytes.extend_from_slice(&self.body);
        Ok(bytes)
    }
}

/// Reads a body.
pub struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    /// From its start.
    #[must_use]
    pub fn new(body: &'a [u8]) -> Self {
        Reader { rest: body }
    }

    fn take(&mut self, count: usize, field: &'static str) -> Result<&'a [u8], FrameError> {
        let (taken, rest) = self.rest.split_at_checked(count).ok_or(FrameError::Truncated { field })?;
        self.rest = rest;
        Ok(taken)
    }

    /// The next byte.
    ///
    /// # Errors
    /// [`FrameError::Truncated`].
    pub fn byte(&mut self, field: &'static str) -> Result<u8, FrameError> {
        let (&byte, rest) = self.rest.split_first().ok_or(FrameError::Truncated { field })?;
        self.rest = rest;
        Ok(byte)
    }

    /// The next text.
    ///
    /// # Errors
    /// [`FrameError::Truncated`], [`FrameError::NotText`].
    pub fn text(&mut self, field: &'static str) -> Result<String, FrameError> {
        let (length, rest) = self.rest.split_first_chunk::<4>().ok_or(FrameError::Truncated { field })?;
        self.rest = rest;
        let length =
            usize::try_from(u32::from_be_bytes(*length)).map_err(|_| FrameError::Truncated { field })?;
        let bytes = self.take(length, field)?;
        Ok(std::str::from_utf8(bytes).map_err(|_| FrameError::NotText { field })?.to_owned())
    }

    /// The next text, which may be missing.
    ///
    /// # Errors
    /// As [`Reader::text`], and [`FrameError::NoSuchChoice`].
    pub fn optional_text(&mut self, field: &'static str) -> Result<Option<String>, FrameError> {
        match self.byte(field)? {
            0 => Ok(None),
            1 => self.text(field).map(Some),
            found => Err(FrameError::NoSuchChoice { field, found }),
        }
    }

    /// One of `all`, by its place.
    ///
    /// # Errors
    /// [`FrameError::Truncated`], [`FrameError::NoSuchChoice`].
    pub fn choice<T: Copy>(&mut self, all: &[T], field: &'static str) -> Result<T, FrameError> {
        let found = self.byte(field)?;
        all.get(usize::from(found)).copied().ok_or(FrameError::NoSuchChoice { field, found })
    }

    /// Nothing may follow.
    ///
    /// # Errors
    /// [`FrameError::LeftOver`].
    pub fn finish(self) -> Result<(), FrameError> {
        match self.rest.len() {
            0 => Ok(()),
            bytes => Err(FrameError::LeftOver { bytes }),
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn header(change: impl FnOnce(&mut [u8; HEADER_LENGTH])) -> [u8; HEADER_LENGTH] {
        let mut bytes = Header { id: 1, slot: NO_SLOT, length: 0 }.encode();
        change(&mut bytes);
        bytes
    }

    #[test]
    fn headers_that_are_refused() {
        let cases = [
            (header(|h| h[0] = 0), FrameError::Version { found: 0 }),
            (header(|h| h[0] = 2), FrameError::Version { found: 2 }),
            (header(|h| h[0] = b'G'), FrameError::Version { found: b'G' }),
            (header(|h| h[3] = 1), FrameError::Reserved { found: 1 }),
            (
                header(|h| h[8..12].copy_from_slice(&65_537u32.to_be_bytes())),
                FrameError::TooLong { length: 65_537 },
            ),
            (header(|h| h[8..12].copy_from_slice(&[0x80, 0, 0, 0])), FrameError::TooLong { length: 1 << 31 }),
            (
                header(|h| h[8..12].copy_from_slice(&[0xff; 4])),
                FrameError::TooLong { length: usize::try_from(u32::MAX).unwrap() },
            ),
        ];
        for (bytes, expected) in cases {
            assert_eq!(next(&bytes), Err(expected), "{bytes:?}");
        }
    }

    #[test]
    fn a_wrong_version_is_told_with_the_first_byte() {
        assert_eq!(next(b"G"), Err(FrameError::Version { found: b'G' }));
        assert_eq!(next(&[VERSION]), Ok(None));
        assert_eq!(next(&[]), Ok(None));
    }

    #[test]
    fn missing_bytes_are_counted() {
        let message = Writer::new(1, NO_SLOT).text("abc").finish().unwrap();
        assert_eq!(missing(&[]), HEADER_LENGTH);
        assert_eq!(missing(&message[..5]), HEADER_LENGTH - 5);
        assert_eq!(missing(&message[..HEADER_LENGTH]), 7);
        assert_eq!(missing(&message), 0);
    }

    #[test]
    fn bodies_may_be_64_kib_and_no_more() {
        let limit = usize::try_from(BODY_MAX).unwrap();
        let fits = Writer::new(1, NO_SLOT).text(&"x".repeat(limit - 4)).finish().unwrap();
        assert_eq!(next(&fits).unwrap().unwrap().total_length(), HEADER_LENGTH + limit);
        let too_long = Writer::new(1, NO_SLOT).text(&"x".repeat(limit - 3)).finish();
        assert_eq!(too_long, Err(FrameError::TooLong { length: limit + 1 }));
    }

    proptest! {
        #[test]
        fn headers_survive(id: u8, slot: i32, length in 0..=BODY_MAX) {
            let header = Header { id, slot, length };
            prop_assert_eq!(Header::decode(&header.encode()), Ok(header));
        }

        #[test]
        fn messages_are_found_whole_and_only_then(id: u8, slot: i32, text: String, cut: usize) {
            let bytes = Writer::new(id, slot).text(&text).finish().unwrap();
            let frame = next(&bytes).unwrap().unwrap();
            prop_assert_eq!(frame.total_length(), bytes.len());
            let mut reader = Reader::new(frame.body);
            prop_assert_eq!(reader.text("text").unwrap(), text);
            prop_assert_eq!(reader.finish(), Ok(()));
            prop_assert_eq!(next(&bytes[..cut % bytes.len()]), Ok(None));
        }

        #[test]
        fn garbage_never_panics(bytes: Vec<u8>) {
            if let Ok(Some(frame)) = next(&bytes) {
                prop_assert!(frame.total_length() <= bytes.len());
            }
            let _ = missing(&bytes);
            let mut reader = Reader::new(&bytes);
            while reader.optional_text("text").is_ok() && reader.text("text").is_ok() {}
        }
    }
}
