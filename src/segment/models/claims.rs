//! Claims, waits, grants, releases, closing and recovery over a small segment, with death at every step.

use loom::sync::atomic::AtomicBool;
use loom::thread::{self, JoinHandle};
use std::sync::Arc;

use super::{check, check_deaths};
use crate::segment::atomic::{AcqRel, Relaxed, death};
use crate::segment::{
    Claim, ClientIndex, Dimensions, Held, Owner, PoolIndex, Release, Segment, ServerIndex, SlotIndex,
    SlotState, Wake,
};

const P: PoolIndex = PoolIndex(0);
const Q: PoolIndex = PoolIndex(1);

/// A segment, and who was woken.
struct Model {
    segment: Segment,
    woken: Vec<AtomicBool>,
}

/// What a process that lives has at its end.
#[derive(Clone, Copy, PartialEq, Debug)]
enum Has {
    Nothing,
    Slot(Held),
    /// It sleeps until it is woken. The slot is an idle connection of another pool that main was told to close.
    Place(Option<Held>),
}

impl Wake for Model {
    fn wake(&self, client: ClientIndex) {
        // What the kernel does: who is woken sees what was done before.
        self.woken[client.at()].swap(true, AcqRel);
    }
}

fn client(n: u32) -> Owner {
    Owner::Client(ClientIndex(n))
}

impl Model {
    /// Pools of the given sizes over one server without a limit of its own.
    fn new(slots: u32, clients: u32, sizes: &[u32]) -> Arc<Self> {
        let pools = u32::try_from(sizes.len()).unwrap();
        let segment = Segment::in_plain_memory(Dimensions { slots, clients, pools });
        segment.header().clients_high.store(clients, Relaxed);
        segment.header().pools_high.store(pools, Relaxed);
        segment.server(ServerIndex(0)).used.store(1, Relaxed);
        for (i, size) in (0..).zip(sizes) {
            let pool = segment.pool(PoolIndex(i));
            pool.used.store(1, Relaxed);
            pool.size.store(*size, Relaxed);
            pool.server.store(1, Relaxed);
        }
        Arc::new(Model { segment, woken: (0..clients).map(|_| AtomicBool::new(false)).collect() })
    }

