//! The configuration: as written, as valid, and the users file.

pub mod user_list;
mod valid;

pub use valid::*;
