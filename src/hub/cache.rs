//! The cache on disk, in the layout that the Hub's tools share:
//!
//! ```text
//! models--OWNER--REPO/refs/main              the commit that a branch or tag stood for when it was last fetched
//!                     snapshots/COMMIT/file  a link to a blob
//!                     blobs/ETAG             the bytes; ETAG.incomplete while they come
//! .locks/models--OWNER--REPO/ETAG.lock       held while they come
//! ```

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use fs4::{FileExt, TryLockError};
use hf_hub::{CacheRepo, Repo, RepoType};
use ring::digest::{Context, SHA256};

use super::http::Remote;
use super::{CONFIG, HubName, INDEX, WEIGHTS, is_commit, shards_of};
use crate::error::{Error, Result};
use crate::model::files::Source;

/// Bytes that are read at a time.
const CHUNK: usize = 1 << 18;

/// The part of the cache that belongs to one repository.
pub(super) struct Cache<'a> {
    name: &'a HubName,
    repo: CacheRepo,
    blobs: PathBuf,
    locks: PathBuf,
}

impl<'a> Cache<'a> {
    pub fn new(root: &Path, name: &'a HubName) -> Self {
        let repo = repo_of(name, name.revision());
        let folder = repo.folder_name();
        let (blobs, locks) = (root.join(&folder).join("blobs"), root.join(".locks").join(folder));
        Self { name, repo: hf_hub::Cache::new(root.to_path_buf()).repo(repo), blobs, locks }
    }

    /// The folder of a commit.
    pub fn folder(&self, commit: &str) -> PathBuf {
        self.repo.pointer_path(commit)
    }

    /// Whether a file of a commit is there.
    pub fn has(&self, commit: &str, file: &str) -> bool {
        is_file(&self.folder(commit).join(file))
    }

    /// The folder of the revision, if a whole model is in it; else what is lacking.
    pub fn snapshot(&self) -> std::result::Result<PathBuf, String> {
        let revision = self.name.revision();
        let folder = if is_commit(revision) {
            Some(self.folder(revision)).filter(|folder| is_file(&folder.join(CONFIG)))
        } else {
            // What refs/ holds is looked at as a commit, whoever wrote it: anything else may lead out of the cache.
            let folder = self.repo.get(CONFIG).and_then(|config| config.parent().map(Path::to_path_buf));
            let commit =
                |folder: &PathBuf| folder.file_name().map(|name| name.to_string_lossy().into_owned()).filter(|name| is_commit(name));
            folder.filter(|folder| commit(folder).is_some_and(|commit| self.folder(&commit) == *folder))
        };
        let Some(folder) = folder else {
            let repo = self.blobs.parent().unwrap_or(&self.blobs).display();
            return Err(format!("there is no {CONFIG} of the revision {revision} in {repo}"));
        };
        if is_file(&folder.join(WEIGHTS)) {
            return Ok(folder);
        }
        let shards = if is_file(&folder.join(INDEX)) {
            shards_of(&Source::Folder(folder.clone())).map_err(|error| error.to_string())?
        } else {
            [WEIGHTS.to_string()].into()
        };
        match shards.iter().find(|shard| !is_file(&folder.join(shard))) {
            Some(shard) => Err(format!("{} is missing", folder.join(shard).display())),
            None => Ok(folder),
        }
    }

    /// Notes which commit the revision stands for.
    pub fn point_to(&self, commit: &str) -> Result<()> {
        if is_commit(self.name.revision()) {
            return Ok(());
        }
        self.repo.create_ref(commit).map_err(at(&self.blobs.with_file_name("refs"), "write"))
    }

