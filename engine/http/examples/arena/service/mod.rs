//! The answers of the entry. `/json` and its compressed form are one route, as in the ranking.

mod compression;
mod dataset;
pub(crate) mod load;
mod upload;

use std::io;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use baton::{SystemCalls, Worker};
use baton_http::websocket::{MaskedMessage, Message, ProtocolError, Sender, Socket, Taken, WebSockets};
use baton_http::{
    Done, Error, Files, FilesConfig, Http, HttpConfig, Method, Mount, Receiving, Reply, Request, Router, State, query,
};

use self::compression::Compressor;
use self::dataset::Item;
use self::load::LoadError;
use self::upload::Upload;

/// The largest message that `/ws` echoes.
const MESSAGE_BYTES_MAX: usize = 1 << 20;

/// The ranking requires that each file is read from disk for each request: none is kept, neither in memory nor open.
const FILES: FilesConfig = FilesConfig { cache_bytes_max: 0, cached_file_bytes_max: 0, open_files_max: 0, valid_ms: 0 };

/// The content of the folder. The data set is read before the workers are forked, the files when they are requested.
pub(crate) struct Data {
    dataset: Rc<[Item]>,
    files: PathBuf,
}

impl Data {
    /// Reads `dataset.json` of this folder.
    ///
    /// # Errors
    /// Says what is wrong with it and what is expected there.
    pub(crate) fn load(folder: &Path) -> Result<Self, LoadError> {
        let dataset = load::dataset(&folder.join("dataset.json"))?.into();
        Ok(Self { dataset, files: folder.join("static") })
    }

    /// The folder whose files are served.
    pub(crate) fn files(&self) -> &Path {
        &self.files
    }
}

/// What the handlers of a worker share.
struct Arena {
    dataset: Rc<[Item]>,
    files: Files,
    compressor: Compressor,
}

impl State for Arena {
    // Handlers only open files, and `Settings::readable` allows those: the rest of the disk stays out of reach.
    const SYSTEM_CALLS: SystemCalls = SystemCalls::ServeOnly;

    fn on_start(&mut self, _: &mut Worker<'_, baton_http::Message>) -> io::Result<()> {
        self.files.open()
    }
}

/// The protocol of one worker.
pub(crate) fn http(data: &Data) -> Http<impl State + use<>> {
    let mount = Mount { prefix: "/static/".to_owned(), folder: data.files.clone(), index: "index.html".to_owned() };
    let files = Files::new(&FILES, [mount]);
    let router = files
        .routes(Router::new())
        .get("/baseline11", baseline)
        .post("/baseline11", baseline)
        .get("/pipeline", |_, _, reply| reply.text("ok"))
        .get("/json/{count}", json)
        .receive(Method::Post, "/upload", |_, _, _| Ok(Receiving::Answers(Box::new(Upload::default()))))
        .thaws(upload::NAME, upload::thaw)
        .websocket("/ws", &WebSockets::new(MESSAGE_BYTES_MAX), |_, _| Ok(Echo));
    let arena = Arena { dataset: Rc::clone(&data.dataset), files, compressor: Compressor::new() };
    Http::new(&HttpConfig::default(), router, arena)
}

/// The sum of the query's values and of the body.
fn baseline(_: &mut Arena, request: &Request<'_>, reply: Reply<'_, '_>) -> Result<Done, Error> {
    let mut sum = 0;
    for (name, value) in query::pairs(request.query()) {
        sum = add(sum, &value).ok_or_else(|| not_a_number(&name))?;
    }
    if !request.body().is_empty() {
        let text = std::str::from_utf8(request.body()).ok();
        sum = text.and_then(|text| add(sum, text.trim())).ok_or_else(|| not_a_number("the body"))?;
    }
    reply.text(itoa::Buffer::new().format(sum))
}

fn add(sum: i64, text: &str) -> Option<i64> {
    text.parse().ok().and_then(|number| sum.checked_add(number))
}

fn not_a_number(what: &str) -> Error {
    Error::bad_request(format!("{what} is no whole number of 64 bits, or the sum is none"))
}

/// The first items of the data set with the cost of `m` of each, compressed for clients that accept that. `m` defaults
/// to 1. A count above the number of items means all of them, as in other entries.
fn json(arena: &mut Arena, request: &Request<'_>, reply: Reply<'_, '_>) -> Result<Done, Error> {
    let count: usize = request.parse_parameter("count")?;
    let multiplier = request.parse_query_value("m")?.unwrap_or(1);
    let page = dataset::page(&arena.dataset, count, multiplier)
        .ok_or_else(|| Error::bad_request("m: the totals would be beyond 64 bits"))?;
    arena.compressor.json(&page, request, reply)
}

/// Sends each message back.
struct Echo;

impl Socket for Echo {
    fn on_message(&mut self, message: Message<'_>, sender: &mut Sender<'_, '_>) {
        sender.send(&message);
    }

    fn on_masked(&mut self, message: MaskedMessage<'_>, sender: &mut Sender<'_, '_>) -> Result<Taken, ProtocolError> {
        sender.send_masked(&message)?;
        Ok(Taken::Yes)
    }

    fn freeze(&self, _: &mut Vec<u8>) -> Result<(), baton::CannotFreeze> {
        Ok(())
    }

    fn thaw(state: &[u8]) -> Option<Self> {
        state.is_empty().then_some(Self)
    }
}
