//! The fuzzers' seeds, and mutations of them.

#[path = "../../fuzz/mutations.rs"]
mod mutations;

use std::path::Path;

use super::{masters, proxy, workers};

/// Values that often break readers of JSON.
const PIECES: &[&[u8]] = &[
    b"null",
    b"true",
    b"\"\"",
    b"[]",
    b"{}",
    b"[[",
    b"}",
    b"\\u0000",
    b"\"127.0.0.1:0\"",
    b"\"[::1%4294967295]:65535\"",
    b"\"protocol\"",
    b"\"unknown\"",
];

macro_rules! targets {
    ($($name:ident: $check:path,)+) => {
        $(
            #[test]
            fn $name() {
                let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus");
                mutations::run(&corpus.join(stringify!($name)), PIECES, $check);
            }
        )+
    };
}

targets! {
    reports: masters::reports,
    relay: masters::relay,
    control_requests: masters::control_requests,
    control_replies: masters::control_replies,
    orders: workers::orders,
    envelopes: workers::envelopes,
    worker_state: workers::worker_state,
    proxy_header: proxy::proxy_header,
    messages: workers::messages,
}
