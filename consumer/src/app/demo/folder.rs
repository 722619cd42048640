//! The demo's folder: emptied at the start, but never one that the demo did not make.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// Lies in a folder that the demo made and may therefore remove.
const MARKER: &str = ".catalog-labels-demo";

#[derive(Debug, thiserror::Error)]
pub enum FolderError {
    #[error("{} holds files that the demo did not make; name another folder with --local", path.display())]
    NotOurs { path: PathBuf },
    #[error("{} cannot be {action}", path.display())]
    Io {
        path: PathBuf,
        action: &'static str,
        #[source]
        source: io::Error,
    },
}

/// Leaves `path` as a folder with nothing in it but the demo's marker.
///
/// # Errors
/// Refuses a folder that is neither empty nor marked, and anything that is no folder.
pub fn start_clean(path: &Path) -> Result<(), FolderError> {
    let failed = |action| move |source| FolderError::Io { path: path.to_owned(), action, source };
    if path.join(MARKER).is_file() {
        fs::remove_dir_all(path).map_err(failed("emptied"))?;
    }
    fs::create_dir_all(path).map_err(failed("made"))?;
    if fs::read_dir(path).map_err(failed("read"))?.next().is_some() {
        return Err(FolderError::NotOurs { path: path.to_owned() });
    }
    fs::write(path.join(MARKER), "Made by `catalog-labels demo`, which empties this folder at its next start.\n")
        .map_err(failed("written to"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_run_starts_clean() {
        let parent = tempfile::tempdir().expect("a temporary folder");
        let folder = parent.path().join("a/demo");
        start_clean(&folder).expect("a new folder is made");
        fs::write(folder.join("tables.sqlite"), "old").expect("the folder is writable");
        start_clean(&folder).expect("our own folder is emptied");
        let names: Vec<_> = fs::read_dir(&folder).expect("a folder").flatten().map(|entry| entry.file_name()).collect();
        assert_eq!(names, [MARKER]);
    }

    #[test]
    fn a_folder_of_someone_else_is_left_alone() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let file = folder.path().join("thesis.txt");
        fs::write(&file, "years of work").expect("the folder is writable");
        let error = start_clean(folder.path()).expect_err("the folder is not ours");
        assert!(matches!(error, FolderError::NotOurs { .. }), "{error}");
        assert_eq!(fs::read_to_string(&file).expect("the file is there"), "years of work");
        assert!(!folder.path().join(MARKER).exists(), "a marker would doom the folder next time");
        assert!(matches!(start_clean(&file), Err(FolderError::Io { .. })), "a file is no folder");
    }
}
