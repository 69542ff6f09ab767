//! Files of folders as answers: content types, conditions, ranges, precompressed siblings, and a cache.
//!
//! Invariant: no request reaches a file outside of its folder. None makes a worker wait, or hold all of a large file.
//! The decisions are in `path`, `cache` and here; only `folder` opens files.

mod cache;
mod folder;
mod path;
mod source;

use std::borrow::Cow;
use std::cell::{OnceCell, RefCell};
use std::io::{self, Read};
use std::path::PathBuf;
use std::rc::Rc;
use std::time::{Duration, SystemTime};

use ::http::StatusCode;

use self::cache::{Cache, Cost, Known};
use self::folder::{Folder, Identity, Missing, Opened};
use self::path::{FilePath, Unfit};
use self::source::{Content, FileSource, Place};
use crate::accept::Encoding;
use crate::conditional::{self, Condition, EntityTag, Validators};
use crate::connection::STREAM_BYTES_MAX;
use crate::date;
use crate::error::Error;
use crate::exchange::Thawed;
use crate::media_type;
use crate::range::{self, Selection};
use crate::reply::{Done, Reply};
use crate::request::Request;
use crate::router::Router;

/// Compressed siblings of a file, in the order of preference, by the end of their names.
const SIBLINGS: [(Encoding, &str); 2] = [(Encoding::Brotli, ".br"), (Encoding::Gzip, ".gz")];

/// A longer file is sent part by part, so that slow clients hold little memory.
const WHOLE_BYTES_MAX: u64 = STREAM_BYTES_MAX as u64;

/// How often a file that becomes shorter while it is read is read again.
const READS_MAX: usize = 3;

/// Settings of [`Files`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FilesConfig {
    /// Memory for files in each worker, default 64 MiB. 0 keeps none: each request opens its file, and looks for a sibling
    /// if the client accepts one; answers then have `Vary: Accept-Encoding` unless no sibling was found.
    pub cache_bytes_max: usize,
    /// Files up to this size are kept in memory, default 512 KiB. Larger ones stay open and go out in parts as clients read
    /// them. Without TLS, the socket gets the pages of either without a copy, from 32 KiB on
    /// ([`SealedMemory`](baton::SealedMemory), [`Io::write_file`](baton::Io::write_file)).
    pub cached_file_bytes_max: usize,
    /// Number of file descriptors that each worker keeps for files, default 512: one for each file of 32 KiB or more.
    pub open_files_max: usize,
    /// How long a file counts as unchanged before it is checked again, in milliseconds, default 1,000.
    pub valid_ms: u64,
}

impl Default for FilesConfig {
    fn default() -> Self {
        Self { cache_bytes_max: 64 << 20, cached_file_bytes_max: 512 << 10, open_files_max: 512, valid_ms: 1_000 }
    }
}

/// A folder, and its path prefix on the server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mount {
    /// The prefix of its files' paths, such as `/static/`; it begins and ends with a slash.
    pub prefix: String,
    /// The folder.
    pub folder: PathBuf,
    /// The file that answers a request for a folder, such as `index.html`.
    pub index: String,
}

/// Files of folders, for one worker. Cheap to clone.
///
/// Answers `GET` and `HEAD` with `ETag` and `Last-Modified`, and handles conditions and single ranges as in RFC 9110. A
/// file with a sibling `.br` or `.gz` is sent compressed to clients that accept that. A folder is answered with its
/// index, or 403; without the slash at its end it is redirected. Names that begin with a dot are not served, except
/// `.well-known`. Symbolic links are followed while they stay in the folder. The folder is the one that had this path
/// when it was opened.
///
/// A worker of [`SystemCalls::ServeOnly`](baton::SystemCalls::ServeOnly) can open files only beneath
/// [`Settings::readable`](baton::config::Settings::readable). Files are read in the worker's own thread: a slow disk
/// delays its other connections.
#[derive(Clone)]
pub struct Files(Rc<Inner>);