    fn start<T: 'static>(self: &Arc<Self>, work: impl FnOnce(&Model) -> T + 'static) -> JoinHandle<T> {
        let model = Arc::clone(self);
        thread::spawn(move || work(&model))
    }

    /// Claims, or joins the queue and looks once whether it was served.
    fn claim(&self, n: u32, pool: PoolIndex) -> Has {
        match self.segment.claim(client(n), pool, 0, self) {
            Claim::Idle(held) => Has::Slot(held),
            Claim::Open(held) => self.open(n, held),
            Claim::Wait => {
                let evicted = self.segment.enqueue(ClientIndex(n), pool, self).unwrap();
                match self.awake(n) {
                    Has::Slot(held) if evicted.is_none() => Has::Slot(held),
                    // Kept apart from what it waits for; the model's main closes it.
                    Has::Slot(held) => {
                        self.segment.close(client(n), evicted.unwrap().slot, self);
                        Has::Slot(held)
                    }
                    _ => Has::Place(evicted),
                }
            }
        }
    }

    /// What a client does that was woken: it looks, and sleeps on if there is nothing.
    fn awake(&self, n: u32) -> Has {
        self.woken[n as usize].swap(false, AcqRel);
        match self.segment.granted(ClientIndex(n)) {
            None => Has::Place(None),
            Some((held, SlotState::InUse)) => Has::Slot(held),
            Some((held, SlotState::Init)) => self.open(n, held),
            Some((held, SlotState::Gracefully)) => {
                let s = self.segment.slot(held.slot).word.reopen(client(n)).done().expect("it is mine");
                self.open(n, Held { slot: held.slot, generation: s.generation })
            }
            Some(other) => panic!("granted {other:?}"),
        }
    }

    fn open(&self, n: u32, held: Held) -> Has {
        assert!(self.segment.slot(held.slot).word.opened(client(n)).is_done());
        Has::Slot(held)
    }

    fn release(&self, n: u32, held: Held) -> Has {
        match self.segment.release(client(n), held, 1, self) {
            Release::Free | Release::Granted(_) => {}
            Release::ToClose => self.segment.close(client(n), held.slot, self),
            Release::NotOwner => panic!("client {n} lost {held:?}"),
        }
        Has::Nothing
    }

    /// A session from its beginning to its end, if it did not have to wait.
    fn session(&self, n: u32, pool: PoolIndex) -> Has {
        match self.claim(n, pool) {
            Has::Slot(held) => self.release(n, held),
            other => other,
        }
    }

    /// What main does for a dead process, and for connections that it was told to close.
    fn recover(&self, dead: u32) {
        for (held, _) in self.segment.recover(ClientIndex(dead), 1, self).to_close {
            self.segment.close(Owner::Main, held.slot, self);
        }
    }

    fn close_as_main(&self, n: u32, held: Held) {
        assert!(self.segment.slot(held.slot).word.seize(client(n), Owner::Main).is_done());
        self.segment.close(Owner::Main, held.slot, self);
    }

    /// Everybody is at rest: main closes what it was told to, those who were woken look, and nothing may be lost.
    /// `has` is what each live client has. Answers what they have then.
    fn settle(&self, has: &mut [Option<Has>]) {
        for n in 0..has.len() {
            if let Some(Has::Place(Some(evicted))) = has[n] {
                self.close_as_main(u32::try_from(n).unwrap(), evicted);
                has[n] = Some(Has::Place(None));
            }
        }
        let left: Vec<Held> = self.segment.left_to_main().collect();
        left.iter().for_each(|held| self.segment.close(Owner::Main, held.slot, self));
        for (n, has) in (0..).zip(has.iter_mut()) {
            if *has == Some(Has::Place(None)) && self.woken[n as usize].swap(false, AcqRel) {
                *has = Some(self.awake(n));
            }
        }
        self.assert_sound(has);
    }

    fn assert_sound(&self, has: &[Option<Has>]) {
        let mut taken = vec![0; self.segment.dimensions().pools as usize];
        for slot in (0..self.segment.dimensions().slots).map(SlotIndex) {
            let table = self.segment.slot(slot);
            let s = table.word.snapshot();
            let seats = |seats: &[crate::segment::atomic::PlainU32]| {
                seats.iter().filter(|seat| seat.load(Relaxed) == slot.stored()).count()
            };
            let pools = (0..self.segment.dimensions().pools).map(PoolIndex);
            let mine: usize = pools.map(|p| seats(self.segment.pool_seats(p))).sum();
            let on_server = seats(self.segment.server_seats(ServerIndex(0)));
            let hinted = match (s.state, PoolIndex::from_stored(table.pool.load(Relaxed))) {
                (SlotState::NotInit, _) => self.segment.empty_slots().contains(slot.0),
                (SlotState::Free, Some(pool)) => self.segment.free_slots(pool).contains(slot.0),
                _ => true,
            };
            assert!(hinted, "nobody would find slot {slot}: {s:?}");
            if s.state == SlotState::NotInit {
                assert_eq!((mine, on_server), (0, 0), "seats of the empty {slot}");
                continue;
            }
            let limited = self.segment.server(ServerIndex(0)).max_connections.load(Relaxed) != 0;
            assert_eq!((mine, on_server), (1, usize::from(limited)), "seats of {slot}");
            taken[table.pool.load(Relaxed) as usize - 1] += 1;
            let holders: Vec<_> =
                (0..has.len()).filter(|n| matches!(has[*n], Some(Has::Slot(h)) if h.slot == slot)).collect();
            match s.state {
                SlotState::Free => assert!(holders.is_empty(), "{slot} is free and held by {holders:?}"),
                _ => {
                    assert_eq!(holders.len(), 1, "{slot} is {s:?}, held by {holders:?}");
                    assert_eq!(s.owner, client(u32::try_from(holders[0]).unwrap()));
                }
            }
        }
        for (pool, table) in self.segment.used_pools() {
            assert!(taken[pool.at()] <= table.size.load(Relaxed), "limit of pool {pool}");
        }
        for n in (0..has.len()).filter(|n| has[*n] == Some(Has::Place(None))) {
            let index = ClientIndex(u32::try_from(n).unwrap());
            assert!(self.segment.is_waiting(index), "client {n} has lost its place");
            assert_eq!(self.segment.granted(index), None, "client {n} was granted and not woken");
            self.assert_nothing_for(index);
        }
    }

    /// Nothing that a waiting client could have is free.
    fn assert_nothing_for(&self, waiting: ClientIndex) {
        let crate::segment::wait_queue::Wait::Waiting { pool, .. } = self.segment.client(waiting).wait.load()
        else {
            panic!("client {waiting} waits")
        };
        let states: Vec<_> = self.segment.used_slots().map(|(_, s)| s.word.snapshot().state).collect();
        assert!(
            !states.contains(&SlotState::Free),
            "client {waiting} of pool {pool} waits beside {states:?}"
        );
        let has_seat = |seats: &[crate::segment::atomic::PlainU32], size: u32| {
            seats.iter().take(size as usize).any(|seat| seat.load(Relaxed) == 0)
        };
        let size = self.segment.pool(pool).size.load(Relaxed);
        let server = self.segment.server(ServerIndex(0)).max_connections.load(Relaxed);
        let room = has_seat(self.segment.pool_seats(pool), size)
            && (server == 0 || has_seat(self.segment.server_seats(ServerIndex(0)), server))
            && (0..self.segment.dimensions().slots)
                .any(|i| self.segment.slot(SlotIndex(i)).word.snapshot().state == SlotState::NotInit);
        assert!(!room, "client {waiting} waits though there is room in pool {pool}");
    }
}

