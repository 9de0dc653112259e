//! Server connections: opening, cleaning, validating, cancelling.
//!
//! Runs in workers and in children of main, on the executor of `net`. Nothing in here knows of slots: `worker` and
//! `chores` put what these functions make into the segment.

mod address;
mod cancel;
mod clean;
mod connection;
mod open;

pub use address::{AddressError, store_addresses, target_of};
pub use cancel::send_cancel;
pub use clean::{CleanError, reset, run_quietly};
pub use connection::{ReadError, ServerConnection};
pub use open::{Login, OpenError, Opened, open};
