//! SCRAM-SHA-256 (RFC 5802, RFC 7677) as PostgreSQL speaks it, both sides, without channel binding.
//!
//! ```text
//! client-first  n,,n=,r=<client nonce>
//! server-first  r=<both nonces>,s=<salt>,i=<iterations>
//! client-final  c=biws,r=<both nonces>,p=<proof>
//! server-final  v=<signature>
//! ```
//!
//! **Source**: PostgreSQL auth-scram.c (server), fe-auth-scram.c (client), scram-common.c.

#![forbid(unsafe_code)]

use std::borrow::Cow;

use openssl::error::ErrorStack;
use openssl::hash::MessageDigest;
use openssl::pkey::PKey;
use openssl::sha::{Sha256, sha256};
use openssl::sign::Signer;
use thiserror::Error;
use zeroize::Zeroizing;

use super::same_secret;
use super::scram_attributes::{Attributes, decode_base64, encode_base64};
use super::secret::{ScramVerifier, Secret};

/// The mechanism's name.
pub const SCRAM_SHA_256: &str = "SCRAM-SHA-256";
/// PBKDF2 iterations of verifiers made here, and of mock ones: PostgreSQL's default `scram_iterations`.
pub const DEFAULT_ITERATIONS: u32 = 4096;
/// The most iterations that a server can make us compute. PBKDF2 takes about 0.4 µs for each, and a worker does
/// nothing else meanwhile: a million is below half a second, and above all published advice (OWASP 2023: 600,000).
pub const MAX_ITERATIONS: u32 = 1_000_000;
/// The greatest SASL message (PostgreSQL `PG_MAX_SASL_MESSAGE_LENGTH`).
pub const MAX_SASL_MESSAGE: usize = 1024;
/// Random bytes of a nonce, before base64 (PostgreSQL `SCRAM_RAW_NONCE_LEN`).
pub const NONCE_BYTES: usize = 18;
/// Bytes of a salt made here (PostgreSQL `SCRAM_DEFAULT_SALT_LEN`).
pub const SALT_BYTES: usize = 16;

type Key = Zeroizing<[u8; 32]>;

/// Why an exchange failed.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum ScramError {
    /// The message is not what the RFC says; the detail says where.
    #[error("malformed SCRAM message")]
    Malformed(&'static str),
    /// The client asks for channel binding, which needs TLS and another mechanism.
    #[error("client requires SCRAM channel binding, but it is not supported")]
    ChannelBinding,
    /// The client wants to act as another user.
    #[error("client uses authorization identity, but it is not supported")]
    AuthorizationIdentity,
    /// The client insists on an extension.
    #[error("client requires an unsupported SCRAM extension")]
    Extension,
    /// The channel-binding data in the last message are not those of the first.
    #[error("unexpected SCRAM channel-binding attribute in client-final-message")]
    ChannelBindingData,
    /// The nonce is not the one of this exchange.
    #[error("invalid SCRAM nonce")]
    Nonce,
    /// The proof is wrong, or the user is unknown: which of them is not told.
    #[error("SCRAM proof is wrong")]
    Failed,
    /// The server asks for more iterations than [`MAX_ITERATIONS`].
    #[error("server asks for {0} SCRAM iterations, more than {MAX_ITERATIONS}")]
    Iterations(u32),
    /// The keys were proved against a verifier with another salt or iteration count than this server's.
    #[error("server's SCRAM verifier differs from the one that the client's login was checked against")]
    OtherVerifier,
    /// The server reports that the exchange failed.
    #[error("server refused the SCRAM exchange")]
    ServerRefused,
    /// The server does not know the secret: it is not the server it says it is.
    #[error("server's SCRAM signature is wrong")]
    ServerSignature,
    /// A message came when none was expected.
    #[error("unexpected SCRAM message")]
    Unexpected,
    /// The cryptographic library failed.
    #[error("cryptographic library failed")]
    Crypto,
}

impl From<ErrorStack> for ScramError {
    fn from(_: ErrorStack) -> Self {
        Self::Crypto
    }
}

