//! Queries of Howdah's own on an idle server connection, their results thrown away.

use super::connection::{ReadError, ServerConnection};
use crate::protocol::backend::ErrorFields;
use crate::protocol::write::{self, WriteError};

/// A query of Howdah's own did not succeed.
#[derive(Debug, thiserror::Error)]
pub enum CleanError {
    /// The connection broke.
    #[error(transparent)]
    Broken(#[from] ReadError),
    /// The server said no.
    #[error("the server answered {text:?}")]
    Failed {
        /// Its message.
        text: String,
    },
    /// The query cannot be sent.
    #[error(transparent)]
    Unsendable(#[from] WriteError),
    /// A transaction is open though none should be.
    #[error("a transaction is still open")]
    InTransaction,
}

/// Runs `queries`, each a simple Query of its own, sent together: one round trip. Ends outside a transaction.
///
/// # Errors
/// One of them failed: the connection is not to be used any more.
pub async fn reset(connection: &mut ServerConnection, queries: &[&str]) -> Result<(), CleanError> {
    let mut bytes = Vec::with_capacity(64);
    for query in queries {
        write::query(&mut bytes, query.as_bytes())?;
    }
    connection.stream.write_all(&bytes).await.map_err(ReadError::from)?;
    let mut status = b'I';
    for _ in queries {
        status = until_ready(connection).await?;
    }
    if status == b'I' && connection.is_drained() { Ok(()) } else { Err(CleanError::InTransaction) }
}

/// Runs one query; the same as [`reset`] with one.
///
/// # Errors
/// As [`reset`].
pub async fn run_quietly(connection: &mut ServerConnection, query: &str) -> Result<(), CleanError> {
    reset(connection, &[query]).await
}

/// The answer to one query. A ReadyForQuery that no CommandComplete, EmptyQueryResponse or error came before belongs to
/// what the last client had sent (a `statement_timeout` that crossed its Sync makes one too many) and is passed over.
async fn until_ready(connection: &mut ServerConnection) -> Result<u8, CleanError> {
    let mut failed = None;
    let mut is_ours = false;
    loop {
        let message = connection.read_message().await?;
        match message.tag {
            b'S' => {
                let body = connection.body(&message).to_vec();
                connection.note_parameter(&body);
            }
            b'C' | b'I' => is_ours = true,
            b'E' => {
                is_ours = true;
                let text = ErrorFields::new(connection.body(&message)).message().unwrap_or_default();
                failed.get_or_insert(String::from_utf8_lossy(text).into_owned());
            }
            b'Z' if is_ours => {
                let status = connection.body(&message).first().copied().unwrap_or(b'E');
                return match failed {
                    None => Ok(status),
                    Some(text) => Err(CleanError::Failed { text }),
                };
            }
            _ => {}
        }
    }
}
