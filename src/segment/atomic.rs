//! Atomics from `std`, or from `loom` when the protocols of this folder are model-checked (`--cfg loom`).
//!
//! The plain ones are `std`'s in both cases: what only their owner writes, or what a single compare-and-swap decides,
//! would make the model larger and no better. In the model a process can die before any operation on either kind.

#[cfg(not(loom))]
pub use std::sync::atomic::{
    AtomicI32, AtomicI32 as PlainI32, AtomicU32, AtomicU32 as PlainU32, AtomicU64, AtomicU64 as PlainU64,
    fence,
};

#[cfg(loom)]
pub use modelled::{AtomicI32, AtomicU32, AtomicU64, PlainI32, PlainU32, PlainU64, fence};

pub use std::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed, Release, SeqCst};

/// Death at every step, for the model: a thread that stands for a process ends before its n-th operation.
#[cfg(loom)]
pub mod death {
    use std::cell::Cell;
    use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

    struct Died;

    loom::thread_local! {
        static STEPS_LEFT: Cell<Option<u32>> = Cell::new(None);
    }

    /// Called before every atomic operation.
    pub(super) fn step() {
        let left = STEPS_LEFT.with(Cell::get);
        match left {
            None => {}
            Some(0) => {
                STEPS_LEFT.with(|s| s.set(None));
                resume_unwind(Box::new(Died));
            }
            Some(n) => STEPS_LEFT.with(|s| s.set(Some(n - 1))),
        }
    }

    /// Runs `work` in this thread until it has done `steps` operations; `None`: it died there.
    pub fn after<T>(steps: u32, work: impl FnOnce() -> T) -> Option<T> {
        STEPS_LEFT.with(|s| s.set(Some(steps)));
        let done = catch_unwind(AssertUnwindSafe(work));
        STEPS_LEFT.with(|s| s.set(None));
        match done {
            Ok(value) => Some(value),
            Err(payload) if payload.is::<Died>() => None,
            Err(payload) => resume_unwind(payload),
        }
    }
}

#[cfg(loom)]
mod modelled {
    use std::sync::atomic::Ordering;

    use super::death::step;

    macro_rules! atomic {
        ($(#[$doc:meta])* $name:ident, $inner:ty, $value:ty) => {
            $(#[$doc])*
            #[derive(Default)]
            #[repr(transparent)]
            pub struct $name($inner);

            #[allow(missing_docs, dead_code)]
            impl $name {
                pub fn new(value: $value) -> Self {
                    Self(<$inner>::new(value))
                }

                pub fn load(&self, order: Ordering) -> $value {
                    step();
                    self.0.load(order)
                }

                pub fn store(&self, value: $value, order: Ordering) {
                    step();
                    self.0.store(value, order);
                }

                pub fn swap(&self, value: $value, order: Ordering) -> $value {
                    step();
                    self.0.swap(value, order)
                }

                pub fn compare_exchange(
                    &self,
                    from: $value,
                    to: $value,
                    success: Ordering,
                    failure: Ordering,
                ) -> Result<$value, $value> {
                    step();
                    self.0.compare_exchange(from, to, success, failure)
                }

                pub fn fetch_add(&self, value: $value, order: Ordering) -> $value {
                    step();
                    self.0.fetch_add(value, order)
                }

                pub fn fetch_or(&self, value: $value, order: Ordering) -> $value {
                    step();
                    self.0.fetch_or(value, order)
                }

                pub fn fetch_and(&self, value: $value, order: Ordering) -> $value {
                    step();
                    self.0.fetch_and(value, order)
                }

                pub fn fetch_max(&self, value: $value, order: Ordering) -> $value {
                    step();
                    self.0.fetch_max(value, order)
                }
            }
        };
    }

    atomic! {
        /// Explored by the model.
        AtomicU64, loom::sync::atomic::AtomicU64, u64
    }
    atomic! {
        /// Explored by the model.
        AtomicU32, loom::sync::atomic::AtomicU32, u32
    }
    atomic! {
        /// Explored by the model.
        AtomicI32, loom::sync::atomic::AtomicI32, i32
    }
    atomic! {
        /// Not explored.
        PlainU64, std::sync::atomic::AtomicU64, u64
    }
    atomic! {
        /// Not explored.
        PlainU32, std::sync::atomic::AtomicU32, u32
    }
    atomic! {
        /// Not explored.
        PlainI32, std::sync::atomic::AtomicI32, i32
    }

    /// A fence that the model explores.
    pub fn fence(order: Ordering) {
        step();
        loom::sync::atomic::fence(order);
    }
}
