//! Opening a server connection: connect, startup packet, authentication, parameters.
//!
//! Source: PostgreSQL's protocol documentation, "Start-up" (protocol-flow.html) and `fe-connect.c`.

use std::io;

use super::connection::{ReadError, ServerConnection};
use crate::auth::server_login::{ServerLogin, ServerLoginError, ServerStep};
use crate::net::{ConnectError, SocketOptions, Target, connect};
use crate::protocol::backend::{BackendKeyData, ErrorFields};
use crate::protocol::parameters::ParameterSet;
use crate::protocol::settings::StartupSettings;
use crate::protocol::write::WriteError;

/// Who logs in, and with which session settings.
pub struct Login<'a> {
    /// The user on the server.
    pub user: &'a str,
    /// The database on the server.
    pub database: &'a str,
    /// `replication` as the client wrote it.
    pub replication: Option<&'a [u8]>,
    /// The startup parameters.
    pub settings: &'a StartupSettings,
    /// Proves who the user is.
    pub login: ServerLogin,
    /// Protocol 3.`minor` is asked for: 2 (longer cancel keys) only where the server is known to speak it.
    pub minor: u16,
}

/// A connection that is ready for queries.
pub struct Opened {
    /// The connection.
    pub connection: ServerConnection,
    /// The server's process id.
    pub process_id: i32,
    /// The key that cancels on it.
    pub cancel_key: Vec<u8>,
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Nobody answers.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// The server refused; its ErrorResponse body goes to the client as it is.
    #[error("the server refused the connection: {text}")]
    Refused {
        /// Body of the ErrorResponse.
        body: Vec<u8>,
        /// Its message, for the log.
        text: String,
    },
    /// The login cannot be done with what Howdah knows.
    #[error(transparent)]
    Login(#[from] ServerLoginError),
    /// The stream ended, or is no PostgreSQL.
    #[error("the server connection broke during startup: {0}")]
    Broken(#[from] ReadError),
    /// A name or value cannot be sent.
    #[error(transparent)]
    Unsendable(#[from] WriteError),
    /// The server wants something that Howdah does not know.
    #[error("the server sent an unexpected message of type {0:?} during startup")]
    Unexpected(char),
}

impl From<io::Error> for OpenError {
    fn from(e: io::Error) -> Self {
        OpenError::Broken(ReadError::Io(e))
    }
}

/// Opens a connection. The caller sets the time limit.
///
/// # Errors
/// See [`OpenError`].
pub async fn open(
    target: &Target,
    options: SocketOptions,
    mut login: Login<'_>,
) -> Result<Opened, OpenError> {
    let stream = connect(target, options).await?;
    let mut packet = Vec::with_capacity(256);
    let (user, database) = (login.user.as_bytes(), login.database.as_bytes());
    login.settings.write_startup(&mut packet, login.minor, user, database, login.replication)?;
    stream.write_all(&packet).await?;
    let mut connection = ServerConnection::new(stream, ParameterSet::new());
    authenticate(&mut connection, &mut login.login).await?;
    until_ready(connection).await
}

async fn authenticate(connection: &mut ServerConnection, login: &mut ServerLogin) -> Result<(), OpenError> {
    loop {
        let message = connection.read_message().await?;
        match message.tag {
            b'R' => match login.on_authentication_request(connection.body(&message))? {
                ServerStep::Send(bytes) => connection.stream.write_all(&bytes).await?,
                ServerStep::Continue => {}
                ServerStep::Done => return Ok(()),
            },
            b'E' => return Err(refused(connection.body(&message))),
            // A server that speaks an older minor version says so; what it does speak is enough.
            b'v' | b'N' => {}
            tag => return Err(OpenError::Unexpected(char::from(tag))),
        }
    }
}

async fn until_ready(mut connection: ServerConnection) -> Result<Opened, OpenError> {
    let (mut process_id, mut cancel_key) = (0, Vec::new());
    loop {
        let message = connection.read_message().await?;
        match message.tag {
            b'S' => {
                let body = connection.body(&message).to_vec();
                connection.note_parameter(&body);
            }
            b'K' => {
                if let Ok(key) = BackendKeyData::parse(connection.body(&message)) {
                    (process_id, cancel_key) = (key.process_id, key.secret.to_vec());
                }
            }
            b'Z' => return Ok(Opened { connection, process_id, cancel_key }),
            b'E' => return Err(refused(connection.body(&message))),
            b'N' | b'v' => {}
            tag => return Err(OpenError::Unexpected(char::from(tag))),
        }
    }
}

fn refused(body: &[u8]) -> OpenError {
    let text = ErrorFields::new(body)
        .message()
        .map_or_else(String::new, |m| String::from_utf8_lossy(m).into_owned());
    OpenError::Refused { body: body.to_vec(), text }
}
