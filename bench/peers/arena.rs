//! The parts of HttpArena's profiles that are the same in all Rust peers: sums, items of the dataset, files. Each peer
//! that serves them includes this file as a module. Items are serialised, and compressed, for each request. Files are
//! in memory from the start, so that no peer waits for a disk or for a thread pool.

use std::collections::HashMap;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::{env, fs, io, process};

use flate2::Compression;
use flate2::write::GzEncoder;
use serde::{Deserialize, Serialize};

const NAME: &str = env!("CARGO_PKG_NAME");

/// Everything that is read at the start, and lives as long as the process.
pub struct Arena {
    items: Vec<Item>,
    files: HashMap<String, File>,
}

#[derive(Deserialize)]
struct Item {
    id: u64,
    name: String,
    category: String,
    price: u64,
    quantity: u64,
    active: bool,
    tags: Vec<String>,
    rating: Rating,
}

#[derive(Deserialize, Serialize)]
struct Rating {
    score: u64,
    count: u64,
}

/// The fields of an item and its total, in one object.
#[derive(Serialize)]
struct Totalled<'a> {
    id: u64,
    name: &'a str,
    category: &'a str,
    price: u64,
    quantity: u64,
    active: bool,
    tags: &'a [String],
    rating: &'a Rating,
    total: u64,
}

#[derive(Serialize)]
struct Items<'a> {
    items: Vec<Totalled<'a>>,
    count: usize,
}

struct File {
    content_type: &'static str,
    plain: &'static [u8],
    brotli: Option<&'static [u8]>,
    gzip: Option<&'static [u8]>,
}

/// A body to send, and its type and coding.
pub struct Content<B> {
    pub content_type: &'static str,
    pub encoding: Option<&'static str>,
    pub body: B,
}

impl Arena {
    /// Reads the folder that the second argument names. Ends the process with code 2 if it is wrong.
    pub fn read() -> &'static Self {
        let Some(folder) = env::args_os().nth(2).map(PathBuf::from) else {
            eprintln!("usage: {NAME} PORT FOLDER");
            process::exit(2);
        };
        match Self::of(&folder) {
            Ok(arena) => Box::leak(Box::new(arena)),
            Err(error) => {
                eprintln!("{NAME}: {}: {error}", folder.display());
                process::exit(2);
            }
        }
    }

    fn of(folder: &Path) -> io::Result<Self> {
        let items = serde_json::from_slice(&fs::read(folder.join("dataset.json"))?)?;
        let mut files = HashMap::new();
        for entry in fs::read_dir(folder.join("static"))? {
            let path = entry?.path();
            let Some(name) = path.file_name().and_then(|name| name.to_str()) else { continue };
            if name.ends_with(".br") || name.ends_with(".gz") {
                continue;
            }
            let leak = |path: &Path| fs::read(path).map(|bytes| &*bytes.leak());
            let sibling = |extension: &str| leak(&folder.join("static").join(format!("{name}.{extension}"))).ok();
            let file = File {
                content_type: content_type(name),
                plain: leak(&path)?,
                brotli: sibling("br"),
                gzip: sibling("gz"),
            };
            files.insert(name.to_owned(), file);
        }
        Ok(Self { items, files })
    }

    /// The body of `/json/{count}?m={factor}`; `None` if these are not numbers.
    pub fn items(&self, count: &str, query: &str) -> Option<Vec<u8>> {
        let count: usize = count.parse().ok()?;
        let factor = values(query).find(|(name, _)| *name == "m")?.1.parse::<u64>().ok()?;
        let items: Vec<Totalled<'_>> = self.items.iter().take(count).map(|item| item.with_total(factor)).collect();
        let count = items.len();
        serde_json::to_vec(&Items { items, count }).ok()
    }

    /// The same, compressed if the client accepts gzip.
    pub fn items_for(&self, count: &str, query: &str, accept_encoding: &[u8]) -> Option<Content<Vec<u8>>> {
        let body = self.items(count, query)?;
        let is_gzip = contains(accept_encoding, b"gzip");
        let body = if is_gzip { gzip(&body)? } else { body };
        Some(Content { content_type: "application/json", encoding: is_gzip.then_some("gzip"), body })
    }

    /// A file in the best form that the client accepts.
    pub fn file(&self, name: &str, accept_encoding: &[u8]) -> Option<Content<&'static [u8]>> {
        let File { content_type, plain, brotli, gzip } = self.files.get(name)?;
        let brotli = brotli.filter(|_| contains(accept_encoding, b"br")).map(|body| (Some("br"), body));
        let gzip = || gzip.filter(|_| contains(accept_encoding, b"gzip")).map(|body| (Some("gzip"), body));
        let (encoding, body) = brotli.or_else(gzip).unwrap_or((None, plain));
        Some(Content { content_type, encoding, body })
    }
}

impl Item {
    fn with_total(&self, factor: u64) -> Totalled<'_> {
        Totalled {
            id: self.id,
            name: &self.name,
            category: &self.category,
            price: self.price,
            quantity: self.quantity,
            active: self.active,
            tags: &self.tags,
            rating: &self.rating,
            total: self.price * self.quantity * factor,
        }
    }
}

/// The sum of the query's values and of the body; `None` if one is not a number.
pub fn sum(query: &str, body: &[u8]) -> Option<u64> {
    let body = std::str::from_utf8(body).ok()?.trim();
    let body = if body.is_empty() { 0 } else { body.parse().ok()? };
    values(query).try_fold(body, |sum, (_, value)| Some(sum + value.parse::<u64>().ok()?))
}

fn values(query: &str) -> impl Iterator<Item = (&str, &str)> {
    query.split('&').filter_map(|pair| pair.split_once('='))
}

fn gzip(body: &[u8]) -> Option<Vec<u8>> {
    let mut encoder = GzEncoder::new(Vec::with_capacity(body.len() / 2), Compression::fast());
    encoder.write_all(body).ok()?;
    encoder.finish().ok()
}

fn contains(list: &[u8], coding: &[u8]) -> bool {
    list.windows(coding.len()).any(|window| window.eq_ignore_ascii_case(coding))
}

fn content_type(name: &str) -> &'static str {
    match name.rsplit('.').next() {
        Some("css") => "text/css",
        Some("html") => "text/html",
        Some("js") => "text/javascript",
        Some("json") => "application/json",
        Some("svg") => "image/svg+xml",
        Some("webp") => "image/webp",
        Some("woff2") => "font/woff2",
        _ => "application/octet-stream",
    }
}
