//! What `convert` and `quantize` share: a model folder is written, with a progress bar, and Ctrl-C leaves nothing behind.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::common::{self, Common};
use crate::error::{Error, Result};
use crate::model::files::{FolderWriter, Weights, export};
use crate::precision::Precision;
use crate::shipped;

/// Writes the folder and says what was written. `doing` stands before the bar.
pub(super) fn write_folder(
    doing: &str,
    weights: &Weights,
    config: (&str, &[u8]),
    precision: Option<Precision>,
    out: &Path,
    extras: &mut dyn FnMut(&mut FolderWriter) -> Result<()>,
    common: &Common,
) -> Result<()> {
    let cancelled = watch()?;
    let bar = common.bar(&format!("{doing} {{bar:30}} {{bytes}}/{{total_bytes}} {{eta}}"));
    let mut progress = |done, total| {
        if cancelled.load(Ordering::SeqCst) {
            return Err(Error::Cancelled);
        }
        if total >= common::WORTH_A_BAR {
            bar.set_length(total);
            bar.set_position(done);
        }
        Ok(())
    };
    let exported = export(weights, config, precision, out, extras, &mut progress);
    bar.finish_and_clear();
    let exported = exported?;
    if !common.quiet {
        exported.notes.iter().for_each(|note| common::note(note));
    }
    let (path, out) = (out, out.display());
    common::print(&format!(
        "wrote {out}: {} parameters in {} tensors, {}, {} bytes\n",
        common::thousands(exported.parameters.total),
        exported.tensors,
        exported.dtypes.join(" and "),
        common::thousands(exported.bytes),
    ))?;
    if !common.quiet {
        common::say(&format!("next: refrain inspect {}", argument(path)));
    }
    Ok(())
}

/// A path as it can be typed after a command: one that looks like the name of a shipped model or of the Hub is made plain, one with
/// other than common characters is quoted.
fn argument(path: &Path) -> String {
    let shown = path.display().to_string();
    let named = shipped::NAMES.contains(&shown.as_str()) || shown.starts_with("hf:") || shown.starts_with('-');
    let shown = if named { format!("./{shown}") } else { shown };
    let plain = shown.chars().all(|c| c.is_alphanumeric() || "/\\._-:".contains(c));
    if plain { shown } else { format!("'{}'", shown.replace('\'', "'\\''")) }
}

/// Ctrl-C sets the flag, which is looked at between two pieces: what was written until then is removed.
fn watch() -> Result<Arc<AtomicBool>> {
    let flag = Arc::new(AtomicBool::new(false));
    let pressed = flag.clone();
    ctrlc::set_handler(move || pressed.store(true, Ordering::SeqCst))
        .map_err(|error| Error::Usage { reason: format!("cannot listen for Ctrl-C: {error}") })?;
    Ok(flag)
}