/// One slot, in use by client 0.
fn all_taken(clients: u32, sizes: &[u32]) -> (Arc<Model>, Held) {
    let model = Model::new(1, clients, sizes);
    let Has::Slot(held) = model.claim(0, P) else { panic!("it is empty") };
    (model, held)
}

#[test]
fn loom_claims_release_meets_waiter() {
    check("release meets a waiter", Some(3), || {
        let (model, held) = all_taken(2, &[1]);
        let waiter = model.start(|m| m.claim(1, P));
        model.release(0, held);
        let mut has = [None, Some(waiter.join().unwrap())];
        model.settle(&mut has);
        assert!(matches!(has[1], Some(Has::Slot(_))));
    });
}

#[test]
fn loom_claims_close_meets_waiter() {
    check("close meets a waiter", Some(3), || {
        let (model, held) = all_taken(2, &[1]);
        let waiter = model.start(|m| m.claim(1, P));
        model.segment.close(client(0), held.slot, &*model);
        let mut has = [None, Some(waiter.join().unwrap())];
        model.settle(&mut has);
        assert!(matches!(has[1], Some(Has::Slot(_))));
    });
}

#[test]
fn loom_claims_two_waiters_and_a_release() {
    check("release meets two waiters", Some(1), || {
        let (model, held) = all_taken(3, &[1]);
        let a = model.start(|m| m.session(1, P));
        let b = model.start(|m| m.session(2, P));
        model.release(0, held);
        let mut has = [None, Some(a.join().unwrap()), Some(b.join().unwrap())];
        model.settle(&mut has);
        for n in [1, 2] {
            if let Some(Has::Slot(held)) = has[n] {
                has[n] = Some(model.release(u32::try_from(n).unwrap(), held));
                model.settle(&mut has);
            }
        }
        assert!(has.iter().all(|h| !matches!(h, Some(Has::Place(_)))), "{has:?}");
    });
}

#[test]
fn loom_claims_waiters_are_served_in_order() {
    check("two in order, a newcomer and a release", Some(4), || {
        let (model, held) = all_taken(4, &[1]);
        assert_eq!(model.claim(1, P), Has::Place(None));
        assert_eq!(model.claim(2, P), Has::Place(None));
        let newcomer = model.start(|m| m.claim(3, P));
        model.release(0, held);
        let mut has = [None, Some(Has::Place(None)), Some(Has::Place(None)), Some(newcomer.join().unwrap())];
        for n in 1..4u32 {
            model.settle(&mut has);
            let Some(Has::Slot(held)) = has[n as usize] else { panic!("it is the turn of {n}: {has:?}") };
            has[n as usize] = Some(model.release(n, held));
        }
    });
}

