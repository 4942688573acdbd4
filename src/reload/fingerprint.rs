//! By what it is told that files have changed: their times and sizes.

use std::path::{Path, PathBuf};
use std::time::SystemTime;

use crate::config::Config;
use crate::key_store;

/// The files that a state is built from, as they were at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fingerprint {
    files: Vec<(PathBuf, Option<SystemTime>, u64)>,
    /// Directories of keys, each of whose files counts.
    directories: [PathBuf; 2],
    keys: Vec<(PathBuf, Option<SystemTime>, u64)>,
}

impl Fingerprint {
    /// Of everything that the configuration in `path` names.
    #[must_use]
    pub fn of(path: Option<&Path>, config: &Config) -> Self {
        let directories = [config.tokens.keys.clone(), config.uploads.seal_keys.clone()];
        Self::take(files_of(path, config), directories)
    }

    /// The same files as they are now.
    #[must_use]
    pub(super) fn again(&self) -> Self {
        Self::take(self.files.iter().map(|file| file.0.clone()).collect(), self.directories.clone())
    }

    /// Whether these are all the files that a configuration names.
    pub(super) fn is_of(&self, path: Option<&Path>, config: &Config) -> bool {
        files_of(path, config).iter().eq(self.files.iter().map(|file| &file.0))
    }

    fn take(files: Vec<PathBuf>, directories: [PathBuf; 2]) -> Self {
        let [keys, seals] = &directories;
        let keys = key_store::fingerprint(&[keys, seals]);
        Self { files: files.into_iter().map(stat).collect(), directories, keys }
    }
}

fn files_of(path: Option<&Path>, config: &Config) -> Vec<PathBuf> {
    let mut files = config.watched_files();
    files.extend(path.map(Path::to_owned));
    files
}

fn stat(path: PathBuf) -> (PathBuf, Option<SystemTime>, u64) {
    let metadata = std::fs::metadata(&path).ok();
    let modified = metadata.as_ref().and_then(|metadata| metadata.modified().ok());
    (path, modified, metadata.map_or(0, |metadata| metadata.len()))
}
