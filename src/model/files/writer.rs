//! Writes a model folder whole or not at all: everything goes into a temporary folder beside it, which takes its name at the end, or
//! inside it, if it is there and empty.

use super::header::Dtype;
use super::shorten;
use crate::error::{Error, Result};
use std::collections::BTreeSet;
use std::fs::File;
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

/// One tensor of a safetensors file to be written.
#[derive(Clone, Copy, Debug)]
pub struct Entry<'a> {
    /// Its name.
    pub name: &'a str,
    /// What its numbers are stored as, by the name in safetensors: F32, BF16, U8, …
    pub dtype: &'a str,
    /// Its shape, outermost first.
    pub shape: &'a [usize],
}

/// The start of a safetensors file, from the length of the header to its last byte, and how many bytes of numbers follow: those of the
/// entries one after the other, without gaps. It is padded so that the numbers start at a multiple of 8 bytes.
///
/// # Errors
/// [`Error::Tensor`] with `path` for two entries of one name, a dtype that is not known, or a size that overflows.
pub fn header(path: &str, metadata: &[(&str, String)], entries: &[Entry<'_>]) -> Result<(Vec<u8>, u64)> {
    let (mut map, mut end) = (serde_json::Map::new(), 0u64);
    if !metadata.is_empty() {
        let metadata: serde_json::Map<_, _> = metadata.iter().map(|(key, value)| ((*key).to_string(), value.clone().into())).collect();
        map.insert("__metadata__".into(), metadata.into());
    }
    let mut names = BTreeSet::from(["__metadata__"]);
    for entry in entries {
        let fail = |expected: &str, found: String| Error::Tensor {
            path: path.into(),
            tensor: shorten(entry.name),
            expected: expected.into(),
            found,
        };
        let Some(bits) = Dtype::new(entry.dtype).bits() else {
            return Err(fail("a dtype of safetensors", shorten(entry.dtype)));
        };
        let bits = entry.shape.iter().try_fold(bits, |n, &size| n.checked_mul(size as u64)).filter(|bits| bits.is_multiple_of(8));
        let Some(next) = bits.and_then(|bits| end.checked_add(bits / 8)) else {
            return Err(fail("a shape of whole bytes that a file can hold", shorten(&format!("{:?}", entry.shape))));
        };
        if !names.insert(entry.name) {
            return Err(fail("a name of its own", "two tensors of this name".into()));
        }
        let value = serde_json::json!({ "dtype": entry.dtype, "shape": entry.shape, "data_offsets": [end, next] });
        map.insert(entry.name.into(), value);
        end = next;
    }
    let json = serde_json::Value::Object(map).to_string();
    // Readers that map the file want the numbers at a multiple of 8 bytes.
    let length = json.len().next_multiple_of(8);
    let mut bytes = (length as u64).to_le_bytes().to_vec();
    bytes.extend(json.as_bytes());
    bytes.resize(8 + length, b' ');
    Ok((bytes, end))
}

/// A model folder that is being written. Dropped before [`finish`](Self::finish), it leaves nothing behind.
#[derive(Debug)]
pub struct FolderWriter {
    /// As the caller gave it, for messages.
    given: PathBuf,
    /// Where the folder goes.
    out: PathBuf,
    part: PathBuf,
    /// An empty folder stands there already, and is filled.
    fills: bool,
    /// Files that were begun and not finished.
    open: usize,
}

impl FolderWriter {
    /// Starts a folder that will be `out`, which must not exist, or be an empty folder. Its parent must exist. What does not exist comes
    /// into being in one step; an empty folder stays itself (it may be somebody's current folder, or a mounted volume), and gets its files
    /// one by one at the end, `config.json`, without which it is no model, last.
    ///
    /// # Errors
    /// [`Error::Argument`] where `out` exists; [`Error::File`] where no folder can be made beside it.
    pub fn create(out: &Path) -> Result<Self> {
        let given = out.to_path_buf();
        let fail = |source| write_error(&given, source);
        let taken = |found: &str| {
            let found = format!("{}, {found}", given.display());
            Error::Argument { name: "OUT".into(), expected: "a folder that does not exist yet, or an empty one".into(), found }
        };
        let (out, fills) = match std::fs::symlink_metadata(out) {
            Ok(_) => {
                // Through a link, what it leads to is filled.
                let out = std::fs::canonicalize(out).map_err(fail)?;
                if !std::fs::metadata(&out).map_err(fail)?.is_dir() {
                    return Err(taken("a file"));
                }
                if std::fs::read_dir(&out).map_err(fail)?.next().is_some() {
                    return Err(taken("a folder with files in it"));
                }
                (out, true)
            }
            Err(error) if error.kind() == ErrorKind::NotFound => (given.clone(), false),
            Err(error) => return Err(fail(error)),
        };
        let part = part_of(&out, fills).map_err(fail)?;
        Ok(Self { given, out, part, fills, open: 0 })
    }

    /// What messages call a file of the folder.
    pub fn path(&self, name: &str) -> String {
        self.given.join(name).display().to_string()
    }

    /// Writes a small file whole.
    ///
    /// # Errors
    /// [`Error::File`] where it cannot be written, or is there already.
    pub fn write_small(&mut self, name: &str, bytes: &[u8]) -> Result<()> {
        let mut file = self.new_file(name)?;
        file.write_all(bytes).and_then(|()| file.sync_all()).map_err(|source| self.error(name, source))
    }

    /// Starts a safetensors file; the numbers of the entries are then written in their order.
    ///
    /// # Errors
    /// [`Error::File`] where it cannot be written, or is there already; [`Error::Tensor`] as [`header`].
    pub fn tensors(&mut self, name: &str, metadata: &[(&str, String)], entries: &[Entry<'_>]) -> Result<TensorWriter<'_>> {
        let (header, left) = header(&self.path(name), metadata, entries)?;
        let mut file = self.new_file(name)?;
        file.write_all(&header).map_err(|source| self.error(name, source))?;
        self.open += 1;
        Ok(TensorWriter { folder: self, name: name.into(), file, left, total: left })
    }

    /// Gives the folder its name.
    ///
    /// # Errors
    /// [`Error::File`] where that fails, [`Error::Usage`] where a file was begun and not finished. Then nothing is left behind.
    pub fn finish(self) -> Result<()> {
        if self.open > 0 {
            return Err(Error::Usage { reason: format!("{}: a file in it was begun and not finished", self.given.display()) });
        }
        let rename = || {
            sync_folder(&self.part)?;
            if self.fills {
                return self.fill();
            }
            std::fs::rename(&self.part, &self.out)?;
            sync_folder(parent(&self.out))
        };
        rename().map_err(|source| write_error(&self.given, source))
    }

    /// Moves the files into the folder that is there already.
    fn fill(&self) -> std::io::Result<()> {
        let mut names = std::fs::read_dir(&self.part)?.map(|entry| Ok(entry?.file_name())).collect::<std::io::Result<Vec<_>>>()?;
        names.sort_by_key(|name| name == "config.json");
        // Somebody else may have put files there since.
        if let Some(taken) = names.iter().find(|name| self.out.join(name).exists()) {
            return Err(std::io::Error::new(ErrorKind::AlreadyExists, format!("{} is there by now", taken.to_string_lossy())));
        }
        for name in names {
            std::fs::rename(self.part.join(&name), self.out.join(&name))?;
        }
        sync_folder(&self.out)
    }

    fn new_file(&self, name: &str) -> Result<File> {
        File::create_new(self.part.join(name)).map_err(|source| self.error(name, source))
    }

    fn error(&self, name: &str, source: std::io::Error) -> Error {
        write_error(&self.given.join(name), source)
    }
}

impl Drop for FolderWriter {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.part); // After a rename there is nothing left to remove.
    }
}

/// A safetensors file that is being written.
#[derive(Debug)]
pub struct TensorWriter<'a> {
    folder: &'a mut FolderWriter,
    name: String,
    file: File,
    left: u64,
    total: u64,
}

