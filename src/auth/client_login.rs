//! Letting a client in: challenges and checks of one login, without I/O.
//!
//! **Source**: PostgreSQL `ClientAuthentication` (auth.c), auth-sasl.c, crypt.c. Texts and SQLSTATEs are PostgreSQL's.
//!
//! What a stranger can learn: nothing about which users exist. An unknown user gets the same challenge as a known one,
//! the same refusal, and the refusal takes as long: with the methods password and scram-sha-256 every failure pays for
//! one SCRAM key derivation.

#![forbid(unsafe_code)]

use thiserror::Error;
use zeroize::Zeroizing;

use super::md5::{Md5Refused, md5_response, md5_stored};
use super::same_secret;
use super::scram::{
    DEFAULT_ITERATIONS, NONCE_BYTES, SCRAM_SHA_256, ScramError, ScramKeys, ScramServer, mock_salt,
    verify_password,
};
use super::secret::Secret;
use crate::protocol::reader::{ReadError, Reader};
use crate::protocol::report::{Report, SqlState};
use crate::protocol::write::{self, WriteError};

/// The greatest body of a client's answer, in bytes (PostgreSQL `PG_MAX_AUTH_TOKEN_LENGTH`). The caller refuses longer
/// ones before it reads them.
pub const MAX_ANSWER_BYTES: usize = 65_535;

/// How the client is to prove who it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientMethod {
    /// Not at all.
    Trust,
    /// The password in clear text.
    Password,
    /// md5; SCRAM if the user's secret is a SCRAM verifier, as in PostgreSQL. An unknown user is challenged by md5: the
    /// caller asks for SCRAM instead where all users have verifiers, so that an unknown one does not stand out.
    Md5,
    /// SCRAM-SHA-256.
    ScramSha256,
}

/// Random bytes for one login.
#[derive(Clone, Copy)]
pub struct LoginRandom {
    /// The salt of an md5 challenge.
    pub salt: [u8; 4],
    /// The server's SCRAM nonce.
    pub nonce: [u8; NONCE_BYTES],
}

/// What a login proved, for logging in to a server with it.
pub enum Proven {
    /// Nothing more than what the user's secret says.
    Nothing,
    /// This is the user's password.
    Password(Zeroizing<String>),
    /// These keys open the user's SCRAM verifier.
    ScramKeys(ScramKeys),
}

/// What to do next.
pub enum Step {
    /// Send these bytes and give the body of the client's next `p` message to [`ClientLogin::on_password_message`].
    Send(Vec<u8>),
    /// The client is in.
    Accepted {
        /// Send these bytes: they end with AuthenticationOk.
        send: Vec<u8>,
        /// What the login proved.
        proven: Proven,
    },
    /// The client is out: tell it the refusal's report and close.
    Refused(Refusal),
}

/// Why a client is not let in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// What the client is told.
    pub report: Report,
    /// What only the log is told: it may tell whether the user exists.
    pub log_detail: Option<&'static str>,
}

/// One login of a client.
pub struct ClientLogin {
    user: String,
    mock_key: [u8; 32],
    state: State,
}

enum State {
    Password {
        secret: Option<Secret>,
    },
    Md5 {
        stored: Zeroizing<String>,
        salt: [u8; 4],
    },
    ScramOffered(Scram),
    /// The client chose the mechanism without a first message and got an empty challenge.
    ScramChosen(Scram),
    ScramChallenged(Scram),
    Done,
}

struct Scram {
    server: Box<ScramServer>,
    /// The proven keys tell more than the secret that is known anyway.
    keys_matter: bool,
    /// For the log, should it fail.
    doubt: Option<&'static str>,
}