/// What a client's successful login proves, enough to log in to any server that has the same verifier: the keys and
/// what they were derived with. No Debug, wiped when dropped.
#[derive(Clone, PartialEq, Eq)]
pub struct ScramKeys {
    /// HMAC(SaltedPassword, "Client Key").
    pub client_key: Zeroizing<[u8; 32]>,
    /// HMAC(SaltedPassword, "Server Key").
    pub server_key: Zeroizing<[u8; 32]>,
    /// The salt of the verifier.
    pub salt: Vec<u8>,
    /// The verifier's PBKDF2 iterations.
    pub iterations: u32,
}

impl ScramKeys {
    /// Derives the keys from a password: this is the slow step, some 0.4 µs per iteration.
    ///
    /// # Errors
    /// [`ScramError::Crypto`].
    pub fn derive(password: &[u8], salt: &[u8], iterations: u32) -> Result<Self, ScramError> {
        let password = saslprep(password);
        let mut salted: Key = Zeroizing::new([0; 32]);
        let rounds = usize::try_from(iterations).map_err(|_| ScramError::Crypto)?;
        openssl::pkcs5::pbkdf2_hmac(&password, salt, rounds, MessageDigest::sha256(), &mut *salted)?;
        Ok(Self {
            client_key: hmac(&salted, &[b"Client Key"])?,
            server_key: hmac(&salted, &[b"Server Key"])?,
            salt: salt.to_vec(),
            iterations,
        })
    }

    /// Makes the verifier that belongs to the keys.
    #[must_use]
    pub fn verifier(&self) -> ScramVerifier {
        ScramVerifier {
            iterations: self.iterations,
            salt: self.salt.clone(),
            stored_key: sha256(&*self.client_key),
            server_key: *self.server_key,
        }
    }

    /// Tells whether these keys open `verifier`.
    #[must_use]
    pub fn fits(&self, verifier: &ScramVerifier) -> bool {
        self.iterations == verifier.iterations
            && self.salt == verifier.salt
            && same_secret(&sha256(&*self.client_key), &verifier.stored_key)
    }
}

/// Tells whether `password` is the one that `verifier` was made of.
///
/// # Errors
/// [`ScramError::Crypto`].
pub fn verify_password(password: &[u8], verifier: &ScramVerifier) -> Result<bool, ScramError> {
    let keys = ScramKeys::derive(password, &verifier.salt, verifier.iterations)?;
    Ok(same_secret(&*keys.server_key, &verifier.server_key))
}

/// Makes the salt that is shown for a user whose verifier is not known: always the same for one user, and not to be
/// told from a real one without the key (PostgreSQL `scram_mock_salt`).
#[must_use]
pub fn mock_salt(mock_key: &[u8; 32], user: &[u8]) -> [u8; SALT_BYTES] {
    let mut hash = Sha256::new();
    hash.update(user);
    hash.update(mock_key);
    let mut salt = [0; SALT_BYTES];
    salt.iter_mut().zip(hash.finish()).for_each(|(to, from)| *to = from);
    salt
}

/// What the server side checks a proof against.
enum Known {
    /// Keys are derived only when the proof is there.
    Plain { password: Zeroizing<String>, salt: [u8; SALT_BYTES] },
    /// As PostgreSQL stores it.
    Verifier(Box<ScramVerifier>),
    /// Nothing: the exchange is played to its end, and fails.
    Mock { salt: [u8; SALT_BYTES] },
}

impl Known {
    fn salt_and_iterations(&self) -> (&[u8], u32) {
        match self {
            Self::Plain { salt, .. } | Self::Mock { salt } => (salt, DEFAULT_ITERATIONS),
            Self::Verifier(verifier) => (&verifier.salt, verifier.iterations),
        }
    }
}

/// The server's side of one exchange.
pub struct ScramServer {
    known: Known,
    state: ServerState,
}

