//! Builds JSON text from parts that are JSON text already: events are never parsed again on their way out.

/// A JSON object in the making.
#[derive(Clone, Debug)]
pub struct Object {
    text: String,
}

impl Default for Object {
    fn default() -> Self {
        Self { text: "{".to_owned() }
    }
}

impl Object {
    /// An empty object.
    pub fn new() -> Self {
        Self::default()
    }

    /// Whether it has no members yet.
    pub fn is_empty(&self) -> bool {
        self.text.len() == 1
    }

    /// Adds a member whose value is JSON text.
    pub fn raw(&mut self, name: &str, value: &str) -> &mut Self {
        if !self.is_empty() {
            self.text.push(',');
        }
        self.text.push_str(&quote(name));
        self.text.push(':');
        self.text.push_str(value);
        self
    }

    /// Adds a member that is an object, unless that is empty.
    pub fn object(&mut self, name: &str, value: Object) -> &mut Self {
        if value.is_empty() { self } else { self.raw(name, &value.finish()) }
    }

    /// Adds `{"events": […]}`, unless there are none.
    pub fn events(&mut self, name: &str, events: &[String]) -> &mut Self {
        if events.is_empty() { self } else { self.raw(name, &format!("{{\"events\":{}}}", array(events))) }
    }

    /// Adds members that are JSON text already: an object's without its braces.
    pub fn members(&mut self, members: &str) -> &mut Self {
        if !self.is_empty() && !members.is_empty() {
            self.text.push(',');
        }
        self.text.push_str(members);
        self
    }

    /// Adds a text member.
    pub fn text(&mut self, name: &str, value: &str) -> &mut Self {
        self.raw(name, &quote(value))
    }

    /// Adds a number.
    pub fn number(&mut self, name: &str, value: i64) -> &mut Self {
        self.raw(name, &value.to_string())
    }

    /// Adds a boolean.
    pub fn boolean(&mut self, name: &str, value: bool) -> &mut Self {
        self.raw(name, if value { "true" } else { "false" })
    }

    /// The finished text.
    pub fn finish(mut self) -> String {
        self.text.push('}');
        self.text
    }
}

/// An array of JSON texts.
pub fn array<T: AsRef<str>>(items: &[T]) -> String {
    let mut text = String::from("[");
    for (place, item) in items.iter().enumerate() {
        if place > 0 {
            text.push(',');
        }
        text.push_str(item.as_ref());
    }
    text.push(']');
    text
}

/// A text as JSON.
pub fn quote(text: &str) -> String {
    // Strings always serialize; an empty one is the harmless answer.
    serde_json::to_string(text).unwrap_or_else(|_| "\"\"".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn objects_are_json() {
        let mut inner = Object::new();
        inner.text("a\"", "b\n").number("n", -1);
        let mut object = Object::new();
        object.object("empty", Object::new()).object("inner", inner).boolean("x", true).events("none", &[]);
        object.events("some", &["1".to_owned(), "{}".to_owned()]);
        let parsed: serde_json::Value = serde_json::from_str(&object.finish()).unwrap_or_default();
        let expected = serde_json::json!({"inner": {"a\"": "b\n", "n": -1}, "x": true, "some": {"events": [1, {}]}});
        assert_eq!(parsed, expected);
    }
}
