//! The parameter values that a server reported for a session (ParameterStatus), as one compact blob.
//!
//! ```text
//! [count × (name, 0, value, 0)], in the order in which the server first reported the names
//! ```
//!
//! The blob travels in the slot from one process to another, so [`ParameterSet::from_bytes`] believes nothing.

use thiserror::Error;

use super::reader::Reader;
use super::write::{self, WriteError};

/// The greatest blob, in bytes. PostgreSQL 18 reports 15 parameters in some 400 bytes; what a superuser can add
/// (long `application_name`s are cut at 63 bytes, `search_path` is reported since 18) stays far below.
pub const MAX_PARAMETER_BYTES: usize = 8192;

/// Why a parameter or a blob was not taken.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum ParameterError {
    /// The set would exceed [`MAX_PARAMETER_BYTES`]; it is as it was before.
    #[error("parameter values exceed {MAX_PARAMETER_BYTES} bytes")]
    Full,
    /// An empty name, or a zero byte in a name or value.
    #[error("parameter name or value is malformed")]
    Malformed,
}

/// The parameters of a session.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ParameterSet {
    /// Invariant: a valid blob of at most [`MAX_PARAMETER_BYTES`], no name twice.
    blob: Vec<u8>,
}

impl ParameterSet {
    /// Makes an empty set.
    #[must_use]
    pub const fn new() -> Self {
        Self { blob: Vec::new() }
    }

    /// Takes a blob that another process wrote.
    ///
    /// # Errors
    /// [`ParameterError`].
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, ParameterError> {
        if bytes.len() > MAX_PARAMETER_BYTES {
            return Err(ParameterError::Full);
        }
        let mut reader = Reader::new(bytes);
        while reader.remaining() > 0 {
            let name = reader.cstr("name").map_err(|_| ParameterError::Malformed)?;
            reader.cstr("value").map_err(|_| ParameterError::Malformed)?;
            if name.is_empty() {
                return Err(ParameterError::Malformed);
            }
        }
        Ok(Self { blob: bytes.to_vec() })
    }

