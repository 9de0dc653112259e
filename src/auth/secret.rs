//! What Howdah may know of a user's password, in the forms that PostgreSQL stores in `pg_authid.rolpassword`.
#![forbid(unsafe_code)]

use std::fmt;

use zeroize::{Zeroize, Zeroizing};

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
/// Wiped when dropped.
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

/// Why a text is not a secret. Says nothing of its content.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SecretError {
    /// Nothing at all: PostgreSQL lets nobody in with an empty password either.
    #[error("the secret is empty")]
    Empty,
    /// A NUL byte cannot be sent in a password message.
    #[error("the secret contains a NUL byte")]
    Nul,
    /// It begins as a SCRAM verifier does and is none.
    #[error(
        "the secret begins with SCRAM-SHA-256$ but is no verifier as PostgreSQL stores it \
         (SCRAM-SHA-256$iterations:salt$StoredKey:ServerKey)"
    )]
    Scram,
}

const SCRAM_PREFIX: &str = "SCRAM-SHA-256$";
const MD5_PREFIX: &str = "md5";
const MD5_DIGITS: usize = 32;

impl Secret {
    /// Tells the kind of a secret by its form, as PostgreSQL's `get_password_type` does: `md5` with 32 hexadecimal
    /// digits, a SCRAM verifier, or else the password itself.
    ///
    /// Unlike PostgreSQL it takes a damaged SCRAM verifier for a mistake and not for a password.
    pub fn parse(text: &str) -> Result<Secret, SecretError> {
        if text.is_empty() {
            return Err(SecretError::Empty);
        }
        if text.contains('\0') {
            return Err(SecretError::Nul);
        }
        if let Some(digits) = text.strip_prefix(MD5_PREFIX)
            && digits.len() == MD5_DIGITS
            && digits.bytes().all(|it| it.is_ascii_hexdigit())
        {
            return Ok(Secret::Md5(Zeroizing::new(digits.to_ascii_lowercase())));
        }
        match text.strip_prefix(SCRAM_PREFIX) {
            Some(rest) => {
                ScramVerifier::parse(rest).map(|it| Secret::Scram(Box::new(it))).ok_or(SecretError::Scram)
            }
            None => Ok(Secret::Plain(Zeroizing::new(text.to_owned()))),
        }
    }

    /// The kind, for people: `plain`, `md5` or `scram-sha-256`.
    pub fn kind(&self) -> &'static str {
        match self {
            Secret::Plain(_) => "plain",
            Secret::Md5(_) => "md5",
            Secret::Scram(_) => "scram-sha-256",
        }
    }
}

impl ScramVerifier {
    /// Decodes what follows `SCRAM-SHA-256$`.
    fn parse(text: &str) -> Option<ScramVerifier> {
        let (parameters, keys) = text.split_once('$')?;
        let (iterations, salt) = parameters.split_once(':')?;
        let (stored_key, server_key) = keys.split_once(':')?;
        let iterations = parse_iterations(iterations)?;
        let salt = decode_base64(salt).filter(|it| !it.is_empty())?;
        Some(ScramVerifier {
            iterations,
            salt: salt.to_vec(),
            stored_key: decode_base64(stored_key)?.as_slice().try_into().ok()?,
            server_key: decode_base64(server_key)?.as_slice().try_into().ok()?,
        })
    }
}

fn parse_iterations(text: &str) -> Option<u32> {
    let digits = text.bytes().all(|it| it.is_ascii_digit());
    text.parse().ok().filter(|iterations| digits && *iterations > 0)
}

/// Strict base64 with padding; OpenSSL alone would let white space and misplaced padding pass.
fn decode_base64(text: &str) -> Option<Zeroizing<Vec<u8>>> {
    let unpadded = text.strip_suffix("==").or_else(|| text.strip_suffix('=')).unwrap_or(text);
    let alphabet = unpadded.bytes().all(|it| it.is_ascii_alphanumeric() || it == b'+' || it == b'/');
    if !alphabet || !text.len().is_multiple_of(4) {
        return None;
    }
    openssl::base64::decode_block(text).ok().map(Zeroizing::new)
}

impl Drop for ScramVerifier {
    fn drop(&mut self) {
        self.salt.zeroize();
        self.stored_key.zeroize();
        self.server_key.zeroize();
    }
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

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SALT: &str = "c2FsdHNhbHRzYWx0c2FsdA==";
    const KEY: &str = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";

    #[test]
    fn the_form_of_a_secret_tells_its_kind() {
        let verifier = format!("SCRAM-SHA-256$4096:{SALT}${KEY}:{KEY}");
        let cases = [
            ("a password", "plain"),
            ("md5", "plain"),
            ("md50123456789abcdef0123456789abcde", "plain"),
            ("md50123456789abcdef0123456789abcdeg", "plain"),
            ("md50123456789abcdef0123456789abcdef", "md5"),
            ("md50123456789ABCDEF0123456789abcdef", "md5"),
            (verifier.as_str(), "scram-sha-256"),
        ];
        for (text, kind) in cases {
            assert_eq!(Secret::parse(text).map(|it| it.kind()), Ok(kind), "{text}");
        }
    }

    #[test]
    fn a_verifier_is_decoded() {
        let secret = Secret::parse(&format!("SCRAM-SHA-256$4096:{SALT}${KEY}:{KEY}"));
        let Ok(Secret::Scram(verifier)) = secret else { panic!("{secret:?}") };
        assert_eq!(verifier.iterations, 4096);
        assert_eq!(verifier.salt, b"saltsaltsaltsalt");
        assert_eq!(verifier.stored_key.to_vec(), (0..32).collect::<Vec<u8>>());
        assert_eq!(verifier.server_key, verifier.stored_key);
    }

    #[test]
    fn a_damaged_verifier_is_an_error_and_no_password() {
        let long = KEY.replace("Hh8=", "Hh8g");
        let damaged = [
            "SCRAM-SHA-256$".to_owned(),
            format!("SCRAM-SHA-256$0:{SALT}${KEY}:{KEY}"),
            format!("SCRAM-SHA-256$+1:{SALT}${KEY}:{KEY}"),
            format!("SCRAM-SHA-256$4096:${KEY}:{KEY}"),
            format!("SCRAM-SHA-256$4096:{SALT}${KEY}"),
            format!("SCRAM-SHA-256$4096:{SALT}${KEY}:{KEY}:"),
            format!("SCRAM-SHA-256$4096:{SALT}${KEY}: {KEY}"),
            format!("SCRAM-SHA-256$4096:{SALT}${long}:{KEY}"),
            format!("SCRAM-SHA-256$4096:{SALT}===${KEY}:{KEY}"),
        ];
        for text in damaged {
            assert_eq!(Secret::parse(&text).err(), Some(SecretError::Scram), "{text}");
        }
        assert_eq!(Secret::parse("").err(), Some(SecretError::Empty));
        assert_eq!(Secret::parse("a\0b").err(), Some(SecretError::Nul));
    }

    proptest! {
        #[test]
        fn no_text_makes_the_parser_panic_or_debug_tell_it(text in "(SCRAM-SHA-256\\$|md5)?[0-9a-zA-Z+/=:$]{3,80}") {
            let shown = format!("{:?}", Secret::parse(&text));
            prop_assert!(!shown.contains(&text));
        }
    }
}
