//! Waiting for descriptors and time in one thread: a small executor over mio, streams, timers.
//!
//! Runs in workers and in children of main (main has a loop of its own). There are no wakers: each thing that can be
//! waited for remembers the task that waits for it, so waking costs a push onto a queue and nothing is allocated or
//! counted. `runtime.rs` is the executor, `stream.rs` a non-blocking socket, `timer.rs` time, `connect.rs` outgoing
//! connections.

mod connect;
mod runtime;
mod stream;
mod timer;

pub use connect::{ConnectError, SocketOptions, Target, connect};
pub use runtime::{Source, TaskId, block_on, current_task, register, spawn, start, wake_task};
pub use stream::Stream;
pub use timer::{Elapsed, Sleep, sleep, sleep_until, timeout};
