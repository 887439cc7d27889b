//! Answers put together from JSON text: events are rendered once and never read again on their way out.

use axum::response::{IntoResponse, Response};
use http::header::CONTENT_TYPE;
use serde_json::Value;

/// A JSON object in the making.
#[derive(Clone, Debug, Default)]
pub struct JsonText {
    members: String,
}

impl JsonText {
    /// An empty object.
    pub fn object() -> Self {
        Self::default()
    }

    /// Adds a member whose value is JSON text already.
    #[must_use]
    pub fn raw(mut self, name: &str, json: &str) -> Self {
        if !self.members.is_empty() {
            self.members.push(',');
        }
        self.members.push_str(&Value::from(name).to_string());
        self.members.push(':');
        self.members.push_str(json);
        self
    }

    /// Adds a member.
    #[must_use]
    pub fn value(self, name: &str, value: impl Into<Value>) -> Self {
        let text = value.into().to_string();
        self.raw(name, &text)
    }

    /// Adds a member if there is a value.
    #[must_use]
    pub fn optional(self, name: &str, value: Option<impl Into<Value>>) -> Self {
        match value {
            Some(value) => self.value(name, value),
            None => self,
        }
    }

    /// Adds a list whose elements are JSON text already.
    #[must_use]
    pub fn list(self, name: &str, elements: &[String]) -> Self {
        self.raw(name, &list(elements))
    }

    /// The text.
    pub fn text(&self) -> String {
        format!("{{{}}}", self.members)
    }
}

impl IntoResponse for JsonText {
    fn into_response(self) -> Response {
        answer(self.text())
    }
}

/// A JSON array of elements that are JSON text already.
pub fn list(elements: &[String]) -> String {
    let mut text = String::with_capacity(2 + elements.iter().map(|element| element.len() + 1).sum::<usize>());
    text.push('[');
    text.push_str(&elements.join(","));
    text.push(']');
    text
}

/// An answer whose body is this JSON text.
pub fn answer(text: String) -> Response {
    ([(CONTENT_TYPE, "application/json")], text).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn objects_are_put_together() {
        assert_eq!(JsonText::object().text(), "{}");
        let object = JsonText::object().list("a\"", &["{}".to_owned(), "1".to_owned()]).value("b", 2);
        assert_eq!(
            object.optional("c", None::<i64>).optional("d", Some("e")).text(),
            r#"{"a\"":[{},1],"b":2,"d":"e"}"#
        );
    }
}
