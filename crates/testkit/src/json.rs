//! Small words for what tests do with JSON and paths.

use serde_json::Value;

/// The text of a JSON string. Panics if it is none.
#[track_caller]
pub fn text(json: &Value) -> String {
    json.as_str().unwrap_or_else(|| panic!("{json} is no string")).to_owned()
}

/// The elements of a JSON array. Panics if it is none.
#[track_caller]
pub fn list(json: &Value) -> Vec<Value> {
    json.as_array().unwrap_or_else(|| panic!("{json} is no array")).clone()
}

/// The values of a member of each element of a JSON array. Panics if one of them is no string.
#[track_caller]
pub fn each(json: &Value, member: &str) -> Vec<String> {
    list(json).iter().map(|element| text(&element[member])).collect()
}

/// The token of an answer of `/sync`, from which the next one goes on.
#[track_caller]
pub fn next_batch(answer: &Value) -> String {
    text(&answer["next_batch"])
}

/// A text as one segment of a path, or as one value of a query.
pub fn encoded(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
    text.bytes().map(|byte| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") }).collect()
}