struct Inner {
    mounts: Vec<Mounted>,
    cache: RefCell<Cache<Found>>,
    cached_file_bytes_max: u64,
    keeps_nothing: bool,
}

struct Mounted {
    mount: Mount,
    folder: OnceCell<Folder>,
}

/// A file, and its siblings.
struct Found {
    content_type: Cow<'static, str>,
    /// Whether other clients may get a sibling.
    varies: bool,
    plain: Representation,
    /// In the order of [`SIBLINGS`].
    siblings: [Option<Representation>; SIBLINGS.len()],
}

struct Representation {
    identity: Identity,
    /// As in the header.
    entity_tag: String,
    modified: Option<SystemTime>,
    last_modified: Option<String>,
    content: Content,
}

impl Files {
    /// Opens nothing yet: see [`Files::open`].
    ///
    /// # Panics
    /// If a prefix does not begin and end with a slash.
    pub fn new(config: &FilesConfig, mounts: impl IntoIterator<Item = Mount>) -> Self {
        let most = Cost { bytes: config.cache_bytes_max, descriptors: config.open_files_max };
        let mounts = mounts.into_iter().inspect(|mount| {
            let prefix = &mount.prefix;
            assert!(prefix.starts_with('/') && prefix.ends_with('/'), "the prefix {prefix:?} begins and ends with /");
        });
        Self(Rc::new(Inner {
            mounts: mounts.map(|mount| Mounted { mount, folder: OnceCell::new() }).collect(),
            cache: RefCell::new(Cache::new(most, Duration::from_millis(config.valid_ms))),
            cached_file_bytes_max: config.cached_file_bytes_max as u64,
            keeps_nothing: config.cache_bytes_max == 0,
        }))
    }

    /// Opens the folders, which otherwise happens with the first request. Call it in
    /// [`State::on_start`](crate::State::on_start), so that a worker does not serve without them.
    ///
    /// # Errors
    /// Names the first folder that cannot be opened.
    pub fn open(&self) -> io::Result<()> {
        self.0.mounts.iter().try_for_each(|mounted| mounted.folder().map(drop))
    }

