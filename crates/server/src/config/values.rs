//! Values of keys: from text to TOML, and from TOML to what the program uses.

use std::net::{SocketAddr, ToSocketAddrs};
use std::path::PathBuf;

use endpoint::Network;
use serde::Deserialize;
use toml::{Table, Value};

use super::keys::{self, Kind};
use super::sources::{Setting, Settings};
use super::{Address, Error, Listener, Resource, Tls};

/// Reads a value of the environment or the command line.
///
/// # Errors
/// Says what is wrong with it.
pub fn from_text(kind: Kind, text: &str) -> Result<Value, String> {
    match kind {
        Kind::Secret => return Ok(Value::String(text.to_owned())),
        // With or without quotes, as the file has it or as a shell leaves it.
        Kind::Text => {
            let quoted = toml_value(text).filter(Value::is_str);
            return Ok(quoted.unwrap_or_else(|| Value::String(text.to_owned())));
        }
        // `50 MiB`, `7 days` and `a, b` without quotes are welcome.
        Kind::Size | Kind::Time if toml_value(text).is_none() => return Ok(Value::String(text.to_owned())),
        Kind::Texts if !text.trim_start().starts_with('[') => {
            let texts = text.split(',').map(str::trim).filter(|text| !text.is_empty());
            return Ok(Value::Array(texts.map(|text| Value::String(text.to_owned())).collect()));
        }
        _ => {}
    }
    toml_value(text).ok_or_else(|| format!("is no TOML value: {text}"))
}

fn toml_value(text: &str) -> Option<Value> {
    let mut table: Table = format!("value = {text}").parse().ok()?;
    table.remove("value").filter(|_| table.is_empty())
}

/// A listener as the file has it.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ListenerTable {
    address: String,
    tls: Option<TlsValue>,
    resources: Option<Vec<Resource>>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum TlsValue {
    Acme(String),
    Files(Tls),
}

impl Settings {
    /// The error for a key's value.
    pub fn wrong(&self, key: &str, wrong: &str) -> Error {
        let from = self.values.get(key).map_or("default", |setting| &setting.from).to_owned();
        Error::Wrong { key: key.to_owned(), from, wrong: wrong.to_owned() }
    }

    fn value(&self, key: &str) -> Option<Value> {
        let given = self.values.get(key).map(|Setting { value, .. }| value.clone());
        given.or_else(|| {
            let key = keys::all().into_iter().find(|declared| declared.name == key)?;
            toml_value(&key.default)
        })
    }

    /// A text that may be unset. An empty one counts as unset.
    ///
    /// # Errors
    /// If it is no text.
    pub fn optional_text(&self, key: &str) -> Result<Option<String>, Error> {
        match self.value(key) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text).filter(|text| !text.is_empty())),
            Some(_) => Err(self.wrong(key, "must be a text in quotes")),
        }
    }

    /// A text.
    ///
    /// # Errors
    /// If it is no text, or empty.
    pub fn text(&self, key: &str) -> Result<String, Error> {
        self.optional_text(key)?.ok_or_else(|| self.wrong(key, "must not be empty"))
    }

    /// An address that starts with `http://` or `https://`, without a slash at its end.
    ///
    /// # Errors
    /// If it is something else.
    pub fn url(&self, key: &str) -> Result<Option<String>, Error> {
        match self.optional_text(key)? {
            Some(url) if url.starts_with("https://") || url.starts_with("http://") => {
                Ok(Some(url.trim_end_matches('/').to_owned()))
            }
            Some(_) => Err(self.wrong(key, "must start with `https://` or `http://`")),
            None => Ok(None),
        }
    }

    /// A boolean.
    ///
    /// # Errors
    /// If it is none.
    pub fn boolean(&self, key: &str) -> Result<bool, Error> {
        match self.value(key) {
            Some(Value::Boolean(value)) => Ok(value),
            _ => Err(self.wrong(key, "must be true or false")),
        }
    }

    /// A positive number.
    ///
    /// # Errors
    /// If it is none.
    pub fn positive(&self, key: &str) -> Result<f64, Error> {
        let number = match self.value(key) {
            Some(Value::Integer(number)) => number as f64,
            Some(Value::Float(number)) => number,
            _ => return Err(self.wrong(key, "must be a number")),
        };
        if number > 0.0 && number.is_finite() { Ok(number) } else { Err(self.wrong(key, "must be above 0")) }
    }

    /// A whole number, which may be 0.
    ///
    /// # Errors
    /// If it is none.
    pub fn whole(&self, key: &str) -> Result<u32, Error> {
        let number = match self.value(key) {
            Some(Value::Integer(number)) => u32::try_from(number).ok(),
            _ => None,
        };
        number.ok_or_else(|| self.wrong(key, "must be a whole number"))
    }

    /// A number of bytes.
    ///
    /// # Errors
    /// If it is none.
    pub fn size(&self, key: &str) -> Result<usize, Error> {
        let bytes = match self.value(key) {
            Some(Value::Integer(bytes)) => usize::try_from(bytes).ok(),
            Some(Value::String(text)) => parse_size(&text),
            _ => None,
        };
        bytes.ok_or_else(|| self.wrong(key, "must be a number of bytes, or a text such as \"50 MiB\""))
    }

    /// A time in milliseconds; [`i64::MAX`] for ever.
    ///
    /// # Errors
    /// If it is none.
    pub fn milliseconds(&self, key: &str) -> Result<i64, Error> {
        let time = match self.value(key) {
            Some(Value::Integer(seconds)) => u64::try_from(seconds).ok().and_then(|seconds| ms_of(seconds, "s")),
            Some(Value::String(text)) => parse_time(&text),
            _ => None,
        };
        time.ok_or_else(|| {
            self.wrong(key, "must be a number of seconds, a text such as \"7 days\" or \"12 h\", or \"forever\"")
        })
    }

    /// A list of texts.
    ///
    /// # Errors
    /// If it is none.
    pub fn texts(&self, key: &str) -> Result<Vec<String>, Error> {
        let list = match self.value(key) {
            Some(value) => value.try_into::<Vec<String>>().ok(),
            None => None,
        };
        list.ok_or_else(|| self.wrong(key, "must be a list of texts"))
    }

    /// A list of addresses and ranges.
    ///
    /// # Errors
    /// If one is neither.
    pub fn networks(&self, key: &str) -> Result<Vec<Network>, Error> {
        let texts = self.texts(key)?;
        let parsed =
            texts.iter().map(|text| text.parse::<Network>().map_err(|error| self.wrong(key, &error.to_string())));
        parsed.collect()
    }

    /// The listeners.
    ///
    /// # Errors
    /// Says which one is wrong.
    pub fn listeners(&self) -> Result<Vec<Listener>, Error> {
        const KEY: &str = "listeners";
        let wrong = |wrong: String| self.wrong(KEY, &wrong);
        let tables: Vec<ListenerTable> = self
            .value(KEY)
            .ok_or_else(|| wrong("must be a list".to_owned()))?
            .try_into()
            .map_err(|error: toml::de::Error| wrong(format!("is wrong: {}", error.message())))?;
        if tables.is_empty() {
            return Err(wrong("must not be empty".to_owned()));
        }
        tables.into_iter().map(|table| listener(table).map_err(wrong)).collect()
    }
}

