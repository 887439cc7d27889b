//! The keys about previews of URLs.

use std::path::PathBuf;

use media::previews::Rules;

use super::Error;
use super::sources::Settings;

/// Previews of URLs.
#[derive(Clone, Debug)]
pub struct Previews {
    /// Whether there are any.
    pub enabled: bool,
    /// What may be previewed.
    pub rules: Rules,
    /// Private address ranges that may be looked at.
    pub private_ranges: Vec<String>,
    /// Further certificate authorities.
    pub ca_files: Vec<PathBuf>,
    /// The languages in which pages are asked for, the preferred first.
    pub languages: Vec<String>,
    /// How long previews and their images are kept, in milliseconds.
    pub kept_ms: i64,
    /// Most bytes of all their images.
    pub bytes_max: u64,
}

impl Previews {
    /// Reads the keys.
    ///
    /// # Errors
    /// The first thing that is wrong.
    pub fn of(settings: &Settings) -> Result<Self, Error> {
        let (allow, deny) = (settings.texts("url_previews.allow")?, settings.texts("url_previews.deny")?);
        // Apart, so that the error names the list.
        Rules::of(&allow, &[]).map_err(|error| settings.wrong("url_previews.allow", &format!("is wrong: {error}")))?;
        let rules = Rules::of(&allow, &deny);
        let rules = rules.map_err(|error| settings.wrong("url_previews.deny", &format!("is wrong: {error}")))?;
        Ok(Self {
            enabled: settings.boolean("url_previews.enabled")?,
            rules,
            private_ranges: settings.texts("url_previews.allowed_private_ranges")?,
            ca_files: settings.texts("url_previews.trusted_ca_files")?.into_iter().map(PathBuf::from).collect(),
            languages: languages(settings)?,
            kept_ms: settings.milliseconds("url_previews.kept")?,
            bytes_max: settings.size("url_previews.bytes_max")? as u64,
        })
    }
}

/// Tags such as `en` or `pt-BR`, which stand in a header.
fn languages(settings: &Settings) -> Result<Vec<String>, Error> {
    const KEY: &str = "url_previews.languages";
    let languages = settings.texts(KEY)?;
    let is_tag =
        |tag: &String| !tag.is_empty() && tag.bytes().all(|b| b.is_ascii_alphanumeric() || b"-*;=. ".contains(&b));
    if languages.is_empty() || !languages.iter().all(is_tag) {
        return Err(settings.wrong(KEY, "must be a list of languages such as `en` or `pt-BR`"));
    }
    Ok(languages)
}
