//! The only place that reads files; pass [`read`] to [`Settings::load`](crate::settings::Settings::load).

use std::fs::{self, File};
use std::io::{self, Read as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

/// Longest file that is read, in bytes. A system's file of all trusted authorities has a quarter of a megabyte.
pub const FILE_BYTES_MAX: u64 = 4 << 20;

/// Reads a file of certificates or keys into one block of memory that the caller can zeroise.
///
/// # Errors
/// Those of the system; `InvalidInput` for a pipe, a device or a directory, which a reload could not read again;
/// `FileTooLarge` if it is longer than [`FILE_BYTES_MAX`].
pub fn read(path: &Path) -> io::Result<Vec<u8>> {
    let metadata = fs::metadata(path)?;
    if !metadata.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file"));
    }
    if metadata.len() > FILE_BYTES_MAX {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, format!("longer than {FILE_BYTES_MAX} bytes")));
    }
    // The buffer has room for the whole file and for the read that finds its end, so that it is never reallocated and
    // no copy is left behind.
    let mut bytes = Vec::with_capacity(metadata.len() as usize + 64);
    File::open(path)?.take(FILE_BYTES_MAX).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// The permissions of a file, for [`Settings::exposed_keys`](crate::settings::Settings::exposed_keys).
///
/// # Errors
/// Those of the system.
pub fn mode(path: &Path) -> io::Result<u32> {
    Ok(fs::metadata(path)?.mode())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_read_and_nothing_else() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("key.pem");
        fs::write(&path, "contents").expect("written");
        assert_eq!(read(&path).expect("a file"), b"contents");
        assert_eq!(read(folder.path()).expect_err("a folder").kind(), io::ErrorKind::InvalidInput);
        assert_eq!(read(Path::new("/dev/zero")).expect_err("a device").kind(), io::ErrorKind::InvalidInput);
        File::create(&path).expect("a file").set_len(FILE_BYTES_MAX + 1).expect("a hole");
        assert_eq!(read(&path).expect_err("a long one").kind(), io::ErrorKind::FileTooLarge);
        assert_eq!(read(&folder.path().join("none")).expect_err("none").kind(), io::ErrorKind::NotFound);
        assert_eq!(mode(&path).expect("a mode") & 0o170_000, 0o100_000);
    }
}
