//! What every story begins with: a server and two people.

use std::path::Path;

use crate::checks::Fallible;
use crate::hearth::Hearth;
use crate::person::Person;
use crate::phone::Phone;

/// A server and those who use it.
pub struct World {
    /// The server.
    pub hearth: Hearth,
    /// Whose list of rooms is looked at.
    pub alice: Person,
    /// Whom she talks with.
    pub bob: Person,
}

impl World {
    /// Starts the server, and registers both.
    pub async fn create(program: &Path) -> Fallible<Self> {
        let hearth = Hearth::create(program).await?;
        let alice = Person::register(&hearth, "alice").await?;
        let bob = Person::register(&hearth, "bob").await?;
        Ok(Self { hearth, alice, bob })
    }

    /// Alice signs in with the SDK.
    pub async fn phone(&self) -> Fallible<Phone> {
        Phone::sign_in(&self.hearth, &self.alice, "PHONE").await
    }
}
