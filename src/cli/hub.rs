//! A model by its name on the Hub, `hf:owner/repo[@revision]`, if the program was built with the feature `hub`.

use super::common::Common;
use crate::error::Result;
use crate::model::files::Source;

/// The model's folder in the cache, with a progress bar over what has to be fetched.
#[cfg(feature = "hub")]
pub(super) fn source(model: &str, common: &Common) -> Result<Source> {
    use crate::hub::{Event, HubName, Options, fetch};

    let name: HubName = model.parse()?;
    let options = Options { offline: common.offline.then_some(true), ..Options::default() };
    let bar = common.bar("fetching {bar:30} {bytes}/{total_bytes} {bytes_per_sec} {eta}");
    let mut report = |event| match event {
        Event::Progress { fetched, total } => {
            bar.set_length(total);
            bar.set_position(fetched);
        }
        Event::Note(note) if !common.quiet => bar.suspend(|| super::common::say(&format!("note: {note}"))),
        Event::Note(_) => {}
    };
    let folder = fetch(&name, &options, &mut report);
    bar.finish_and_clear();
    Source::folder(folder?)
}

#[cfg(not(feature = "hub"))]
pub(super) fn source(model: &str, _: &Common) -> Result<Source> {
    Err(crate::error::Error::Hub {
        name: model.into(),
        doing: "fetch it".into(),
        reason: "this build of refrain does not have the feature hub".into(),
        mend: "from a checkout, `cargo install --locked --path . --features hub` builds one that has it".into(),
    })
}
