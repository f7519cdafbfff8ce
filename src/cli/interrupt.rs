//! Ctrl-C: stops what is under way (an answer, a measurement); once more, or while nothing is, it ends the program.

use std::io::IsTerminal;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::error::{Error, Result};

static RUNNING: AtomicBool = AtomicBool::new(false);
static STOPPED: AtomicBool = AtomicBool::new(false);

/// Starts to listen.
pub(super) fn watch() -> Result<()> {
    let pressed = || {
        if !RUNNING.load(Ordering::SeqCst) || STOPPED.swap(true, Ordering::SeqCst) {
            std::process::exit(130);
        }
        // A pass of a large model takes a while.
        if std::io::stderr().is_terminal() {
            super::common::say("stopping after this pass; Ctrl-C again ends at once");
        }
    };
    ctrlc::set_handler(pressed).map_err(|error| Error::Usage { reason: format!("cannot listen for Ctrl-C: {error}") })
}

/// Something is under way.
pub(super) struct Running;

impl Running {
    pub fn start() -> Self {
        STOPPED.store(false, Ordering::SeqCst);
        RUNNING.store(true, Ordering::SeqCst);
        Self
    }

    /// Whether Ctrl-C was pressed since.
    pub fn stopped(&self) -> bool {
        STOPPED.load(Ordering::SeqCst)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        RUNNING.store(false, Ordering::SeqCst);
    }
}