    /// The right to write a blob, until it is dropped; `None` while another process has it.
    pub fn lock(&self, etag: &str) -> Result<Option<File>> {
        fs::create_dir_all(&self.locks).map_err(at(&self.locks, "create"))?;
        let path = self.locks.join(format!("{etag}.lock"));
        let file = OpenOptions::new().create(true).truncate(false).write(true).open(&path).map_err(at(&path, "create"))?;
        match FileExt::try_lock(&file) {
            Ok(()) => Ok(Some(file)),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(source)) => Err(at(&path, "lock")(source)),
        }
    }

    /// Whether the bytes are there, under this or another commit or file.
    pub fn has_blob(&self, remote: &Remote) -> bool {
        fs::metadata(self.blobs.join(&remote.etag)).is_ok_and(|data| data.is_file() && data.len() == remote.length)
    }

    /// What an earlier run left of a blob, or a new file.
    pub fn partial(&self, remote: &Remote) -> Result<Partial> {
        fs::create_dir_all(&self.blobs).map_err(at(&self.blobs, "create"))?;
        let blob = self.blobs.join(&remote.etag);
        let path = self.blobs.join(format!("{}.incomplete", remote.etag));
        let mut options = OpenOptions::new();
        let file = options.create(true).truncate(false).read(true).write(true).open(&path).map_err(at(&path, "create"))?;
        let mut partial = Partial { path, blob, file, length: 0, sha256: remote.sha256(), so_far: Context::new(&SHA256) };
        if partial.file.metadata().map_err(at(&partial.path, "read"))?.len() <= remote.length {
            partial.read()?;
        } else {
            partial.clear()?;
        }
        Ok(partial)
    }

    /// Lets a commit's file lead to its blob.
    pub fn link(&self, commit: &str, remote: &Remote) -> Result<()> {
        let folder = self.folder(commit);
        fs::create_dir_all(&folder).map_err(at(&folder, "create"))?;
        let link = folder.join(&remote.file);
        if is_file(&link) {
            return Ok(());
        }
        // A link to a blob that is gone.
        let _ = fs::remove_file(&link);
        match link_file(&self.blobs, &remote.etag, &link) {
            // Another process was faster.
            Err(_) if is_file(&link) => Ok(()),
            result => result.map_err(at(&link, "create")),
        }
    }
}

/// The repository as the crate `hf-hub` names it.
pub(super) fn repo_of(name: &HubName, revision: &str) -> Repo {
    Repo::with_revision(name.repo().into(), RepoType::Model, revision.into())
}

#[cfg(unix)]
fn link_file(_: &Path, etag: &str, link: &Path) -> std::io::Result<()> {
    std::os::unix::fs::symlink(Path::new("../../blobs").join(etag), link)
}

/// Where a link needs a right that the user may lack, a second name or a copy will do.
#[cfg(not(unix))]
fn link_file(blobs: &Path, etag: &str, link: &Path) -> std::io::Result<()> {
    let blob = blobs.join(etag);
    fs::hard_link(&blob, link).or_else(|_| fs::copy(&blob, link).map(|_| ()))
}

fn is_file(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|data| data.is_file())
}

/// An [`Error::File`] of this path.
fn at(path: &Path, doing: &'static str) -> impl Fn(std::io::Error) -> Error {
    let path = path.display().to_string();
    move |source| Error::File { path: path.clone(), doing, source }
}

/// A blob on its way.
pub(super) struct Partial {
    path: PathBuf,
    blob: PathBuf,
    file: File,
    length: u64,
    sha256: Option<String>,
    so_far: Context,
}

impl Partial {
    /// Bytes that are there.
    pub fn length(&self) -> u64 {
        self.length
    }

    /// Hashes what is there.
    fn read(&mut self) -> Result<()> {
        let mut buffer = vec![0; CHUNK];
        loop {
            let count = self.file.read(&mut buffer).map_err(at(&self.path, "read"))?;
            if count == 0 {
                return Ok(());
            }
            self.so_far.update(&buffer[..count]);
            self.length += count as u64;
        }
    }

    pub fn append(&mut self, bytes: &[u8]) -> Result<()> {
        self.file.write_all(bytes).map_err(at(&self.path, "write"))?;
        self.so_far.update(bytes);
        self.length += bytes.len() as u64;
        Ok(())
    }

    /// Begins again.
    pub fn clear(&mut self) -> Result<()> {
        self.file.set_len(0).and_then(|()| self.file.seek(SeekFrom::Start(0))).map_err(at(&self.path, "write"))?;
        (self.length, self.so_far) = (0, Context::new(&SHA256));
        Ok(())
    }

    /// Whether the hash is the one that the server said; true where it said none.
    pub fn is_whole(&self) -> bool {
        let hex = || self.so_far.clone().finish().as_ref().iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        self.sha256.as_ref().is_none_or(|expected| *expected == hex())
    }

    /// Deletes it.
    pub fn remove(self) -> Result<()> {
        drop(self.file);
        fs::remove_file(&self.path).map_err(at(&self.path, "remove"))
    }

    /// Gives it its name, once the bytes are on the disk: a name must not outlive a power cut that the bytes do not.
    pub fn keep(self) -> Result<()> {
        self.file.sync_all().map_err(at(&self.path, "write"))?;
        drop(self.file);
        fs::rename(&self.path, &self.blob).map_err(at(&self.blob, "create"))
    }
}
