//! The views of a server's messages.
#![no_main]

use howdah::protocol::backend::{
    AuthenticationRequest, BackendKeyData, ErrorFields, NegotiateProtocolVersion, ParameterStatus,
};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let fields = ErrorFields::new(data);
    let _ = (fields.count(), fields.is_fatal(), fields.sqlstate(), fields.message());
    let _ = ParameterStatus::parse(data);
    let _ = BackendKeyData::parse(data);
    let _ = NegotiateProtocolVersion::parse(data);
    if let Ok(AuthenticationRequest::Sasl(mechanisms)) = AuthenticationRequest::parse(data) {
        let _ = mechanisms.count();
    }
});