enum ServerState {
    Start { nonce: String },
    Challenged { gs2_header: &'static str, nonces: String, client_first_bare: Vec<u8>, server_first: String },
    Done,
}

impl ScramServer {
    /// Begins an exchange for `user`. Without a secret, or with one that SCRAM cannot use, it is played with a mock
    /// salt and fails at the end.
    ///
    /// The salt for a plain password comes from the mock key too: a random one would change from login to login, which
    /// the salts of unknown users do not, and so would tell them apart.
    #[must_use]
    pub fn new(user: &str, secret: Option<&Secret>, mock_key: &[u8; 32], nonce: [u8; NONCE_BYTES]) -> Self {
        let salt = mock_salt(mock_key, user.as_bytes());
        let known = match secret {
            Some(Secret::Plain(password)) => Known::Plain { password: password.clone(), salt },
            Some(Secret::Scram(verifier)) => Known::Verifier(verifier.clone()),
            Some(Secret::Md5(_)) | None => Known::Mock { salt },
        };
        Self { known, state: ServerState::Start { nonce: encode_base64(&nonce) } }
    }

    /// Takes the client-first message; gives the server-first message.
    ///
    /// # Errors
    /// [`ScramError`]; the exchange is then over.
    pub fn client_first(&mut self, message: &[u8]) -> Result<Vec<u8>, ScramError> {
        let ServerState::Start { nonce } = std::mem::replace(&mut self.state, ServerState::Done) else {
            return Err(ScramError::Unexpected);
        };
        check_size(message)?;
        let mut attributes = Attributes::new(message);
        let gs2_header = match attributes.part() {
            Some(b"n") => "n,,",
            // The client could bind, and believes that we cannot: true, as no -PLUS mechanism is offered.
            Some(b"y") => "y,,",
            Some([b'p', ..]) => return Err(ScramError::ChannelBinding),
            _ => return Err(ScramError::Malformed("Unexpected channel-binding flag.")),
        };
        match attributes.part() {
            Some([]) => {}
            Some([b'a', ..]) => return Err(ScramError::AuthorizationIdentity),
            _ => return Err(ScramError::Malformed("Unexpected attribute in client-first-message.")),
        }
        let client_first_bare = attributes.rest().to_vec();
        if client_first_bare.starts_with(b"m=") {
            return Err(ScramError::Extension);
        }
        // The user name of the startup message counts, as in PostgreSQL.
        let _user = attributes.value(b'n')?;
        let client_nonce = printable(attributes.value(b'r')?)?;
        while attributes.any()?.is_some() {}

        let nonces = format!("{client_nonce}{nonce}");
        let (salt, iterations) = self.known.salt_and_iterations();
        let server_first = format!("r={nonces},s={},i={iterations}", encode_base64(salt));
        let reply = server_first.clone().into_bytes();
        self.state = ServerState::Challenged { gs2_header, nonces, client_first_bare, server_first };
        Ok(reply)
    }

    /// Takes the client-final message; gives the server-final message and the keys that the client proved.
    ///
    /// All failures take the time of one key derivation, whatever is known of the user, so that the time tells nothing.
    ///
    /// # Errors
    /// [`ScramError`]; [`ScramError::Failed`] for a wrong proof.
    pub fn client_final(&mut self, message: &[u8]) -> Result<(Vec<u8>, ScramKeys), ScramError> {
        let ServerState::Challenged { gs2_header, nonces, client_first_bare, server_first } =
            std::mem::replace(&mut self.state, ServerState::Done)
        else {
            return Err(ScramError::Unexpected);
        };
        check_size(message)?;
        let (without_proof, proof) = split_proof(message)?;
        let mut attributes = Attributes::new(without_proof);
        if attributes.value(b'c')? != encode_base64(gs2_header.as_bytes()).as_bytes() {
            return Err(ScramError::ChannelBindingData);
        }
        if attributes.value(b'r')? != nonces.as_bytes() {
            return Err(ScramError::Nonce);
        }
        while attributes.any()?.is_some() {}

        let auth_message = [&client_first_bare[..], server_first.as_bytes(), without_proof].join(&b","[..]);
        let verifier = self.verifier()?;
        let client_key = recover_client_key(&verifier.stored_key, &auth_message, &proof)?;
        let proved = same_secret(&sha256(&*client_key), &verifier.stored_key);
        if !proved || matches!(self.known, Known::Mock { .. }) {
            if matches!(self.known, Known::Verifier(_)) {
                // The other two kinds have just derived keys; this one takes as long to refuse.
                drop(ScramKeys::derive(b"", &verifier.salt, DEFAULT_ITERATIONS));
            }
            return Err(ScramError::Failed);
        }
        let signature = hmac(&verifier.server_key, &[&auth_message])?;
        let keys = ScramKeys {
            client_key,
            server_key: Zeroizing::new(verifier.server_key),
            salt: verifier.salt.clone(),
            iterations: verifier.iterations,
        };
        Ok((server_final(&signature), keys))
    }

