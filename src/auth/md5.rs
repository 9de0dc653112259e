//! PostgreSQL's md5 method: `"md5" + md5(md5(password ‖ user) ‖ salt)`, each digest as 32 hexadecimal digits.
//!
//! **Source**: PostgreSQL `pg_md5_encrypt` (md5_common.c). A FIPS library may refuse MD5: that is an error, no panic.

#![forbid(unsafe_code)]

use openssl::hash::{Hasher, MessageDigest};
use thiserror::Error;
use zeroize::Zeroizing;

/// The cryptographic library refuses MD5 (FIPS mode).
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
#[error("could not compute MD5 hash: the cryptographic library refuses it")]
pub struct Md5Refused;

/// Computes what `pg_authid.rolpassword` holds after `md5`: 32 hexadecimal digits of md5(password ‖ user).
///
/// # Errors
/// [`Md5Refused`].
pub fn md5_stored(password: &[u8], user: &[u8]) -> Result<Zeroizing<String>, Md5Refused> {
    md5_hex(password, user)
}

/// Computes the answer to a challenge: `md5` and 32 hexadecimal digits of md5(stored ‖ salt).
///
/// # Errors
/// [`Md5Refused`].
pub fn md5_response(stored: &str, salt: [u8; 4]) -> Result<Zeroizing<String>, Md5Refused> {
    let digits = md5_hex(stored.as_bytes(), &salt)?;
    Ok(Zeroizing::new(format!("md5{}", *digits)))
}

fn md5_hex(first: &[u8], second: &[u8]) -> Result<Zeroizing<String>, Md5Refused> {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let mut hasher = Hasher::new(MessageDigest::md5()).map_err(|_| Md5Refused)?;
    hasher.update(first).and_then(|()| hasher.update(second)).map_err(|_| Md5Refused)?;
    let digest = hasher.finish().map_err(|_| Md5Refused)?;
    let mut text = Zeroizing::new(String::with_capacity(32));
    for byte in digest.iter() {
        text.push(char::from(DIGITS[usize::from(byte >> 4)]));
        text.push(char::from(DIGITS[usize::from(byte & 15)]));
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digests_are_postgresql_s() {
        // PostgreSQL 15: SELECT md5('secretalice'); SELECT md5(convert_to(that, 'UTF8') || '\x01020304').
        let stored = md5_stored(b"secret", b"alice").expect("MD5 available");
        assert_eq!(*stored, "4a0a68b43b6cd5cf266fa02f196e2371");
        let response = md5_response(&stored, [1, 2, 3, 4]).expect("MD5 available");
        assert_eq!(*response, "md598a0412b9c31436fc53776e863350083");
        // CREATE ROLE carol PASSWORD 'secret' with password_encryption = md5.
        let stored = md5_stored(b"secret", b"carol").expect("MD5 available");
        assert_eq!(*stored, "7c53eaf86052083b816bfc7c7a6edf5d");
    }
}
