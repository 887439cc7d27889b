//! Canonical JSON (appendices, "Canonical JSON"): the bytes that hashes and
//! signatures cover.

use std::fmt::Write as _;

use crate::json::{Json, Object};
use crate::room_version::MAX_SAFE_INTEGER;

/// Largest number of digits to which an exponent is written out.
const MAX_EXPANDED_DIGITS: usize = 400;

/// Why a value may not occur in an event of room version 6 or later.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CanonicalJsonError {
    /// An integer outside ±(2^53 − 1).
    #[error("the integer {0} is out of range")]
    OutOfRange(i64),
    /// A float, an exponent, `-0`, or an integer beyond 64 bits.
    #[error("the number {0} is not a canonical integer")]
    NotAnInteger(Box<str>),
    /// Arrays and objects nested deeper than is read.
    #[error("it is nested too deeply")]
    TooDeep,
}

/// The canonical encoding of an object.
///
/// Numbers that are not canonical stay as written, as room versions 1 to 5
/// want it; only `-0` becomes `0` and an integer with an exponent is written
/// out, as the appendices' examples show.
pub fn to_bytes(object: &Object) -> Vec<u8> {
    to_string(object).into_bytes()
}

/// The canonical encoding of an object as text.
pub fn to_string(object: &Object) -> String {
    let mut out = String::with_capacity(512);
    write_object(object.iter(), &mut out);
    out
}

/// The canonical encoding without some top-level keys.
pub(crate) fn to_bytes_without(object: &Object, without: &[&str]) -> Vec<u8> {
    let mut out = String::with_capacity(512);
    write_object(object.iter().filter(|(key, _)| !without.contains(&key.as_str())), &mut out);
    out.into_bytes()
}

/// Checks that every number is an integer within ±(2^53 − 1).
///
/// # Errors
///
/// The first number that is not.
pub fn check_strict(value: &Json) -> Result<(), CanonicalJsonError> {
    match value {
        Json::Null | Json::Bool(_) | Json::String(_) => Ok(()),
        Json::Int(int) if (-MAX_SAFE_INTEGER..=MAX_SAFE_INTEGER).contains(int) => Ok(()),
        Json::Int(int) => Err(CanonicalJsonError::OutOfRange(*int)),
        Json::Number(text) => Err(CanonicalJsonError::NotAnInteger(text.clone())),
        Json::Deep(_) => Err(CanonicalJsonError::TooDeep),
        Json::Array(array) => array.iter().try_for_each(check_strict),
        Json::Object(object) => check_strict_object(object),
    }
}

/// [`check_strict`] for the members of an object.
///
/// # Errors
///
/// The first number that is not canonical.
pub fn check_strict_object(object: &Object) -> Result<(), CanonicalJsonError> {
    object.values().try_for_each(check_strict)
}

/// Appends the canonical encoding of a value.
pub(crate) fn write(value: &Json, out: &mut String) {
    match value {
        Json::Null => out.push_str("null"),
        Json::Bool(true) => out.push_str("true"),
        Json::Bool(false) => out.push_str("false"),
        Json::Int(int) => {
            // Writing to a `String` cannot fail.
            let _ = write!(out, "{int}");
        }
        Json::Number(text) => write_number(text, out),
        Json::Deep(text) => out.push_str(text),
        Json::String(text) => write_string(text, out),
        Json::Array(array) => {
            out.push('[');
            for (index, element) in array.iter().enumerate() {
                if index > 0 {
                    out.push(',');
                }
                write(element, out);
            }
            out.push(']');
        }
        Json::Object(object) => write_object(object.iter(), out),
    }
}

fn write_object<'a>(members: impl Iterator<Item = (&'a String, &'a Json)>, out: &mut String) {
    out.push('{');
    let mut first = true;
    for (key, value) in members {
        if !first {
            out.push(',');
        }
        first = false;
        write_string(key, out);
        out.push(':');
        write(value, out);
    }
    out.push('}');
}

fn write_number(text: &str, out: &mut String) {
    if text == "-0" {
        out.push('0');
        return;
    }
    match expand_exponent(text) {
        Some(expanded) => out.push_str(&expanded),
        None => out.push_str(text),
    }
}

/// `12e3` → `12000`; `None` for anything with a fraction or a negative exponent.
fn expand_exponent(text: &str) -> Option<String> {
    let (mantissa, exponent) = text.split_once(['e', 'E'])?;
    let zeros: usize = exponent.trim_start_matches('+').parse().ok()?;
    if mantissa.contains('.') || mantissa.len() + zeros > MAX_EXPANDED_DIGITS {
        return None;
    }
    if mantissa.trim_start_matches('-') == "0" {
        return Some("0".to_owned());
    }
    Some(format!("{mantissa}{}", "0".repeat(zeros)))
}

fn write_string(text: &str, out: &mut String) {
    out.push('"');
    let mut start = 0;
    for (at, byte) in text.bytes().enumerate() {
        if byte >= 0x20 && byte != b'"' && byte != b'\\' {
            continue;
        }
        out.push_str(&text[start..at]);
        start = at + 1;
        match byte {
            b'"' => out.push_str("\\\""),
            b'\\' => out.push_str("\\\\"),
            0x08 => out.push_str("\\b"),
            0x09 => out.push_str("\\t"),
            0x0A => out.push_str("\\n"),
            0x0C => out.push_str("\\f"),
            0x0D => out.push_str("\\r"),
            _ => {
                let _ = write!(out, "\\u{byte:04x}");
            }
        }
    }
    out.push_str(&text[start..]);
    out.push('"');
}
