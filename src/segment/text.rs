//! Short texts and byte strings in shared memory, as words that may be read while they are written.
//!
//! The writer is alone (rule 1 of `state.rs`); a reader of another process may see half of an old and half of a new
//! text, which is cut at the first NUL and made valid UTF-8. That is good enough for display and for nothing else;
//! where the bytes decide something, the reader owns the slot.

use super::atomic::{PlainU64 as AtomicU64, Relaxed};

/// Room for `8 * WORDS` bytes; text shorter than that ends with NUL.
#[repr(C)]
pub struct Text<const WORDS: usize> {
    words: [AtomicU64; WORDS],
}

impl<const WORDS: usize> Default for Text<WORDS> {
    fn default() -> Self {
        Text { words: std::array::from_fn(|_| AtomicU64::new(0)) }
    }
}

impl<const WORDS: usize> Text<WORDS> {
    /// Writes `text`, cut at a character boundary when it does not fit.
    pub fn set(&self, text: &str) {
        let mut end = text.len().min(WORDS * 8);
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        store_bytes(&self.words, &text.as_bytes()[..end]);
        if let Some(next) = self.words.get(end.div_ceil(8)) {
            next.store(0, Relaxed);
        }
    }

    /// The text as it is now.
    #[must_use]
    pub fn get(&self) -> String {
        let mut bytes = Vec::with_capacity(WORDS * 8);
        load_bytes(&self.words, WORDS * 8, &mut bytes);
        let end = bytes.iter().position(|&b| b == 0).unwrap_or(bytes.len());
        String::from_utf8_lossy(&bytes[..end]).into_owned()
    }

    /// Whether the text is `other`, without copying it.
    #[must_use]
    pub fn is(&self, other: &str) -> bool {
        let bytes = other.as_bytes();
        if bytes.len() > WORDS * 8 {
            return false;
        }
        let used = bytes.len().div_ceil(8);
        let same = self.words[..used].iter().enumerate().all(|(i, w)| w.load(Relaxed) == word_at(bytes, i));
        same && (!bytes.len().is_multiple_of(8) || self.words.get(used).is_none_or(|w| w.load(Relaxed) == 0))
    }
}

/// Writes `bytes` into `words`, the last word filled up with zeros. What does not fit is left out.
pub fn store_bytes(words: &[AtomicU64], bytes: &[u8]) {
    for (i, word) in words.iter().enumerate().take(bytes.len().div_ceil(8)) {
        // Relaxed: published by the verb that gives up ownership.
        word.store(word_at(bytes, i), Relaxed);
    }
}

/// Appends `length` bytes of `words` to `out`; fewer if the words end.
pub fn load_bytes(words: &[AtomicU64], length: usize, out: &mut Vec<u8>) {
    let start = out.len();
    for word in words.iter().take(length.div_ceil(8)) {
        out.extend_from_slice(&word.load(Relaxed).to_ne_bytes());
    }
    out.truncate(start + length);
}

fn word_at(bytes: &[u8], index: usize) -> u64 {
    let mut word = [0u8; 8];
    let rest = &bytes[index * 8..];
    let n = rest.len().min(8);
    word[..n].copy_from_slice(&rest[..n]);
    u64::from_ne_bytes(word)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_what_was_set() {
        let text = Text::<2>::default();
        for (set, expected) in [
            ("", ""),
            ("a", "a"),
            ("12345678", "12345678"),
            ("0123456789abcdefgh", "0123456789abcdef"),
            ("é", "é"),
        ] {
            text.set(set);
            assert_eq!(text.get(), expected);
            assert!(text.is(expected), "{expected}");
            assert!(!text.is("other"));
        }
        text.set("0123456789abcdeé"); // the é would be cut in half
        assert_eq!(text.get(), "0123456789abcde");
        assert!(!text.is("0123456789abcdef"));
    }
}
