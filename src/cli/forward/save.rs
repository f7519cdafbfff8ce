//! Files that are written whole or not at all, and tensors in the safetensors format.

use std::fs::{File, Metadata};
use std::io::{BufWriter, ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::error::{Error, Result};
use crate::model::files::{Entry, safetensors_header};

/// A file to be written later, tried beforehand.
pub(in crate::cli) struct Target {
    /// As the user gave it.
    given: PathBuf,
    way: Way,
}

/// How to write it.
enum Way {
    /// A file, made beside this path and renamed to it.
    Whole(PathBuf),
    /// A device or a pipe: nothing to rename over, it is written in place, by the name that the user gave (a pipe may have no other).
    InPlace,
    /// Where stdout or stderr lead, be it a file: through these, so that what else goes there stays.
    Open(File),
}

impl Target {
    /// Checks that the file can be made, so that a long computation is not lost to a wrong path. Leaves nothing behind.
    pub fn new(given: &Path) -> Result<Self> {
        let fail = |source| write_error(given, source);
        let way = match std::fs::metadata(given) {
            Ok(data) if data.is_dir() => return Err(fail(ErrorKind::IsADirectory.into())),
            Ok(data) if data.permissions().readonly() => return Err(fail(ErrorKind::PermissionDenied.into())),
            Ok(data) => match standard_stream(&data) {
                Some(stream) => Way::Open(stream),
                None if !data.is_file() => Way::InPlace,
                // Through a link, what it leads to is replaced.
                None => Way::Whole(std::fs::canonicalize(given).map_err(fail)?),
            },
            Err(error) if error.kind() == ErrorKind::NotFound => Way::Whole(given.to_path_buf()),
            Err(error) => return Err(fail(error)),
        };
        if let Way::Whole(path) = &way {
            Temporary::beside(path).map_err(fail)?;
        }
        Ok(Self { given: given.to_path_buf(), way })
    }

    /// Whether it is written in place, so that several may write to it.
    pub fn is_special(&self) -> bool {
        !matches!(self.way, Way::Whole(_))
    }

    /// Writes the file under another name in the same folder and gives it its own name once it is complete.
    pub fn write(&self, write: impl FnOnce(&mut dyn Write) -> std::io::Result<()>) -> Result<()> {
        self.try_write(write).map_err(|source| write_error(&self.given, source))
    }

    fn try_write(&self, write: impl FnOnce(&mut dyn Write) -> std::io::Result<()>) -> std::io::Result<()> {
        let (temporary, file) = match &self.way {
            Way::Whole(path) => Temporary::beside(path).map(|(temporary, file)| (Some((temporary, path)), file))?,
            Way::InPlace => (None, File::options().write(true).open(&self.given)?),
            Way::Open(stream) => (None, stream.try_clone()?),
        };
        let mut file = BufWriter::new(file);
        write(&mut file)?;
        file.flush()?;
        // Closed first: Windows does not rename an open file.
        drop(file);
        temporary.map_or(Ok(()), |(temporary, path)| temporary.rename(path))
    }
}

/// stdout or stderr, if this is what it leads to.
#[cfg(unix)]
fn standard_stream(data: &Metadata) -> Option<File> {
    use std::os::fd::AsFd;
    use std::os::unix::fs::MetadataExt;
    let same = |file: &File| file.metadata().is_ok_and(|open| (open.dev(), open.ino()) == (data.dev(), data.ino()));
    let streams = [std::io::stdout().as_fd().try_clone_to_owned(), std::io::stderr().as_fd().try_clone_to_owned()];
    streams.into_iter().flatten().map(File::from).find(same)
}

#[cfg(not(unix))]
fn standard_stream(_: &Metadata) -> Option<File> {
    None
}

fn write_error(path: &Path, source: std::io::Error) -> Error {
    Error::File { path: path.display().to_string(), doing: "write", source }
}

/// A file that is removed when it is dropped.
struct Temporary(PathBuf);

impl Temporary {
    /// A new file in the folder of `path`.
    fn beside(path: &Path) -> std::io::Result<(Self, File)> {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        if path.file_name().is_none() {
            return Err(ErrorKind::InvalidFilename.into());
        }
        let name = format!(".refrain-{}-{}.part", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let path = path.with_file_name(name);
        let file = File::create_new(&path)?;
        Ok((Self(path), file))
    }

    fn rename(self, to: &Path) -> std::io::Result<()> {
        std::fs::rename(&self.0, to)
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0); // After a rename there is nothing left to remove.
    }
}

/// A tensor to be saved.
pub(super) struct Named {
    name: String,
    shape: Vec<usize>,
    data: Data,
}

/// The numbers of a tensor.
pub(super) enum Data {
    F32(Vec<f32>),
    I32(Vec<i32>),
}

impl Named {
    /// Numbers of this name and shape.
    pub fn new(name: impl Into<String>, shape: &[usize], data: Data) -> Self {
        Self { name: name.into(), shape: shape.to_vec(), data }
    }

    fn entry(&self) -> Entry<'_> {
        let dtype = match self.data {
            Data::F32(_) => "F32",
            Data::I32(_) => "I32",
        };
        Entry { name: &self.name, dtype, shape: &self.shape }
    }

    fn bytes(&self) -> &[u8] {
        match &self.data {
            Data::F32(numbers) => bytemuck::cast_slice(numbers),
            Data::I32(numbers) => bytemuck::cast_slice(numbers),
        }
    }
}

/// Writes tensors as a safetensors file.
pub(super) fn write_tensors(file: &mut dyn Write, tensors: &[Named]) -> std::io::Result<()> {
    let entries: Vec<Entry<'_>> = tensors.iter().map(Named::entry).collect();
    let (header, _) = safetensors_header("the file", &[], &entries).map_err(std::io::Error::other)?;
    file.write_all(&header)?;
    tensors.iter().try_for_each(|tensor| file.write_all(tensor.bytes()))
}