fn listener(table: ListenerTable) -> Result<Listener, String> {
    let address = match table.address.strip_prefix("unix:") {
        Some(path) => Address::Unix(PathBuf::from(path)),
        None => Address::Tcp(socket_address(&table.address)?),
    };
    let tls = match table.tls {
        None => None,
        Some(TlsValue::Files(tls)) => Some(tls),
        Some(TlsValue::Acme(text)) => {
            return Err(format!("have tls = \"{text}\": give {{ certificate, key }}; ACME is not there yet"));
        }
    };
    if tls.is_some() && matches!(address, Address::Unix(_)) {
        return Err("have a Unix socket with TLS, which makes no sense".to_owned());
    }
    Ok(Listener { address, tls, resources: table.resources.unwrap_or(Resource::ALL.to_vec()) })
}

/// An address with a port. A name such as `localhost` is looked up.
fn socket_address(text: &str) -> Result<SocketAddr, String> {
    let wrong = || format!("have the address `{text}`, which is no host:port and no unix:PATH");
    if let Ok(address) = text.parse() {
        return Ok(address);
    }
    text.to_socket_addrs().map_err(|_| wrong())?.next().ok_or_else(wrong)
}

/// `1048576`, `50 MiB`, `2GB`.
fn parse_size(text: &str) -> Option<usize> {
    let text = text.trim();
    let split = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at_checked(split)?;
    let factor: usize = match unit.trim() {
        "" | "B" => 1,
        "KiB" | "K" => 1 << 10,
        "MiB" | "M" => 1 << 20,
        "GiB" | "G" => 1 << 30,
        "kB" | "KB" => 1_000,
        "MB" => 1_000_000,
        "GB" => 1_000_000_000,
        _ => return None,
    };
    number.parse::<usize>().ok()?.checked_mul(factor)
}

/// `7 days`, `12h`, `90`, `forever`, in milliseconds.
fn parse_time(text: &str) -> Option<i64> {
    let text = text.trim();
    if text == "forever" {
        return Some(i64::MAX);
    }
    let split = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at_checked(split)?;
    ms_of(number.parse().ok()?, unit.trim())
}

fn ms_of(number: u64, unit: &str) -> Option<i64> {
    let seconds: u64 = match unit {
        "" | "s" | "second" | "seconds" => 1,
        "m" | "min" | "minute" | "minutes" => 60,
        "h" | "hour" | "hours" => 3_600,
        "d" | "day" | "days" => 86_400,
        "w" | "week" | "weeks" => 7 * 86_400,
        _ => return None,
    };
    i64::try_from(number.checked_mul(seconds)?.checked_mul(1_000)?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_units() {
        let check = |text: &str, expect: Option<i64>| assert_eq!(parse_time(text), expect, "{text}");
        check("7 days", Some(604_800_000));
        check("12h", Some(43_200_000));
        check("90", Some(90_000));
        check("0", Some(0));
        check("forever", Some(i64::MAX));
        check("", None);
        check("-1 day", None);
        check("1.5 h", None);
        check("1 fortnight", None);
        check("99999999999999999999 d", None);
        check("9999999999999999999 d", None);
    }

    #[test]
    fn texts_may_be_quoted() {
        let check = |text: &str, expect: &str| {
            assert_eq!(from_text(Kind::Text, text).ok(), Some(Value::String(expect.to_owned())), "{text}");
        };
        check("info", "info");
        check("\"info\"", "info");
        check("'info'", "info");
        check("info,rooms=\"debug", "info,rooms=\"debug");
        check("12", "12");
        check("true", "true");
        check("", "");
        assert_eq!(from_text(Kind::Secret, "\"a\"").ok(), Some(Value::String("\"a\"".to_owned())));
    }

    #[test]
    fn sizes_have_units() {
        let check = |text: &str, expect: Option<usize>| assert_eq!(parse_size(text), expect, "{text}");
        check("50 MiB", Some(50 << 20));
        check("2GB", Some(2_000_000_000));
        check("17", Some(17));
        check("", None);
        check("-1", None);
        check("1 elephant", None);
        check("99999999999999999999 GiB", None);
    }
}
