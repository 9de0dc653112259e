//! The users file: names and secrets.

/// Users and their secrets.
#[derive(Clone, Debug, Default)]
pub struct UserList;
