//! Logging in to a PostgreSQL server: what to answer to its authentication requests.
//!
//! **Source**: libpq `pg_fe_sendauth` (fe-auth.c).

#![forbid(unsafe_code)]

use thiserror::Error;
use zeroize::Zeroizing;

use super::md5::{Md5Refused, md5_response, md5_stored};
use super::scram::{ClientSecret, NONCE_BYTES, SCRAM_SHA_256, ScramClient, ScramError, ScramKeys};
use crate::protocol::backend::{AuthenticationRequest, Mechanisms};
use crate::protocol::reader::ReadError;
use crate::protocol::write::{self, WriteError};

/// What we can show a server. No Debug, wiped when dropped.
#[derive(Clone)]
pub enum Credential {
    /// Nothing: the server must trust us.
    None,
    /// The password: every method.
    Plain(Zeroizing<String>),
    /// The 32 digits that PostgreSQL stores after `md5`: method md5 alone.
    Md5(Zeroizing<String>),
    /// Keys that the client's own login proved: method scram-sha-256, if the server has the same verifier.
    ScramKeys(ScramKeys),
}

/// Why a login to a server failed. The session code adds which server and user.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum ServerLoginError {
    /// The request is malformed.
    #[error("malformed authentication request")]
    Request(#[from] ReadError),
    /// The server asks for a method that is not spoken here.
    #[error("server asks for the unsupported authentication method {name} (code {code})")]
    Unsupported {
        /// The request's code.
        code: i32,
        /// The method's name, or `unknown`.
        name: &'static str,
    },
    /// The server offers no SASL mechanism that is spoken here.
    #[error("server offers no supported SASL mechanism: {SCRAM_SHA_256} is needed")]
    Mechanism,
    /// What we have does not serve the method.
    #[error("server asks for {method}, which needs {needs}")]
    Unusable {
        /// The method.
        method: &'static str,
        /// What would be needed.
        needs: &'static str,
    },
    /// The server asks for the password in clear text, and that is not allowed.
    #[error("server asks for the password in clear text, which is not allowed")]
    CleartextRefused,
    /// The request does not belong here.
    #[error("server sent an unexpected authentication request")]
    Unexpected,
    /// The server says Ok in the middle of a SCRAM exchange, without having shown that it knows the secret.
    #[error("server ended the SCRAM exchange before it proved its identity")]
    Unproven,
    /// The exchange failed.
    #[error(transparent)]
    Scram(#[from] ScramError),
    /// MD5 is not available.
    #[error(transparent)]
    Md5(#[from] Md5Refused),
    /// The password cannot be sent.
    #[error("cannot send the answer")]
    Write(#[from] WriteError),
}

/// What to do next.
#[derive(Debug, PartialEq, Eq)]
pub enum ServerStep {
    /// Send these bytes and go on with the next request.
    Send(Zeroizing<Vec<u8>>),
    /// Go on with the next request.
    Continue,
    /// We are in.
    Done,
}

/// One login.
pub struct ServerLogin {
    user: String,
    credential: Credential,
    nonce: [u8; NONCE_BYTES],
    allow_cleartext: bool,
    state: State,
}

enum State {
    Start,
    /// A password was sent: Ok is the only request that may follow.
    Answered,
    ScramStarted(ScramClient),
    ScramProved(ScramClient),
    /// The server proved that it knows the secret.
    ScramVerified,
    Done,
}

impl ServerLogin {
    /// Begins a login; `nonce` is 18 random bytes.
    #[must_use]
    pub fn new(user: impl Into<String>, credential: Credential, nonce: [u8; NONCE_BYTES]) -> Self {
        Self { user: user.into(), credential, nonce, allow_cleartext: true, state: State::Start }
    }

    /// Refuses to send the password as it is, should the server ask for that.
    #[must_use]
    pub fn without_cleartext(mut self) -> Self {
        self.allow_cleartext = false;
        self
    }

    /// Takes the body of an authentication request (`R`). After an error the login is over.
    ///
    /// # Errors
    /// [`ServerLoginError`].
    pub fn on_authentication_request(&mut self, body: &[u8]) -> Result<ServerStep, ServerLoginError> {
        let request = AuthenticationRequest::parse(body)?;
        let state = std::mem::replace(&mut self.state, State::Done);
        match (request, state) {
            (AuthenticationRequest::Unsupported(code), _) => {
                let name = AuthenticationRequest::unsupported_name(code);
                Err(ServerLoginError::Unsupported { code, name })
            }
            (AuthenticationRequest::Ok, State::Start | State::Answered | State::ScramVerified) => {
                Ok(ServerStep::Done)
            }
            (AuthenticationRequest::Ok, State::ScramStarted(_) | State::ScramProved(_)) => {
                Err(ServerLoginError::Unproven)
            }
            (AuthenticationRequest::Cleartext, State::Start) => self.answer_cleartext(),
            (AuthenticationRequest::Md5 { salt }, State::Start) => self.answer_md5(salt),
            (AuthenticationRequest::Sasl(mechanisms), State::Start) => self.start_scram(mechanisms),
            (AuthenticationRequest::SaslContinue(data), State::ScramStarted(mut scram)) => {
                let response = scram.server_first(data)?;
                self.state = State::ScramProved(scram);
                send(|out| write::sasl_response(out, &response))
            }
            (AuthenticationRequest::SaslFinal(data), State::ScramProved(mut scram)) => {
                scram.server_final(data)?;
                self.state = State::ScramVerified;
                Ok(ServerStep::Continue)
            }
            _ => Err(ServerLoginError::Unexpected),
        }
    }

    fn answer_cleartext(&mut self) -> Result<ServerStep, ServerLoginError> {
        if !self.allow_cleartext {
            return Err(ServerLoginError::CleartextRefused);
        }
        let Credential::Plain(password) = &self.credential else {
            return Err(ServerLoginError::Unusable {
                method: "a clear-text password",
                needs: "the plain password",
            });
        };
        self.state = State::Answered;
        send(|out| write::password(out, password.as_bytes()))
    }

    fn answer_md5(&mut self, salt: [u8; 4]) -> Result<ServerStep, ServerLoginError> {
        let response = match &self.credential {
            Credential::Plain(password) => {
                md5_response(&md5_stored(password.as_bytes(), self.user.as_bytes())?, salt)?
            }
            Credential::Md5(stored) => md5_response(stored, salt)?,
            Credential::None | Credential::ScramKeys(_) => {
                let needs = "the plain password or its md5 form";
                return Err(ServerLoginError::Unusable { method: "md5", needs });
            }
        };
        self.state = State::Answered;
        send(|out| write::password(out, response.as_bytes()))
    }

    fn start_scram(&mut self, mut mechanisms: Mechanisms<'_>) -> Result<ServerStep, ServerLoginError> {
        if !mechanisms.any(|name| name == SCRAM_SHA_256.as_bytes()) {
            return Err(ServerLoginError::Mechanism);
        }
        let secret = match &self.credential {
            Credential::Plain(password) => {
                ClientSecret::Password(Zeroizing::new(password.as_bytes().to_vec()))
            }
            Credential::ScramKeys(keys) => ClientSecret::Keys(keys.clone()),
            Credential::None | Credential::Md5(_) => {
                let needs = "the plain password or a client's own SCRAM login";
                return Err(ServerLoginError::Unusable { method: "scram-sha-256", needs });
            }
        };
        let (scram, first) = ScramClient::new(secret, self.nonce);
        self.state = State::ScramStarted(scram);
        send(|out| write::sasl_initial_response(out, SCRAM_SHA_256, Some(&first)))
    }
}

fn send(write: impl FnOnce(&mut Vec<u8>) -> Result<(), WriteError>) -> Result<ServerStep, ServerLoginError> {
    let mut out = Zeroizing::new(Vec::new());
    write(&mut out)?;
    Ok(ServerStep::Send(out))
}

#[cfg(test)]
mod tests {
    use super::super::scram::ScramServer;
    use super::super::secret::Secret;
    use super::*;

    fn plain() -> Credential {
        Credential::Plain(Zeroizing::new("secret".to_owned()))
    }

    fn login(credential: Credential) -> ServerLogin {
        ServerLogin::new("carol", credential, [1; NONCE_BYTES])
    }

    fn request(write: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
        let mut out = Vec::new();
        write(&mut out);
        out.split_off(5)
    }

    fn sent(step: Result<ServerStep, ServerLoginError>) -> Vec<u8> {
        match step {
            Ok(ServerStep::Send(bytes)) => bytes.to_vec(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn passwords_are_sent_as_asked() {
        let mut l = login(plain());
        let ok = request(write::authentication_ok);
        assert_eq!(
            sent(l.on_authentication_request(&request(write::authentication_cleartext))),
            b"p\0\0\0\x0bsecret\0"
        );
        assert_eq!(l.on_authentication_request(&ok), Ok(ServerStep::Done));
        assert_eq!(l.on_authentication_request(&ok), Err(ServerLoginError::Unexpected));
        let md5 = request(|out| write::authentication_md5(out, [1, 2, 3, 4]));
        let stored = Credential::Md5(Zeroizing::new("7c53eaf86052083b816bfc7c7a6edf5d".to_owned()));
        let both = [plain(), stored].map(|c| sent(login(c).on_authentication_request(&md5)));
        assert_eq!(both[0], both[1]);
        assert_eq!(both[0].len(), 1 + 4 + 35 + 1);
        assert_eq!(login(Credential::None).on_authentication_request(&ok), Ok(ServerStep::Done));
    }

    #[test]
    fn what_cannot_be_answered_is_an_error_with_the_reason() {
        let cleartext = request(write::authentication_cleartext);
        let md5 = request(|out| write::authentication_md5(out, [0; 4]));
        let sasl = |name| request(|out| write::authentication_sasl(out, &[name]).expect("short"));
        let scram = sasl("SCRAM-SHA-256");
        let stored = || Credential::Md5(Zeroizing::new("0".repeat(32)));
        for (credential, body, expected) in [
            (
                Credential::None,
                &cleartext,
                "server asks for a clear-text password, which needs the plain password",
            ),
            (stored(), &cleartext, "server asks for a clear-text password, which needs the plain password"),
            (Credential::None, &md5, "server asks for md5, which needs the plain password or its md5 form"),
            (
                stored(),
                &scram,
                "server asks for scram-sha-256, which needs the plain password or a client's own SCRAM login",
            ),
            (
                plain(),
                &sasl("OAUTHBEARER"),
                "server offers no supported SASL mechanism: SCRAM-SHA-256 is needed",
            ),
            (
                plain(),
                &b"\0\0\0\x07".to_vec(),
                "server asks for the unsupported authentication method gss (code 7)",
            ),
            (plain(), &b"\0\0".to_vec(), "malformed authentication request"),
            (plain(), &b"\0\0\0\x0bx".to_vec(), "server sent an unexpected authentication request"),
        ] {
            let error = login(credential).on_authentication_request(body).expect_err(expected);
            assert_eq!(error.to_string(), expected);
        }
        let refused = login(plain()).without_cleartext().on_authentication_request(&cleartext);
        assert_eq!(refused, Err(ServerLoginError::CleartextRefused));
    }

    #[test]
    fn scram_is_done_only_when_the_server_has_proved_itself() {
        let secret = Secret::Plain(Zeroizing::new("secret".to_owned()));
        let offered =
            request(|o| write::authentication_sasl(o, &["SCRAM-SHA-256-PLUS", "SCRAM-SHA-256"]).expect("ok"));
        let ok = request(write::authentication_ok);
        for stop_after in 0..3 {
            let mut server = ScramServer::new("carol", Some(&secret), &[0; 32], [2; NONCE_BYTES]);
            let mut l = login(plain());
            let initial = sent(l.on_authentication_request(&offered));
            if stop_after == 0 {
                assert_eq!(l.on_authentication_request(&ok), Err(ServerLoginError::Unproven));
                continue;
            }
            let first = server.client_first(&initial[5 + 14 + 4..]).expect("client-first");
            let body = request(|out| write::authentication_sasl_continue(out, &first).expect("short"));
            let response = sent(l.on_authentication_request(&body));
            if stop_after == 1 {
                assert_eq!(l.on_authentication_request(&ok), Err(ServerLoginError::Unproven));
                continue;
            }
            let (last, _) = server.client_final(&response[5..]).unwrap_or_else(|e| panic!("{e}"));
            let body = request(|out| write::authentication_sasl_final(out, &last).expect("short"));
            assert_eq!(l.on_authentication_request(&body), Ok(ServerStep::Continue));
            assert_eq!(l.on_authentication_request(&ok), Ok(ServerStep::Done));
        }
    }
}
