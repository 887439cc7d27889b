//! Where values come from: the file, the environment, the command line; and who wins.

use std::collections::BTreeMap;
use std::path::PathBuf;

use toml::{Table, Value};

use super::keys::{self, Key, Kind};
use super::{Error, values};

/// The file that is read where none is named, if it exists.
const DEFAULT_FILE: &str = "hearth.toml";

/// What every environment variable of ours starts with.
const PREFIX: &str = "HEARTH_";

/// The variable that names the file.
const FILE_VARIABLE: &str = "HEARTH_CONFIG";

/// What the program was given.
#[derive(Clone, Debug, Default)]
pub struct Given {
    /// `--config`.
    pub file: Option<PathBuf>,
    /// Every `--set`.
    pub set: Vec<String>,
    /// The environment.
    pub environment: BTreeMap<String, String>,
    /// Whether `hearth.toml` in the working directory is read if no file is named.
    pub default_file: bool,
}

impl Given {
    /// The command line's part, with the environment of the process.
    pub fn with_environment(file: Option<PathBuf>, set: Vec<String>) -> Self {
        // A variable that is no Unicode is none of ours.
        let environment = std::env::vars_os()
            .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
            .filter(|(name, _)| name.starts_with(PREFIX))
            .collect();
        Self { file, set, environment, default_file: true }
    }

    fn path(&self) -> Option<PathBuf> {
        let named = self.file.clone().or_else(|| self.environment.get(FILE_VARIABLE).map(PathBuf::from));
        named.or_else(|| Some(PathBuf::from(DEFAULT_FILE)).filter(|path| self.default_file && path.exists()))
    }
}

/// A value and where it stands.
#[derive(Clone, Debug)]
pub struct Setting {
    /// The value.
    pub value: Value,
    /// Where it stands, for messages.
    pub from: String,
}

/// All values that were given.
#[derive(Debug, Default)]
pub struct Settings {
    pub(super) values: BTreeMap<String, Setting>,
    /// What should be logged.
    pub warnings: Vec<String>,
}

impl Settings {
    /// Gathers all sources.
    ///
    /// # Errors
    /// Unknown keys, values that are no TOML, files that cannot be read.
    pub fn gather(given: &Given) -> Result<Self, Error> {
        let mut settings = Self::default();
        if let Some(path) = given.path() {
            settings.add_file(&path)?;
        }
        settings.add_environment(&given.environment)?;
        for pair in &given.set {
            let (key, value) = pair.split_once('=').ok_or_else(|| Error::Set(pair.clone()))?;
            settings.add_text(key.trim(), value, "--set".to_owned())?;
        }
        settings.read_secret_files()?;
        Ok(settings)
    }

    fn add_file(&mut self, path: &std::path::Path) -> Result<(), Error> {
        let wrong = |wrong: String| Error::File { path: path.display().to_string(), wrong };
        let text = std::fs::read_to_string(path).map_err(|error| wrong(error.to_string()))?;
        let table: Table = text.parse().map_err(|error: toml::de::Error| wrong(error.to_string()))?;
        self.add_table("", table, &path.display().to_string())
    }

    fn add_table(&mut self, section: &str, table: Table, from: &str) -> Result<(), Error> {
        for (name, value) in table {
            let name = if section.is_empty() { name } else { format!("{section}.{name}") };
            match value {
                // An unknown section is refused with the first key in it, which says more.
                Value::Table(table) if find(&name).is_none() && (is_section(&name) || !table.is_empty()) => {
                    self.add_table(&name, table, from)?;
                }
                value => self.add(&name, value, from.to_owned())?,
            }
        }
        Ok(())
    }

    fn add_environment(&mut self, environment: &BTreeMap<String, String>) -> Result<(), Error> {
        for (variable, value) in environment.iter().filter(|(variable, _)| *variable != FILE_VARIABLE) {
            let Some(name) = variable.strip_prefix(PREFIX) else { continue };
            let name = name.to_lowercase().replace("__", ".");
            // Container platforms set variables such as HEARTH_PORT for their own purposes; none has two underscores.
            if find(&name).is_none() && !variable.contains("__") {
                let hint = keys::nearest(&name).map_or(String::new(), |near| format!("; did you mean `{near}`?"));
                self.warnings.push(format!("the variable {variable} is none of mine{hint}"));
                continue;
            }
            self.add_text(&name, value, variable.clone())?;
        }
        Ok(())
    }

    /// Adds a value that was given as text: as it is for texts, else as TOML.
    fn add_text(&mut self, name: &str, text: &str, from: String) -> Result<(), Error> {
        let kind = find(name).ok_or_else(|| unknown(name, &from))?;
        let value = values::from_text(kind, text);
        let value = value.map_err(|wrong| Error::Wrong { key: name.to_owned(), from: from.clone(), wrong })?;
        self.add(name, value, from)
    }

    fn add(&mut self, name: &str, value: Value, from: String) -> Result<(), Error> {
        if find(name).is_none() {
            return Err(unknown(name, &from));
        }
        // A later source that gives the secret itself wins over an earlier one that gives its file, and vice versa.
        let other = name.strip_suffix("_file").map_or_else(|| format!("{name}_file"), str::to_owned);
        self.values.remove(&other);
        self.values.insert(name.to_owned(), Setting { value, from });
        Ok(())
    }

    fn read_secret_files(&mut self) -> Result<(), Error> {
        for key in keys::all().into_iter().filter(|key| key.kind == Kind::Secret) {
            let Some(setting) = self.values.remove(&format!("{}_file", key.name)) else { continue };
            let Value::String(path) = &setting.value else {
                let wrong = "must be the path of a file".to_owned();
                return Err(Error::Wrong { key: format!("{}_file", key.name), from: setting.from, wrong });
            };
            let text = std::fs::read_to_string(path)
                .map_err(|error| Error::File { path: path.clone(), wrong: error.to_string() })?;
            let value = Value::String(text.trim_end_matches(['\r', '\n']).to_owned());
            self.values.insert(key.name, Setting { value, from: path.clone() });
        }
        Ok(())
    }

    /// A key's value as `hearth config show` prints it, and where it comes from.
    pub fn shown(&self, key: &Key) -> (String, String) {
        match self.values.get(&key.name) {
            Some(setting) if key.kind == Kind::Secret => ("(hidden)".to_owned(), setting.from.clone()),
            Some(setting) => (setting.value.to_string(), setting.from.clone()),
            None if key.default.is_empty() => ("(unset)".to_owned(), "default".to_owned()),
            None => (key.default.clone(), "default".to_owned()),
        }
    }
}

fn unknown(name: &str, from: &str) -> Error {
    Error::Unknown { key: name.to_owned(), from: from.to_owned(), nearest: keys::nearest(name) }
}

/// The kind of the key `name`; of a text where it names a secret's file.
fn find(name: &str) -> Option<Kind> {
    let all = keys::all();
    let exact = all.iter().find(|key| key.name == name).map(|key| key.kind);
    exact.or_else(|| {
        let secret = name.strip_suffix("_file")?;
        all.iter().any(|key| key.name == secret && key.kind == Kind::Secret).then_some(Kind::Text)
    })
}

fn is_section(name: &str) -> bool {
    keys::all().iter().any(|key| key.name.strip_prefix(name).is_some_and(|rest| rest.starts_with('.')))
}