#[test]
fn loom_claims_leaver_strands_nothing() {
    check("leave against release", Some(4), || {
        let (model, held) = all_taken(3, &[1]);
        assert_eq!(model.claim(1, P), Has::Place(None));
        assert_eq!(model.claim(2, P), Has::Place(None));
        let leaver = model.start(|m| {
            let granted = m.segment.leave_queue(ClientIndex(1), P);
            granted.map_or(Has::Nothing, |(held, _)| m.release(1, held))
        });
        model.release(0, held);
        let mut has = [None, Some(leaver.join().unwrap()), Some(Has::Place(None))];
        model.settle(&mut has);
        assert!(matches!(has[2], Some(Has::Slot(_))), "{has:?}");
    });
}

#[test]
fn loom_claims_mark_meets_grant() {
    check("mark against release and waiter", Some(2), || {
        let (model, held) = all_taken(2, &[1]);
        let waiter = model.start(|m| m.claim(1, P));
        let releaser = model.start(move |m| m.release(0, held));
        let _ = model.segment.slot(held.slot).word.mark_gracefully();
        releaser.join().unwrap();
        let mut has = [None, Some(waiter.join().unwrap())];
        model.settle(&mut has);
        assert!(matches!(has[1], Some(Has::Slot(_))), "{has:?}");
    });
}

#[test]
fn loom_claims_limits_hold_and_nobody_is_stranded() {
    check("two pools for one seat of the server", Some(4), || {
        let model = Model::new(2, 3, &[2, 2]);
        model.segment.server(ServerIndex(0)).max_connections.store(1, Relaxed);
        let a = model.start(|m| m.claim(0, P));
        let b = model.start(|m| m.claim(1, Q));
        let mut has = [Some(a.join().unwrap()), Some(b.join().unwrap()), None];
        model.settle(&mut has);
        let holders = has.iter().filter(|h| matches!(h, Some(Has::Slot(_)))).count();
        assert_eq!(holders, 1, "{has:?}");
        for n in [0, 1] {
            if let Some(Has::Slot(held)) = has[n] {
                has[n] = Some(model.release(u32::try_from(n).unwrap(), held));
                model.settle(&mut has);
            }
        }
        assert!(!has.iter().any(|h| matches!(h, Some(Has::Place(_)))), "{has:?}");
    });
}

#[test]
fn loom_claims_room_is_made_for_other_pools() {
    check("release of one pool, waiter of another", Some(3), || {
        let (model, held) = all_taken(2, &[1, 1]);
        let waiter = model.start(|m| m.claim(1, Q));
        model.release(0, held);
        let mut has = [None, Some(waiter.join().unwrap())];
        model.settle(&mut has);
        assert!(matches!(has[1], Some(Has::Slot(_))), "{has:?}");
    });
}

#[test]
fn loom_claims_two_pools_share_one_slot() {
    check("three sessions of two pools over one slot", Some(1), || {
        let model = Model::new(1, 3, &[1, 1]);
        let a = model.start(|m| m.session(0, P));
        let b = model.start(|m| m.session(1, Q));
        let c = model.session(2, P);
        let mut has = [Some(a.join().unwrap()), Some(b.join().unwrap()), Some(c)];
        for _ in 0..4 {
            model.settle(&mut has);
            for n in 0..3 {
                if let Some(Has::Slot(held)) = has[n] {
                    has[n] = Some(model.release(u32::try_from(n).unwrap(), held));
                }
            }
        }
        assert!(has.iter().all(|h| *h == Some(Has::Nothing)), "{has:?}");
    });
}