impl TensorWriter<'_> {
    /// Writes the next bytes of the tensors' numbers, little-endian. They go to the file at once: better many than few.
    ///
    /// # Errors
    /// [`Error::File`] where they cannot be written, [`Error::Usage`] where they are more than the tensors have.
    pub fn write(&mut self, bytes: &[u8]) -> Result<()> {
        let Some(left) = self.left.checked_sub(bytes.len() as u64) else {
            return Err(self.usage(format!("{} more were written", bytes.len() as u64 - self.left)));
        };
        self.file.write_all(bytes).map_err(|source| self.folder.error(&self.name, source))?;
        self.left = left;
        Ok(())
    }

    /// Completes the file.
    ///
    /// # Errors
    /// [`Error::File`] where it cannot be written, [`Error::Usage`] where bytes of the tensors are missing.
    pub fn finish(self) -> Result<()> {
        if self.left > 0 {
            return Err(self.usage(format!("{} of them were not written", self.left)));
        }
        self.file.sync_all().map_err(|source| self.folder.error(&self.name, source))?;
        self.folder.open -= 1;
        Ok(())
    }

    fn usage(&self, what: String) -> Error {
        Error::Usage { reason: format!("{}: its tensors have {} bytes, and {what}", self.folder.path(&self.name), self.total) }
    }
}

fn write_error(path: &Path, source: std::io::Error) -> Error {
    Error::File { path: path.display().to_string(), doing: "write", source }
}

fn parent(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Makes a new folder beside `out`, `.OUT.refrain-PID-COUNT.part`, or `inside` it, so that both are on one file system.
fn part_of(out: &Path, inside: bool) -> std::io::Result<PathBuf> {
    static COUNT: AtomicUsize = AtomicUsize::new(0);
    let (folder, name) = match inside {
        true => (out, String::new()),
        false => (parent(out), format!(".{}", out.file_name().ok_or(ErrorKind::InvalidFilename)?.to_string_lossy())),
    };
    loop {
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let part = folder.join(format!("{name}.refrain-{}-{count}.part", std::process::id()));
        match std::fs::create_dir(&part) {
            // A run that was killed left it, and had this one's number.
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
            made => return made.map(|()| part),
        }
    }
}

/// Makes the names in a folder outlast a loss of power, where the system lets a folder be opened for it.
fn sync_folder(folder: &Path) -> std::io::Result<()> {
    if cfg!(unix) {
        // Some file systems cannot; the files themselves are safe.
        let _ = File::open(folder)?.sync_all();
    }
    Ok(())
}