    /// Adds the routes.
    ///
    /// # Panics
    /// As [`Router::route`], if such routes exist already.
    #[must_use]
    pub fn routes<S: 'static>(&self, mut router: Router<S>) -> Router<S> {
        for (index, mounted) in self.0.mounts.iter().enumerate() {
            let prefix = &mounted.mount.prefix;
            let with_name = format!("{prefix}{{*path}}");
            for path in [prefix, &with_name] {
                let files = self.clone();
                router = router.get(path, move |_, request, reply| files.answer(index, request, reply));
            }
            let bare = &prefix[..prefix.len() - 1];
            if !bare.is_empty() {
                router =
                    router.get(bare, |_, request, reply| redirect(request, &format!("{}/", request.path()), reply));
            }
        }
        let files = self.clone();
        router.thaws(source::NAME, move |state| Some(Thawed::Source(Box::new(files.thaw(state)?))))
    }

    fn answer(&self, index: usize, request: &Request<'_>, reply: Reply<'_, '_>) -> Result<Done, Error> {
        let mounted = &self.0.mounts[index];
        let raw = request.path().strip_prefix(&mounted.mount.prefix).unwrap_or_default();
        let path = FilePath::parse(raw).map_err(|unfit| match unfit {
            Unfit::Malformed => Error::bad_request("the path names no file"),
            Unfit::Hidden => Error::not_found(),
        })?;
        let wanted = if path.is_folder { mounted.index_of(&path.relative) } else { path.relative };
        match self.find(index, &wanted, request, reply.now()) {
            Ok(found) => found.answer(&mounted.mount, &wanted, request, reply),
            Err(Missing::Folder) if !path.is_folder => {
                let segments: Vec<&str> = raw.split('/').filter(|segment| !segment.is_empty()).collect();
                redirect(request, &format!("{}{}/", mounted.mount.prefix, segments.join("/")), reply)
            }
            Err(Missing::Nothing) if path.is_folder && mounted.has_folder(&wanted) => Err(forbidden()),
            Err(missing) => Err(missing.into()),
        }
    }

    /// The file of this path as it is now, or was less than a second ago.
    fn find(&self, index: usize, path: &[u8], request: &Request<'_>, now: Duration) -> Result<Rc<Found>, Missing> {
        let Inner { mounts, cache, cached_file_bytes_max, keeps_nothing } = &*self.0;
        if *keeps_nothing {
            let folder = mounts[index].folder().map_err(Missing::Failed)?;
            return Found::load_for(request, folder, path).map(Rc::new);
        }
        let mut key = Vec::with_capacity(path.len() + 4);
        key.extend_from_slice(&(index as u32).to_le_bytes());
        key.extend_from_slice(path);
        let folder = || mounts[index].folder().map_err(Missing::Failed);
        let known = cache.borrow().get(&key, now);
        match known {
            Known::Fresh(found) => return Ok(found),
            Known::Stale(found) if found.is_current(folder()?, path) => {
                cache.borrow_mut().confirm(&key, now);
                return Ok(found);
            }
            Known::Stale(_) => cache.borrow_mut().remove(&key),
            Known::Unknown => {}
        }
        let found = Rc::new(Found::load(folder()?, path, *cached_file_bytes_max)?);
        cache.borrow_mut().insert(&key, Rc::clone(&found), found.cost(), now);
        Ok(found)
    }

    /// Continues what another worker has begun, if the file is the same.
    fn thaw(&self, state: &[u8]) -> Option<FileSource> {
        let place: Place = serde_json::from_slice(state).ok()?;
        let mounted = self.0.mounts.iter().find(|mounted| mounted.mount.prefix == place.prefix)?;
        if !path::is_relative(&place.path) {
            return None;
        }
        let Opened { file, identity, .. } = mounted.folder().ok()?.find(&place.path).ok()?;
        let is_same = quoted(&identity) == place.entity_tag && place.start <= place.end && place.end <= identity.size;
        is_same.then(|| FileSource { content: Content::Open(Rc::new(file)), place })
    }
}

impl Mounted {
    fn folder(&self) -> io::Result<&Folder> {
        if let Some(folder) = self.folder.get() {
            return Ok(folder);
        }
        let path = &self.mount.folder;
        let folder = Folder::open(path)
            .map_err(|error| io::Error::new(error.kind(), format!("the folder {}: {error}", path.display())))?;
        Ok(self.folder.get_or_init(|| folder))
    }

    fn index_of(&self, folder: &[u8]) -> Cow<'static, [u8]> {
        let slash: &[u8] = if folder.is_empty() { b"" } else { b"/" };
        Cow::Owned([folder, slash, self.mount.index.as_bytes()].concat())
    }

    /// Whether the folder of a missing index exists.
    fn has_folder(&self, index: &[u8]) -> bool {
        let length = index.len() - self.mount.index.len();
        let folder = index[..length].strip_suffix(b"/").unwrap_or_default();
        self.folder().is_ok_and(|root| matches!(root.find(folder), Err(Missing::Folder)))
    }
}

impl Found {
    fn load(folder: &Folder, path: &[u8], in_memory_max: u64) -> Result<Self, Missing> {
        let plain = Representation::load(folder, path, in_memory_max)?;
        let name = String::from_utf8_lossy(path);
        let siblings = SIBLINGS.map(|(_, end)| Representation::load(folder, &sibling(path, end), in_memory_max).ok());
        let varies = siblings.iter().any(Option::is_some);
        Ok(Self { content_type: media_type::of(&name), varies, plain, siblings })
    }

