//! What Howdah may know of a user's password, in the forms that PostgreSQL stores in `pg_authid.rolpassword`.

use std::fmt;

use zeroize::Zeroizing;

/// A user's secret. Never printed: `Debug` shows the kind alone.
#[derive(Clone)]
pub enum Secret {
    /// The password itself: every method works, towards clients and servers.
    Plain(Zeroizing<String>),
    /// `md5` and 32 hexadecimal digits of md5(password ‖ user): method md5 on both sides, password towards clients.
    /// The 32 digits, lower case.
    Md5(Zeroizing<String>),
    /// A SCRAM-SHA-256 verifier: methods scram-sha-256 and password towards clients; towards a server only with the
    /// key that a client's own SCRAM login proved.
    Scram(Box<ScramVerifier>),
}

/// `SCRAM-SHA-256$<iterations>:<salt>$<StoredKey>:<ServerKey>`, decoded (RFC 5803; PostgreSQL `scram-common.c`).
#[derive(Clone)]
pub struct ScramVerifier {
    /// PBKDF2 iterations.
    pub iterations: u32,
    /// The salt, decoded.
    pub salt: Vec<u8>,
    /// H(ClientKey).
    pub stored_key: [u8; 32],
    /// HMAC(SaltedPassword, "Server Key").
    pub server_key: [u8; 32],
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Secret::Plain(_) => "Plain(…)",
            Secret::Md5(_) => "Md5(…)",
            Secret::Scram(_) => "Scram(…)",
        })
    }
}
