//! What `batond` serves over HTTP: `/`, `/plaintext`, `/json`, `/echo`, `/health`, and files.

use std::io;

use baton::{SystemCalls, TimerKey, Worker};
use baton_http::{
    Done, Error, Files, FilesConfig, Http, HttpConfig, Message, Mount, Record, Redirect, Reply, Request, Router, State,
    StatusCode,
};
use serde::Serialize;

use crate::access_log::{AccessLogConfig, AccessLogger};

pub mod fuzz;

/// Certificate authorities read this path to check that a server has the host for which it requests a certificate (RFC
/// 8555 section 8.3).
const ACME: &str = "/.well-known/acme-challenge/";

/// Settings of [`site`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SiteConfig {
    /// Settings of the protocol.
    pub http: HttpConfig,
    /// Folders whose files are served. They take precedence over the routes of this program.
    pub mounts: Vec<Mount>,
    /// How files are cached.
    pub files: FilesConfig,
    /// Ports to which requests are redirected: to the first from listeners with label 1, to the next from those with
    /// label 2.
    pub redirects: Vec<u16>,
    /// The access log of answers, if the server has one.
    pub access_log: AccessLogConfig,
}

/// What the handlers of one worker share.
pub struct Site {
    files: Files,
    access_log: AccessLogConfig,
    logger: Option<AccessLogger>,
}

impl State for Site {
    const SYSTEM_CALLS: SystemCalls = SystemCalls::ServeOnly;

    fn on_start(&mut self, worker: &mut Worker<'_, Message>) -> io::Result<()> {
        self.logger = AccessLogger::new(&self.access_log, worker);
        self.files.open()
    }

    fn on_timer(&mut self, key: TimerKey, _: &mut Worker<'_, Message>) {
        self.logger.iter_mut().for_each(|logger| logger.on_timer(key));
    }

    fn wants_records(&self) -> bool {
        self.logger.is_some()
    }

    fn on_answer(&mut self, record: &Record<'_>) {
        self.logger.iter_mut().for_each(|logger| logger.add(record));
    }

    fn on_turn_end(&mut self, worker: &mut Worker<'_, Message>) {
        self.logger.iter_mut().for_each(|logger| logger.end_turn(worker));
    }
}

#[derive(Serialize)]
struct Hello {
    message: &'static str,
}

/// A server with these settings, without files and access log.
pub fn server(config: &HttpConfig) -> Http<Site> {
    site(&SiteConfig { http: config.clone(), ..SiteConfig::default() })
}

/// A server with these settings.
pub fn site(config: &SiteConfig) -> Http<Site> {
    let files = Files::new(&config.files, config.mounts.iter().cloned());
    let is_taken = |path: &str| {
        config.mounts.iter().any(|Mount { prefix, .. }| prefix == path || prefix.strip_suffix('/') == Some(path))
    };
    let mut router = files.routes(Router::new());
    for path in ["/", "/plaintext"].into_iter().filter(|path| !is_taken(path)) {
        router = router.get(path, hello);
    }
    if !is_taken("/json") {
        router = router.get("/json", |_, _, reply| reply.json(&Hello { message: "Hello, World!" }));
    }
    if !is_taken("/health") {
        router = router.get("/health", health);
    }
    let router = router.post("/echo", echo);
    let http = Http::new(&config.http, router, Site { files, access_log: config.access_log.clone(), logger: None });
    let except: Vec<String> = config.mounts.iter().filter_map(challenges).collect();
    let redirects = (1..=u8::MAX).zip(&config.redirects);
    redirects
        .fold(http, |http, (label, port)| http.with_redirect(label, Redirect { port: *port, except: except.clone() }))
}

/// The paths under [`ACME`] that a folder serves.
fn challenges(Mount { prefix, .. }: &Mount) -> Option<String> {
    let longer = if prefix.len() > ACME.len() { prefix } else { ACME };
    (longer.starts_with(&**prefix) && longer.starts_with(ACME)).then(|| longer.to_owned())
}

fn hello(_: &mut Site, _: &Request<'_>, reply: Reply<'_, '_>) -> Result<Done, Error> {
    reply.bytes("text/plain", b"Hello, World!")
}

/// For load balancers: reports 503 when this worker is leaving.
fn health(_: &mut Site, _: &Request<'_>, reply: Reply<'_, '_>) -> Result<Done, Error> {
    if reply.is_draining() {
        return reply.status(StatusCode::SERVICE_UNAVAILABLE).bytes("text/plain", b"draining\n");
    }
    reply.bytes("text/plain", b"ok\n")
}

fn echo(_: &mut Site, request: &Request<'_>, reply: Reply<'_, '_>) -> Result<Done, Error> {
    match request.header("content-type") {
        Some(content_type) => reply.content_type(content_type).bytes("", request.body()),
        None => reply.bytes("application/octet-stream", request.body()),
    }
}
