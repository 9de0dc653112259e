//! A server's SCRAM messages, separated by a line feed. The keys are given, so that no iteration slows it down.
#![no_main]

use howdah::auth::scram::{ClientSecret, ScramClient, ScramKeys};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let keys = ScramKeys::derive(b"x", &[0; 3], 1).expect("keys");
    let (mut client, _) = ScramClient::new(ClientSecret::Keys(keys), [0; 18]);
    let mut messages = data.splitn(2, |&b| b == b'\n');
    let _ = client.server_first(messages.next().unwrap_or_default());
    assert!(client.server_final(messages.next().unwrap_or_default()).is_err());
});
