//! A large JSON object read as it comes: the elements of some of its lists are taken out one by one, so that an answer
//! with a room's whole state is never in memory as one. Everything else in the object is kept, within bounds.
//!
//! Only the frame is read here: where elements begin and end. What an element says is judged by whoever reads it.

use bytes::Bytes;

/// Most bytes of what is not an element, in all.
const REST_BYTES_MAX: usize = 16 << 20;
/// Longest element that is kept; no event has more bytes.
const ELEMENT_BYTES_MAX: usize = 8 * event::MAX_PDU_BYTES;

/// The text is no object of this form.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the answer is no JSON object, or breaks off")]
pub struct Broken;

/// An element of one of the lists.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Element {
    /// Which list, by its place among the names.
    pub list: usize,
    /// The element's text.
    pub json: Bytes,
}

/// Where the reader stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    /// Before the object.
    Before,
    /// Between a comma or the beginning and a key.
    Key,
    /// In a key, with whether the last character was a backslash.
    InKey { escaped: bool },
    /// Between a key and its colon.
    Colon,
    /// Before the first character of a value.
    Value,
    /// In a value that is kept whole.
    InValue,
    /// After a value.
    AfterValue,
    /// In a list, before an element or its end.
    Element { list: usize },
    /// In an element.
    InElement { list: usize },
    /// After an element.
    AfterElement { list: usize },
    /// After the object.
    After,
}

/// How deep a value is, and whether inside a string.
#[derive(Clone, Copy, Debug, Default)]
struct Depth {
    open: usize,
    in_string: bool,
    escaped: bool,
}

/// What a byte means for the value that it stands in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    /// It belongs to the value, which goes on.
    Inside,
    /// It is the value's last byte.
    Last,
    /// It stands behind the value.
    Behind,
}

impl Depth {
    /// How many bytes at the beginning of a text mean nothing to the frame.
    fn run(&self, text: &[u8]) -> usize {
        if self.escaped {
            return 0;
        }
        let end = match self.in_string {
            true => text.iter().position(|byte| matches!(byte, b'"' | b'\\')),
            false => text.iter().position(|byte| matches!(byte, b'"' | b'{' | b'}' | b'[' | b']' | b',')),
        };
        end.unwrap_or(text.len())
    }

    fn step(&mut self, byte: u8) -> Step {
        if self.in_string {
            match byte {
                _ if self.escaped => self.escaped = false,
                b'\\' => self.escaped = true,
                b'"' => {
                    self.in_string = false;
                    return if self.open == 0 { Step::Last } else { Step::Inside };
                }
                _ => {}
            }
            return Step::Inside;
        }
        match byte {
            b'"' => self.in_string = true,
            b'{' | b'[' => self.open += 1,
            b'}' | b']' if self.open > 0 => {
                self.open -= 1;
                return if self.open == 0 { Step::Last } else { Step::Inside };
            }
            b',' | b'}' | b']' if self.open == 0 => return Step::Behind,
            _ => {}
        }
        Step::Inside
    }
}

/// Reads such an object.
#[derive(Debug)]
pub struct Elements {
    lists: &'static [&'static str],
    place: Place,
    depth: Depth,
    key: Vec<u8>,
    element: Vec<u8>,
    /// The object without the elements: its lists are empty.
    rest: Vec<u8>,
}

fn is_space(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\n' | b'\r')
}

