//! Which users this node pushes to.

use std::collections::BTreeSet;
use std::sync::Arc;

use store::shards::Worker;
use store::{CommitBatch, StreamPosition, UserId};

use crate::{Error, Push, Result};

/// Shards of users. Their rows outlive the process: the number is never changed.
pub(crate) const SHARDS: usize = 16;

impl Worker for Push {
    type Error = Error;

    async fn take_up(self: &Arc<Self>, shards: &BTreeSet<usize>) -> Result<()> {
        self.begin_to_serve(shards).await
    }

    /// A push under way comes to its end.
    fn leave(&self, shard: usize) {
        self.people.leave(|user| self.shards.of(user.as_str()) == shard);
    }
}

impl Push {
    /// Takes the shards that are this node's now, and leaves those that are not. True if there are new ones.
    pub(crate) async fn share(self: &Arc<Self>) -> Result<bool> {
        if self.shards.position().is_none() {
            // What has happened meanwhile was not noted.
            self.badges.forget();
        }
        self.shards.share(self).await
    }

    /// Whether a user's pushers are this node's.
    pub(crate) fn serves(&self, user: &UserId) -> bool {
        self.shards.holding(user.as_str()).is_some()
    }

    /// Writes what belongs to a user's pushers, unless another node serves them now.
    pub(crate) async fn commit_for(&self, user: &UserId, batch: CommitBatch) -> Result<()> {
        self.commit_owned(self.shards.of(user.as_str()), batch, None).await
    }

    /// Writes what belongs to a shard, with the position up to which everything is queued if that is to be stored, unless
    /// another node has the shard.
    pub(crate) async fn commit_owned(
        &self,
        shard: usize,
        batch: CommitBatch,
        queued: Option<StreamPosition>,
    ) -> Result<()> {
        self.shards.commit(self, shard, batch, queued).await?;
        Ok(())
    }
}
