//! The configuration file: its text, its settings, and their positions.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use toml::de::{DeTable, DeValue};

use super::{Choices, ConfigError, names};
use crate::units::Bytes;

/// Largest file that is read.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// A file that was read and parsed.
#[derive(Debug)]
pub struct ConfigFile {
    path: PathBuf,
    text: String,
    /// Its settings.
    pub choices: Choices,
}

impl ConfigFile {
    /// Reads a TOML file.
    ///
    /// # Errors
    /// If it cannot be read, is not TOML, or has unknown keys or values of a wrong type.
    pub fn read(path: &Path) -> Result<Self, ConfigError> {
        let unreadable = |source| ConfigError::Read { path: path.to_owned(), source };
        // One byte more than allowed: devices have no length to ask for, and some have no end.
        let mut bytes = Vec::new();
        let mut part = File::open(path).map_err(unreadable)?.take(FILE_BYTES_MAX + 1);
        part.read_to_end(&mut bytes).map_err(unreadable)?;
        if bytes.len() as u64 > FILE_BYTES_MAX {
            let problem = format!("a configuration file may have at most {}", Bytes(FILE_BYTES_MAX));
            return Err(unreadable(io::Error::new(io::ErrorKind::FileTooLarge, problem)));
        }
        let at = |text: &str, offset: usize, problem: String| {
            let (line, column) = position(text, offset);
            ConfigError::File { path: path.to_owned(), line, column, problem }
        };
        let text = String::from_utf8(bytes).map_err(|error| {
            let valid = String::from_utf8_lossy(&error.as_bytes()[..error.utf8_error().valid_up_to()]).into_owned();
            at(&valid, valid.len(), "the file is not UTF-8 from here on".to_owned())
        })?;
        if let Some(unknown) = names::unknown(&text) {
            return Err(at(&text, unknown.offset, unknown.problem));
        }
        let choices = toml::from_str(&text).map_err(|error| {
            let problem = error.message().trim().replace('\n', ", ");
            at(&text, error.span().map_or(0, |span| span.start), problem)
        })?;
        Ok(Self { path: path.to_owned(), text, choices })
    }

    /// An error at the position where the file sets `setting`, in any section.
    pub(super) fn error_at(&self, setting: &str, problem: &str) -> Option<ConfigError> {
        let table = DeTable::parse(&self.text).ok()?;
        let offset = table.get_ref().iter().find_map(|(key, value)| match value.get_ref() {
            _ if key.get_ref() == setting => Some(key.span().start),
            DeValue::Table(section) => {
                section.iter().find(|(key, _)| key.get_ref() == setting).map(|(key, _)| key.span().start)
            }
            _ => None,
        })?;
        let (line, column) = position(&self.text, offset);
        let problem = format!("{setting}: {problem}");
        Some(ConfigError::File { path: self.path.clone(), line, column, problem })
    }
}

/// Line and column of a byte, both from 1; columns count characters.
fn position(text: &str, offset: usize) -> (usize, usize) {
    let before = &text[..offset.min(text.len())];
    let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
    (before.matches('\n').count() + 1, before[line_start..].chars().count() + 1)
}
