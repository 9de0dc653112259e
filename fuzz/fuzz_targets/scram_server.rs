//! A client's SCRAM messages, separated by a line feed.
#![no_main]

use howdah::auth::scram::ScramServer;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let mut server = ScramServer::new("user", None, &[0; 32], [0; 18]);
    let mut messages = data.splitn(2, |&b| b == b'\n');
    let _ = server.client_first(messages.next().unwrap_or_default());
    assert!(server.client_final(messages.next().unwrap_or_default()).is_err());
});