    /// For one request alone: opened but not read, with only the sibling that the client prefers.
    fn load_for(request: &Request<'_>, folder: &Folder, path: &[u8]) -> Result<Self, Missing> {
        let plain = Representation::load(folder, path, 0)?;
        let mut siblings = [const { None }; SIBLINGS.len()];
        let mut is_missing = [false; SIBLINGS.len()];
        while let Some(place) = preferred(request, |place| !is_missing[place]) {
            siblings[place] = Representation::load(folder, &sibling(path, SIBLINGS[place].1), 0).ok();
            if siblings[place].is_some() {
                break;
            }
            is_missing[place] = true;
        }
        Ok(Self {
            content_type: media_type::of(&String::from_utf8_lossy(path)),
            varies: is_missing.contains(&false),
            plain,
            siblings,
        })
    }

    /// Whether nothing has changed.
    fn is_current(&self, folder: &Folder, path: &[u8]) -> bool {
        let is_same = |path: &[u8], known: Option<&Representation>| {
            folder.find(path).ok().map(|opened| opened.identity) == known.map(|known| known.identity)
        };
        is_same(path, Some(&self.plain))
            && SIBLINGS.iter().zip(&self.siblings).all(|((_, end), known)| is_same(&sibling(path, end), known.as_ref()))
    }

    fn all(&self) -> impl Iterator<Item = &Representation> {
        [&self.plain].into_iter().chain(self.siblings.iter().flatten())
    }

    fn cost(&self) -> Cost {
        self.all().fold(Cost::default(), |cost, one| match &one.content {
            Content::Memory(bytes) => Cost { bytes: cost.bytes + bytes.len(), ..cost },
            Content::Sealed(memory) => Cost { bytes: cost.bytes + memory.len(), descriptors: cost.descriptors + 1 },
            Content::Open(_) => Cost { descriptors: cost.descriptors + 1, ..cost },
        })
    }

    /// The representation for a client with these preferences.
    fn choose(&self, request: &Request<'_>) -> (&Representation, Encoding, &'static str) {
        if self.siblings.iter().any(Option::is_some)
            && let Some(place) = preferred(request, |place| self.siblings[place].is_some())
            && let Some(sibling) = &self.siblings[place]
        {
            let (encoding, end) = SIBLINGS[place];
            return (sibling, encoding, end);
        }
        (&self.plain, Encoding::Identity, "")
    }

    fn answer(
        &self,
        mount: &Mount,
        path: &[u8],
        request: &Request<'_>,
        mut reply: Reply<'_, '_>,
    ) -> Result<Done, Error> {
        let (representation, encoding, end) = self.choose(request);
        let Representation { identity, entity_tag, modified, last_modified, content } = representation;
        let validators = Validators { entity_tag: EntityTag::parse(entity_tag.as_bytes()), last_modified: *modified };
        let condition = conditional::evaluate(request.method(), request.headers(), Some(&validators));
        if condition == Condition::PreconditionFailed {
            return Err(Error::new(StatusCode::PRECONDITION_FAILED, "the file is another one by now"));
        }
        reply = reply.header("ETag", entity_tag);
        if let Some(last_modified) = last_modified {
            reply = reply.header("Last-Modified", last_modified);
        }
        if self.varies {
            reply = reply.header("Vary", "Accept-Encoding");
        }
        if condition == Condition::NotModified {
            return reply.status(StatusCode::NOT_MODIFIED).empty();
        }
        let wall_time = reply.wall_time();
        let selection = range::select(request.method(), request.headers(), &validators, wall_time, identity.size);
        if let Some(content_range) = selection.content_range(identity.size) {
            reply = reply.header("Content-Range", content_range.to_string());
        }
        let (status, start, end_of_part) = match selection {
            Selection::Unsatisfiable => {
                let text = "the file does not have the requested range\n";
                return reply.status(StatusCode::RANGE_NOT_SATISFIABLE).text(text);
            }
            Selection::Part { start, end } => (StatusCode::PARTIAL_CONTENT, start, end),
            Selection::Whole => (StatusCode::OK, 0, identity.size),
        };
        reply = reply.status(status).content_type(self.content_type.as_bytes()).header("Accept-Ranges", "bytes");
        if let Some(encoding) = encoding.content_encoding() {
            reply = reply.header("Content-Encoding", encoding);
        }
        match content {
            Content::Memory(bytes) if end_of_part - start <= WHOLE_BYTES_MAX => match selection {
                Selection::Whole => reply.counted("", bytes),
                _ => reply.bytes("", &bytes[start as usize..end_of_part as usize]),
            },
            // All of it is in memory in any case, and one send costs less than several.
            Content::Sealed(memory) => reply.sealed("", memory, start as usize..end_of_part as usize),
            content => {
                let place = Place {
                    prefix: mount.prefix.clone(),
                    path: sibling(path, end),
                    entity_tag: entity_tag.clone(),
                    start,
                    end: end_of_part,
                };
                reply.stream(Some(end_of_part - start), FileSource { content: content.clone(), place })
            }
        }
    }
}

