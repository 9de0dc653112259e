//! The tag byte that begins each message; the same byte means different things per direction.
//!
//! Unknown tags pass through as `Other`: the relay forwards what it does not know.

macro_rules! tags {
    ($(#[$outer:meta])* $name:ident { $($variant:ident = $byte:literal: $doc:literal,)+ }) => {
        $(#[$outer])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum $name {
            $(#[doc = $doc] $variant,)+
            /// A tag that this protocol version does not know.
            Other(u8),
        }

        impl $name {
            /// Gives the byte on the wire.
            #[must_use]
            pub const fn byte(self) -> u8 {
                match self { $(Self::$variant => $byte,)+ Self::Other(byte) => byte }
            }
        }

        impl From<u8> for $name {
            fn from(byte: u8) -> Self {
                match byte { $($byte => Self::$variant,)+ other => Self::Other(other) }
            }
        }
    };
}

tags! {
    /// What a client's message is.
    FrontendTag {
        Bind = b'B': "Binds parameters to a prepared statement, making a portal.",
        Close = b'C': "Closes a statement or a portal.",
        CopyData = b'd': "Part of a COPY's data.",
        CopyDone = b'c': "The end of a COPY's data.",
        CopyFail = b'f': "The client gives up a COPY.",
        Describe = b'D': "Asks for the description of a statement or a portal.",
        Execute = b'E': "Runs a portal.",
        Flush = b'H': "Asks the server to send what it has.",
        FunctionCall = b'F': "Calls a function by its OID.",
        Parse = b'P': "Prepares a statement.",
        Password = b'p': "An answer during authentication, of whatever kind.",
        Query = b'Q': "A simple query.",
        Sync = b'S': "Ends a series of extended-protocol messages.",
        Terminate = b'X': "Ends the session.",
    }
}

tags! {
    /// What a server's message is.
    BackendTag {
        Authentication = b'R': "An authentication request, or that it succeeded.",
        BackendKeyData = b'K': "The process id and secret that cancel this session's queries.",
        BindComplete = b'2': "A Bind succeeded.",
        CloseComplete = b'3': "A Close succeeded.",
        CommandComplete = b'C': "A statement ran to its end.",
        CopyData = b'd': "Part of a COPY's data.",
        CopyDone = b'c': "The end of a COPY's data.",
        CopyInResponse = b'G': "The server awaits COPY data.",
        CopyOutResponse = b'H': "COPY data follow.",
        CopyBothResponse = b'W': "COPY data flow both ways (replication).",
        DataRow = b'D': "A row.",
        EmptyQueryResponse = b'I': "The query string was empty.",
        ErrorResponse = b'E': "An error.",
        FunctionCallResponse = b'V': "A FunctionCall's result.",
        NegotiateProtocolVersion = b'v': "The newest minor version and the options that the server does not know.",
        NoData = b'n': "What was described returns no rows.",
        NoticeResponse = b'N': "A warning or a notice; may come at any time.",
        NotificationResponse = b'A': "A NOTIFY; may come at any time.",
        ParameterDescription = b't': "The parameter types of a described statement.",
        ParameterStatus = b'S': "A parameter's value; may come at any time.",
        ParseComplete = b'1': "A Parse succeeded.",
        PortalSuspended = b's': "An Execute reached its row limit.",
        ReadyForQuery = b'Z': "The server awaits the next command; the body is the transaction status.",
        RowDescription = b'T': "The columns of the rows that follow.",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_survives_the_round_trip() {
        for byte in 0..=u8::MAX {
            assert_eq!(FrontendTag::from(byte).byte(), byte);
            assert_eq!(BackendTag::from(byte).byte(), byte);
        }
        assert_eq!(FrontendTag::from(b'D'), FrontendTag::Describe);
        assert_eq!(BackendTag::from(b'D'), BackendTag::DataRow);
        assert_eq!(BackendTag::from(b'?'), BackendTag::Other(b'?'));
    }
}
