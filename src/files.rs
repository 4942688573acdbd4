//! Files and directories that a gateway reads, made by the user that runs the command.
//!
//! They get the owner and group of the directory that they are made in: what root writes there must
//! be readable for the user that the gateway runs as. Where only root could do that, and another user
//! else runs the command, they stay that user's. Files appear whole or not at all.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{
    DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _, fchown,
};
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;

/// Only the owner may look into a directory that is made here.
const DIRECTORY_MODE: u32 = 0o700;

/// Makes a directory and those above it, where they are not there yet.
///
/// # Errors
/// When one cannot be made.
pub fn make_directory(directory: &Path) -> io::Result<()> {
    if directory.as_os_str().is_empty() || directory.is_dir() {
        return Ok(());
    }
    if let Some(parent) = directory.parent() {
        make_directory(parent)?;
    }
    match DirBuilder::new().mode(DIRECTORY_MODE).create(directory) {
        // Another process was faster.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => return Ok(()),
        made => made?,
    }
    give(&open(directory, OFlags::DIRECTORY)?, directory)
}

/// Writes a file in the place of whatever is there, with these permissions for its owner, its group
/// and others.
///
/// # Errors
/// When it cannot be written.
pub fn write(path: &Path, content: &[u8], mode: u32) -> io::Result<()> {
    let mut name = std::ffi::OsString::from(".");
    name.push(path.file_name().ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))?);
    name.push(format!(".{}", std::process::id()));
    let beside = path.with_file_name(name);
    match fs::remove_file(&beside) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        Ok(()) | Err(_) => {}
    }
    // Never a file that another user put there: what is given away is the file that was made here.
    let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(&beside)?;
    let mut written = || -> io::Result<()> {
        file.write_all(content)?;
        give(&file, path)?;
        file.set_permissions(fs::Permissions::from_mode(mode))?;
        file.sync_all()?;
        fs::rename(&beside, path)
    };
    written().inspect_err(|_| drop(fs::remove_file(&beside)))
}

/// Gives a file that this process has just made to the owner of its directory.
///
/// # Errors
/// When the file or its directory cannot be looked at.
pub fn give_to_owner_of_directory(path: &Path) -> io::Result<()> {
    give(&open(path, OFlags::empty())?, path)
}

/// Whether a file belongs to another user than its directory does.
#[must_use]
pub fn is_of_another_owner(path: &Path) -> bool {
    let owner = |path: &Path| fs::metadata(path).map(|metadata| metadata.uid()).ok();
    owner(path) != owner(&directory_of(path))
}

fn open(path: &Path, flags: OFlags) -> io::Result<File> {
    let flags = (flags | OFlags::NOFOLLOW).bits();
    OpenOptions::new().read(true).custom_flags(flags.cast_signed()).open(path)
}

/// By the descriptor, so that it is the file that was made and nothing that has taken its name.
fn give(file: &File, path: &Path) -> io::Result<()> {
    let (own, directory) = (file.metadata()?, fs::metadata(directory_of(path))?);
    if (own.uid(), own.gid()) == (directory.uid(), directory.gid()) {
        return Ok(());
    }
    match fchown(file, Some(directory.uid()), Some(directory.gid())) {
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Ok(()),
        given => given,
    }
}

fn directory_of(path: &Path) -> PathBuf {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
        Some(_) | None => PathBuf::from("."),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_root_makes_belongs_to_the_owner_of_the_directory() {
        let dir = tempfile::tempdir().expect("a directory");
        let owner = fs::metadata(dir.path()).expect("there").uid();
        // Only root can give anything away; every other user keeps it.
        let (user, group) = if owner == 0 { (4711, 4712) } else { (owner, 0) };
        drop(std::os::unix::fs::chown(dir.path(), Some(user), (owner == 0).then_some(group)));
        let inner = dir.path().join("a/b");
        make_directory(&inner).expect("made");
        make_directory(&inner).expect("already there");
        let file = inner.join("file");
        write(&file, b"one", 0o600).expect("written");
        write(&file, b"two", 0o600).expect("written again");
        assert_eq!(fs::read(&file).expect("readable"), b"two");
        for path in [&inner, &file] {
            let metadata = fs::metadata(path).expect("there");
            assert_eq!(metadata.uid(), user, "{}", path.display());
            assert!(owner != 0 || metadata.gid() == group, "{}", path.display());
            assert!(!is_of_another_owner(path), "{}", path.display());
        }
        assert_eq!(fs::metadata(&file).expect("there").permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(&inner).expect("a directory").count(), 1, "nothing is left beside it");
    }
}
