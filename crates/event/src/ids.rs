//! Identifier grammar as events need it: historical user IDs are accepted.

use ruma_common::ServerName;

use crate::pdu::MAX_ID_BYTES;

/// The server name of a user ID, or `None` if the text is no user ID that an
/// event may carry.
///
/// Localparts may hold any code point but `:` and NUL and may be empty
/// (appendices, "Historical User IDs").
pub fn user_server(user_id: &str) -> Option<&str> {
    if user_id.len() > MAX_ID_BYTES {
        return None;
    }
    let (localpart, server) = user_id.strip_prefix('@')?.split_once(':')?;
    let valid = !localpart.contains('\0') && is_server_name(server);
    valid.then_some(server)
}

/// Whether the text is a user ID that an event may carry.
pub fn is_user_id(user_id: &str) -> bool {
    user_server(user_id).is_some()
}

/// Whether the text follows the server name grammar.
pub fn is_server_name(server: &str) -> bool {
    <&ServerName>::try_from(server).is_ok()
}

/// The part of an identifier after its first `:`, if any; for event and room
/// IDs that name a server.
pub fn domain(id: &str) -> Option<&str> {
    id.split_once(':').map(|(_, server)| server)
}
