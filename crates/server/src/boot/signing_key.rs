//! The signing key and the database that belongs to it: neither is used without the other, and keys that sign no more stay
//! known, so that what they signed can be verified for ever.

use std::path::Path;

use ::federation::key_ring::retire;
use event::SigningKey;
use store::tables::core::MetaRow;
use store::{CommitBatch, CommitError, Store, Value};

use super::{Error, has_accounts, has_rooms};
use crate::keys;

/// The fact of the database under which the public half of the signing key stands.
const SIGNING_KEY: &str = "signing_key";

/// The key of the file, which must be the one with which this database's server signs. Where nothing has been signed yet,
/// a missing one is made, and another one is taken; nodes that share a database share it from the first start on.
pub(super) async fn of(
    store: &Store,
    data_dir: &Path,
    entropy: &dyn store::Entropy,
    shared: bool,
) -> Result<SigningKey, Error> {
    let path = || keys::path(data_dir).display().to_string();
    loop {
        let known = store.meta(SIGNING_KEY).await?;
        finish_rotation(data_dir, known.as_deref())?;
        let fixed = (shared && known.is_some()) || has_accounts(store).await? || has_rooms(store).await?;
        let key = match keys::read(data_dir)? {
            Some(key) => key,
            None if fixed => {
                let known = known.map_or("a key that it does not name".to_owned(), |known| format!("`{known}`"));
                return Err(Error::LostKey { path: path(), known });
            }
            None => keys::make(data_dir, entropy)?,
        };
        let own = public_form(&key);
        match known {
            Some(known) if known == own => return Ok(key),
            Some(known) if fixed => return Err(Error::OtherKey { path: path(), known, own }),
            known => {
                if note_key(store, &own, known.as_deref()).await? {
                    return Ok(key);
                }
            }
        }
    }
}

/// A key as it stands in the database: what tells it from others, and nothing secret.
fn public_form(key: &SigningKey) -> String {
    format!("{} {}", key.key_id(), key.public_b64())
}

/// Notes the key with which the server signs from now on, unless another node has noted one since it was `known`.
async fn note_key(store: &Store, own: &str, known: Option<&str>) -> Result<bool, Error> {
    let place = vec![Value::from(SIGNING_KEY)];
    let mut batch = CommitBatch::new();
    match known {
        Some(known) => batch.expect_equals::<MetaRow>(place, "value", known),
        None => batch.expect_absent::<MetaRow>(place),
    };
    batch.put(MetaRow { name: SIGNING_KEY.to_owned(), value: own.to_owned() });
    match store.commit(batch).await {
        Ok(_) => Ok(true),
        Err(CommitError::Conflict { .. }) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// What a rotation began that was cut short: the database names the new key already, the file does not.
fn finish_rotation(data_dir: &Path, known: Option<&str>) -> Result<(), Error> {
    match keys::read_draft(data_dir)? {
        Some(draft) if Some(public_form(&draft).as_str()) == known => Ok(keys::place_draft(data_dir)?),
        _ => Ok(()),
    }
}

/// Goes on with another key than before, of which the public half stays known; answers how the new one is called in
/// public.
///
/// # Errors
/// As the store says.
pub async fn accept_key(store: &Store, key: &SigningKey, now_ms: i64) -> Result<String, Error> {
    let own = public_form(key);
    let known = store.meta(SIGNING_KEY).await?;
    let mut batch = CommitBatch::new();
    if let Some((key_id, public)) =
        known.as_deref().filter(|known| *known != own).and_then(|known| known.split_once(' '))
    {
        retire(&mut batch, key_id, public, now_ms);
    }
    batch.put(MetaRow { name: SIGNING_KEY.to_owned(), value: own.clone() });
    store.commit(batch).await?;
    Ok(own)
}

/// Makes a new key and retires the one of the file; answers how the new one is called in public. Whenever this is cut
/// short, the file holds the key that the database names, or the next start puts it there.
///
/// # Errors
/// If there is no key, or not the one that the database names; as the store and the file system say.
pub async fn rotate_key(
    store: &Store,
    data_dir: &Path,
    entropy: &dyn store::Entropy,
    now_ms: i64,
) -> Result<String, Error> {
    let known = store.meta(SIGNING_KEY).await?;
    finish_rotation(data_dir, known.as_deref())?;
    let path = keys::path(data_dir).display().to_string();
    let Some(old) = keys::read(data_dir)? else {
        let known = known.map_or("a key that it does not name".to_owned(), |known| format!("`{known}`"));
        return Err(Error::LostKey { path, known });
    };
    match known {
        Some(known) if known != public_form(&old) => {
            return Err(Error::OtherKey { path, known, own: public_form(&old) });
        }
        _ => {}
    }
    let new = keys::generate(entropy);
    keys::write_draft(data_dir, &new)?;
    let mut batch = CommitBatch::new();
    retire(&mut batch, old.key_id(), &old.public_b64(), now_ms);
    batch.put(MetaRow { name: SIGNING_KEY.to_owned(), value: public_form(&new) });
    store.commit(batch).await?;
    keys::place_draft(data_dir)?;
    Ok(public_form(&new))
}
