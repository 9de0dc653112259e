//! Authentication as state machines: bytes in and bytes out, no descriptor, clock or logger.
//!
//! [`client_login`] lets clients in, [`server_login`] logs in to servers; both stand on [`md5`] and [`scram`]. Random
//! bytes arrive as arguments.

pub mod client_login;
pub mod hba;
pub mod md5;
pub mod scram;
mod scram_attributes;
pub mod secret;
pub mod server_login;

/// Compares secrets in a time that depends on their lengths alone.
pub(crate) fn same_secret(a: &[u8], b: &[u8]) -> bool {
    // `openssl::memcmp::eq` panics on different lengths.
    a.len() == b.len() && openssl::memcmp::eq(a, b)
}