#[test]
fn loom_claims_late_grant_takes_nothing_away() {
    check("a waiting granter is overtaken by its own grant, and the other dies", Some(3), || {
        let (model, held) = all_taken(3, &[1]);
        assert_eq!(model.claim(1, P), Has::Place(None));
        // Free beside a client that waits: as if it had been given back at the very moment at which that one joined.
        model.segment.free_slots(P).insert(held.slot.0);
        let _ = model.segment.slot(held.slot).word.release(client(0));
        let granter = model.start(|m| m.claim(2, P));
        let other = model.start(|m| match m.awake(1) {
            Has::Slot(held) => m.release(1, held),
            other => other,
        });
        other.join().unwrap();
        model.recover(1);
        let mut has = [None, None, Some(granter.join().unwrap())];
        model.settle(&mut has);
        assert!(matches!(has[2], Some(Has::Slot(_))), "{has:?}");
    });
}

#[test]
fn loom_claims_what_was_away_is_offered_to_others() {
    check("served, left and given back, beside a waiter of another pool", Some(2), || {
        let model = Model::new(1, 3, &[1, 1]);
        // Waits beside an empty slot: as if that had been closed at the very moment at which it joined.
        let word = &model.segment.client(ClientIndex(1)).wait;
        model.segment.queue(P).enqueue(ClientIndex(1), word, |c| model.segment.wait_word(c)).unwrap();
        let server = model.start(|m| m.segment.serve(client(0), P, m));
        let leaver = model.start(|m| {
            let granted = m.segment.leave_queue(ClientIndex(1), P);
            granted.map_or(Has::Nothing, |(held, _)| {
                m.segment.close(client(1), held.slot, m);
                Has::Nothing
            })
        });
        let waiter = model.claim(2, Q);
        server.join().unwrap();
        let mut has = [None, Some(leaver.join().unwrap()), Some(waiter)];
        model.settle(&mut has);
        assert!(matches!(has[2], Some(Has::Slot(_))), "{has:?}");
    });
}

#[test]
fn loom_claims_waiting_pool_is_not_forgotten() {
    check("join against an empty queue's end, then close", Some(3), || {
        let (model, held) = all_taken(3, &[1, 1]);
        model.segment.waiting_pools().insert(Q.0); // somebody has just left
        let waiter = model.start(|m| m.claim(1, Q));
        let server = model.start(|m| m.segment.serve_waiting(client(2), None, m));
        model.segment.close(client(0), held.slot, &*model);
        server.join().unwrap();
        let mut has = [None, Some(waiter.join().unwrap()), None];
        model.settle(&mut has);
        assert!(matches!(has[1], Some(Has::Slot(_))), "{has:?}");
    });
}

/// Runs `victim` until it dies, beside `other`, and lets main recover; then the model settles.
fn death_of(
    name: &str,
    preemptions: usize,
    make: impl Fn() -> Arc<Model> + Send + Sync + Clone + 'static,
    victim: impl Fn(&Model) -> Has + Send + Sync + Clone + 'static,
    other: impl Fn(&Model) -> Has + Send + Sync + Clone + 'static,
    before: impl Fn(&mut [Option<Has>]) + Send + Sync + Clone + 'static,
) {
    check_deaths(name, Some(preemptions), move |steps| {
        let model = make();
        let (act, other) = (victim.clone(), other.clone());
        let dying = model.start(move |m| death::after(steps, || act(m)));
        let living = model.start(move |m| other(m));
        let outcome = dying.join().unwrap();
        if outcome.is_none() {
            model.recover(0);
        }
        let mut has = vec![None; model.segment.dimensions().clients as usize];
        before(&mut has);
        has[0] = outcome;
        has[1] = Some(living.join().unwrap());
        model.settle(&mut has);
        // Whoever has a slot gives it back: all the others are served in the end.
        for _ in 0..6 {
            for n in 0..has.len() {
                if let Some(Has::Slot(held)) = has[n] {
                    has[n] = Some(model.release(u32::try_from(n).unwrap(), held));
                }
            }
            model.settle(&mut has);
        }
        assert!(!has.iter().any(|h| matches!(h, Some(Has::Place(_) | Has::Slot(_)))), "{has:?}");
        outcome.is_none()
    });
}

#[test]
fn loom_claims_death_in_a_session() {
    death_of(
        "death in a session beside another",
        1,
        || Model::new(1, 2, &[1]),
        |m| m.session(0, P),
        |m| m.session(1, P),
        |_| {},
    );
}

