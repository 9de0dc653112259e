//! Walking message headers over a byte stream that arrives in arbitrary chunks: the relay's hot path.
//!
//! [`Walker`] keeps what it must know between chunks (12 bytes) and never copies or allocates. The [`Piece`]s of a
//! chunk tile it exactly: every byte of the chunk belongs to one piece. A message that spans many chunks costs one
//! step per chunk; a message inside a chunk costs one bounds check and one load.
//!
//! ```text
//! header: offset 0, 1 byte: tag · offset 1, 4 bytes, big-endian: length of the message with itself, without the tag
//! ```

use thiserror::Error;

/// The bytes of a message's header: the tag and the length.
pub const HEADER_LEN: usize = 5;

/// The length field counts itself.
const LENGTH_LEN: u32 = 4;

/// A length that no message can have: the stream is not the protocol, or its boundaries were lost.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
#[error("message with tag {:?} has the invalid length {length}", char::from(*tag))]
pub struct FrameError {
    /// The message's tag.
    pub tag: u8,
    /// The length field as it came.
    pub length: i32,
}

/// The part of one message that lies inside the chunk, as a range of the chunk's bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Piece {
    /// The message's tag.
    pub tag: u8,
    /// The first body byte of the message: known, if the message has a body, at the latest on the piece that ends it.
    pub first_body_byte: Option<u8>,
    /// The piece holds the message's first byte (its tag).
    pub begins: bool,
    /// The piece holds the message's last byte.
    pub ends: bool,
    /// The body's length in bytes, without the header; none while the header is incomplete.
    pub body_len: Option<u32>,
    /// Where the piece starts in the chunk.
    pub start: usize,
    /// Where the piece ends in the chunk (exclusive); never before `start + 1`.
    pub end: usize,
}

impl Piece {
    /// The message lies wholly in this chunk.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        self.begins && self.ends
    }

    /// Gives the bytes of the body that lie in this chunk, when the whole message does.
    #[must_use]
    pub fn whole_body<'a>(&self, chunk: &'a [u8]) -> Option<&'a [u8]> {
        if self.is_whole() { chunk.get(self.start.checked_add(HEADER_LEN)?..self.end) } else { None }
    }
}

/// Where a stream stands between two chunks.
///
/// Invariant: `remaining <= length`; in the body (`have == 5`), `remaining > 0`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Walker {
    /// Body bytes that have not been seen.
    remaining: u32,
    /// The body's length once the header is complete; before that, the length bytes so far.
    length: u32,
    tag: u8,
    /// Header bytes seen of the current message: 0 at a boundary, 5 in a body.
    have: u8,
    first_body_byte: Option<u8>,
}

const _: () = assert!(size_of::<Walker>() <= 16);

impl Walker {
    /// Starts at a message boundary.
    #[must_use]
    pub const fn new() -> Self {
        Self { remaining: 0, length: 0, tag: 0, have: 0, first_body_byte: None }
    }

    /// Tells whether everything seen so far was whole messages.
    #[must_use]
    pub fn at_boundary(&self) -> bool {
        self.have == 0
    }

    /// Gives the body bytes still to come of the message that the stream is in; 0 at a boundary or inside a header.
    #[must_use]
    pub fn body_remaining(&self) -> u32 {
        self.remaining
    }

    /// Finds the piece that starts at `*at` and moves `*at` behind it; `None` at the end of the chunk.
    ///
    /// # Errors
    /// [`FrameError`] when a length is less than 4 or more than 2³¹-1. The stream cannot be followed any further.
    #[inline]
    pub fn next(&mut self, chunk: &[u8], at: &mut usize) -> Result<Option<Piece>, FrameError> {
        let rest = chunk.get(*at..).unwrap_or_default();
        if self.have == 0
            && let Some((&[tag, l0, l1, l2, l3], body)) = rest.split_first_chunk::<HEADER_LEN>()
        {
            let length = body_length(tag, u32::from_be_bytes([l0, l1, l2, l3]))?;
            let body_len = to_usize(length);
            if body_len <= body.len() {
                let start = *at;
                *at = start + HEADER_LEN + body_len;
                let first_body_byte = if body_len == 0 { None } else { body.first().copied() };
                let body_len = Some(length);
                return Ok(Some(Piece {
                    tag,
                    first_body_byte,
                    begins: true,
                    ends: true,
                    body_len,
                    start,
                    end: *at,
                }));
            }
        }
        self.next_part(rest, at)
    }

