//! A strict JSON parser: RFC 8259, without duplicate keys and lone surrogates.

use std::collections::btree_map::Entry;

use super::{Json, JsonError, MAX_DEPTH, MAX_INPUT_BYTES, Object};

/// Reads exactly one value from the text.
pub(super) fn parse(text: &[u8]) -> Result<Json, JsonError> {
    read(text, MAX_DEPTH, false)
}

/// Reads exactly one value from the text, which may be nested so deeply.
pub(super) fn parse_to(text: &[u8], max_depth: usize) -> Result<Json, JsonError> {
    read(text, max_depth, false)
}

/// Reads exactly one value from the text, and leaves what is nested too deeply as it stands.
pub(super) fn parse_shallow(text: &[u8]) -> Result<Json, JsonError> {
    read(text, MAX_DEPTH, true)
}

fn read(text: &[u8], max_depth: usize, shallow: bool) -> Result<Json, JsonError> {
    if text.len() > MAX_INPUT_BYTES {
        return Err(JsonError::TooLarge);
    }
    let text = std::str::from_utf8(text)
        .map_err(|error| JsonError::Syntax { what: "invalid UTF-8", at: error.valid_up_to() })?;
    let mut parser = Parser { text, bytes: text.as_bytes(), at: 0, max_depth, shallow };
    parser.skip_space();
    let value = parser.value(0)?;
    parser.skip_space();
    if parser.at < parser.bytes.len() {
        return Err(parser.error("trailing characters"));
    }
    Ok(value)
}

struct Parser<'a> {
    text: &'a str,
    bytes: &'a [u8],
    at: usize,
    max_depth: usize,
    shallow: bool,
}

