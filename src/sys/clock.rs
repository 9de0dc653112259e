//! Time.

use std::time::Duration;

use nix::time::{ClockId, clock_gettime};

/// Milliseconds of a clock that all processes of this machine share and that never goes back (CLOCK_MONOTONIC).
#[must_use]
pub fn monotonic_ms() -> u64 {
    u64::try_from(monotonic().as_millis()).unwrap_or(u64::MAX)
}

/// The same in microseconds.
#[must_use]
pub fn monotonic_us() -> u64 {
    u64::try_from(monotonic().as_micros()).unwrap_or(u64::MAX)
}

/// Time since some fixed moment before the machine's start.
#[must_use]
pub fn monotonic() -> Duration {
    clock_gettime(ClockId::CLOCK_MONOTONIC).map_or(Duration::ZERO, Duration::from)
}