    /// The message does not lie wholly in the chunk, or the chunk is at its end.
    fn next_part(&mut self, rest: &[u8], at: &mut usize) -> Result<Option<Piece>, FrameError> {
        if rest.is_empty() {
            return Ok(None);
        }
        let start = *at;
        let begins = self.have == 0;
        let body = self.take_header(rest)?;
        let mut used = rest.len() - body.len();
        let in_body = usize::from(self.have) == HEADER_LEN;
        if in_body {
            if self.remaining == self.length && self.length > 0 {
                self.first_body_byte = body.first().copied();
            }
            let part = body.len().min(to_usize(self.remaining));
            used += part;
            self.remaining -= u32::try_from(part).unwrap_or(self.remaining).min(self.remaining);
        }
        let ends = in_body && self.remaining == 0;
        let piece = Piece {
            tag: self.tag,
            first_body_byte: self.first_body_byte,
            begins,
            ends,
            body_len: in_body.then_some(self.length),
            start,
            end: start + used,
        };
        if ends {
            *self = Self::new();
        }
        *at = piece.end;
        Ok(Some(piece))
    }

    /// Takes what is missing of the header from the front of `rest`; gives what follows.
    fn take_header<'a>(&mut self, rest: &'a [u8]) -> Result<&'a [u8], FrameError> {
        let mut rest = rest;
        while usize::from(self.have) < HEADER_LEN
            && let Some((&byte, tail)) = rest.split_first()
        {
            rest = tail;
            if self.have == 0 {
                self.tag = byte;
            } else {
                self.length = self.length << 8 | u32::from(byte);
            }
            self.have += 1;
            if usize::from(self.have) == HEADER_LEN {
                self.length = body_length(self.tag, self.length)?;
                self.remaining = self.length;
            }
        }
        Ok(rest)
    }
}

/// Turns the length field into the body's length, or refuses it.
#[inline]
fn body_length(tag: u8, field: u32) -> Result<u32, FrameError> {
    match i32::try_from(field) {
        Ok(_) if field >= LENGTH_LEN => Ok(field - LENGTH_LEN),
        _ => Err(FrameError { tag, length: i32::from_be_bytes(field.to_be_bytes()) }),
    }
}

