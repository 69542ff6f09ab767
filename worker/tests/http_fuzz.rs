//! The fuzzers' checks over their seeds and over mutations of them.

#[path = "../../engine/fuzz/mutations.rs"]
mod mutations;

use std::path::Path;

use batond::http::fuzz::{check, check_frozen};

/// Pieces that often break readers of HTTP and of its frozen state.
const PIECES: &[&[u8]] = &[
    b"\r\n",
    b"\r",
    b";",
    b"f",
    b"\r\n\r\n",
    b"Content-Length: 3\r\n",
    b"Transfer-Encoding: chunked\r\n",
    b"Connection: close\r\n",
    b"Expect: 100-continue\r\n",
    b"HTTP/1.0",
    b"GET / HTTP/1.1\r\nHost: a\r\n\r\n",
    b"HEAD ",
    b"\x80",
    b"256",
    b"\"Data\"",
    b"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
];

fn run(target: &str, check: fn(&[u8])) {
    mutations::run(&Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target), PIECES, check);
}

#[test]
fn seeds_and_their_mutations() {
    run("http_request", check);
}

#[test]
fn frozen_state_and_its_mutations() {
    run("http_state", |data| {
        check_frozen(data);
    });
}

/// Otherwise all mutations would be refused immediately.
#[test]
fn seeds_of_frozen_state_are_understood() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus/http_state");
    for file in std::fs::read_dir(folder).expect("seeds") {
        let path = file.expect("a seed").path();
        assert!(check_frozen(&std::fs::read(&path).expect("a seed")), "{}", path.display());
    }
}
