//! The startup parameter `options`.
#![no_main]

use howdah::protocol::options::Options;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let options = Options::parse(data);
    assert!(options.settings.len() <= data.len());
});
