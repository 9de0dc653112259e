//! Every state of a slot × every verb, against the table in the documentation of `src/segment/state.rs`.

#![cfg(not(loom))]

use std::collections::BTreeSet;

use howdah::segment::ClientIndex;
use howdah::segment::state::{Generation, Move, Owner, Released, SlotState, SlotWord, Snapshot};

const ME: Owner = Owner::Client(ClientIndex(0));
const OTHER: Owner = Owner::Client(ClientIndex(1));
const THIRD: Owner = Owner::Client(ClientIndex(2));

type Verb = (&'static str, fn(&SlotWord, Owner) -> Option<Snapshot>);

/// Each verb as its caller `me` would use it; what the word is then, if it did anything.
const VERBS: [Verb; 12] = [
    ("begin_open", |w, me| w.begin_open(me).done()),
    ("opened", |w, me| w.opened(me).done()),
    ("vacate", |w, me| w.vacate(me).done()),
    ("seize", |w, me| w.seize(me, Owner::Main).done()),
    ("reopen", |w, me| w.reopen(me).done()),
    ("try_claim", |w, me| w.try_claim(me, None).done()),
    ("release", |w, me| (w.release(me) == Released::Freed).then(|| w.snapshot())),
    ("hand_over", |w, me| w.hand_over(me, THIRD, w.snapshot().generation).done()),
    ("mark_gracefully", |w, _| w.mark_gracefully().done()),
    ("begin_flush", |w, me| w.begin_flush(me).done()),
    ("begin_check", |w, me| w.begin_check(me).done()),
    ("checked", |w, me| w.checked(me).done()),
];

/// A word in `state`, held by `owner` where a state has one.
fn word_in(state: SlotState, owner: Owner) -> SlotWord {
    let word = SlotWord::default();
    let free = || {
        assert!(word.begin_open(owner).is_done() && word.opened(owner).is_done());
        assert_eq!(word.release(owner), Released::Freed);
    };
    match state {
        SlotState::NotInit => {}
        SlotState::Init => assert!(word.begin_open(owner).is_done()),
        SlotState::Free => free(),
        SlotState::InUse => assert!(word.begin_open(owner).is_done() && word.opened(owner).is_done()),
        SlotState::Gracefully => {
            assert!(word.begin_open(owner).is_done() && word.opened(owner).is_done());
            assert!(word.mark_gracefully().is_done());
        }
        SlotState::Flush => {
            free();
            assert!(word.begin_flush(owner).is_done());
        }
        SlotState::IdleCheck => {
            free();
            assert!(word.begin_check(owner).is_done());
        }
    }
    assert_eq!(word.snapshot().state, state);
    word
}

/// The rows of the documented table: (from, to, verb).
fn documented() -> BTreeSet<(String, String, String)> {
    let source = include_str!("../src/segment/state.rs");
    let rows = source
        .lines()
        .filter_map(|line| line.strip_prefix("//! | "))
        .filter(|row| row.contains('→') && row.contains('`'));
    let mut moves = BTreeSet::new();
    for row in rows {
        let mut columns = row.split(" | ");
        let (from, to) = columns.next().and_then(|c| c.split_once(" → ")).expect("from → to");
        let verb = columns.next().expect("verb").trim_matches('`');
        for from in from.split(", ") {
            let to = if to.starts_with("same") { from } else { to };
            assert!(
                moves.insert((from.to_string(), to.to_string(), verb.to_string())),
                "{row} stands there twice"
            );
        }
    }
    moves
}

fn name(state: SlotState) -> String {
    format!("{state:?}")
}

#[test]
fn every_state_and_verb_as_documented() {
    let documented = documented();
    let mut seen = BTreeSet::new();
    for from in SlotState::ALL {
        for (verb, act) in VERBS {
            let cell = format!("{} × {verb}", name(from));
            let word = word_in(from, ME);
            let before = word.snapshot();
            match act(&word, ME) {
                None => assert_eq!(word.snapshot(), before, "{cell}: refused, and changed"),
                Some(after) => {
                    assert_eq!(word.snapshot(), after, "{cell}: says another state than it made");
                    check_owner_and_generation(&cell, verb, before, after);
                    seen.insert((name(from), name(after.state), verb.to_string()));
                }
            }
        }
    }
    let missing: Vec<_> = documented.difference(&seen).collect();
    let unheard: Vec<_> = seen.difference(&documented).collect();
    assert!(missing.is_empty() && unheard.is_empty(), "documented only: {missing:?}; done only: {unheard:?}");
}

fn check_owner_and_generation(cell: &str, verb: &str, before: Snapshot, after: Snapshot) {
    let owner = match (after.state, verb) {
        (SlotState::NotInit | SlotState::Free, _) => Owner::None,
        (_, "seize") => Owner::Main,
        (_, "hand_over") => THIRD,
        _ => ME,
    };
    assert_eq!(after.owner, owner, "{cell}");
    let opens = matches!(verb, "begin_open" | "reopen");
    assert_eq!(after.generation, Generation(before.generation.0 + u64::from(opens)), "{cell}");
}

#[test]
fn nobody_moves_what_another_holds() {
    for from in SlotState::ALL {
        for (verb, act) in VERBS {
            let is_held = !matches!(from, SlotState::NotInit | SlotState::Free);
            if !is_held || verb == "mark_gracefully" {
                continue;
            }
            let word = word_in(from, OTHER);
            let before = word.snapshot();
            assert_eq!(act(&word, ME), None, "{} × {verb}", name(from));
            assert_eq!(word.snapshot(), before, "{} × {verb}", name(from));
        }
    }
}

#[test]
fn a_granter_is_not_the_client() {
    let granter = ME.as_granter();
    for from in SlotState::ALL.into_iter().filter(|s| !matches!(s, SlotState::NotInit | SlotState::Free)) {
        for (verb, act) in VERBS.into_iter().filter(|(verb, _)| *verb != "mark_gracefully") {
            assert_eq!(act(&word_in(from, granter), ME), None, "{} × {verb}", name(from));
            assert_eq!(act(&word_in(from, ME), granter), None, "{} × {verb}", name(from));
        }
    }
}

#[test]
fn a_verb_for_another_generation_is_refused() {
    let free = word_in(SlotState::Free, ME);
    let now = free.snapshot().generation;
    assert!(!free.try_claim(ME, Some(Generation(now.0 + 1))).is_done());
    assert!(free.try_claim(ME, Some(now)).is_done());
    assert!(!free.hand_over(ME, OTHER, Generation(now.0 + 1)).is_done());
    assert!(free.hand_over(ME, OTHER, now).is_done());
    assert!(
        matches!(free.hand_over(ME, OTHER, now), Move::Done(_)),
        "completing a grant twice is done as well"
    );
    assert!(!free.hand_over(ME, THIRD, now).is_done());
}

#[test]
fn what_main_marked_comes_back_to_be_closed() {
    let marked = word_in(SlotState::Gracefully, ME);
    assert_eq!(marked.release(ME), Released::ToClose);
    assert!(matches!(marked.release(OTHER), Released::NotOwner(_)));
    assert!(marked.vacate(ME).is_done());
}
