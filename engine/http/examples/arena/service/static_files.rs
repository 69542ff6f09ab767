//! `/static/`: the files that the folder had at start, read anew for each request: the ranking lets no entry keep them in memory.
//!
//! Only names of files are served, so no path leads out of the folder.

use std::borrow::Cow;
use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use baton_http::accept::{Encoding, negotiate};
use baton_http::{Done, Error, Reply, Request, StatusCode, media_type};

/// A file is held whole while it is sent; larger ones are refused.
const FILE_BYTES_MAX: u64 = 16 << 20;

/// Ends of the names of files that have another compressed.
const SIBLINGS: [(&str, Encoding); 2] = [(".br", Encoding::Brotli), (".gz", Encoding::Gzip)];

pub(super) struct StaticFiles {
    resources: HashMap<String, Resource>,
}

struct Resource {
    media_type: Cow<'static, str>,
    path: PathBuf,
    siblings: Vec<(Encoding, PathBuf)>,
    /// Of the siblings, in the order of preference.
    encodings: Vec<Encoding>,
}

impl StaticFiles {
    /// Of files with these names and paths.
    pub(super) fn of(files: Vec<(String, PathBuf)>) -> Self {
        let files: HashMap<String, PathBuf> = files.into_iter().collect();
        let resource = |(name, path): (&String, &PathBuf)| {
            let sibling = |(end, encoding)| Some((encoding, files.get(&format!("{name}{end}"))?.clone()));
            let siblings: Vec<_> = SIBLINGS.into_iter().filter_map(sibling).collect();
            let encodings = siblings.iter().map(|(encoding, _)| *encoding).collect();
            (name.clone(), Resource { media_type: media_type::of(name), path: path.clone(), siblings, encodings })
        };
        Self { resources: files.iter().map(resource).collect() }
    }

    /// Answers with the file of the path, or with its sibling that the client likes best.
    pub(super) fn answer(&self, request: &Request<'_>, reply: Reply<'_, '_>) -> Result<Done, Error> {
        let name = request.parameter("file")?;
        let resource = self.resources.get(&*name).ok_or_else(Error::not_found)?;
        let encoding = negotiate(request.header_values("accept-encoding"), &resource.encodings)
            .ok_or_else(|| Error::new(StatusCode::NOT_ACCEPTABLE, "this file is there in no such coding"))?;
        let sibling = resource.siblings.iter().find(|(other, _)| *other == encoding).map(|(_, path)| path);
        let body = read(sibling.unwrap_or(&resource.path)).map_err(failed)?;
        let mut reply = reply.content_type(&*resource.media_type);
        if !resource.encodings.is_empty() {
            reply = reply.header("Vary", "Accept-Encoding");
        }
        if let Some(coding) = encoding.content_encoding() {
            reply = reply.header("Content-Encoding", coding);
        }
        reply.counted("", &body)
    }
}

/// A file that has gone is not found; anything else is the server's fault.
fn failed(error: io::Error) -> Error {
    if error.kind() == io::ErrorKind::NotFound { Error::not_found() } else { error.into() }
}

/// The whole of a regular file. What was put in its place meanwhile is neither followed (symbolic link) nor waited for (FIFO).
fn read(path: &Path) -> io::Result<Rc<[u8]>> {
    let mut file = OpenOptions::new().read(true).custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK).open(path)?;
    let bytes = size(&file)?;
    let mut body: Rc<[u8]> = std::iter::repeat_n(0, bytes).collect();
    let place = Rc::get_mut(&mut body).ok_or(io::ErrorKind::ResourceBusy)?;
    file.read_exact(place)?;
    Ok(body)
}

fn size(file: &File) -> io::Result<usize> {
    let metadata = file.metadata()?;
    if !metadata.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is no regular file"));
    }
    if metadata.len() > FILE_BYTES_MAX {
        let text = format!("it has {} bytes, and {FILE_BYTES_MAX} are served at most", metadata.len());
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, text));
    }
    usize::try_from(metadata.len()).map_err(|_| io::ErrorKind::FileTooLarge.into())
}
