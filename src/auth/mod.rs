//! Authentication as state machines: bytes in and bytes out, no descriptor, clock or logger.

pub mod hba;
pub mod secret;
