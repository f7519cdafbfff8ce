//! A command line, an argument a line: parsed, not run.

use std::ffi::OsString;

/// Parses the arguments.
pub fn enter(data: &[u8]) {
    let arguments = data.split(|byte| *byte == b'\n').map(argument);
    if let Err(error) = refrain::cli::parse(std::iter::once("refrain".into()).chain(arguments)) {
        assert!(!error.to_string().is_empty());
    }
}

#[cfg(unix)]
fn argument(bytes: &[u8]) -> OsString {
    std::os::unix::ffi::OsStringExt::from_vec(bytes.to_vec())
}

#[cfg(not(unix))]
fn argument(bytes: &[u8]) -> OsString {
    String::from_utf8_lossy(bytes).into_owned().into()
}