    /// Gives the verifier to check against, made now from a plain password; a mock one for unknown users.
    fn verifier(&self) -> Result<Cow<'_, ScramVerifier>, ScramError> {
        match &self.known {
            Known::Verifier(verifier) => Ok(Cow::Borrowed(verifier)),
            Known::Plain { password, salt } => {
                ScramKeys::derive(password.as_bytes(), salt, DEFAULT_ITERATIONS)
                    .map(|k| Cow::Owned(k.verifier()))
            }
            Known::Mock { salt } => {
                ScramKeys::derive(b"", salt, DEFAULT_ITERATIONS).map(|k| Cow::Owned(k.verifier()))
            }
        }
    }
}

fn server_final(signature: &[u8; 32]) -> Vec<u8> {
    format!("v={}", encode_base64(signature)).into_bytes()
}

/// What the client side proves.
pub enum ClientSecret {
    /// A password, as bytes.
    Password(Zeroizing<Vec<u8>>),
    /// Keys that a client's login proved (pass-through).
    Keys(ScramKeys),
}

/// The client's side of one exchange.
pub struct ScramClient {
    state: ClientState,
}

enum ClientState {
    Started { secret: ClientSecret, nonce: String, client_first_bare: String },
    Proved { server_key: Key, auth_message: Vec<u8> },
    Done,
}

impl ScramClient {
    /// Begins an exchange; gives the client-first message. The user's name is left out, as libpq does: the startup
    /// message told it.
    #[must_use]
    pub fn new(secret: ClientSecret, nonce: [u8; NONCE_BYTES]) -> (Self, Vec<u8>) {
        Self::with_name_and_nonce(secret, "", encode_base64(&nonce))
    }

    fn with_name_and_nonce(secret: ClientSecret, name: &str, nonce: String) -> (Self, Vec<u8>) {
        let client_first_bare = format!("n={name},r={nonce}");
        let message = format!("n,,{client_first_bare}").into_bytes();
        (Self { state: ClientState::Started { secret, nonce, client_first_bare } }, message)
    }

    /// Takes the server-first message; gives the client-final message.
    ///
    /// # Errors
    /// [`ScramError`]; the exchange is then over.
    pub fn server_first(&mut self, message: &[u8]) -> Result<Vec<u8>, ScramError> {
        let ClientState::Started { secret, nonce, client_first_bare } = self.take() else {
            return Err(ScramError::Unexpected);
        };
        check_size(message)?;
        let mut attributes = Attributes::new(message);
        let nonces = printable(attributes.value(b'r')?)?;
        if !nonces.starts_with(&nonce) || nonces.len() == nonce.len() {
            return Err(ScramError::Nonce);
        }
        let salt = decode_base64(attributes.value(b's')?).filter(|salt| !salt.is_empty());
        let salt = salt.ok_or(ScramError::Malformed("Invalid salt."))?;
        let iterations = parse_iterations(attributes.value(b'i')?)?;
        attributes.finish()?;

        let keys = match secret {
            ClientSecret::Password(password) => ScramKeys::derive(&password, &salt, iterations)?,
            ClientSecret::Keys(keys) if keys.salt == salt && keys.iterations == iterations => keys,
            ClientSecret::Keys(_) => return Err(ScramError::OtherVerifier),
        };
        let without_proof = format!("c=biws,r={nonces}");
        let auth_message = [client_first_bare.as_bytes(), message, without_proof.as_bytes()].join(&b","[..]);
        let signature = hmac(&sha256(&*keys.client_key), &[&auth_message])?;
        let proof = xor(&keys.client_key, &signature);
        self.state = ClientState::Proved { server_key: keys.server_key, auth_message };
        Ok(format!("{without_proof},p={}", encode_base64(&*proof)).into_bytes())
    }

