//! Files of folders: which ones are served, which bytes are sent, and what the cache sees.

use std::fs::{self, File};
use std::os::unix::fs::symlink;
use std::path::Path;
use std::time::{Duration, UNIX_EPOCH};

use baton::testing::{Harness, output_of_all_splits};
use baton_http::{Files, FilesConfig, Http, HttpConfig, Mount, Router};
use nix::sys::stat::Mode;
use nix::unistd::mkfifo;
use tempfile::TempDir;

const MODIFIED: &str = "Sun, 06 Nov 1994 08:49:37 GMT";
const LARGE_BYTES: usize = 3_000_000;

fn write(path: &Path, bytes: impl AsRef<[u8]>) {
    fs::create_dir_all(path.parent().expect("a folder")).expect("made");
    fs::write(path, bytes).expect("written");
    let time = UNIX_EPOCH + Duration::from_secs(784_111_777);
    File::options().write(true).open(path).expect("open").set_modified(time).expect("set");
}

fn large() -> Vec<u8> {
    (0..LARGE_BYTES as u32 / 4).flat_map(u32::to_le_bytes).collect()
}

fn folder() -> TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    let at = |name: &str| folder.path().join("site").join(name);
    write(&at("index.html"), "<p>home</p>");
    write(&at("digits.txt"), "0123456789");
    write(&at("a b.txt"), "a space");
    write(&at("app.js"), "plain");
    write(&at("app.js.br"), "brotli");
    write(&at("app.js.gz"), "gzipped");
    write(&at("style.css"), "css");
    write(&at("style.css.gz"), "css gz");
    write(&at("deep/index.html"), "deep");
    write(&at("deep/er/file"), "deeper");
    write(&at("empty"), "");
    write(&at(".secret"), "secret");
    write(&at(".well-known/token"), "token");
    write(&at("large"), large());
    write(&folder.path().join("outside.txt"), "outside");
    fs::create_dir(at("bare")).expect("a folder");
    symlink("digits.txt", at("inner")).expect("a link");
    symlink("deep/er", at("inner_folder")).expect("a link");
    symlink("../outside.txt", at("outer")).expect("a link");
    symlink("/etc/passwd", at("absolute")).expect("a link");
    symlink("..", at("above")).expect("a link");
    symlink("loop", at("loop")).expect("a link");
    symlink("/proc/self/fd/0", at("magic")).expect("a link");
    mkfifo(&at("fifo"), Mode::S_IRUSR).expect("a FIFO");
    folder
}

fn files(folder: &TempDir) -> Files {
    let config = FilesConfig { cached_file_bytes_max: 1 << 20, ..FilesConfig::default() };
    let mount = |prefix: &str, folder| Mount { prefix: prefix.to_owned(), folder, index: "index.html".to_owned() };
    let site = folder.path().join("site");
    let mounts = [mount("/static/", site.clone()), mount("/static/nested/", site.join("deep"))];
    Files::new(&config, mounts)
}

fn server(folder: &TempDir) -> Http {
    Http::new(&HttpConfig { server: String::new(), ..HttpConfig::default() }, files(folder).routes(Router::new()), ())
}

/// Status, head without the date, and body.
fn answer(harness: &mut Harness<Http>, request: &str) -> (u16, String, Vec<u8>) {
    let client = harness.open();
    harness.send(client, request.as_bytes());
    let mut output = Vec::new();
    loop {
        let more = harness.take_output(client);
        if more.is_empty() {
            break;
        }
        output.extend_from_slice(&more);
    }
    let end = output.windows(4).position(|four| four == b"\r\n\r\n").expect("a head") + 4;
    let head = String::from_utf8(output[..end].to_vec()).expect("text");
    let status = head[9..12].parse().expect("a status");
    let lines = head.lines().filter(|line| !line.starts_with("Date: "));
    (status, lines.collect::<Vec<_>>().join("\n"), output[end..].to_vec())
}

