//! Is the client who it says? By the first matching HBA rule, whether or not the database and user exist.

use log::info;

use super::client::{Client, Ending};
use super::context::{Context, random};
use crate::auth::client_login::{ClientLogin, ClientMethod, LoginRandom, MAX_ANSWER_BYTES, Proven, Step};
use crate::auth::hba::{self, Method, Peer};
use crate::auth::scram::NONCE_BYTES;
use crate::protocol::startup::{Replication, StartupMessage};
use crate::protocol::{Report, SqlState};
use crate::sys::socket::PeerAddress;

/// A client that was let in.
pub struct Admitted {
    /// The last messages of the login, which are sent with the welcome.
    pub last: Vec<u8>,
    /// What its login has shown, to log in to the server with.
    pub proven: Proven,
}

/// Lets the client in, or not.
///
/// # Errors
/// It is not let in, or gone.
pub async fn authenticate(
    context: &Context<'_>,
    client: &mut Client,
    message: &StartupMessage,
    user: &str,
    database: &str,
) -> Result<Admitted, Ending> {
    let method = method_for(context, client, message, user, database)?;
    let secret = context.config.users.get(user);
    // Where all users have SCRAM verifiers, method md5 means SCRAM for all, the unknown included.
    let all_scram = secret.is_none() && !context.config.users.has_md5_users();
    let method = if method == ClientMethod::Md5 && all_scram { ClientMethod::ScramSha256 } else { method };
    let random = if method == ClientMethod::Trust {
        LoginRandom { salt: [0; 4], nonce: [0; NONCE_BYTES] }
    } else {
        LoginRandom { salt: random(), nonce: random() }
    };
    let (mut login, mut step) = ClientLogin::start(method, user, secret.as_ref(), &random, &context.mock_key);
    loop {
        match step {
            Step::Send(bytes) => {
                client.stream.write_all(&bytes).await?;
                let body = client.read_message(b'p', MAX_ANSWER_BYTES).await?;
                step = login.on_password_message(&body);
            }
            Step::Accepted { send, proven } => return Ok(Admitted { last: send, proven }),
            Step::Refused(refusal) => {
                let detail = refusal.log_detail.map_or_else(String::new, |d| format!(" ({d})"));
                info!("{}: {}{detail}", client.peer, refusal.report.message);
                return Err(refusal.report.into());
            }
        }
    }
}

fn method_for(
    context: &Context<'_>,
    client: &Client,
    message: &StartupMessage,
    user: &str,
    database: &str,
) -> Result<ClientMethod, Ending> {
    let peer = match client.peer {
        PeerAddress::Unix => Peer::Local,
        PeerAddress::Tcp(address) => Peer::Ip { address: address.ip() },
    };
    let physical = message.replication() == Replication::Physical;
    let rule = hba::find(&context.config.hba, &peer, database, user, physical);
    let refused = |verb: &str| {
        let what =
            if physical { "replication connection".to_owned() } else { format!("database {database:?}") };
        let place = match client.peer {
            PeerAddress::Unix => "[local]".to_owned(),
            PeerAddress::Tcp(address) => address.ip().to_string(),
        };
        let text = format!("{verb} host {place:?}, user {user:?}, {what}, no encryption");
        info!("{text}");
        Err(Report::fatal(SqlState::INVALID_AUTHORIZATION, text).into())
    };
    match rule.map(|rule| rule.method) {
        None => refused("no HBA rule for"),
        Some(Method::Reject) => refused("an HBA rule rejects"),
        Some(Method::Trust) => Ok(ClientMethod::Trust),
        Some(Method::Password) => Ok(ClientMethod::Password),
        Some(Method::Md5) => Ok(ClientMethod::Md5),
        Some(Method::ScramSha256) => Ok(ClientMethod::ScramSha256),
    }
}
