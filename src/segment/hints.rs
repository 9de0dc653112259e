//! Sets of indexes as two-level bitmaps: where to look first. The state word is the truth.
//!
//! Finding a member costs the same with ten members and with ten thousand: a word of the upper level stands for 64
//! words of the lower, so 10,000 indexes are three upper words. No locks.
//!
//! A bit of the lower level may be set for a slot that is none of the set, but is never missing for one that is: only
//! who holds the slot changes its bit, sets it *before* the verb that frees the slot and clears it *after* the verb
//! that takes it. (Set after the verb, it would be missing when the releaser dies in between. Cleared by anybody who
//! finds it stale, and set again when a second look says otherwise, it would be missing for an instant, in which a
//! client that looks before it sleeps sees nothing.)
//!
//! A bit of the upper level can be missing for such an instant, or when a process died in it. So whoever is about to
//! sleep reads the lower level alone ([`HintSet::find_map_everywhere`]; 157 words for 10,000 indexes), and main repairs
//! the upper one after a death.

use super::atomic::{AcqRel, Acquire, AtomicU64};

/// A set of indexes `0..64 * leaves.len()`, borrowed from the segment. A set bit in `summary` says that a word of
/// `leaves` may have bits.
#[derive(Clone, Copy)]
pub struct HintSet<'a> {
    /// One bit per index.
    leaves: &'a [AtomicU64],
    /// One bit per word of `leaves`.
    summary: &'a [AtomicU64],
}

/// How many lower words `indexes` indexes need.
#[must_use]
pub const fn leaf_words(indexes: usize) -> usize {
    indexes.div_ceil(64)
}

/// How many upper words `indexes` indexes need.
#[must_use]
pub const fn summary_words(indexes: usize) -> usize {
    leaf_words(indexes).div_ceil(64)
}

impl<'a> HintSet<'a> {
    /// A set over words of the segment.
    #[must_use]
    pub fn new(leaves: &'a [AtomicU64], summary: &'a [AtomicU64]) -> Self {
        debug_assert!(summary.len() * 64 >= leaves.len());
        HintSet { leaves, summary }
    }

    /// Adds `index`.
    pub fn insert(&self, index: u32) {
        let (word, bit) = split(index);
        self.leaves[word].fetch_or(bit, AcqRel);
        // Always an RMW: it orders itself with the RMW of `remove`, which then sees the lower bit.
        let (upper, upper_bit) = split_usize(word);
        self.summary[upper].fetch_or(upper_bit, AcqRel);
    }

    /// Removes `index`. A concurrent `insert` of another index of the same word is not lost.
    pub fn remove(&self, index: u32) {
        let (word, bit) = split(index);
        if self.leaves[word].fetch_and(!bit, AcqRel) & !bit != 0 {
            return;
        }
        let (upper, upper_bit) = split_usize(word);
        self.summary[upper].fetch_and(!upper_bit, AcqRel);
        // Somebody may have added to the word before the summary bit was cleared.
        if self.leaves[word].load(Acquire) != 0 {
            self.summary[upper].fetch_or(upper_bit, AcqRel);
        }
    }

    /// Whether `index` is in the set.
    #[must_use]
    pub fn contains(&self, index: u32) -> bool {
        let (word, bit) = split(index);
        self.leaves[word].load(Acquire) & bit != 0
    }

    /// Whether the set is empty.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.leaves.iter().all(|w| w.load(Acquire) == 0)
    }

    /// The first answer of `wanted` that is `Some`, over the members in ascending order, each read when it is reached.
    /// A member may be overlooked while another of the same word is removed.
    pub fn find_map<T>(&self, mut wanted: impl FnMut(u32) -> Option<T>) -> Option<T> {
        self.summary.iter().enumerate().find_map(|(upper, summary)| {
            ones(summary.load(Acquire)).find_map(|bit| self.find_in_word(upper * 64 + bit, &mut wanted))
        })
    }

    /// As [`HintSet::find_map`], and no member is overlooked.
    pub fn find_map_everywhere<T>(&self, mut wanted: impl FnMut(u32) -> Option<T>) -> Option<T> {
        (0..self.leaves.len()).find_map(|word| self.find_in_word(word, &mut wanted))
    }

    /// Sets the bits of the upper level that a process may have cleared and died before it set them again.
    pub fn repair(&self) {
        for (word, leaf) in self.leaves.iter().enumerate() {
            if leaf.load(Acquire) != 0 {
                let (upper, bit) = split_usize(word);
                self.summary[upper].fetch_or(bit, AcqRel);
            }
        }
    }

    fn find_in_word<T>(&self, word: usize, mut wanted: impl FnMut(u32) -> Option<T>) -> Option<T> {
        let bits = self.leaves.get(word)?.load(Acquire);
        ones(bits).find_map(|bit| wanted(u32::try_from(word * 64 + bit).ok()?))
    }
}

/// The numbers of the bits that are set.
fn ones(mut bits: u64) -> impl Iterator<Item = usize> {
    std::iter::from_fn(move || {
        let lowest = (bits != 0).then(|| bits.trailing_zeros() as usize);
        bits &= bits.wrapping_sub(1);
        lowest
    })
}

fn split(index: u32) -> (usize, u64) {
    split_usize(index as usize)
}

fn split_usize(index: usize) -> (usize, u64) {
    (index / 64, 1 << (index % 64))
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    fn words(n: usize) -> Vec<AtomicU64> {
        (0..n).map(|_| AtomicU64::new(0)).collect()
    }

    #[test]
    fn members_are_found_in_order_and_removed() {
        let (leaves, summary) = (words(leaf_words(10_000)), words(summary_words(10_000)));
        let set = HintSet::new(&leaves, &summary);
        for i in [9_999, 0, 63, 64, 4_096, 5_000] {
            set.insert(i);
        }
        let mut seen = Vec::new();
        assert_eq!(
            set.find_map(|i| {
                seen.push(i);
                None::<()>
            }),
            None
        );
        assert_eq!(seen, [0, 63, 64, 4_096, 5_000, 9_999]);
        let mut everywhere = Vec::new();
        let _ = set.find_map_everywhere(|i| {
            everywhere.push(i);
            None::<()>
        });
        assert_eq!(everywhere, seen);
        summary.iter().for_each(|w| w.store(0, super::super::atomic::Release));
        assert_eq!(set.find_map(Some), None);
        set.repair();
        assert_eq!(set.find_map(Some), Some(0));
        for i in seen {
            assert!(set.contains(i));
            set.remove(i);
        }
        assert!(set.is_empty());
    }
}