    /// Takes the server-final message: the server has shown that it knows the secret.
    ///
    /// # Errors
    /// [`ScramError`]; the server is then not to be trusted.
    pub fn server_final(&mut self, message: &[u8]) -> Result<(), ScramError> {
        let ClientState::Proved { server_key, auth_message } = self.take() else {
            return Err(ScramError::Unexpected);
        };
        check_size(message)?;
        if message.starts_with(b"e=") {
            return Err(ScramError::ServerRefused);
        }
        let mut attributes = Attributes::new(message);
        let signature = decode_base64(attributes.value(b'v')?);
        attributes.finish()?;
        let expected = hmac(&server_key, &[&auth_message])?;
        match signature {
            Some(signature) if same_secret(&signature, &*expected) => Ok(()),
            _ => Err(ScramError::ServerSignature),
        }
    }

    fn take(&mut self) -> ClientState {
        std::mem::replace(&mut self.state, ClientState::Done)
    }
}

/// SASLprep, or the bytes as they are where it does not apply: not UTF-8, prohibited characters (PostgreSQL does so).
fn saslprep(password: &[u8]) -> Zeroizing<Vec<u8>> {
    let text = std::str::from_utf8(password).ok();
    let prepared = text.and_then(|text| stringprep::saslprep(text).ok());
    Zeroizing::new(match prepared {
        Some(Cow::Owned(prepared)) => prepared.into_bytes(),
        Some(Cow::Borrowed(_)) | None => password.to_vec(),
    })
}

fn check_size(message: &[u8]) -> Result<(), ScramError> {
    if message.len() > MAX_SASL_MESSAGE {
        return Err(ScramError::Malformed("The message is too long."));
    }
    if message.is_empty() || message.contains(&0) {
        return Err(ScramError::Malformed("The message is empty or holds a zero byte."));
    }
    Ok(())
}

/// Checks a nonce: printable ASCII without comma.
fn printable(nonce: &[u8]) -> Result<&str, ScramError> {
    let valid = !nonce.is_empty() && nonce.iter().all(|b| (0x21..=0x7e).contains(b) && *b != b',');
    let text = std::str::from_utf8(nonce).ok().filter(|_| valid);
    text.ok_or(ScramError::Malformed("Non-printable characters in SCRAM nonce."))
}

fn parse_iterations(text: &[u8]) -> Result<u32, ScramError> {
    let digits = std::str::from_utf8(text).ok().filter(|t| t.bytes().all(|b| b.is_ascii_digit()));
    match digits.and_then(|t| t.parse::<u32>().ok()) {
        Some(n) if n > MAX_ITERATIONS => Err(ScramError::Iterations(n)),
        Some(n) if n > 0 => Ok(n),
        _ => Err(ScramError::Malformed("Invalid iteration count.")),
    }
}

/// Splits the proof, the last attribute, off a client-final message.
fn split_proof(message: &[u8]) -> Result<(&[u8], [u8; 32]), ScramError> {
    const MALFORMED: ScramError = ScramError::Malformed("Malformed proof in client-final-message.");
    let at = message.windows(3).rposition(|w| w == b",p=").ok_or(MALFORMED)?;
    let (without_proof, proof) = message.split_at_checked(at).ok_or(MALFORMED)?;
    let proof = proof.get(3..).and_then(decode_base64).ok_or(MALFORMED)?;
    Ok((without_proof, proof.try_into().map_err(|_| MALFORMED)?))
}

fn recover_client_key(stored: &[u8; 32], auth_message: &[u8], proof: &[u8; 32]) -> Result<Key, ScramError> {
    let signature = hmac(stored, &[auth_message])?;
    Ok(xor(&signature, proof))
}

fn xor(a: &[u8; 32], b: &[u8; 32]) -> Key {
    let mut out = Zeroizing::new(*a);
    out.iter_mut().zip(b).for_each(|(x, y)| *x ^= y);
    out
}

