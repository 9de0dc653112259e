//! Two bytes per message: the direction and the tag; the first body byte is the tag's successor.
#![no_main]

use howdah::protocol::tracker::Tracker;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let mut tracker = Tracker::new();
    for pair in data.chunks_exact(2) {
        let was_lost = tracker.is_lost();
        match pair[0] {
            0 => tracker.on_client(pair[1]),
            status => tracker.on_server(pair[1], Some(status)),
        }
        assert!(!was_lost || tracker.is_lost());
        assert!(!tracker.is_idle() || (tracker.outstanding() == 0 && tracker.pending_ready() == 0));
        assert!(tracker.pending_ready() <= tracker.outstanding());
    }
});