    /// Gives the blob.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.blob
    }

    /// Tells whether nothing was reported.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.blob.is_empty()
    }

    /// Forgets everything.
    pub fn clear(&mut self) {
        self.blob.clear();
    }

    /// Sets a parameter: in its place if it is there, else at the end.
    ///
    /// # Errors
    /// [`ParameterError`]; the set is then as it was before.
    pub fn set(&mut self, name: &[u8], value: &[u8]) -> Result<(), ParameterError> {
        if name.is_empty() || name.contains(&0) || value.contains(&0) {
            return Err(ParameterError::Malformed);
        }
        let place = self.value_place(name);
        let (taken, added) = match &place {
            Some(place) => (place.len(), value.len()),
            None => (0, name.len().saturating_add(value.len()).saturating_add(2)),
        };
        if (self.blob.len() - taken).saturating_add(added) > MAX_PARAMETER_BYTES {
            return Err(ParameterError::Full);
        }
        match place {
            Some(place) => drop(self.blob.splice(place, value.iter().copied())),
            None => {
                for part in [name, value] {
                    self.blob.extend_from_slice(part);
                    self.blob.push(0);
                }
            }
        }
        Ok(())
    }

    /// Looks up a parameter; names are compared without regard to ASCII case.
    #[must_use]
    pub fn get(&self, name: &[u8]) -> Option<&[u8]> {
        self.iter().find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, value)| value)
    }

    /// Gives the parameters in order.
    pub fn iter(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        let mut reader = Reader::new(&self.blob);
        std::iter::from_fn(move || Some((reader.cstr("name").ok()?, reader.cstr("value").ok()?)))
    }

    /// Appends a ParameterStatus message for each parameter.
    ///
    /// # Errors
    /// [`WriteError`], which cannot happen with what [`ParameterSet::set`] took.
    pub fn write_all(&self, out: &mut Vec<u8>) -> Result<(), WriteError> {
        self.iter().try_for_each(|(name, value)| write::parameter_status(out, name, value))
    }

    /// Where a parameter's value lies in the blob, without its terminator.
    fn value_place(&self, name: &[u8]) -> Option<std::ops::Range<usize>> {
        let mut end = 0;
        for (n, value) in self.iter() {
            let start = end + n.len() + 1;
            end = start + value.len() + 1;
            if n.eq_ignore_ascii_case(name) {
                return Some(start..start + value.len());
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn values_are_replaced_in_place() {
        let mut set = ParameterSet::new();
        for (name, value) in [("A", "1"), ("b", ""), ("c", "3"), ("b", "two"), ("a", "")] {
            assert_eq!(set.set(name.as_bytes(), value.as_bytes()), Ok(()));
        }
        assert_eq!(set.as_bytes(), b"A\0\0b\0two\0c\x003\0");
        assert_eq!(set.get(b"B"), Some(&b"two"[..]));
        assert_eq!(set.get(b"d"), None);
        let mut out = Vec::new();
        set.write_all(&mut out).expect("valid set");
        assert_eq!(out, b"S\0\0\0\x07A\0\0S\0\0\0\x0ab\0two\0S\0\0\0\x08c\x003\0");
        set.clear();
        assert!(set.is_empty());
    }

    #[test]
    fn the_size_is_bounded() {
        let mut set = ParameterSet::new();
        assert_eq!(set.set(b"a", &[b'x'; MAX_PARAMETER_BYTES - 3]), Ok(()));
        assert_eq!(set.as_bytes().len(), MAX_PARAMETER_BYTES);
        assert_eq!(set.set(b"b", b""), Err(ParameterError::Full));
        assert_eq!(set.set(b"a", &[b'x'; MAX_PARAMETER_BYTES - 2]), Err(ParameterError::Full));
        assert_eq!(set.set(b"a", b""), Ok(()));
        assert_eq!(set.set(b"b", b"y"), Ok(()));
        assert_eq!(set.as_bytes(), b"a\0\0b\0y\0");
    }

    #[test]
    fn foreign_blobs_are_checked() {
        for bad in [&b"a"[..], b"a\0", b"a\0b", b"\0b\0", b"a\0b\0\0"] {
            assert_eq!(ParameterSet::from_bytes(bad), Err(ParameterError::Malformed), "{bad:?}");
        }
        let long = [&b"a\0"[..], &[b'x'; MAX_PARAMETER_BYTES], b"\0"].concat();
        assert_eq!(ParameterSet::from_bytes(&long), Err(ParameterError::Full));
        let mut set = ParameterSet::new();
        assert_eq!(set.set(b"a\0b", b""), Err(ParameterError::Malformed));
        assert_eq!(set.set(b"a", b"\0"), Err(ParameterError::Malformed));
    }

    proptest! {
        #[test]
        fn a_set_behaves_like_a_list(pairs in prop::collection::vec(("[a-d]", "[ -~]{0,5}"), 0..20)) {
            let mut set = ParameterSet::new();
            let mut list: Vec<(String, String)> = Vec::new();
            for (name, value) in pairs {
                set.set(name.as_bytes(), value.as_bytes()).expect("small");
                match list.iter_mut().find(|(n, _)| *n == name) {
                    Some(entry) => entry.1 = value,
                    None => list.push((name, value)),
                }
            }
            prop_assert!(set.iter().eq(list.iter().map(|(n, v)| (n.as_bytes(), v.as_bytes()))));
            prop_assert_eq!(ParameterSet::from_bytes(set.as_bytes()), Ok(set));
        }

        #[test]
        fn garbage_never_panics(bytes in prop::collection::vec(0u8..4, 0..40)) {
            let _ = ParameterSet::from_bytes(&bytes);
        }
    }
}