/// `usize` has at least 32 bits on every platform of this program.
#[inline]
fn to_usize(n: u32) -> usize {
    usize::try_from(n).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn message(tag: u8, body: &[u8]) -> Vec<u8> {
        let mut out = vec![tag];
        out.extend(u32::try_from(body.len() + 4).expect("small").to_be_bytes());
        out.extend_from_slice(body);
        out
    }

    fn pieces(walker: &mut Walker, chunk: &[u8]) -> Vec<Piece> {
        let mut at = 0;
        let mut found = Vec::new();
        while let Some(piece) = walker.next(chunk, &mut at).expect("valid stream") {
            found.push(piece);
        }
        assert_eq!(at, chunk.len());
        found
    }

    #[test]
    fn whole_messages_come_whole() {
        let stream = [message(b'Z', b"I"), message(b'1', b""), message(b'D', b"row")].concat();
        let mut walker = Walker::new();
        let found = pieces(&mut walker, &stream);
        assert!(walker.at_boundary());
        assert_eq!(found.iter().map(|p| p.tag).collect::<Vec<_>>(), b"Z1D");
        assert_eq!(
            found.iter().map(|p| p.first_body_byte).collect::<Vec<_>>(),
            [Some(b'I'), None, Some(b'r')]
        );
        assert_eq!(
            found.iter().map(|p| p.whole_body(&stream)).collect::<Vec<_>>(),
            [Some(&b"I"[..]), Some(&b""[..]), Some(&b"row"[..])]
        );
    }

    #[test]
    fn a_split_status_byte_is_remembered() {
        let stream = message(b'Z', b"T");
        for cut in 1..stream.len() {
            let mut walker = Walker::new();
            let first = pieces(&mut walker, &stream[..cut]);
            assert!(!walker.at_boundary());
            assert!(first.iter().all(|p| p.begins && !p.ends), "{first:?}");
            let second = pieces(&mut walker, &stream[cut..]);
            assert_eq!(second.len(), 1);
            assert!(second[0].ends && !second[0].begins);
            assert_eq!(second[0].first_body_byte, Some(b'T'));
            assert!(walker.at_boundary());
        }
    }

    #[test]
    fn a_long_message_is_one_piece_per_chunk() {
        let stream = message(b'd', &[7; 1000]);
        let mut walker = Walker::new();
        let counts: Vec<usize> = stream.chunks(100).map(|c| pieces(&mut walker, c).len()).collect();
        assert_eq!(counts, vec![1; 11]);
        assert!(walker.at_boundary());
    }

    #[test]
    fn impossible_lengths_are_refused_whole_or_split() {
        for length in [0i32, 1, 3, -1, i32::MIN] {
            let stream = [&b"Q"[..], &length.to_be_bytes(), b"abcdef"].concat();
            for cut in 0..5 {
                let mut walker = Walker::new();
                let mut at = 0;
                let first = walker.next(&stream[..cut], &mut at).map(|_| ());
                assert_eq!(first, Ok(()));
                let error = walker.next(&stream[cut..], &mut 0).expect_err("invalid length");
                assert_eq!(error, FrameError { tag: b'Q', length });
            }
        }
        let text = FrameError { tag: b'Q', length: 3 }.to_string();
        assert_eq!(text, "message with tag 'Q' has the invalid length 3");
    }

    #[test]
    fn the_greatest_length_is_followed() {
        let mut walker = Walker::new();
        let found = pieces(&mut walker, b"d\x7f\xff\xff\xffx");
        assert_eq!(found[0].body_len, Some(0x7fff_fffb));
        assert_eq!(walker.body_remaining(), 0x7fff_fffa);
    }

    proptest! {
        #[test]
        fn chunking_changes_nothing(
            bodies in prop::collection::vec((any::<u8>(), prop::collection::vec(any::<u8>(), 0..20)), 0..12),
            cuts in prop::collection::vec(1usize..9, 1..60),
        ) {
            let stream: Vec<u8> = bodies.iter().flat_map(|(tag, body)| message(*tag, body)).collect();
            let mut walker = Walker::new();
            let mut rest = &stream[..];
            let mut seen = Vec::new();
            let mut begun = 0;
            for cut in cuts.iter().cycle() {
                if rest.is_empty() { break; }
                let (chunk, tail) = rest.split_at((*cut).min(rest.len()));
                rest = tail;
                let mut end = 0;
                for piece in pieces(&mut walker, chunk) {
                    prop_assert_eq!(piece.start, end);
                    prop_assert!(piece.end > piece.start);
                    end = piece.end;
                    begun += usize::from(piece.begins);
                    if piece.ends { seen.push((piece.tag, piece.first_body_byte, piece.body_len)); }
                }
            }
            let expected: Vec<_> = bodies.iter()
                .map(|(tag, body)| (*tag, body.first().copied(), u32::try_from(body.len()).ok())).collect();
            prop_assert_eq!(begun, expected.len());
            prop_assert_eq!(seen, expected);
            prop_assert!(walker.at_boundary());
        }

        #[test]
        fn garbage_never_panics(chunks in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..30), 0..10)) {
            let mut walker = Walker::new();
            for chunk in &chunks {
                let mut at = 0;
                loop {
                    let before = at;
                    match walker.next(chunk, &mut at) {
                        Ok(Some(_)) => prop_assert!(at > before && at <= chunk.len()),
                        Ok(None) => break,
                        Err(_) => return Ok(()),
                    }
                }
            }
        }
    }
}
