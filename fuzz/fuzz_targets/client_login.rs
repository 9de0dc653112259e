//! The bodies of a client's answers: the first byte is the method, the rest is separated by 0xff.
#![no_main]

use howdah::auth::client_login::{ClientLogin, ClientMethod, LoginRandom, Step};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Some((&method, rest)) = data.split_first() else { return };
    let method = match method % 3 {
        0 => ClientMethod::Password,
        1 => ClientMethod::Md5,
        _ => ClientMethod::ScramSha256,
    };
    let random = LoginRandom { salt: [0; 4], nonce: [0; 18] };
    let (mut login, _) = ClientLogin::start(method, "user", None, &random, &[0; 32]);
    for body in rest.split(|&b| b == 0xff).take(4) {
        assert!(!matches!(login.on_password_message(body), Step::Accepted { .. }), "nobody has a secret");
    }
});
