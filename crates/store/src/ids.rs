//! The identifiers that the store deals in: internal numbers, the stream position, and cheap-to-clone user and device ids.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

macro_rules! number {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        pub struct $name(pub i64);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}", self.0)
            }
        }
    };
}

number!(
    /// A room's number in this database. Never leaves the server.
    RoomNum
);
number!(
    /// An event's number in this database. Never leaves the server; allocated before the event is committed.
    EventNum
);
number!(
    /// A place in the one stream of changes. Position order is commit order is visibility order.
    StreamPosition
);

impl StreamPosition {
    /// Before everything.
    pub const ZERO: Self = Self(0);

    /// In a [`crate::CommitBatch`]: the position that the batch's `entry`-th stream entry (from 0) gets at commit.
    pub fn pending(entry: usize) -> Self {
        let entry = i64::try_from(entry).unwrap_or(i64::MAX - 1);
        Self(-(entry + 1))
    }
}

macro_rules! text_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub Arc<str>);

        impl $name {
            /// The text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl From<String> for $name {
            fn from(text: String) -> Self {
                Self(text.into())
            }
        }

        impl From<&str> for $name {
            fn from(text: &str) -> Self {
                Self(text.into())
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl std::borrow::Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }
    };
}

text_id!(
    /// A full Matrix user id (`@alice:example.org`), already validated where it entered.
    UserId
);
text_id!(
    /// A device id.
    DeviceId
);

impl UserId {
    /// The part between `@` and the first `:`.
    pub fn localpart(&self) -> &str {
        let text = self.as_str();
        let text = text.strip_prefix('@').unwrap_or(text);
        text.split_once(':').map_or(text, |(localpart, _)| localpart)
    }

    /// The server name: all that follows the first `:`.
    pub fn server_name(&self) -> &str {
        self.as_str().split_once(':').map_or("", |(_, server)| server)
    }
}