#[test]
fn loom_claims_death_while_waiting_and_serving() {
    let make = || {
        let model = Model::new(1, 3, &[1]);
        let Has::Slot(_) = model.claim(1, P) else { panic!("it is empty") };
        assert_eq!(model.claim(2, P), Has::Place(None));
        model
    };
    let release = |m: &Model| {
        let s = m.segment.slot(SlotIndex(0)).word.snapshot();
        m.release(1, Held { slot: SlotIndex(0), generation: s.generation })
    };
    death_of(
        "death of one that joins beside a release",
        2,
        make,
        |m| m.session(0, P),
        release,
        |has| {
            has[2] = Some(Has::Place(None));
        },
    );
}

#[test]
fn loom_claims_death_while_releasing() {
    let make = || {
        let model = Model::new(1, 3, &[1]);
        let Has::Slot(_) = model.claim(0, P) else { panic!("it is empty") };
        assert_eq!(model.claim(2, P), Has::Place(None));
        model
    };
    let release = |m: &Model| {
        let s = m.segment.slot(SlotIndex(0)).word.snapshot();
        m.release(0, Held { slot: SlotIndex(0), generation: s.generation })
    };
    death_of(
        "death of one that releases beside one that joins",
        2,
        make,
        release,
        |m| m.claim(1, P),
        |has| {
            has[2] = Some(Has::Place(None));
        },
    );
}

#[test]
fn loom_claims_death_while_granted() {
    let make = || {
        let model = Model::new(1, 3, &[1]);
        let Has::Slot(_) = model.claim(1, P) else { panic!("it is empty") };
        assert_eq!(model.claim(0, P), Has::Place(None));
        assert_eq!(model.claim(2, P), Has::Place(None));
        model
    };
    let release = |m: &Model| {
        let s = m.segment.slot(SlotIndex(0)).word.snapshot();
        m.release(1, Held { slot: SlotIndex(0), generation: s.generation })
    };
    let wake_up = |m: &Model| match m.awake(0) {
        Has::Slot(held) => m.release(0, held),
        other => other,
    };
    death_of("death of one that was granted", 2, make, wake_up, release, |has| {
        has[2] = Some(Has::Place(None))
    });
}

#[test]
fn loom_claims_death_while_closing() {
    let make = || {
        let model = Model::new(1, 3, &[1, 1]);
        let Has::Slot(_) = model.claim(0, P) else { panic!("it is empty") };
        assert_eq!(model.claim(2, Q), Has::Place(None));
        model
    };
    let close = |m: &Model| {
        m.segment.close(client(0), SlotIndex(0), m);
        Has::Nothing
    };
    death_of(
        "death of one that closes beside another pool's",
        1,
        make,
        close,
        |m| m.claim(1, P),
        |has| {
            has[2] = Some(Has::Place(None));
        },
    );
}

#[test]
fn loom_claims_death_while_making_room() {
    let make = || {
        let model = Model::new(1, 2, &[1, 1]);
        model.session(1, P);
        model
    };
    death_of(
        "death of one that evicts beside the pool's own",
        1,
        make,
        |m| m.claim(0, Q),
        |m| m.session(1, P),
        |_| {},
    );
}

#[test]
fn loom_claims_pin_meets_end_of_session() {
    check("pin against forbid", None, || {
        let (model, held) = all_taken(2, &[1]);
        let entry = model.segment.client(ClientIndex(0));
        entry.cancel_pid.store(7, Relaxed);
        entry.slot.store(held.slot.stored(), Relaxed);
        let canceller = model.start(|m| m.segment.pin(ClientIndex(0), 7, ClientIndex(1), m));
        model.segment.forbid_cancel(ClientIndex(0));
        let pinned = model.segment.is_pinned(ClientIndex(0));
        match canceller.join().unwrap() {
            Some(pin) => {
                assert!(pinned, "the session ends under a cancel");
                model.segment.unpin(pin, ClientIndex(1));
            }
            None => {
                assert!(
                    !pinned || model.woken[0].swap(false, AcqRel),
                    "the worker waits for a pin that is none"
                )
            }
        }
        assert!(!model.segment.is_pinned(ClientIndex(0)));
    });
}
