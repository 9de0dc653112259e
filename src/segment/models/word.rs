//! The slot word alone, exhaustively.

use loom::thread;
use std::sync::Arc;

use super::check;
use crate::segment::index::ClientIndex;
use crate::segment::state::{Owner, Released, SlotState, SlotWord};

const A: Owner = Owner::Client(ClientIndex(0));
const B: Owner = Owner::Client(ClientIndex(1));

fn free_word() -> SlotWord {
    let word = SlotWord::default();
    assert!(word.begin_open(A).is_done() && word.opened(A).is_done());
    assert_eq!(word.release(A), Released::Freed);
    word
}

#[test]
fn loom_word_is_claimed_by_one() {
    check("two claim, main flushes", None, || {
        let word = Arc::new(free_word());
        let claim = |me| {
            let word = Arc::clone(&word);
            thread::spawn(move || word.try_claim(me, None).is_done())
        };
        let (a, b) = (claim(A), claim(B));
        let flushed = word.begin_flush(Owner::Main).is_done();
        let won = [a.join().unwrap(), b.join().unwrap(), flushed];
        assert_eq!(won.iter().filter(|w| **w).count(), 1, "{won:?}");
    });
}

#[test]
fn loom_word_marked_in_use_is_never_freed() {
    check("release against a mark", None, || {
        let word = Arc::new(free_word());
        assert!(word.try_claim(A, None).is_done());
        let releaser = {
            let word = Arc::clone(&word);
            thread::spawn(move || word.release(A))
        };
        let marked = word.mark_gracefully().is_done();
        let released = releaser.join().unwrap();
        let state = word.snapshot().state;
        match released {
            Released::Freed => assert!(!marked && state == SlotState::Free),
            Released::ToClose => assert!(marked && state == SlotState::Gracefully),
            Released::NotOwner(s) => panic!("{s:?}"),
        }
    });
}

#[test]
fn loom_word_is_handed_over_once() {
    check("granter, grantee and main complete one grant", None, || {
        let word = Arc::new(free_word());
        assert!(word.try_claim(A, None).is_done());
        let generation = word.snapshot().generation;
        let complete = || {
            let word = Arc::clone(&word);
            thread::spawn(move || word.hand_over(A, B, generation).is_done())
        };
        let (granter, grantee) = (complete(), complete());
        assert!(word.hand_over(A, B, generation).is_done());
        assert!(granter.join().unwrap() && grantee.join().unwrap());
        assert!(word.snapshot().is_used_by(B));
    });
}
