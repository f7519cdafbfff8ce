//! Times of an engine's kernels, for those who want to know where they go.

use crate::backend::Profile;
use crate::error::Result;
use crate::model::Engine;

impl Engine {
    /// Starts to write down how long each kernel takes, see [`Backend::start_profile`](crate::backend::Backend::start_profile).
    pub fn start_profile(&mut self) -> Result<()> {
        self.backend.start_profile()
    }

    /// What was written down since, see [`Backend::take_profile`](crate::backend::Backend::take_profile).
    pub async fn take_profile(&mut self) -> Result<Profile> {
        self.backend.take_profile().await
    }
}
