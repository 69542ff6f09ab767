//! The answers of batond at a listener that redirects requests to TLS, and the files of its folders that it still
//! serves there.

use std::fs;
use std::path::Path;

use baton::testing::Harness;
use baton_http::Mount;
use batond::http::{SiteConfig, site};
use tempfile::TempDir;

/// A folder with a token for a certificate authority.
fn folder() -> TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    for name in ["token", ".well-known/acme-challenge/token", "acme-challenge/token"] {
        let path = folder.path().join(name);
        fs::create_dir_all(path.parent().expect("a folder")).expect("made");
        fs::write(path, name).expect("written");
    }
    folder
}

/// The status of a request for each of these paths.
fn statuses<const N: usize>(prefix: Option<&str>, folder: &Path, paths: [&str; N]) -> [u16; N] {
    let index = "index.html".to_owned();
    let mount = |prefix: &str| Mount { prefix: prefix.to_owned(), folder: folder.to_owned(), index: index.clone() };
    let config =
        SiteConfig { mounts: prefix.into_iter().map(mount).collect(), redirects: vec![443], ..SiteConfig::default() };
    let mut harness = Harness::new(site(&config));
    paths.map(|path| {
        let client = harness.open_labelled(1);
        harness.send(client, format!("GET {path} HTTP/1.1\r\nHost: a.example\r\n\r\n").as_bytes());
        let output = harness.take_output(client);
        std::str::from_utf8(&output[9..12]).expect("text").parse().expect("a status")
    })
}

#[test]
fn challenges_are_answered_from_a_folder_that_has_them() {
    let folder = folder();
    let token = "/.well-known/acme-challenge/token";
    for (prefix, status) in [
        (None, 308),
        (Some("/static/"), 308),
        (Some("/"), 200),
        (Some("/.well-known/"), 200),
        (Some("/.well-known/acme-challenge/"), 200),
        (Some("/.well-known/acme-challenge/other/"), 308),
    ] {
        let found = statuses(prefix, folder.path(), [token, "/", "/token", "/static/token", "/.well-known/token"]);
        assert_eq!(found, [status, 308, 308, 308, 308], "{prefix:?}");
    }
    let deeper = statuses(
        Some("/.well-known/acme-challenge/other/"),
        folder.path(),
        ["/.well-known/acme-challenge/other/token", "/.well-known/acme-challenge/other/none"],
    );
    assert_eq!(deeper, [200, 404]);
}

#[test]
fn nothing_else_is_reached_through_challenges() {
    let folder = folder();
    let beside = |rest: &str| format!("/.well-known/acme-challenge/{rest}");
    let paths = ["../../token", "%2e%2e/%2e%2e/token", "..%2f..%2ftoken", "none"].map(beside);
    let found = statuses(Some("/"), folder.path(), paths.each_ref().map(String::as_str));
    assert_eq!(found, [400, 400, 400, 404]);
}
