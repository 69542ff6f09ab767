//! Reads the data set in the folder that the ranking mounts at `/data`.

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
}

/// The items of a data set.
pub(super) fn dataset(path: &Path) -> Result<Vec<Item>, LoadError> {
    let text = fs::read(path).map_err(|source| LoadError::Unreadable { path: path.to_owned(), source })?;
    serde_json::from_slice(&text).map_err(|source| LoadError::NoDataset { path: path.to_owned(), source })
}