/// Why a step failed; turned into a [`Refusal`] in one place.
#[derive(Debug, Error)]
enum Failure {
    #[error("the proof is wrong")]
    Wrong(Option<&'static str>),
    #[error("empty password returned by client")]
    Empty,
    #[error("{0}")]
    Violation(&'static str),
    #[error(transparent)]
    Scram(#[from] ScramError),
    #[error(transparent)]
    Md5(#[from] Md5Refused),
    #[error(transparent)]
    Write(#[from] WriteError),
}

const UNKNOWN_USER: &str = "the user is not known, or has no password";
const NO_SCRAM: &str = "the user's md5 secret cannot serve scram-sha-256";
const NO_MATCH: &str = "the password does not match";

impl ClientLogin {
    /// Begins a login and gives the first step. `secret` is none for an unknown user; `mock_key` is a secret of this
    /// installation that outlives the login.
    #[must_use]
    pub fn start(
        method: ClientMethod,
        user: &str,
        secret: Option<&Secret>,
        random: &LoginRandom,
        mock_key: &[u8; 32],
    ) -> (Self, Step) {
        let mut login = Self { user: user.to_owned(), mock_key: *mock_key, state: State::Done };
        let step = match login.challenge(method, secret, random) {
            Ok(step) => step,
            Err(failure) => Step::Refused(login.refuse(failure)),
        };
        (login, step)
    }

    /// Takes the body of the client's `p` message. After anything but [`Step::Send`] the login is over.
    #[must_use]
    pub fn on_password_message(&mut self, body: &[u8]) -> Step {
        let state = std::mem::replace(&mut self.state, State::Done);
        let step = match state {
            State::Password { secret } => self.check_password(secret.as_ref(), body),
            State::Md5 { stored, salt } => self.check_md5(&stored, salt, body),
            State::ScramOffered(scram) => self.scram_initial(scram, body),
            State::ScramChosen(scram) => self.scram_first(scram, body),
            State::ScramChallenged(scram) => self.scram_final(scram, body),
            State::Done => Err(Failure::Violation("unexpected password message")),
        };
        step.unwrap_or_else(|failure| Step::Refused(self.refuse(failure)))
    }

    /// Makes the refusal for a message that is no `p` message.
    #[must_use]
    pub fn unexpected_message(tag: u8) -> Refusal {
        let text = format!("expected password response, got message type {tag}");
        Refusal { report: Report::fatal(SqlState::PROTOCOL_VIOLATION, text), log_detail: None }
    }

    fn challenge(
        &mut self,
        method: ClientMethod,
        secret: Option<&Secret>,
        random: &LoginRandom,
    ) -> Result<Step, Failure> {
        let mut out = Vec::new();
        let stored = match (method, secret) {
            (ClientMethod::Trust, _) => {
                write::authentication_ok(&mut out);
                return Ok(Step::Accepted { send: out, proven: Proven::Nothing });
            }
            (ClientMethod::Password, _) => {
                self.state = State::Password { secret: secret.cloned() };
                write::authentication_cleartext(&mut out);
                return Ok(Step::Send(out));
            }
            (ClientMethod::Md5, Some(Secret::Plain(password))) => {
                Some(md5_stored(password.as_bytes(), self.user.as_bytes())?)
            }
            (ClientMethod::Md5, Some(Secret::Md5(stored))) => Some(stored.clone()),
            // Nobody knows a password for this: the key is secret and random.
            (ClientMethod::Md5, None) => Some(md5_stored(&self.mock_key, self.user.as_bytes())?),
            (ClientMethod::Md5, Some(Secret::Scram(_))) | (ClientMethod::ScramSha256, _) => None,
        };
        match stored {
            Some(stored) => {
                write::authentication_md5(&mut out, random.salt);
                self.state = State::Md5 { stored, salt: random.salt };
            }
            None => {
                write::authentication_sasl(&mut out, &[SCRAM_SHA_256])?;
                let server = ScramServer::new(&self.user, secret, &self.mock_key, random.nonce);
                let doubt = match secret {
                    None => Some(UNKNOWN_USER),
                    Some(Secret::Md5(_)) => Some(NO_SCRAM),
                    Some(Secret::Plain(_) | Secret::Scram(_)) => Some(NO_MATCH),
                };
                let keys_matter = matches!(secret, Some(Secret::Scram(_)));
                self.state = State::ScramOffered(Scram { server: Box::new(server), keys_matter, doubt });
            }
        }
        Ok(Step::Send(out))
    }

    fn check_password(&self, secret: Option<&Secret>, body: &[u8]) -> Result<Step, Failure> {
        let password = password_of(body)?;
        let matches = match secret {
            Some(Secret::Plain(plain)) => same_secret(plain.as_bytes(), password),
            Some(Secret::Md5(stored)) => {
                same_secret(md5_stored(password, self.user.as_bytes())?.as_bytes(), stored.as_bytes())
            }
            Some(Secret::Scram(verifier)) => verify_password(password, verifier)?,
            None => false,
        };
        if !matches {
            if !matches!(secret, Some(Secret::Scram(_))) {
                self.take_time();
            }
            return Err(Failure::Wrong(Some(if secret.is_none() { UNKNOWN_USER } else { NO_MATCH })));
        }
        let text = std::str::from_utf8(password).ok();
        Ok(accepted(text.map_or(Proven::Nothing, |text| Proven::Password(Zeroizing::new(text.to_owned())))))
    }

    fn check_md5(&self, stored: &str, salt: [u8; 4], body: &[u8]) -> Result<Step, Failure> {
        let answer = password_of(body)?;
        if !same_secret(md5_response(stored, salt)?.as_bytes(), answer) {
            return Err(Failure::Wrong(Some(NO_MATCH)));
        }
        Ok(accepted(Proven::Nothing))
    }

    fn scram_initial(&mut self, scram: Scram, body: &[u8]) -> Result<Step, Failure> {
        let (mechanism, response) = initial_response(body)
            .map_err(|_| Failure::Violation("malformed SASLInitialResponse message"))?;
        if mechanism != SCRAM_SHA_256.as_bytes() {
            return Err(Failure::Violation("client selected an invalid SASL authentication mechanism"));
        }
        match response {
            Some(first) => self.scram_first(scram, first),
            None => {
                let mut out = Vec::new();
                write::authentication_sasl_continue(&mut out, b"")?;
                self.state = State::ScramChosen(scram);
                Ok(Step::Send(out))
            }
        }
    }

    fn scram_first(&mut self, mut scram: Scram, message: &[u8]) -> Result<Step, Failure> {
        let server_first = scram.server.client_first(message)?;
        let mut out = Vec::new();
        write::authentication_sasl_continue(&mut out, &server_first)?;
        self.state = State::ScramChallenged(scram);
        Ok(Step::Send(out))
    }

    fn scram_final(&mut self, mut scram: Scram, message: &[u8]) -> Result<Step, Failure> {
        let (server_final, keys) = match scram.server.client_final(message) {
            Err(ScramError::Failed) => return Err(Failure::Wrong(scram.doubt)),
            other => other?,
        };
        let mut out = Vec::new();
        write::authentication_sasl_final(&mut out, &server_final)?;
        write::authentication_ok(&mut out);
        let proven = if scram.keys_matter { Proven::ScramKeys(keys) } else { Proven::Nothing };
        Ok(Step::Accepted { send: out, proven })
    }

    fn refuse(&self, failure: Failure) -> Refusal {
        let (report, log_detail) = match failure {
            Failure::Wrong(log_detail) => {
                let text = format!("password authentication failed for user \"{}\"", self.user);
                (Report::fatal(SqlState::INVALID_PASSWORD, text), log_detail)
            }
            Failure::Empty => (Report::fatal(SqlState::INVALID_PASSWORD, failure.to_string()), None),
            Failure::Violation(text) => (Report::fatal(SqlState::PROTOCOL_VIOLATION, text), None),
            Failure::Scram(error) => (scram_report(error), None),
            Failure::Md5(_) | Failure::Write(_) => {
                (Report::fatal(SqlState::INTERNAL_ERROR, failure.to_string()), None)
            }
        };
        Refusal { report, log_detail }
    }

    /// Derives keys that nobody needs, so that a refusal does not tell by its time what secret the user has.
    fn take_time(&self) {
        let salt = mock_salt(&self.mock_key, self.user.as_bytes());
        drop(ScramKeys::derive(self.user.as_bytes(), &salt, DEFAULT_ITERATIONS));
    }
}

fn accepted(proven: Proven) -> Step {
    let mut send = Vec::new();
    write::authentication_ok(&mut send);
    Step::Accepted { send, proven }
}

/// The texts of auth-scram.c and auth-sasl.c.
fn scram_report(error: ScramError) -> Report {
    let code = match error {
        ScramError::AuthorizationIdentity | ScramError::Extension | ScramError::ChannelBinding => {
            SqlState::FEATURE_NOT_SUPPORTED
        }
        ScramError::Crypto => SqlState::INTERNAL_ERROR,
        _ => SqlState::PROTOCOL_VIOLATION,
    };
    match error {
        ScramError::Malformed(detail) => Report::fatal(code, error.to_string()).with_detail(detail),
        ScramError::Nonce => {
            Report::fatal(code, "invalid SCRAM response").with_detail("Nonce does not match.")
        }
        _ => Report::fatal(code, error.to_string()),
    }
}

/// A PasswordMessage: one string that fills the body.
fn password_of(body: &[u8]) -> Result<&[u8], Failure> {
    let mut reader = Reader::new(body);
    let password = reader.cstr("password").map_err(|_| Failure::Violation("invalid password packet size"))?;
    reader.finish("password").map_err(|_| Failure::Violation("invalid password packet size"))?;
    if password.is_empty() { Err(Failure::Empty) } else { Ok(password) }
}

fn initial_response(body: &[u8]) -> Result<(&[u8], Option<&[u8]>), ReadError> {
    let mut reader = Reader::new(body);
    let mechanism = reader.cstr("mechanism")?;
    let response = reader.nullable("response")?;
    reader.finish("response")?;
    Ok((mechanism, response))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::server_login::{Credential, ServerLogin, ServerStep};
    use super::*;

    const RANDOM: LoginRandom = LoginRandom { salt: [1, 2, 3, 4], nonce: [2; NONCE_BYTES] };

    fn plain(text: &str) -> Secret {
        Secret::Plain(Zeroizing::new(text.to_owned()))
    }

    fn md5() -> Secret {
        Secret::Md5(md5_stored(b"secret", b"alice").expect("MD5 available"))
    }

    fn scram() -> Secret {
        let keys = ScramKeys::derive(b"secret", b"a salt of 16 bytes"[..16].as_ref(), 4096).expect("keys");
        Secret::Scram(Box::new(keys.verifier()))
    }

    fn start(method: ClientMethod, secret: Option<&Secret>) -> (ClientLogin, Step) {
        ClientLogin::start(method, "alice", secret, &RANDOM, &[0; 32])
    }

    enum Outcome {
        In(Proven),
        Out(Refusal),
    }

    /// Lets a `ServerLogin` answer.
    fn play(method: ClientMethod, secret: Option<&Secret>, password: &str) -> Outcome {
        let credential = Credential::Plain(Zeroizing::new(password.to_owned()));
        let mut peer = ServerLogin::new("alice", credential, [1; NONCE_BYTES]);
        let (mut login, mut step) = start(method, secret);
        loop {
            match step {
                Step::Refused(refusal) => return Outcome::Out(refusal),
                Step::Send(bytes) => {
                    let Ok(ServerStep::Send(answer)) = peer.on_authentication_request(&bytes[5..]) else {
                        panic!("no answer")
                    };
                    step = login.on_password_message(&answer[5..]);
                }
                Step::Accepted { send, proven } => {
                    let mut rest = &send[..];
                    let mut last = None;
                    while let Some(length) = rest.get(1..5) {
                        let length = u32::from_be_bytes(length.try_into().expect("four bytes"));
                        let (message, tail) = rest.split_at(1 + usize::try_from(length).expect("small"));
                        last = peer.on_authentication_request(&message[5..]).ok();
                        rest = tail;
                    }
                    assert_eq!(last, Some(ServerStep::Done), "the peer is convinced too");
                    return Outcome::In(proven);
                }
            }
        }
    }

    #[test]
    fn the_right_password_lets_in_and_the_wrong_one_does_not() {
        use ClientMethod as M;
        for (method, secret, works) in [
            (M::Password, Some(plain("secret")), true),
            (M::Password, Some(md5()), true),
            (M::Password, Some(scram()), true),
            (M::Password, None, false),
            (M::Md5, Some(plain("secret")), true),
            (M::Md5, Some(md5()), true),
            (M::Md5, Some(scram()), true),
            (M::Md5, None, false),
            (M::ScramSha256, Some(plain("secret")), true),
            (M::ScramSha256, Some(md5()), false),
            (M::ScramSha256, Some(scram()), true),
            (M::ScramSha256, None, false),
        ] {
            match play(method, secret.as_ref(), "secret") {
                Outcome::In(proven) => {
                    assert!(works, "{method:?} {secret:?}");
                    let is_scram = matches!(secret, Some(Secret::Scram(_)));
                    match proven {
                        Proven::Password(password) => {
                            assert_eq!((method, &**password), (M::Password, "secret"))
                        }
                        Proven::ScramKeys(_) => assert!(is_scram && method != M::Password),
                        Proven::Nothing => assert!(!is_scram && method != M::Password),
                    }
                }
                Outcome::Out(_) => assert!(!works, "{method:?} {secret:?}"),
            }
            let Outcome::Out(refusal) = play(method, secret.as_ref(), "wrong") else { panic!("let in") };
            assert_eq!(refusal.report.sqlstate, SqlState::INVALID_PASSWORD);
            assert_eq!(refusal.report.message, "password authentication failed for user \"alice\"");
            assert_eq!((refusal.report.detail, refusal.report.hint), (None, None));
        }
        assert!(matches!(play(M::Trust, None, ""), Outcome::In(Proven::Nothing)));
    }

    #[test]
    fn proved_keys_log_in_to_the_server_behind() {
        let Outcome::In(Proven::ScramKeys(keys)) = play(ClientMethod::ScramSha256, Some(&scram()), "secret")
        else {
            panic!("no keys")
        };
        let mut behind = ServerLogin::new("alice", Credential::ScramKeys(keys), [1; NONCE_BYTES]);
        let (mut server, step) = start(ClientMethod::ScramSha256, Some(&scram()));
        let Step::Send(offer) = step else { panic!("no challenge") };
        let Ok(ServerStep::Send(initial)) = behind.on_authentication_request(&offer[5..]) else {
            panic!("stopped")
        };
        let Step::Send(challenge) = server.on_password_message(&initial[5..]) else { panic!("no challenge") };
        let Ok(ServerStep::Send(proof)) = behind.on_authentication_request(&challenge[5..]) else {
            panic!("stopped")
        };
        assert!(matches!(server.on_password_message(&proof[5..]), Step::Accepted { .. }));
    }

    #[test]
    fn bad_answers_get_postgresql_s_words() {
        let check = |method, body: &[u8], code: &str, text: &str| {
            let (mut login, _) = start(method, Some(&plain("secret")));
            let Step::Refused(refusal) = login.on_password_message(body) else {
                panic!("not refused: {body:?}")
            };
            assert_eq!(
                (refusal.report.sqlstate.as_str(), &*refusal.report.message),
                (code, text),
                "{body:?}"
            );
            assert!(matches!(login.on_password_message(body), Step::Refused(_)), "the login is dead");
        };
        use ClientMethod as M;
        check(M::Password, b"\0", "28P01", "empty password returned by client");
        check(M::Password, b"", "08P01", "invalid password packet size");
        check(M::Password, b"secret", "08P01", "invalid password packet size");
        check(M::Md5, b"secret\0x", "08P01", "invalid password packet size");
        check(M::Md5, b"secret\0", "28P01", "password authentication failed for user \"alice\"");
        let mechanism = "client selected an invalid SASL authentication mechanism";
        check(M::ScramSha256, b"SCRAM-SHA-256-PLUS\0\xff\xff\xff\xff", "08P01", mechanism);
        check(
            M::ScramSha256,
            b"SCRAM-SHA-256\0\0\0\0\x09n",
            "08P01",
            "malformed SASLInitialResponse message",
        );
        check(M::ScramSha256, b"SCRAM-SHA-256\0\0\0\0\x01n", "08P01", "malformed SCRAM message");
        let authzid = b"SCRAM-SHA-256\0\0\0\0\x0cn,a=x,n=,r=a";
        let text = "client uses authorization identity, but it is not supported";
        check(M::ScramSha256, authzid, "0A000", text);
        let refusal = ClientLogin::unexpected_message(b'Q');
        assert_eq!(refusal.report.message, "expected password response, got message type 81");
    }

    #[test]
    fn a_client_may_choose_scram_without_a_first_message() {
        let (mut login, _) = start(ClientMethod::ScramSha256, None);
        let Step::Send(empty) = login.on_password_message(b"SCRAM-SHA-256\0\xff\xff\xff\xff") else {
            panic!("refused")
        };
        assert_eq!(empty, b"R\0\0\0\x08\0\0\0\x0b");
        assert!(matches!(login.on_password_message(b"n,,n=,r=abc"), Step::Send(_)));
    }

    #[test]
    fn unknown_users_and_plain_passwords_get_the_same_challenges() {
        let bytes = |secret: Option<&Secret>| {
            let (mut login, step) = start(ClientMethod::ScramSha256, secret);
            let Step::Send(offer) = step else { panic!("refused") };
            let Step::Send(challenge) = login.on_password_message(b"SCRAM-SHA-256\0\0\0\0\x0bn,,n=,r=abc")
            else {
                panic!("refused")
            };
            [offer, challenge].concat()
        };
        assert_eq!(bytes(None), bytes(Some(&plain("secret"))));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn garbage_never_panics_nor_lets_in(body in prop::collection::vec(any::<u8>(), 0..40)) {
            for method in [ClientMethod::Password, ClientMethod::Md5, ClientMethod::ScramSha256] {
                let (mut login, _) = start(method, Some(&plain("a secret that nobody guesses")));
                let accepted = matches!(login.on_password_message(&body), Step::Accepted { .. });
                prop_assert!(!accepted);
            }
        }
    }
}
