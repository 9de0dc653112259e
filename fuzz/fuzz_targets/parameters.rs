//! A blob of parameter values that another process wrote.
#![no_main]

use howdah::protocol::parameters::ParameterSet;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Ok(set) = ParameterSet::from_bytes(data) else { return };
    assert_eq!(ParameterSet::from_bytes(set.as_bytes()).as_ref(), Ok(&set));
    set.write_all(&mut Vec::new()).expect("a valid set can be written");
});
