//! What a claim costs: `cargo run --release --example claim_cost`.
//!
//! Prints nanoseconds for claiming an idle connection and giving it back, with all connections of the pool idle and
//! with all but one in use, and for finding that nothing can be had, joining the queue and leaving it again.

use std::sync::atomic::Ordering::Relaxed;
use std::time::Instant;

use howdah::segment::{Claim, ClientIndex, Dimensions, Held, Owner, PoolIndex, Release, Segment};

const ROUNDS: u32 = 200_000;
const POOL: PoolIndex = PoolIndex(0);
const SIGNATURE: u64 = 0x5eed;

fn main() {
    println!("{:>8} {:>22} {:>22} {:>22}", "slots", "all idle", "all but one in use", "wait and leave");
    for slots in [10, 1_000, 10_000] {
        let segment = match Segment::create(Dimensions { slots, clients: slots + 2, pools: 64 }) {
            Ok(segment) => segment,
            Err(e) => {
                eprintln!("cannot create a segment of {slots} slots: {e}");
                std::process::exit(1);
            }
        };
        segment.pool(POOL).used.store(1, Relaxed);
        segment.pool(POOL).size.store(slots, Relaxed);
        let held = fill(&segment, slots);
        held[1..].iter().for_each(|(owner, held)| give_back(&segment, *owner, *held));
        give_back(&segment, held[0].0, held[0].1);
        let all_idle = claim_and_release(&segment);
        // The last one in the order of the search stays idle.
        let mut taken = Vec::new();
        while let Claim::Idle(held) = segment.claim(owner(0), POOL, SIGNATURE, &|_| {}) {
            taken.push(held);
        }
        let last = taken.iter().position(|h| h.slot.0 == slots - 1).map(|at| taken.swap_remove(at));
        last.into_iter().for_each(|held| give_back(&segment, owner(0), held));
        let all_but_one = claim_and_release(&segment);
        let _ = segment.claim(owner(0), POOL, SIGNATURE, &|_| {});
        let waiting = wait_and_leave(&segment);
        println!("{slots:>8} {all_idle:>19.0} ns {all_but_one:>19.0} ns {waiting:>19.0} ns");
    }
}

fn owner(n: u32) -> Owner {
    Owner::Client(ClientIndex(n))
}

fn fill(segment: &Segment, slots: u32) -> Vec<(Owner, Held)> {
    let open = |n| {
        let Claim::Open(held) = segment.claim(owner(n), POOL, SIGNATURE, &|_| {}) else {
            unreachable!("there is room for {slots}")
        };
        segment.slot(held.slot).signature.store(SIGNATURE, Relaxed);
        assert!(segment.slot(held.slot).word.opened(owner(n)).is_done());
        (owner(n), held)
    };
    (0..slots).map(open).collect()
}

fn give_back(segment: &Segment, owner: Owner, held: Held) {
    assert_eq!(segment.release(owner, held, 1, &|_| {}), Release::Free);
}

fn claim_and_release(segment: &Segment) -> f64 {
    time(|| {
        let Claim::Idle(held) = segment.claim(owner(1), POOL, SIGNATURE, &|_| {}) else {
            unreachable!("one is idle")
        };
        give_back(segment, owner(1), held);
    })
}

fn wait_and_leave(segment: &Segment) -> f64 {
    let me = ClientIndex(1);
    time(|| {
        assert_eq!(segment.claim(owner(1), POOL, SIGNATURE, &|_| {}), Claim::Wait);
        assert_eq!(segment.enqueue(me, POOL, &|_| {}), Ok(None));
        assert_eq!(segment.leave_queue(me, POOL), None);
    })
}

fn time(mut work: impl FnMut()) -> f64 {
    (0..ROUNDS / 10).for_each(|_| work());
    let start = Instant::now();
    (0..ROUNDS).for_each(|_| work());
    start.elapsed().as_secs_f64() * 1e9 / f64::from(ROUNDS)
}
