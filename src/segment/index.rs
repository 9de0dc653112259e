//! Indexes into the tables of the shared segment. Each table has a type of its own, so that they cannot be mixed up.
//!
//! In shared memory an index is stored plus one, and 0 says "none".

use std::fmt;

macro_rules! index {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub u32);

        impl $name {
            /// As an index of a slice.
            #[must_use]
            pub fn at(self) -> usize {
                self.0 as usize
            }

            /// As it is stored: plus one.
            #[must_use]
            pub fn stored(self) -> u32 {
                self.0 + 1
            }

            /// From how it is stored; `None` for 0.
            #[must_use]
            pub fn from_stored(stored: u32) -> Option<Self> {
                stored.checked_sub(1).map(Self)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self.0)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

index! {
    /// A slot: room for one server connection.
    SlotIndex
}
index! {
    /// An entry of the client table: a client, or a child of main that does a piece of work; whatever may own a slot.
    ClientIndex
}
index! {
    /// A pool: the slots of one (database, user) pair.
    PoolIndex
}
index! {
    /// A PostgreSQL server.
    ServerIndex
}