impl Parser<'_> {
    fn error(&self, what: &'static str) -> JsonError {
        JsonError::Syntax { what, at: self.at }
    }

    fn peek(&self) -> Option<u8> {
        self.bytes.get(self.at).copied()
    }

    fn skip_space(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\t' | b'\n' | b'\r')) {
            self.at += 1;
        }
    }

    fn expect(&mut self, byte: u8, what: &'static str) -> Result<(), JsonError> {
        if self.peek() != Some(byte) {
            return Err(self.error(what));
        }
        self.at += 1;
        Ok(())
    }

    fn value(&mut self, depth: usize) -> Result<Json, JsonError> {
        match self.peek() {
            Some(b'{' | b'[') if depth >= self.max_depth => self.deep(),
            Some(b'{') => self.object(depth),
            Some(b'[') => self.array(depth),
            Some(b'"') => Ok(Json::String(self.string()?)),
            Some(b'-' | b'0'..=b'9') => self.number(),
            Some(b't') => self.word("true", Json::Bool(true)),
            Some(b'f') => self.word("false", Json::Bool(false)),
            Some(b'n') => self.word("null", Json::Null),
            _ => Err(self.error("expected a value")),
        }
    }

    fn word(&mut self, word: &str, value: Json) -> Result<Json, JsonError> {
        if !self.bytes[self.at..].starts_with(word.as_bytes()) {
            return Err(self.error("expected a value"));
        }
        self.at += word.len();
        Ok(value)
    }

    /// What is nested too deeply, up to its closing bracket, without a look at what it holds.
    fn deep(&mut self) -> Result<Json, JsonError> {
        if !self.shallow {
            return Err(self.error("nested too deeply"));
        }
        let start = self.at;
        let mut open = 0_usize;
        loop {
            match self.peek() {
                Some(b'{' | b'[') => open += 1,
                Some(b'}' | b']') => open -= 1,
                Some(b'"') => {
                    self.string()?;
                    continue;
                }
                Some(_) => {}
                None => return Err(self.error("unterminated array or object")),
            }
            self.at += 1;
            if open == 0 {
                return Ok(Json::Deep(self.text[start..self.at].into()));
            }
        }
    }

    fn object(&mut self, depth: usize) -> Result<Json, JsonError> {
        self.at += 1;
        let mut object = Object::new();
        self.skip_space();
        if self.peek() == Some(b'}') {
            self.at += 1;
            return Ok(Json::Object(object));
        }
        loop {
            self.skip_space();
            if self.peek() != Some(b'"') {
                return Err(self.error("expected a key"));
            }
            let key = self.string()?;
            self.skip_space();
            self.expect(b':', "expected `:`")?;
            self.skip_space();
            let value = self.value(depth + 1)?;
            match object.entry(key) {
                Entry::Vacant(entry) => entry.insert(value),
                Entry::Occupied(entry) => {
                    return Err(JsonError::DuplicateKey(entry.key().clone()));
                }
            };
            if self.ends(b'}', "expected `,` or `}`")? {
                return Ok(Json::Object(object));
            }
        }
    }

    fn array(&mut self, depth: usize) -> Result<Json, JsonError> {
        self.at += 1;
        let mut array = Vec::new();
        self.skip_space();
        if self.peek() == Some(b']') {
            self.at += 1;
            return Ok(Json::Array(array));
        }
        loop {
            self.skip_space();
            array.push(self.value(depth + 1)?);
            if self.ends(b']', "expected `,` or `]`")? {
                return Ok(Json::Array(array));
            }
        }
    }

    /// Consumes `,` (false) or the closing byte (true).
    fn ends(&mut self, close: u8, what: &'static str) -> Result<bool, JsonError> {
        self.skip_space();
        let ended = match self.peek() {
            Some(b',') => false,
            Some(byte) if byte == close => true,
            _ => return Err(self.error(what)),
        };
        self.at += 1;
        Ok(ended)
    }

    fn digits(&mut self) -> Result<(), JsonError> {
        if !matches!(self.peek(), Some(b'0'..=b'9')) {
            return Err(self.error("expected a digit"));
        }
        while matches!(self.peek(), Some(b'0'..=b'9')) {
            self.at += 1;
        }
        Ok(())
    }

    fn number(&mut self) -> Result<Json, JsonError> {
        let start = self.at;
        if self.peek() == Some(b'-') {
            self.at += 1;
        }
        if self.peek() == Some(b'0') {
            self.at += 1;
        } else {
            self.digits()?;
        }
        if self.peek() == Some(b'.') {
            self.at += 1;
            self.digits()?;
        }
        if matches!(self.peek(), Some(b'e' | b'E')) {
            self.at += 1;
            if matches!(self.peek(), Some(b'+' | b'-')) {
                self.at += 1;
            }
            self.digits()?;
        }
        let text = &self.text[start..self.at];
        Ok(match text.parse() {
            // `-0` keeps its sign: strict canonical JSON refuses it.
            Ok(int) if text != "-0" => Json::Int(int),
            _ => Json::Number(text.into()),
        })
    }

    fn string(&mut self) -> Result<String, JsonError> {
        self.at += 1;
        let mut out = String::new();
        loop {
            let start = self.at;
            while matches!(self.peek(), Some(byte) if byte >= 0x20 && byte != b'"' && byte != b'\\') {
                self.at += 1;
            }
            out.push_str(&self.text[start..self.at]);
            match self.peek() {
                Some(b'"') => {
                    self.at += 1;
                    return Ok(out);
                }
                Some(b'\\') => out.push(self.escape()?),
                Some(_) => return Err(self.error("control character in a string")),
                None => return Err(self.error("unterminated string")),
            }
        }
    }

    fn escape(&mut self) -> Result<char, JsonError> {
        self.at += 1;
        let escaped = match self.peek() {
            Some(b'"') => '"',
            Some(b'\\') => '\\',
            Some(b'/') => '/',
            Some(b'b') => '\u{8}',
            Some(b'f') => '\u{c}',
            Some(b'n') => '\n',
            Some(b'r') => '\r',
            Some(b't') => '\t',
            Some(b'u') => {
                self.at += 1;
                return self.unicode_escape();
            }
            _ => return Err(self.error("invalid escape")),
        };
        self.at += 1;
        Ok(escaped)
    }

    fn unicode_escape(&mut self) -> Result<char, JsonError> {
        let high = self.hex4()?;
        let code = if (0xD800..0xDC00).contains(&high) {
            if !self.bytes[self.at..].starts_with(b"\\u") {
                return Err(self.error("lone surrogate"));
            }
            self.at += 2;
            let low = self.hex4()?;
            if !(0xDC00..0xE000).contains(&low) {
                return Err(self.error("lone surrogate"));
            }
            0x10000 + ((high - 0xD800) << 10) + (low - 0xDC00)
        } else {
            high
        };
        char::from_u32(code).ok_or_else(|| self.error("lone surrogate"))
    }

    fn hex4(&mut self) -> Result<u32, JsonError> {
        let mut code = 0;
        for _ in 0..4 {
            let digit = self.peek().and_then(|byte| char::from(byte).to_digit(16));
            code = code * 16 + digit.ok_or_else(|| self.error("invalid `\\u` escape"))?;
            self.at += 1;
        }
        Ok(code)
    }
}
