//! Profiles: any fields, 64 KiB in all (client-server API, "Profiles"). That a changed display name or avatar is written
//! to the member events of the user's rooms is for the caller: [`Job::TellProfile`] (CR26).

use serde_json::{Map, Value as Json};
use store::tables::users::ProfileRow;
use store::{CommitBatch, Read, StreamKind, UserId, Value};

use crate::jobs::Job;
use crate::{Error, Users};

/// Bytes that a profile may have as canonical JSON.
pub const PROFILE_BYTES_MAX: usize = 64 * 1_024;
/// Bytes that the name of a field may have.
pub const FIELD_BYTES_MAX: usize = 255;
/// Bytes that a display name may have.
pub const DISPLAY_NAME_BYTES_MAX: usize = 1_024;
/// Bytes that the address of an avatar may have.
pub const AVATAR_BYTES_MAX: usize = 1_024;
/// The field of the display name.
pub const DISPLAY_NAME: &str = "displayname";
/// The field of the avatar's address.
pub const AVATAR_URL: &str = "avatar_url";

impl Users {
    /// A profile: field to value. `None` if there is no such local account, or it is deactivated.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub async fn profile(&self, user: &UserId) -> Result<Option<Map<String, Json>>, Error> {
        if !self.is_active(user).await? {
            return Ok(None);
        }
        let rows: Vec<ProfileRow> = self.store.all(Read::prefix::<ProfileRow>(vec![Value::from(user)])).await?;
        let value = |text: &str| serde_json::from_str(text).unwrap_or_default();
        Ok(Some(rows.into_iter().map(|row| (row.field, value(&row.value))).collect()))
    }

    /// A field of a profile.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub async fn profile_field(&self, user: &UserId, field: &str) -> Result<Option<Json>, Error> {
        let row: Option<ProfileRow> = self.store.get(vec![Value::from(user), Value::from(field)]).await?;
        Ok(row.and_then(|row| serde_json::from_str(&row.value).ok()))
    }

    /// A user's display name, if set.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub async fn display_name(&self, user: &UserId) -> Result<Option<String>, Error> {
        Ok(self.profile_field(user, DISPLAY_NAME).await?.and_then(|name| name.as_str().map(ToOwned::to_owned)))
    }

    /// The address of a user's avatar, if set.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub async fn avatar_url(&self, user: &UserId) -> Result<Option<String>, Error> {
        Ok(self.profile_field(user, AVATAR_URL).await?.and_then(|url| url.as_str().map(ToOwned::to_owned)))
    }

    /// Sets a field; true if that changed anything.
    ///
    /// # Errors
    /// [`Error::InvalidParam`] for the name or the value of a known field, [`Error::KeyTooLarge`],
    /// [`Error::ProfileTooLarge`].
    pub async fn put_profile_field(&self, user: &UserId, field: &str, value: Json) -> Result<bool, Error> {
        check_field(field)?;
        // Older clients clear a name by an empty string or null.
        let cleared = matches!(field, DISPLAY_NAME | AVATAR_URL) && (value == "" || value.is_null());
        if cleared {
            return self.delete_profile_field(user, field).await;
        }
        check_value(field, &value)?;
        let mut profile = self.profile(user).await?.ok_or(Error::NotFound("the account"))?;
        let text = value.to_string();
        if profile.insert(field.to_owned(), value.clone()) == Some(value) {
            return Ok(false);
        }
        if Json::Object(profile).to_string().len() > PROFILE_BYTES_MAX {
            return Err(Error::ProfileTooLarge);
        }
        let mut batch = CommitBatch::new();
        batch.put(ProfileRow { user_id: user.clone(), field: field.to_owned(), value: text });
        self.announce_profile(&mut batch, user, field);
        self.commit(batch).await.map(|_| true)
    }

    /// Removes a field; true if it was there.
    ///
    /// # Errors
    /// [`Error::InvalidParam`] for the name, [`Error::KeyTooLarge`].
    pub async fn delete_profile_field(&self, user: &UserId, field: &str) -> Result<bool, Error> {
        check_field(field)?;
        let key = vec![Value::from(user), Value::from(field)];
        let mut batch = CommitBatch::new();
        batch.expect_present::<ProfileRow>(key.clone()).delete::<ProfileRow>(key);
        self.announce_profile(&mut batch, user, field);
        match self.commit(batch).await {
            Ok(_) => Ok(true),
            Err(Error::Conflict) => Ok(false),
            Err(error) => Err(error),
        }
    }

    fn announce_profile(&self, batch: &mut CommitBatch, user: &UserId, field: &str) {
        batch.announce(StreamKind::Profile, None, Some(user.clone()), None);
        if matches!(field, DISPLAY_NAME | AVATAR_URL) {
            self.add_job(batch, Job::TellProfile, user);
        }
    }
}

/// The names that the specification allows: the known ones and, for the rest, the common namespaced identifiers.
fn check_field(field: &str) -> Result<(), Error> {
    if field.len() > FIELD_BYTES_MAX {
        return Err(Error::KeyTooLarge);
    }
    let known = matches!(field, DISPLAY_NAME | AVATAR_URL);
    if known || is_namespaced(field) { Ok(()) } else { Err(Error::InvalidParam("Invalid profile key.".to_owned())) }
}

/// Appendices, "Common Namespaced Identifier Grammar", as clients write it: dots part it, dashes are let through.
fn is_namespaced(field: &str) -> bool {
    let word = |part: &str| {
        !part.is_empty()
            && part
                .bytes()
                .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_' || byte == b'-')
    };
    field.starts_with(|first: char| first.is_ascii_lowercase()) && field.contains('.') && field.split('.').all(word)
}

fn check_value(field: &str, value: &Json) -> Result<(), Error> {
    let limit = match field {
        DISPLAY_NAME => DISPLAY_NAME_BYTES_MAX,
        AVATAR_URL => AVATAR_BYTES_MAX,
        "m.tz" => FIELD_BYTES_MAX,
        _ => return Ok(()),
    };
    let Some(text) = value.as_str() else {
        return Err(Error::InvalidParam(format!("`{field}` is a string.")));
    };
    if text.len() > limit {
        return Err(Error::InvalidParam(format!("`{field}` may have {limit} bytes.")));
    }
    Ok(())
}
