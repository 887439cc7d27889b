//! The `Authorization` header of one server's request to another, and the JSON that it signs
//! (server-server API, "Request Authentication").

use event::{Json, Object, SigningKey, canonical_json};
use http::Method;

/// The scheme, which is compared without regard to case.
const SCHEME: &str = "X-Matrix";

/// Longest header value that is read, in bytes.
pub const HEADER_BYTES_MAX: usize = 4 * 1024;

/// Most parameters of a header that are read, unknown ones included.
const PARAMETERS_MAX: usize = 32;

/// What an `X-Matrix` header says. Nothing is proven by having one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct XMatrix {
    /// The server that claims to send the request.
    pub origin: String,
    /// The server it means to reach; older servers leave it out.
    pub destination: Option<String>,
    /// The id of the key that signed, `ed25519:…`.
    pub key: String,
    /// The signature in Base64.
    pub signature: String,
}

/// Why a header is not understood.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HeaderError {
    /// Another scheme, or none.
    #[error("the scheme is not X-Matrix")]
    Scheme,
    /// The text is too long, has too many parameters or breaks the grammar.
    #[error("the parameters cannot be read")]
    Syntax,
    /// A parameter stands there twice.
    #[error("the parameter `{0}` stands there twice")]
    Twice(&'static str),
    /// A parameter is missing.
    #[error("the parameter `{0}` is missing")]
    Missing(&'static str),
}

impl XMatrix {
    /// Reads a header's value: any order, any case of the names, quoted or bare values, white space round commas and
    /// equals signs, parameters that nobody knows.
    ///
    /// # Errors
    /// See [`HeaderError`].
    pub fn parse(header: &str) -> Result<Self, HeaderError> {
        let (scheme, rest) = header.trim().split_once([' ', '\t']).ok_or(HeaderError::Scheme)?;
        if !scheme.eq_ignore_ascii_case(SCHEME) {
            return Err(HeaderError::Scheme);
        }
        if header.len() > HEADER_BYTES_MAX {
            return Err(HeaderError::Syntax);
        }
        let (mut origin, mut destination, mut key, mut signature) = (None, None, None, None);
        for (name, value) in parameters(rest)? {
            let (slot, name) = match name.as_str() {
                "origin" => (&mut origin, "origin"),
                "destination" => (&mut destination, "destination"),
                "key" => (&mut key, "key"),
                "sig" => (&mut signature, "sig"),
                _ => continue,
            };
            if slot.replace(value).is_some() {
                return Err(HeaderError::Twice(name));
            }
        }
        Ok(Self {
            origin: origin.ok_or(HeaderError::Missing("origin"))?,
            destination,
            key: key.ok_or(HeaderError::Missing("key"))?,
            signature: signature.ok_or(HeaderError::Missing("sig"))?,
        })
    }

    /// The header's value in the form that the oldest servers read: one space, lower case, everything quoted.
    pub fn header(&self) -> String {
        let mut header = format!("{SCHEME} origin={}", quoted(&self.origin));
        if let Some(destination) = &self.destination {
            header.push_str(&format!(",destination={}", quoted(destination)));
        }
        header.push_str(&format!(",key={},sig={}", quoted(&self.key), quoted(&self.signature)));
        header
    }
}

/// A quoted value; backslashes occur in none of ours.
fn quoted(value: &str) -> String {
    format!("\"{}\"", value.replace('\\', "\\\\").replace('"', "\\\""))
}

/// The parameters in order, names in lower case.
fn parameters(text: &str) -> Result<Vec<(String, String)>, HeaderError> {
    let mut parameters = Vec::new();
    let mut rest = skip(text);
    while !rest.is_empty() {
        if let Some(after) = rest.strip_prefix(',') {
            // Empty list elements are allowed (RFC 9110, section 5.6.1).
            rest = skip(after);
            continue;
        }
        let (name, after) = rest.split_once('=').ok_or(HeaderError::Syntax)?;
        let name = name.trim_end_matches([' ', '\t']);
        if name.is_empty() || !name.bytes().all(is_token) || parameters.len() == PARAMETERS_MAX {
            return Err(HeaderError::Syntax);
        }
        let (value, after) = value(skip(after))?;
        parameters.push((name.to_ascii_lowercase(), value));
        rest = skip(after);
        if !rest.is_empty() && !rest.starts_with(',') {
            return Err(HeaderError::Syntax);
        }
    }
    Ok(parameters)
}

/// A quoted or bare value and what follows it.
fn value(text: &str) -> Result<(String, &str), HeaderError> {
    let Some(inside) = text.strip_prefix('"') else {
        let end = text.find([',', ' ', '\t']).unwrap_or(text.len());
        let (bare, rest) = text.split_at(end);
        let readable = !bare.is_empty() && !bare.contains('"') && bare.bytes().all(|byte| byte.is_ascii_graphic());
        return if readable { Ok((bare.to_owned(), rest)) } else { Err(HeaderError::Syntax) };
    };
    let mut value = String::new();
    let mut characters = inside.char_indices();
    while let Some((at, character)) = characters.next() {
        match character {
            '"' => return Ok((value, inside.get(at + 1..).unwrap_or_default())),
            '\\' => value.push(characters.next().ok_or(HeaderError::Syntax)?.1),
            other => value.push(other),
        }
    }
    Err(HeaderError::Syntax)
}

/// The text without the white space before it.
fn skip(text: &str) -> &str {
    text.trim_start_matches([' ', '\t'])
}

/// Whether a byte may stand in a token (RFC 9110, section 5.6.2).
fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

/// The object that a request's signature covers. `uri` is the raw path and query as on the wire; without a body there is
/// no `content`.
pub fn signed_object(method: &Method, uri: &str, origin: &str, destination: &str, content: Option<&Object>) -> Object {
    let mut object = Object::from([
        ("method".to_owned(), Json::from(method.as_str())),
        ("uri".to_owned(), Json::from(uri)),
        ("origin".to_owned(), Json::from(origin)),
        ("destination".to_owned(), Json::from(destination)),
    ]);
    if let Some(content) = content {
        object.insert("content".to_owned(), Json::Object(content.clone()));
    }
    object
}

/// Signs a request of this server. `content` is the body in canonical form, as it is sent.
pub fn sign(
    key: &SigningKey,
    method: &Method,
    uri: &str,
    origin: &str,
    destination: &str,
    content: Option<&[u8]>,
) -> XMatrix {
    let signature = key.sign_canonical(&signed_text(method, uri, origin, destination, content));
    XMatrix {
        origin: origin.to_owned(),
        destination: Some(destination.to_owned()),
        key: key.key_id().to_owned(),
        signature,
    }
}

/// The canonical form of [`signed_object`], made of a body that has this form already: a transaction for a hundred
/// servers is not read and written again for each.
fn signed_text(method: &Method, uri: &str, origin: &str, destination: &str, content: Option<&[u8]>) -> Vec<u8> {
    let object = signed_object(method, uri, origin, destination, None);
    let rest = canonical_json::to_bytes(&object);
    let Some(content) = content else { return rest };
    // `content` is the first of the names.
    let mut text = Vec::with_capacity(content.len() + rest.len() + 16);
    text.extend_from_slice(b"{\"content\":");
    text.extend_from_slice(content);
    text.push(b',');
    text.extend_from_slice(rest.get(1..).unwrap_or_default());
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_that_is_signed_is_the_canonical_form_of_the_object() {
        let content =
            Object::from([("pdus".to_owned(), Json::Array(vec![Json::from(1)])), ("a".to_owned(), "é\"".into())]);
        for content in [None, Some(&content)] {
            let bytes = content.map(canonical_json::to_bytes);
            let text = signed_text(&Method::PUT, "/x?y=\"", "us", "them", bytes.as_deref());
            let object = signed_object(&Method::PUT, "/x?y=\"", "us", "them", content);
            assert_eq!(text, canonical_json::to_bytes(&object));
        }
    }
}