fn hmac(key: &[u8; 32], parts: &[&[u8]]) -> Result<Key, ScramError> {
    let key = PKey::hmac(key)?;
    let mut signer = Signer::new(MessageDigest::sha256(), &key)?;
    for part in parts {
        signer.update(part)?;
    }
    let mut out = Zeroizing::new([0; 32]);
    signer.sign(&mut *out)?;
    Ok(out)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MOCK_KEY: [u8; 32] = [7; 32];

    fn decode<const N: usize>(text: &str) -> [u8; N] {
        decode_base64(text.as_bytes()).expect("base64").try_into().expect("length")
    }

    fn plain(password: &str) -> Secret {
        Secret::Plain(Zeroizing::new(password.to_owned()))
    }

    fn password(password: &str) -> ClientSecret {
        ClientSecret::Password(Zeroizing::new(password.as_bytes().to_vec()))
    }

    fn stored(salt: &str, stored_key: &str, server_key: &str) -> ScramVerifier {
        ScramVerifier {
            iterations: 4096,
            salt: decode::<16>(salt).to_vec(),
            stored_key: decode(stored_key),
            server_key: decode(server_key),
        }
    }

    /// `CREATE ROLE alice PASSWORD 'secret'`, PostgreSQL 15.
    fn alice() -> ScramVerifier {
        stored(
            "d7LBrKmJk404+y1hPI/YbA==",
            "6gJokwMyBfa/f3D8HayLLHQ9TivWvovWIjX38umnhuI=",
            "Rl2c4AUvsutQXMqKkuBmHvpYlKyiFGIiuFSm/7aclmk=",
        )
    }

    /// Plays an exchange; gives what each side says of it.
    fn play(
        mut server: ScramServer,
        secret: ClientSecret,
    ) -> (Result<ScramKeys, ScramError>, Option<ScramError>) {
        let (mut client, first) = ScramClient::new(secret, [1; NONCE_BYTES]);
        let server_first = server.client_first(&first).expect("client-first");
        let client_final = match client.server_first(&server_first) {
            Ok(message) => message,
            Err(error) => return (Err(ScramError::Unexpected), Some(error)),
        };
        match server.client_final(&client_final) {
            Ok((message, keys)) => (Ok(keys), client.server_final(&message).err()),
            Err(error) => (Err(error), None),
        }
    }

    fn server(secret: Option<&Secret>) -> ScramServer {
        ScramServer::new("alice", secret, &MOCK_KEY, [2; NONCE_BYTES])
    }

    #[test]
    fn the_exchange_of_rfc_7677_is_reproduced() {
        let (mut client, first) =
            ScramClient::with_name_and_nonce(password("pencil"), "user", "rOprNGfwEbeRWgbNEkqO".to_owned());
        assert_eq!(first, b"n,,n=user,r=rOprNGfwEbeRWgbNEkqO");
        let salt = decode_base64(b"W22ZaJ0SNY7soEsUEjb6gQ==").expect("base64");
        let verifier = ScramKeys::derive(b"pencil", &salt, 4096).expect("keys").verifier();
        let mut server = ScramServer {
            known: Known::Verifier(Box::new(verifier)),
            state: ServerState::Start { nonce: "%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0".to_owned() },
        };
        let server_first = server.client_first(&first).expect("client-first");
        let expected =
            b"r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096";
        assert_eq!(server_first, expected);
        let client_final = client.server_first(&server_first).expect("server-first");
        let expected = b"c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,\
                         p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=";
        assert_eq!(client_final, expected);
        let (server_final, _) = server.client_final(&client_final).expect("client-final");
        assert_eq!(server_final, b"v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=");
        assert_eq!(client.server_final(&server_final), Ok(()));
    }

    #[test]
    fn verifiers_are_postgresql_s() {
        let keys = ScramKeys::derive(b"secret", &alice().salt, 4096).expect("keys");
        assert!(keys.fits(&alice()));
        assert_eq!(keys.verifier().server_key, alice().server_key);
        assert_eq!(verify_password(b"secret", &alice()), Ok(true));
        assert_eq!(verify_password(b"Secret", &alice()), Ok(false));
        // PASSWORD 'pa ß𝟚ªword': SASLprep makes "2" and "a" of two of the characters.
        let bob = stored(
            "nHHCa0nemGEI0kdfxDaaJg==",
            "s23pms+7EbK22p/mVdj/HUcrXKdtMAGZAJpnacHHJck=",
            "XY2dXh6dnlFxdSVMsPufPPx0EXmn2KFJ/XrEQUOU+X8=",
        );
        assert_eq!(verify_password("pa ß𝟚ªword".as_bytes(), &bob), Ok(true));
        assert_eq!(verify_password("pa ß2aword".as_bytes(), &bob), Ok(true));
        assert_eq!(verify_password("pa ssword".as_bytes(), &bob), Ok(false));
    }

    #[test]
    fn what_saslprep_refuses_is_taken_as_it_is() {
        for raw in [&b"\xff\xfe"[..], b"bell\x07", b""] {
            assert_eq!(*saslprep(raw), raw);
        }
        assert_eq!(*saslprep("a\u{ad}b".as_bytes()), b"ab");
    }

    #[test]
    fn both_sides_agree_on_the_right_password_alone() {
        let verifier = Secret::Scram(Box::new(alice()));
        for secret in [plain("secret"), verifier] {
            let (keys, client) = play(server(Some(&secret)), password("secret"));
            assert!(keys.is_ok());
            assert_eq!(client, None);
            let (keys, _) = play(server(Some(&secret)), password("wrong"));
            assert_eq!(keys.err(), Some(ScramError::Failed));
        }
        let md5 = Secret::Md5(Zeroizing::new("0".repeat(32)));
        for secret in [None, Some(&md5)] {
            for guess in ["secret", "", "wrong"] {
                assert_eq!(play(server(secret), password(guess)).0.err(), Some(ScramError::Failed));
            }
        }
    }

    #[test]
    fn proved_keys_open_the_same_verifier_and_no_other() {
        let secret = Secret::Scram(Box::new(alice()));
        let Ok(keys) = play(server(Some(&secret)), password("secret")).0 else { panic!("refused") };
        assert!(keys.fits(&alice()));
        let (again, client) = play(server(Some(&secret)), ClientSecret::Keys(keys.clone()));
        assert!(again.is_ok());
        assert_eq!(client, None);
        let other = Secret::Scram(Box::new(ScramVerifier { salt: vec![1; 16], ..alice() }));
        let refused = play(server(Some(&other)), ClientSecret::Keys(keys)).1;
        assert_eq!(refused, Some(ScramError::OtherVerifier));
    }

    #[test]
    fn a_stranger_sees_the_same_challenge_each_time() {
        let challenge = |user: &str, secret: Option<&Secret>| {
            let mut server = ScramServer::new(user, secret, &MOCK_KEY, [2; NONCE_BYTES]);
            server.client_first(b"n,,n=,r=abc").expect("client-first")
        };
        assert_eq!(challenge("nobody", None), challenge("nobody", None));
        assert_eq!(challenge("alice", None), challenge("alice", Some(&plain("secret"))));
        assert_ne!(challenge("nobody", None), challenge("nobody2", None));
    }

    #[test]
    fn a_server_that_does_not_know_the_secret_is_noticed() {
        let (mut client, first) = ScramClient::new(password("secret"), [1; NONCE_BYTES]);
        let server_first = server(Some(&plain("secret"))).client_first(&first).expect("client-first");
        client.server_first(&server_first).expect("server-first");
        let lie = format!("v={}", encode_base64(&[0; 32]));
        assert_eq!(client.server_final(lie.as_bytes()), Err(ScramError::ServerSignature));
        assert_eq!(client.server_final(lie.as_bytes()), Err(ScramError::Unexpected), "the exchange is dead");
    }

    #[test]
    fn malformed_client_first_messages_are_refused() {
        let malformed = |e: &ScramError| matches!(e, ScramError::Malformed(_));
        for (message, expected) in [
            (&b"p=tls-server-end-point,,n=,r=a"[..], Some(ScramError::ChannelBinding)),
            (b"n,a=root,n=,r=a", Some(ScramError::AuthorizationIdentity)),
            (b"n,,m=x,n=,r=a", Some(ScramError::Extension)),
            (b"", None),
            (b"n", None),
            (b"n,", None),
            (b"n,,", None),
            (b"x,,n=,r=a", None),
            (b"n,,r=a", None),
            (b"n,,n=", None),
            (b"n,,n=,r=", None),
            (b"n,,n=,r=a b", None),
            (b"n,,n=,r=a\xff", None),
            (b"n,,n=,r=a\0", None),
            (b"n,,n=,r=a,", None),
            (b"n,,n=,r=a,1=2", None),
            (&[b'n'; MAX_SASL_MESSAGE + 1], None),
        ] {
            let error = server(None).client_first(message).expect_err("malformed");
            assert!(expected.map_or(malformed(&error), |e| e == error), "{message:?}: {error:?}");
        }
        assert!(server(None).client_first(b"y,,n=anyone,r=a,x=1").is_ok());
    }

    #[test]
    fn malformed_client_final_messages_are_refused() {
        let proof = encode_base64(&[3; 32]);
        let nonce = format!("abc{}", encode_base64(&[2; NONCE_BYTES]));
        for (message, expected) in [
            (format!("c=biws,r={nonce},p={proof}"), Some(ScramError::Failed)),
            (format!("c=biws,r={nonce},x=1,p={proof}"), Some(ScramError::Failed)),
            (format!("c=eSws,r={nonce},p={proof}"), Some(ScramError::ChannelBindingData)),
            (format!("c=biws,r={nonce}x,p={proof}"), Some(ScramError::Nonce)),
            (format!("c=biws,r={nonce},p={proof},x=1"), None),
            (format!("c=biws,r={nonce},p=AAAA"), None),
            (format!("c=biws,r={nonce},p="), None),
            (format!("c=biws,r={nonce}"), None),
            (format!("r={nonce},p={proof}"), None),
            (format!(",p={proof}"), None),
            (String::new(), None),
        ] {
            let mut server = server(Some(&plain("secret")));
            server.client_first(b"n,,n=,r=abc").expect("client-first");
            let error = server.client_final(message.as_bytes()).err().expect("refused");
            let malformed = matches!(error, ScramError::Malformed(_));
            assert!(expected.map_or(malformed, |e| e == error), "{message}: {error:?}");
            assert_eq!(server.client_final(message.as_bytes()).err(), Some(ScramError::Unexpected));
        }
    }

    #[test]
    fn malformed_server_first_messages_are_refused() {
        let nonce = encode_base64(&[1; NONCE_BYTES]);
        for (message, expected) in [
            (format!("r={nonce}x,s=AAAA,i=1000001"), Some(ScramError::Iterations(1_000_001))),
            (format!("r={nonce},s=AAAA,i=1"), Some(ScramError::Nonce)),
            ("r=other,s=AAAA,i=1".to_owned(), Some(ScramError::Nonce)),
            (format!("r={nonce}x,s=AAAA,i=0"), None),
            (format!("r={nonce}x,s=AAAA,i=-1"), None),
            (format!("r={nonce}x,s=AAAA,i=+1"), None),
            (format!("r={nonce}x,s=AAAA,i=99999999999"), None),
            (format!("r={nonce}x,s=AAAA,i="), None),
            (format!("r={nonce}x,s=,i=1"), None),
            (format!("r={nonce}x,s=?,i=1"), None),
            (format!("r={nonce}x,s=AAAA,i=1,x=1"), None),
            (format!("r={nonce}x,i=1"), None),
            (String::new(), None),
        ] {
            let (mut client, _) = ScramClient::new(password("secret"), [1; NONCE_BYTES]);
            let error = client.server_first(message.as_bytes()).expect_err("refused");
            let malformed = matches!(error, ScramError::Malformed(_));
            assert!(expected.map_or(malformed, |e| e == error), "{message}: {error:?}");
        }
    }

    proptest! {
        #[test]
        fn garbage_never_panics(text in "[cnry=,pisa-z0-9+/\\x00\\xff]{0,40}") {
            let bytes = text.as_bytes();
            let _ = server(None).client_first(bytes);
            let mut challenged = server(None);
            challenged.client_first(b"n,,n=,r=abc").expect("client-first");
            let _ = challenged.client_final(bytes);
            let _ = ScramClient::new(password("x"), [1; NONCE_BYTES]).0.server_first(bytes);
        }
    }
}
