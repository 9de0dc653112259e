//! Model checks (`--cfg loom`): every interleaving, or every one with few preemptions, of a few processes over one
//! word, one queue or a small segment. A thread stands for a process; one of them dies before its n-th atomic
//! operation, for every n, and the reaper does what main does for it.
//!
//! ```text
//! RUSTFLAGS="--cfg loom" CARGO_TARGET_DIR=target/loom cargo test --release --lib loom_
//! ```
//! `LOOM_MAX_PREEMPTIONS` raises the bound of all of them.

mod claims;
mod queue;
mod word;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Checks `model` with at most `preemptions` preemptions, and tells how many executions that were.
fn check(name: &str, preemptions: Option<usize>, model: impl Fn() + Sync + Send + 'static) -> u64 {
    let executions = Arc::new(AtomicU64::new(0));
    let mut builder = loom::model::Builder::new();
    builder.max_branches = 20_000;
    if builder.preemption_bound.is_none() {
        builder.preemption_bound = preemptions;
    }
    let counter = Arc::clone(&executions);
    builder.check(move || {
        counter.fetch_add(1, Relaxed);
        model();
    });
    let executions = executions.load(Relaxed);
    println!("{name}: {executions} executions");
    executions
}

/// Checks `model` with a death before each of the victim's operations; the model says whether its victim died. Ends
/// when a victim outlived every execution.
fn check_deaths(
    name: &str,
    preemptions: Option<usize>,
    model: impl Fn(u32) -> bool + Sync + Send + Clone + 'static,
) {
    let mut executions = 0;
    for steps in 0.. {
        let deaths = Arc::new(AtomicU64::new(0));
        let (model, counter) = (model.clone(), Arc::clone(&deaths));
        executions += check(&format!("{name}, death after {steps} steps"), preemptions, move || {
            counter.fetch_add(u64::from(model(steps)), Relaxed);
        });
        if deaths.load(Relaxed) == 0 {
            println!("{name}: {steps} places to die, {executions} executions");
            return;
        }
    }
}