impl Elements {
    /// A reader that takes out the elements of these lists.
    pub fn new(lists: &'static [&'static str]) -> Self {
        Self {
            lists,
            place: Place::Before,
            depth: Depth::default(),
            key: Vec::new(),
            element: Vec::new(),
            rest: Vec::new(),
        }
    }

    /// Reads on; complete elements are added to `found`. One that is longer than any event is left out.
    ///
    /// # Errors
    /// [`Broken`].
    pub fn feed(&mut self, text: &[u8], found: &mut Vec<Element>) -> Result<(), Broken> {
        let mut left = text;
        while let Some((byte, behind)) = left.split_first() {
            let run = if let Place::InElement { .. } = self.place { self.depth.run(left) } else { 0 };
            if run == 0 {
                self.take(*byte, found)?;
                left = behind;
                continue;
            }
            let (inside, behind) = left.split_at(run);
            if self.element.len() <= ELEMENT_BYTES_MAX {
                self.element.extend_from_slice(inside);
            }
            left = behind;
        }
        if self.rest.len() + self.key.len() > REST_BYTES_MAX { Err(Broken) } else { Ok(()) }
    }

    /// The object without the elements, once all of it has been read.
    ///
    /// # Errors
    /// [`Broken`].
    pub fn finish(self) -> Result<Vec<u8>, Broken> {
        if self.place == Place::After { Ok(self.rest) } else { Err(Broken) }
    }

    fn take(&mut self, byte: u8, found: &mut Vec<Element>) -> Result<(), Broken> {
        match self.place {
            Place::InElement { list } => self.in_element(list, byte, found),
            Place::InValue => self.in_value(byte),
            Place::InKey { escaped } => {
                self.in_key(escaped, byte);
                Ok(())
            }
            _ if is_space(byte) => Ok(()),
            Place::Element { list } | Place::AfterElement { list } => self.between_elements(list, byte, found),
            place => self.in_frame(place, byte),
        }
    }

    /// The object's own punctuation.
    fn in_frame(&mut self, place: Place, byte: u8) -> Result<(), Broken> {
        self.place = match (place, byte) {
            (Place::Before, b'{') => Place::Key,
            (Place::Key, b'"') => {
                self.key.clear();
                Place::InKey { escaped: false }
            }
            (Place::Key | Place::AfterValue, b'}') => Place::After,
            (Place::AfterValue, b',') => Place::Key,
            (Place::Colon, b':') => Place::Value,
            (Place::Value, _) => return self.begin_value(byte),
            _ => return Err(Broken),
        };
        if !matches!(byte, b'"' | b':') {
            self.rest.push(byte);
        }
        Ok(())
    }

    fn in_key(&mut self, escaped: bool, byte: u8) {
        self.place = match byte {
            b'"' if !escaped => {
                self.rest.push(b'"');
                self.rest.extend_from_slice(&self.key);
                self.rest.extend_from_slice(b"\":");
                Place::Colon
            }
            _ => {
                self.key.push(byte);
                Place::InKey { escaped: !escaped && byte == b'\\' }
            }
        };
    }

    fn begin_value(&mut self, byte: u8) -> Result<(), Broken> {
        let list = self.lists.iter().position(|name| name.as_bytes() == self.key);
        if let (Some(list), b'[') = (list, byte) {
            self.rest.push(b'[');
            self.place = Place::Element { list };
            return Ok(());
        }
        self.place = Place::InValue;
        self.depth = Depth::default();
        self.in_value(byte)
    }

    fn in_value(&mut self, byte: u8) -> Result<(), Broken> {
        match self.depth.step(byte) {
            Step::Inside => self.rest.push(byte),
            Step::Last => {
                self.rest.push(byte);
                self.place = Place::AfterValue;
            }
            Step::Behind => return self.in_frame(Place::AfterValue, byte),
        }
        Ok(())
    }

    fn between_elements(&mut self, list: usize, byte: u8, found: &mut Vec<Element>) -> Result<(), Broken> {
        match (self.place, byte) {
            (_, b']') => {
                self.rest.push(b']');
                self.place = Place::AfterValue;
                Ok(())
            }
            (Place::AfterElement { .. }, b',') => {
                self.place = Place::Element { list };
                Ok(())
            }
            (Place::Element { .. }, _) => {
                self.place = Place::InElement { list };
                self.depth = Depth::default();
                self.element.clear();
                self.in_element(list, byte, found)
            }
            _ => Err(Broken),
        }
    }

    fn in_element(&mut self, list: usize, byte: u8, found: &mut Vec<Element>) -> Result<(), Broken> {
        let step = self.depth.step(byte);
        if step != Step::Behind && self.element.len() <= ELEMENT_BYTES_MAX {
            self.element.push(byte);
        }
        if step == Step::Inside {
            return Ok(());
        }
        if self.element.len() <= ELEMENT_BYTES_MAX {
            found.push(Element { list, json: Bytes::copy_from_slice(&self.element) });
        }
        self.place = Place::AfterElement { list };
        if step == Step::Behind { self.between_elements(list, byte, found) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use super::*;

    const LISTS: &[&str] = &["state", "auth_chain"];

    /// Reads a text in pieces of a size.
    fn read(text: &str, size: usize) -> Result<(Vec<(usize, String)>, String), Broken> {
        let (mut elements, mut found) = (Elements::new(LISTS), Vec::new());
        for piece in text.as_bytes().chunks(size) {
            elements.feed(piece, &mut found)?;
        }
        let rest = String::from_utf8(elements.finish()?).unwrap();
        let text = |element: Element| (element.list, String::from_utf8(element.json.to_vec()).unwrap());
        Ok((found.into_iter().map(text).collect(), rest))
    }

    #[test]
    fn elements_come_out_and_the_rest_stays_however_the_text_is_cut() {
        let text = r#" { "a\"b" : "x]}\\" , "state":[ {"k":"]\"}"} ,[1,{"y":[]}], 7,"s" ],
            "n":{"state":[1]},"auth_chain":[],"last": -1.5 } "#;
        for size in 1..text.len() {
            let (found, rest) = read(text, size).unwrap();
            let texts: Vec<&str> = found.iter().map(|(_, text)| text.as_str().trim()).collect();
            assert_eq!(texts, [r#"{"k":"]\"}"}"#, r#"[1,{"y":[]}]"#, "7", r#""s""#], "{size}");
            let rest: serde_json::Value = serde_json::from_str(&rest).unwrap();
            let expected = serde_json::json!({
                "a\"b": "x]}\\", "state": [], "n": { "state": [1] }, "auth_chain": [], "last": -1.5,
            });
            assert_eq!(rest, expected, "{size}");
        }
    }

    #[test]
    fn each_list_is_told_from_the_other() {
        let (found, rest) = read(r#"{"auth_chain":[1],"state":[2],"auth_chain":[3]}"#, 3).unwrap();
        assert_eq!(found, [(1, "1".to_owned()), (0, "2".to_owned()), (1, "3".to_owned())]);
        assert_eq!(rest, r#"{"auth_chain":[],"state":[],"auth_chain":[]}"#);
        // What is no list is kept as it is.
        assert_eq!(read(r#"{"state":{"a":1}}"#, 2).unwrap().1, r#"{"state":{"a":1}}"#);
    }

    #[test]
    fn what_breaks_off_or_is_no_object_is_broken() {
        let whole = r#"{"state":[{"a":1},{"b":"c"}],"event":{"x":"y"}}"#;
        assert!(read(whole, 5).is_ok());
        for end in 0..whole.len() {
            assert_eq!(read(&whole[..end], 5), Err(Broken), "{end}");
        }
        for text in ["[]", "7", "{,}", "{\"a\" 1}", "{\"state\":[1 2]}", "{}}", "{\"a\":1}x"] {
            let broken = read(text, 1);
            // A value that is no JSON is found when it is read; the frame holds.
            assert!(broken.is_err() || text == "{\"state\":[1 2]}", "{text}: {broken:?}");
        }
    }

    #[test]
    fn what_is_longer_than_any_event_is_left_out_and_the_rest_is_bounded() {
        let long = "x".repeat(ELEMENT_BYTES_MAX);
        let (found, _) = read(&format!("{{\"state\":[\"{long}\",1]}}"), 4_096).unwrap();
        assert_eq!(found, [(0, "1".to_owned())]);
        let long = "x".repeat(REST_BYTES_MAX + 1);
        assert_eq!(read(&format!("{{\"other\":\"{long}\"}}"), 65_536), Err(Broken));
    }
}
