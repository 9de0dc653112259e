//! Host-based authentication: which rule applies to a client, and the method that it asks for.

/// One rule, with pg_hba.conf's meaning.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HbaRule;
