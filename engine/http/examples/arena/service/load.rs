//! Reads the folder that the ranking mounts at `/data`.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::dataset::Item;

/// What is wrong with the data.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LoadError {
    #[error("{} cannot be read: {source}; give with --data a folder that has dataset.json and static/", path.display())]
    Unreadable { path: PathBuf, source: io::Error },
    #[error(
        "{}: {source}; expected is an array of items with id, name, category, price, quantity, active, tags and rating",
        path.display()
    )]
    NoDataset { path: PathBuf, source: serde_json::Error },
    #[error("{} has a name that is not UTF-8: no path could name it; rename it", path.display())]
    Name { path: PathBuf },
}

/// The items of a data set.
pub(super) fn dataset(path: &Path) -> Result<Vec<Item>, LoadError> {
    let text = fs::read(path).map_err(|source| LoadError::Unreadable { path: path.to_owned(), source })?;
    serde_json::from_slice(&text).map_err(|source| LoadError::NoDataset { path: path.to_owned(), source })
}

/// Names and paths of the regular files in a folder; of those alone, so that no name leads out of it.
pub(super) fn files(folder: &Path) -> Result<Vec<(String, PathBuf)>, LoadError> {
    let unreadable = |source| LoadError::Unreadable { path: folder.to_owned(), source };
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).map_err(unreadable)? {
        let entry = entry.map_err(unreadable)?;
        if entry.file_type().map_err(unreadable)?.is_file() {
            let path = entry.path();
            let name = entry.file_name().into_string().map_err(|_| LoadError::Name { path: path.clone() })?;
            files.push((name, path));
        }
    }
    Ok(files)
}
