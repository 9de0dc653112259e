//! The first byte says how the rest is cut into chunks; the pieces must tile every chunk.
#![no_main]

use howdah::protocol::walker::Walker;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Some((&size, stream)) = data.split_first() else { return };
    let mut walker = Walker::new();
    for chunk in stream.chunks(usize::from(size).max(1)) {
        let mut at = 0;
        let mut end = 0;
        loop {
            match walker.next(chunk, &mut at) {
                Err(_) => return,
                Ok(None) => break,
                Ok(Some(piece)) => {
                    assert!(piece.start == end && piece.end > piece.start && piece.end == at);
                    end = piece.end;
                    assert_eq!(piece.ends, walker.at_boundary());
                }
            }
        }
        assert_eq!(end, chunk.len());
    }
});
