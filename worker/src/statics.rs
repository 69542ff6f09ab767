//! Folders whose files are served, as flags and files name them.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use baton_http::Mount;
use serde::{Deserialize, Deserializer, de};

const INDEX_DEFAULT: &str = "index.html";

/// A table `[[static]]`, or the flag `--static PATH=FOLDER`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, expecting = "a table with path and folder")]
pub struct StaticChoice {
    /// The prefix of the paths.
    pub path: String,
    /// The folder with their files.
    pub folder: String,
    /// The file that answers requests for a folder.
    #[serde(default)]
    pub index: Option<String>,
}

impl FromStr for StaticChoice {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (path, folder) = text
            .split_once('=')
            .filter(|(_, folder)| !folder.is_empty())
            .ok_or_else(|| format!("{text:?} is not PATH=FOLDER, such as /static/=/srv/www"))?;
        Ok(Self { path: path.to_owned(), folder: folder.to_owned(), index: None })
    }
}

impl StaticChoice {
    /// Adds the default index, and makes the folder independent of where the server was started.
    pub fn mount(self) -> Mount {
        let folder = std::path::absolute(&self.folder).unwrap_or_else(|_| PathBuf::from(self.folder));
        Mount { prefix: self.path, folder, index: self.index.unwrap_or_else(|| INDEX_DEFAULT.to_owned()) }
    }
}

struct Tables;

impl<'de> de::Visitor<'de> for Tables {
    type Value = Option<Vec<StaticChoice>>;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("tables [[static]], each with path and folder")
    }

    fn visit_seq<A: de::SeqAccess<'de>>(self, mut entries: A) -> Result<Self::Value, A::Error> {
        std::iter::from_fn(|| entries.next_element().transpose()).collect::<Result<_, _>>().map(Some)
    }
}

/// Reads the tables from a file.
pub(crate) fn tables<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Vec<StaticChoice>>, D::Error> {
    deserializer.deserialize_any(Tables)
}

/// What is wrong with these, and how to correct it.
pub(crate) fn problem(mounts: &[Mount]) -> Option<String> {
    mounts.iter().enumerate().find_map(|(place, Mount { prefix, index, .. })| {
        let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~/".contains(&byte);
        let has_segment = |segment: &str| prefix.split('/').any(|other| other == segment);
        if !prefix.starts_with('/') || !prefix.ends_with('/') {
            return Some(format!("the path {prefix:?} must begin and end with a slash, as /static/ does"));
        }
        if !prefix.bytes().all(is_plain) || prefix.contains("//") || has_segment(".") || has_segment("..") {
            return Some(format!("the path {prefix:?} may only have letters, digits, - . _ ~ and single slashes"));
        }
        if index.is_empty() || index.contains(['/', '\0']) || index.starts_with('.') {
            return Some(format!("the index {index:?} must be the name of a file, such as {INDEX_DEFAULT}"));
        }
        let is_twice = mounts[..place].iter().any(|other| other.prefix == *prefix);
        is_twice.then(|| format!("the path {prefix:?} is given twice (entry {})", place + 1))
    })
}
