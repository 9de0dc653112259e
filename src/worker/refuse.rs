//! A client that is turned away gets its reason where its library looks for it: after its startup packet.

use std::os::fd::OwnedFd;
use std::time::Duration;

use super::client::{Client, Ending};
use super::startup::Arrival;
use super::startup::arrive;
use crate::config::Config;
use crate::management::seed::Refusal;
use crate::net::{Stream, timeout};
use crate::sys::socket::PeerAddress;

/// How long a client that is turned away may take to say who it is.
const PATIENCE: Duration = Duration::from_secs(2);

/// Reads the startup packet and answers with the refusal.
pub async fn refuse(config: &Config, socket: OwnedFd, why: Refusal) {
    let Ok(stream) = Stream::new(socket) else { return };
    let mut client = Client::new(stream, PeerAddress::Unix);
    let limit = config.timeouts.authentication_timeout.min(PATIENCE);
    if let Ok(Ok(Arrival::Session(_))) = timeout(limit, arrive(&mut client)).await {
        client.dismiss(&Ending::Report(why.report())).await;
    }
}