fn get(harness: &mut Harness<Http>, path: &str, headers: &str) -> (u16, String, Vec<u8>) {
    answer(harness, &format!("GET {path} HTTP/1.1\r\nHost: a\r\n{headers}\r\n"))
}

fn header(head: &str, name: &str) -> Option<String> {
    head.lines().find_map(|line| line.strip_prefix(&format!("{name}: "))).map(str::to_owned)
}

#[test]
fn a_file_is_sent_with_what_a_cache_must_know() {
    let folder = folder();
    let mut harness = Harness::new(server(&folder));
    let (status, head, body) = get(&mut harness, "/static/digits.txt", "");
    let tag = header(&head, "ETag").expect("a tag");
    assert_eq!((status, &body[..]), (200, &b"0123456789"[..]));
    let expected = format!(
        "HTTP/1.1 200 OK\nETag: {tag}\nLast-Modified: {MODIFIED}\nAccept-Ranges: bytes\n\
         Content-Type: text/plain; charset=utf-8\nContent-Length: 10\n"
    );
    assert_eq!(head, expected);
    assert!(tag.starts_with('"') && tag.ends_with('"'), "{tag}");
    let (status, of_head, body) = answer(&mut harness, "HEAD /static/digits.txt HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!((status, of_head, body.len()), (200, expected, 0));
}

#[test]
fn paths_lead_to_files_and_to_nothing_else() {
    let folder = folder();
    let mut harness = Harness::new(server(&folder));
    for (path, status, body) in [
        ("/static/", 200, "<p>home</p>"),
        ("/static/index.html", 200, "<p>home</p>"),
        ("/static/a%20b.txt", 200, "a space"),
        ("/static/deep/", 200, "deep"),
        ("/static//deep//er///file", 200, "deeper"),
        ("/static/nested/", 200, "deep"),
        ("/static/nested/er/file?query", 200, "deeper"),
        ("/static/empty", 200, ""),
        ("/static/inner", 200, "0123456789"),
        ("/static/inner_folder/file", 200, "deeper"),
        ("/static/.well-known/token", 200, "token"),
    ] {
        let (is, _, was) = get(&mut harness, path, "");
        assert_eq!((is, String::from_utf8_lossy(&was).as_ref()), (status, body), "{path}");
    }
    for (path, status) in [
        ("/static/nothing", 404),
        ("/static/digits.txt/", 404),
        ("/static/digits.txt/more", 404),
        ("/static/nothing/", 404),
        ("/static/bare/", 403),
        ("/static/.secret", 404),
        ("/static/outer", 404),
        ("/static/absolute", 404),
        ("/static/above/outside.txt", 404),
        ("/static/above/site/digits.txt", 404),
        ("/static/loop", 404),
        ("/static/magic", 404),
        ("/static/fifo", 404),
        ("/static//etc/passwd", 404),
        ("/static/%5c..%5c..%5coutside.txt", 404),
        ("/static/../outside.txt", 400),
        ("/static/%2e%2e/outside.txt", 400),
        ("/static/deep/%2e%2e/%2E%2e/outside.txt", 400),
        ("/static/..%2foutside.txt", 400),
        ("/static/deep%2ffile", 400),
        ("/static/digits.txt%00.html", 400),
        ("/static/%zz", 400),
        (&format!("/static/{}", "a".repeat(300)), 404),
        (&format!("/static/{}", "a/".repeat(3_000)), 404),
    ] {
        let (is, _, body) = get(&mut harness, path, "");
        assert_eq!(is, status, "{path}: {}", String::from_utf8_lossy(&body));
    }
    let (status, head, _) = answer(&mut harness, "PUT /static/a HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n");
    assert_eq!((status, header(&head, "Allow").as_deref()), (405, Some("GET, HEAD, OPTIONS")));
}

#[test]
fn a_folder_without_its_slash_is_redirected_to_no_other_place() {
    let folder = folder();
    let mut harness = Harness::new(server(&folder));
    for (path, location) in [
        ("/static", "/static/"),
        ("/static/deep", "/static/deep/"),
        ("/static/deep?a=b&c", "/static/deep/?a=b&c"),
        ("/static//deep//er", "/static/deep/er/"),
        ("/static/inner_folder", "/static/inner_folder/"),
    ] {
        let (status, head, _) = get(&mut harness, path, "");
        assert_eq!((status, header(&head, "Location").as_deref()), (301, Some(location)), "{path}");
    }
}

#[test]
fn conditions_and_ranges() {
    let folder = folder();
    let mut harness = Harness::new(server(&folder));
    // A date is a strong validator if nothing can have changed in its second (RFC 9110 section 8.8.2.2).
    harness.advance(Duration::from_secs(2));
    let tag = header(&get(&mut harness, "/static/digits.txt", "").1, "ETag").expect("a tag");
    let range = |range: &str| format!("Range: bytes={range}\r\n");
    for (headers, status, content_range, body) in [
        (format!("If-None-Match: {tag}\r\n"), 304, None, ""),
        (format!("If-None-Match: \"other\", W/{tag}\r\n"), 304, None, ""),
        ("If-None-Match: *\r\n".to_owned(), 304, None, ""),
        ("If-None-Match: \"other\"\r\n".to_owned(), 200, None, "0123456789"),
        (format!("If-Modified-Since: {MODIFIED}\r\n"), 304, None, ""),
        ("If-Modified-Since: Sun, 06 Nov 1994 08:49:36 GMT\r\n".to_owned(), 200, None, "0123456789"),
        (format!("If-None-Match: \"other\"\r\nIf-Modified-Since: {MODIFIED}\r\n"), 200, None, "0123456789"),
        (format!("If-Match: {tag}\r\n"), 200, None, "0123456789"),
        ("If-Match: \"other\"\r\n".to_owned(), 412, None, "the file is another one by now\n"),
        (
            "If-Unmodified-Since: Sun, 06 Nov 1994 08:49:36 GMT\r\n".to_owned(),
            412,
            None,
            "the file is another one by now\n",
        ),
        (range("0-0"), 206, Some("bytes 0-0/10"), "0"),
        (range("3-5"), 206, Some("bytes 3-5/10"), "345"),
        (range("7-"), 206, Some("bytes 7-9/10"), "789"),
        (range("-2"), 206, Some("bytes 8-9/10"), "89"),
        (range("-99"), 206, Some("bytes 0-9/10"), "0123456789"),
        (range("8-99"), 206, Some("bytes 8-9/10"), "89"),
        (range("10-"), 416, Some("bytes */10"), "the file does not have the requested range\n"),
        (range("5-3"), 200, None, "0123456789"),
        (range("0-1,3-4"), 200, None, "0123456789"),
        ("Range: lines=1-2\r\n".to_owned(), 200, None, "0123456789"),
        (range("0-1") + &format!("If-Range: {tag}\r\n"), 206, Some("bytes 0-1/10"), "01"),
        (range("0-1") + "If-Range: \"other\"\r\n", 200, None, "0123456789"),
        (range("0-1") + &format!("If-Range: {MODIFIED}\r\n"), 206, Some("bytes 0-1/10"), "01"),
        (range("0-1") + &format!("If-None-Match: {tag}\r\n"), 304, None, ""),
    ] {
        let (is, head, was) = get(&mut harness, "/static/digits.txt", &headers);
        let shown = (is, header(&head, "Content-Range"), String::from_utf8_lossy(&was).into_owned());
        assert_eq!(shown, (status, content_range.map(str::to_owned), body.to_owned()), "{headers}");
        assert_eq!(header(&head, "ETag").as_ref(), (status != 412).then_some(&tag), "{headers}");
    }
}

#[test]
fn whoever_accepts_it_gets_the_compressed_sibling() {
    let folder = folder();
    let mut harness = Harness::new(server(&folder));
    for (path, accepts, encoding, body) in [
        ("app.js", "gzip, deflate, br", Some("br"), "brotli"),
        ("app.js", "gzip", Some("gzip"), "gzipped"),
        ("app.js", "br;q=0.1, gzip;q=0.5", Some("gzip"), "gzipped"),
        ("app.js", "br;q=0, gzip;q=0", None, "plain"),
        ("app.js", "identity", None, "plain"),
        ("app.js", "identity;q=0, zstd", None, "plain"),
        ("style.css", "br, gzip", Some("gzip"), "css gz"),
        ("style.css", "br", None, "css"),
        ("digits.txt", "br, gzip", None, "0123456789"),
    ] {
        let (status, head, was) =
            get(&mut harness, &format!("/static/{path}"), &format!("Accept-Encoding: {accepts}\r\n"));
        let shown = (status, header(&head, "Content-Encoding"), String::from_utf8_lossy(&was).into_owned());
        assert_eq!(shown, (200, encoding.map(str::to_owned), body.to_owned()), "{path}: {accepts}");
        let varies = header(&head, "Vary").is_some();
        assert_eq!(varies, path != "digits.txt", "{path}: {accepts}");
    }
    let tag = |harness: &mut _, accepts: &str| header(&get(harness, "/static/app.js", accepts).1, "ETag");
    let (plain, brotli) = (tag(&mut harness, ""), tag(&mut harness, "Accept-Encoding: br\r\n"));
    assert_ne!(plain, brotli);
    let headers = format!("Accept-Encoding: br\r\nIf-None-Match: {}\r\n", brotli.expect("a tag"));
    let (status, head, _) = get(&mut harness, "/static/app.js", &headers);
    assert_eq!((status, header(&head, "Vary").as_deref()), (304, Some("Accept-Encoding")));
    let (_, head, _) = get(&mut harness, "/static/app.js", "Accept-Encoding: br\r\n");
    assert_eq!(header(&head, "Content-Type").as_deref(), Some("text/javascript; charset=utf-8"));
}

#[test]
fn without_a_cache_the_same_is_chosen() {
    let folder = folder();
    let files = |cache_bytes_max| {
        let config = FilesConfig { cache_bytes_max, ..FilesConfig::default() };
        let site = folder.path().join("site");
        let mount = Mount { prefix: "/static/".to_owned(), folder: site, index: "index.html".to_owned() };
        let router = Files::new(&config, [mount]).routes(Router::new());
        Harness::new(Http::new(&HttpConfig::default(), router, ()))
    };
    let (mut with, mut without) = (files(1 << 20), files(0));
    for path in [
        "/static/app.js",
        "/static/style.css",
        "/static/digits.txt",
        "/static/empty",
        "/static/nothing",
        "/static/bare/",
    ] {
        for accepted in
            ["", "br, gzip", "gzip", "br;q=0.5, gzip", "gzip;q=0.5, identity;q=0.5", "br;q=0, *", "identity;q=0, zstd"]
        {
            let headers = format!("Accept-Encoding: {accepted}\r\n");
            let (status, head, body) = get(&mut without, path, &headers);
            let cached = get(&mut with, path, &headers);
            // The cache does not check whether another client would get a sibling.
            let varies = |head: &str| header(head, "Vary").is_some();
            assert!(varies(&head) || !varies(&cached.1), "{path} {accepted}");
            let others = |head: &str| head.lines().filter(|line| !line.starts_with("Vary: ")).collect::<String>();
            assert_eq!((status, others(&head), body), (cached.0, others(&cached.1), cached.2), "{path} {accepted}");
        }
    }
}

#[test]
fn edits_are_seen_within_a_second() {
    let folder = folder();
    let site = folder.path().join("site");
    let mut harness = Harness::new(server(&folder));
    let body = |harness: &mut Harness<Http>, headers: &str| {
        let (status, _, body) = get(harness, "/static/app.js", headers);
        (status, String::from_utf8_lossy(&body).into_owned())
    };
    let ok = |text: &str| (200, text.to_owned());
    assert_eq!(body(&mut harness, ""), ok("plain"));
    write(&site.join("app.js"), "new");
    write(&site.join("app.js.br"), "new br");
    harness.advance(Duration::from_millis(900));
    assert_eq!(body(&mut harness, ""), ok("plain"), "asked again after a second");
    harness.advance(Duration::from_millis(200));
    assert_eq!(body(&mut harness, ""), ok("new"));
    assert_eq!(body(&mut harness, "Accept-Encoding: br\r\n"), ok("new br"));
    fs::remove_file(site.join("app.js.br")).expect("removed");
    harness.advance(Duration::from_millis(1_100));
    assert_eq!(body(&mut harness, "Accept-Encoding: br\r\n"), ok("new"));
    fs::rename(site.join("digits.txt"), site.join("app.js")).expect("renamed");
    harness.advance(Duration::from_millis(1_100));
    assert_eq!(body(&mut harness, ""), ok("0123456789"));
    fs::remove_file(site.join("app.js")).expect("removed");
    harness.advance(Duration::from_millis(1_100));
    assert_eq!(body(&mut harness, "").0, 404);
}

#[test]
fn a_large_file_is_read_as_it_is_taken() {
    let folder = folder();
    let path = folder.path().join("site/large");
    let mut harness = Harness::new(server(&folder));
    let (status, _, body) = get(&mut harness, "/static/large", "");
    assert!(status == 200 && body == large());
    let (status, head, body) = get(&mut harness, "/static/large", "Range: bytes=1000000-2999998\r\n");
    assert_eq!((status, header(&head, "Content-Length").as_deref()), (206, Some("1999999")));
    assert!(body == large()[1_000_000..2_999_999]);
    // For a client that reads nothing, the server reads little.
    let client = harness.open();
    harness.set_window(client, Some(1_000));
    harness.send(client, b"GET /static/large HTTP/1.1\r\nHost: a\r\n\r\nGET /static/empty HTTP/1.1\r\nHost: a\r\n\r\n");
    let mut output = harness.take_output(client);
    assert_eq!(output.len(), 1_000);
    assert!(harness.held_bytes(client) < 300_000, "{} bytes are held", harness.held_bytes(client));
    // The answer keeps the content from when it began, even if the name belongs to another file by now.
    write(&folder.path().join("site/other"), "short");
    fs::rename(folder.path().join("site/other"), &path).expect("renamed");
    harness.set_window(client, None);
    for more in std::iter::repeat_with(|| harness.take_output(client)).take_while(|more| !more.is_empty()) {
        output.extend_from_slice(&more);
    }
    assert!(output.windows(large().len()).any(|window| window == large()));
    assert!(output.ends_with(b"Content-Length: 0\r\n\r\n"), "the request behind it was answered, too");
}

#[test]
fn a_file_in_memory_is_shared_by_clients_that_read_slowly_and_goes_on_at_another_worker() {
    let folder = folder();
    let bytes: Vec<u8> = (0..400_000_u32).map(|index| (index / 3) as u8).collect();
    write(&folder.path().join("site/cached"), &bytes);
    let mut harness = Harness::new(server(&folder));
    let (status, _, body) = get(&mut harness, "/static/cached", "");
    assert!(status == 200 && body == bytes);
    let (status, _, body) = get(&mut harness, "/static/cached", "Range: bytes=1000-399998\r\n");
    assert!(status == 206 && body == bytes[1_000..399_999]);
    let clients: Vec<_> = (0..4).map(|_| harness.open()).collect();
    for client in &clients {
        harness.set_window(*client, Some(100_000));
        harness.send(
            *client,
            b"GET /static/cached HTTP/1.1\r\nHost: a\r\n\r\nGET /static/cached HTTP/1.1\r\nHost: a\r\n\r\n",
        );
    }
    let held: Vec<usize> = clients.iter().map(|client| harness.held_bytes(*client)).collect();
    assert!(held.iter().sum::<usize>() < 3 * bytes.len(), "of 3 MB that wait, these are held: {held:?}");
    let mut outputs: Vec<Vec<u8>> = clients.iter().map(|client| harness.take_output(*client)).collect();
    assert!(outputs.iter().all(|output| output.len() == 100_000));
    harness.hand_over(server(&folder));
    for (client, output) in clients.iter().zip(&mut outputs) {
        harness.set_window(*client, None);
        for more in std::iter::repeat_with(|| harness.take_output(*client)).take_while(|more| !more.is_empty()) {
            output.extend_from_slice(&more);
        }
        let whole = output.windows(bytes.len()).filter(|window| *window == bytes).count();
        assert!(whole == 2 && output.ends_with(&bytes));
    }
}

#[test]
fn a_file_that_shrinks_while_it_is_sent_cuts_the_connection_and_one_that_grows_ends_where_it_was() {
    let folder = folder();
    let path = folder.path().join("site/large");
    let mut harness = Harness::new(server(&folder));
    let begin = |harness: &mut Harness<Http>| {
        let client = harness.open();
        harness.set_window(client, Some(1_000));
        harness.send(client, b"GET /static/large HTTP/1.1\r\nHost: a\r\n\r\n");
        client
    };
    let client = begin(&mut harness);
    let file = File::options().append(true).open(&path).expect("open");
    std::io::Write::write_all(&mut &file, b"more").expect("written");
    harness.set_window(client, None);
    let mut length = 1_000;
    for more in std::iter::repeat_with(|| harness.take_output(client)).take_while(|more| !more.is_empty()) {
        length += more.len();
    }
    assert!((LARGE_BYTES..LARGE_BYTES + 1_500).contains(&length) && !harness.was_reset(client), "{length}");
    let client = begin(&mut harness);
    file.set_len(2_000_000).expect("cut");
    harness.set_window(client, None);
    while !harness.take_output(client).is_empty() {}
    assert!(harness.was_reset(client));
}

#[test]
fn a_large_answer_goes_on_at_another_worker_where_the_file_is_the_same() {
    let folder = folder();
    let mut harness = Harness::new(server(&folder));
    let client = harness.open();
    harness.set_window(client, Some(300_000));
    harness.send(client, b"GET /static/large HTTP/1.1\r\nHost: a\r\n\r\n");
    let mut output = harness.take_output(client);
    for window in [300_000, 1_200_000] {
        harness.hand_over(server(&folder));
        harness.set_window(client, Some(window));
        output.extend_from_slice(&harness.take_output(client));
    }
    harness.hand_over(server(&folder));
    harness.set_window(client, None);
    for more in std::iter::repeat_with(|| harness.take_output(client)).take_while(|more| !more.is_empty()) {
        output.extend_from_slice(&more);
    }
    assert!(output.ends_with(&large()) && output.len() < LARGE_BYTES + 500);
    // If the file is a different one by then, its connection stays at its worker.
    let client = harness.open();
    harness.set_window(client, Some(1_000));
    harness.send(client, b"GET /static/large HTTP/1.1\r\nHost: a\r\n\r\n");
    write(&folder.path().join("site/other"), "another");
    fs::rename(folder.path().join("site/other"), folder.path().join("site/large")).expect("renamed");
    assert!(harness.hand_over_to(server(&folder)).is_err());
}

#[test]
fn answers_do_not_depend_on_how_requests_are_cut() {
    let folder = folder();
    let request = b"GET /static/app.js HTTP/1.1\r\nHost: a\r\nAccept-Encoding: br\r\n\r\nGET /static/digits.txt HTTP/1.1\r\nHost: a\r\n\r\n";
    let output = output_of_all_splits(|| server(&folder), request);
    assert!(output.ends_with(b"0123456789"));
}
