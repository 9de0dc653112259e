//! PostgreSQL messages as bytes, written independently of the crate's own protocol code so that both cannot be wrong
//! in the same way. Source: PostgreSQL 15, "Message Formats".

/// The version number of protocol 3.0.
pub const PROTOCOL_3_0: u32 = 0x0003_0000;
/// The version number of protocol 3.2.
pub const PROTOCOL_3_2: u32 = 0x0003_0002;
/// The "version" of an SSLRequest.
pub const SSL_REQUEST: u32 = 80_877_103;
/// The "version" of a GSSENCRequest.
pub const GSSENC_REQUEST: u32 = 80_877_104;
/// The "version" of a CancelRequest.
pub const CANCEL_REQUEST: u32 = 80_877_102;

fn length(body: usize) -> [u8; 4] {
    u32::try_from(body + 4).expect("a test's message is small enough").to_be_bytes()
}

/// A message without a tag: length, then the body.
pub fn untagged(body: &[u8]) -> Vec<u8> {
    let mut bytes = length(body.len()).to_vec();
    bytes.extend_from_slice(body);
    bytes
}

/// A message with a tag.
pub fn message(tag: u8, body: &[u8]) -> Vec<u8> {
    let mut bytes = vec![tag];
    bytes.extend(untagged(body));
    bytes
}

/// A startup message of any version with these parameters.
pub fn startup(version: u32, parameters: &[(&str, &str)]) -> Vec<u8> {
    let mut body = version.to_be_bytes().to_vec();
    for (name, value) in parameters {
        body.extend(cstr(name));
        body.extend(cstr(value));
    }
    body.push(0);
    untagged(&body)
}

/// A request of four bytes: [`SSL_REQUEST`] or [`GSSENC_REQUEST`].
pub fn request(code: u32) -> Vec<u8> {
    untagged(&code.to_be_bytes())
}

/// A CancelRequest.
pub fn cancel(process_id: i32, secret: &[u8]) -> Vec<u8> {
    let mut body = CANCEL_REQUEST.to_be_bytes().to_vec();
    body.extend(process_id.to_be_bytes());
    body.extend_from_slice(secret);
    untagged(&body)
}

/// A text with a zero byte at its end.
pub fn cstr(text: &str) -> Vec<u8> {
    let mut bytes = text.as_bytes().to_vec();
    bytes.push(0);
    bytes
}

/// Query.
pub fn query(sql: &str) -> Vec<u8> {
    message(b'Q', &cstr(sql))
}

/// Parse, parameter types left to the server.
pub fn parse(name: &str, sql: &str) -> Vec<u8> {
    message(b'P', &[cstr(name), cstr(sql), vec![0, 0]].concat())
}

/// Bind of the unnamed portal, parameters and results as text.
pub fn bind(statement: &str, values: &[&str]) -> Vec<u8> {
    let mut body = [cstr(""), cstr(statement), vec![0, 0]].concat();
    body.extend(u16::try_from(values.len()).expect("few values").to_be_bytes());
    for value in values {
        body.extend(u32::try_from(value.len()).expect("short values").to_be_bytes());
        body.extend_from_slice(value.as_bytes());
    }
    body.extend([0, 0]);
    message(b'B', &body)
}

/// Execute of the unnamed portal, all rows.
pub fn execute() -> Vec<u8> {
    message(b'E', &[cstr(""), vec![0; 4]].concat())
}

/// Describe of the unnamed portal.
pub fn describe_portal() -> Vec<u8> {
    message(b'D', b"P\0")
}

/// Sync.
pub fn sync() -> Vec<u8> {
    message(b'S', &[])
}

/// Flush.
pub fn flush() -> Vec<u8> {
    message(b'H', &[])
}

/// Terminate.
pub fn terminate() -> Vec<u8> {
    message(b'X', &[])
}

/// CopyData.
pub fn copy_data(bytes: &[u8]) -> Vec<u8> {
    message(b'd', bytes)
}

/// CopyDone.
pub fn copy_done() -> Vec<u8> {
    message(b'c', &[])
}

/// PasswordMessage.
pub fn password(text: &str) -> Vec<u8> {
    message(b'p', &cstr(text))
}