impl Representation {
    fn load(folder: &Folder, path: &[u8], in_memory_max: u64) -> Result<Self, Missing> {
        for _ in 0..READS_MAX {
            let Opened { file, identity, modified } = folder.find(path)?;
            let content = if identity.size > in_memory_max {
                Content::Open(Rc::new(file))
            } else {
                let mut bytes = Vec::with_capacity(identity.size as usize);
                (&file).take(identity.size).read_to_end(&mut bytes).map_err(Missing::Failed)?;
                if (bytes.len() as u64) < identity.size {
                    continue;
                }
                Content::of(bytes)
            };
            let last_modified = modified.and_then(date::format).map(|date| date.to_string());
            return Ok(Self { entity_tag: quoted(&identity), identity, modified, last_modified, content });
        }
        Err(Missing::Busy)
    }
}

/// The index in [`SIBLINGS`] of the existing sibling that the client prefers; `None` if it wants the plain file. A
/// client that accepts nothing that exists also gets the plain file: better than nothing.
fn preferred(request: &Request<'_>, is_there: impl Fn(usize) -> bool) -> Option<usize> {
    let mut has = [Encoding::Identity; SIBLINGS.len()];
    let there = (0..SIBLINGS.len()).filter(|place| is_there(*place));
    has.iter_mut().zip(there).for_each(|(one, place)| *one = SIBLINGS[place].0);
    let chosen = request.accepted_encoding(&has)?;
    SIBLINGS.iter().position(|(encoding, _)| *encoding == chosen)
}

fn sibling(path: &[u8], end: &str) -> Vec<u8> {
    [path, end.as_bytes()].concat()
}

fn quoted(identity: &Identity) -> String {
    format!("\"{}\"", identity.opaque_tag())
}

fn forbidden() -> Error {
    Error::new(StatusCode::FORBIDDEN, "the server may not read this file")
}

impl From<Missing> for Error {
    fn from(missing: Missing) -> Self {
        match missing {
            Missing::Nothing => Self::not_found(),
            Missing::Folder | Missing::Forbidden => forbidden(),
            Missing::Busy => Self::new(
                StatusCode::SERVICE_UNAVAILABLE,
                "the server is too busy to send this file now; try again later",
            ),
            Missing::Failed(error) => error.into(),
        }
    }
}

/// Redirects if a path lacks the slash at its end. `path` begins with exactly one slash, so it leads to no other
/// server.
fn redirect(request: &Request<'_>, path: &str, reply: Reply<'_, '_>) -> Result<Done, Error> {
    let query = request.query().map(|query| format!("?{query}")).unwrap_or_default();
    reply
        .status(StatusCode::MOVED_PERMANENTLY)
        .header("Location", format!("{path}{query}"))
        .bytes("text/plain", b"this URL moved: add a slash at its end\n")
}
