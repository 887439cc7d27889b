//! The words of mails: built in, or of a folder that has files of the same names.

use std::path::Path;

use minijinja::{AutoEscape, Environment, UndefinedBehavior};
use serde_json::{Map, Value};
use users::email::{Kind, Mail};

/// Characters of a subject.
const SUBJECT_CHARS_MAX: usize = 200;
/// Steps that filling in a template may take.
const FUEL: u64 = 200_000;

/// What every template in HTML is put into.
const LAYOUT: (&str, &str) = ("layout.html", include_str!("../../templates/mail/layout.html"));

macro_rules! built_in {
    ($($name:literal),+ $(,)?) => {
        &[$(
            (concat!($name, ".subject"), include_str!(concat!("../../templates/mail/", $name, ".subject"))),
            (concat!($name, ".txt"), include_str!(concat!("../../templates/mail/", $name, ".txt"))),
            (concat!($name, ".html"), include_str!(concat!("../../templates/mail/", $name, ".html"))),
        )+]
    };
}

const BUILT_IN: &[(&str, &str)] = built_in!(
    "register",
    "add",
    "reset",
    "in_use",
    "password_changed",
    "address_added",
    "address_removed",
    "notifications"
);

/// All templates, parsed.
pub struct Templates(Environment<'static>);

/// A mail's words.
#[derive(Debug)]
pub struct Rendered {
    /// One line.
    pub subject: String,
    /// For programs that show text.
    pub text: String,
    /// For those that show HTML.
    pub html: String,
}

impl Templates {
    /// The built-in templates, and those of a folder in their place.
    ///
    /// # Errors
    /// Which file is wrong, and how.
    pub fn load(folder: Option<&Path>) -> Result<Self, String> {
        let mut environment = Environment::new();
        environment.set_undefined_behavior(UndefinedBehavior::Lenient);
        environment.set_fuel(Some(FUEL));
        environment.set_auto_escape_callback(|name| match name.ends_with(".html") {
            true => AutoEscape::Html,
            false => AutoEscape::None,
        });
        for (name, built_in) in std::iter::once(&LAYOUT).chain(BUILT_IN) {
            let own = folder.map(|folder| read(&folder.join(name))).transpose()?.flatten();
            let text = own.unwrap_or_else(|| (*built_in).to_owned());
            environment.add_template_owned(*name, text).map_err(|error| format!("mail template {name}: {error:#}"))?;
        }
        let templates = Self(environment);
        // What is wrong shows at the start, not with the first mail.
        for kind in Kind::ALL {
            let mail = Mail { id: String::new(), to: String::new(), kind, content: Map::new() };
            templates.render(&mail)?;
        }
        Ok(templates)
    }

    /// Fills in the templates of a mail.
    ///
    /// # Errors
    /// What is wrong with a template.
    pub fn render(&self, mail: &Mail) -> Result<Rendered, String> {
        let content = cleaned(Value::Object(mail.content.clone()));
        let fill = |suffix: &str| {
            let name = format!("{}.{suffix}", mail.kind.name());
            let template = self.0.get_template(&name).and_then(|template| template.render(&content));
            template.map_err(|error| format!("mail template {name}: {error:#}"))
        };
        let subject = fill("subject")?;
        let subject = subject.split_whitespace().collect::<Vec<_>>().join(" ");
        let subject = subject.chars().filter(|c| !c.is_control()).take(SUBJECT_CHARS_MAX).collect();
        Ok(Rendered { subject, text: fill("txt")?, html: fill("html")? })
    }
}

/// A file, if it is there.
fn read(path: &Path) -> Result<Option<String>, String> {
    match std::fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(format!("{}: {error}", path.display())),
    }
}

/// What is filled in stays on its line: names may be anything.
fn cleaned(value: Value) -> Value {
    match value {
        Value::String(text) => Value::String(text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()),
        Value::Array(values) => Value::Array(values.into_iter().map(cleaned).collect()),
        Value::Object(members) => {
            Value::Object(members.into_iter().map(|(name, value)| (name, cleaned(value))).collect())
        }
        other => other,
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use serde_json::json;

    use super::*;

    fn mail(kind: Kind, content: Value) -> Mail {
        Mail { id: "1".to_owned(), to: String::new(), kind, content: content.as_object().unwrap().clone() }
    }

    #[test]
    fn every_kind_says_what_it_is_about() {
        let templates = Templates::load(None).unwrap();
        let content = json!({
            "server_name": "example.org",
            "address": "bob@example.com",
            "changed": "new@example.com",
            "user_id": "@bob:example.org",
            "link": "https://example.org/confirm?sid=1&token=2",
        });
        for kind in Kind::ALL {
            let Rendered { subject, text, html } = templates.render(&mail(kind, content.clone())).unwrap();
            assert!(!subject.is_empty(), "{kind:?}");
            let carries = matches!(kind, Kind::Register | Kind::Add | Kind::Reset);
            assert_eq!(text.contains("https://example.org/confirm?sid=1&token=2"), carries, "{kind:?}: {text}");
            assert_eq!(html.contains("confirm?sid=1&amp;token=2"), carries, "{kind:?}: {html}");
            assert!(!text.contains("{{") && !html.contains("{{"), "{kind:?}");
        }
    }

    #[test]
    fn a_folder_takes_the_place_of_what_is_built_in() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("reset.subject"), "Neues Passwort für {{ user_id }}").unwrap();
        let templates = Templates::load(Some(folder.path())).unwrap();
        let rendered = templates.render(&mail(Kind::Reset, json!({ "user_id": "@bob:example.org" }))).unwrap();
        assert_eq!(rendered.subject, "Neues Passwort für @bob:example.org");
        assert!(rendered.text.contains("new password"));
        std::fs::write(folder.path().join("reset.txt"), "{% if %}").unwrap();
        let wrong = Templates::load(Some(folder.path())).map(drop).unwrap_err();
        assert!(wrong.contains("reset.txt"), "{wrong}");
    }

    /// SEC-mail-injection: a name is escaped in HTML and stays on its line elsewhere.
    #[test]
    fn names_are_escaped_and_stay_on_their_line() {
        let templates = Templates::load(None).unwrap();
        let evil = json!({ "user_id": "<img src=x>\r\nhttps://evil.example.com\u{0}" });
        let Rendered { subject, text, html } = templates.render(&mail(Kind::Reset, evil)).unwrap();
        assert!(!html.contains("<img"), "{html}");
        assert!(text.lines().all(|line| !line.starts_with("https://evil")), "{text}");
        assert!(subject.lines().count() == 1 && !subject.contains('\0'), "{subject}");
    }
}
