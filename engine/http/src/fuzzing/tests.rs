//! The fuzzers' seeds, and mutations of them.

#[path = "../../../fuzz/mutations.rs"]
mod mutations;

use std::path::Path;

use proptest::prelude::*;

/// Pieces that often break readers of HTTP.
const PIECES: &[&[u8]] = &[
    b"\r\n",
    b"\r",
    b"\t",
    b";",
    b"=",
    b"\\",
    b"?",
    b"#",
    b"%4",
    b"%c3%a9",
    b"\x7f",
    b"\x80",
    b"\r\n\r\n",
    b"\r\n\r\n\r\n",
    b"\r\n ",
    b"Host: b\r\n",
    b"Content-Length: 3\r\n",
    b"Transfer-Encoding: chunked\r\n",
    b"transfer-encoding: gzip, chunked;q=1\r\n",
    b"Connection: close, upgrade\r\n",
    b"Upgrade: a\r\n",
    b"Expect: 100-continue\r\n",
    b"HTTP/1.0",
    b"HTTP/1.2",
    b"OPTIONS * HTTP/1.1\r\n",
    b"0\r\n\r\n",
    b"ffffffffffffffff\r\n",
    b"X:\r\nY: \r\nZ:  a \t\r\n",
    b"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
];

macro_rules! targets {
    ($($name:ident,)+) => {
        $(
            #[test]
            fn $name() {
                let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus");
                mutations::run(&corpus.join(stringify!($name)), PIECES, super::$name);
            }
        )+
    };
}

targets! {
    head,
    scan,
    chunked,
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_instruction_set_finds_the_same(data in prop::collection::vec(any::<u8>(), 0..300)) {
        super::scan(&data);
    }

    #[test]
    fn every_instruction_set_finds_the_same_in_text(data in "[ -~]{0,200}[\t\r\n\x7f\u{80}]{0,4}[a-z]{0,100}") {
        super::scan(data.as_bytes());
    }
}
