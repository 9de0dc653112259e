//! A client's first packet, and all that is derived from it.
#![no_main]

use howdah::protocol::settings::StartupSettings;
use howdah::protocol::startup::{FirstPacket, first_packet_length, parse};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let _ = first_packet_length(data);
    let Ok(FirstPacket::Startup(message)) = parse(data) else { return };
    let _ = (message.user(), message.database(), message.negotiate());
    let settings = StartupSettings::from_message(&message);
    assert_ne!(settings.sign(&["application_name"]).signature, 0);
    let mut out = Vec::new();
    settings.write_startup(&mut out, 0, b"u", b"d", None).expect("what was read can be written");
    if out.len() == first_packet_length(&out).ok().flatten().unwrap_or(0) {
        let Ok(FirstPacket::Startup(again)) = parse(&out) else { panic!("what was written can be read") };
        assert_eq!(StartupSettings::from_message(&again), settings);
    }
});
