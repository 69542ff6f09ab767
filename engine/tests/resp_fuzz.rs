//! The fuzzer's check of the example `resp` over its seeds and over mutations of them: some seconds in every test run.

#[path = "../fuzz/resp_check.rs"]
mod resp_check;
#[path = "../fuzz/resp_state_check.rs"]
mod resp_state_check;
#[path = "../examples/resp/service/mod.rs"]
mod service;

use std::path::Path;
use std::sync::LazyLock;

use proptest::prelude::*;

static SEEDS: LazyLock<Vec<Vec<u8>>> = LazyLock::new(|| seeds("resp_request"));

static STATES: LazyLock<Vec<Vec<u8>>> = LazyLock::new(|| seeds("resp_state"));

fn seeds(target: &str) -> Vec<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target);
    let mut files: Vec<_> =
        std::fs::read_dir(folder).expect("seeds").map(|file| file.expect("a file").path()).collect();
    files.sort();
    files.into_iter().map(|file| std::fs::read(file).expect("a seed")).collect()
}

/// Pieces for mutations that often break parsers.
fn piece() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        Just(b"\r\n".to_vec()),
        Just(b"*1\r\n$4\r\nPING\r\n".to_vec()),
        Just(b"$".to_vec()),
        Just(b"*".to_vec()),
        Just(b"-".to_vec()),
        Just(b"0".to_vec()),
        Just(b"9".to_vec()),
        Just(b"\"".to_vec()),
        Just(b"\\x".to_vec()),
        Just(b"\0".to_vec()),
        Just(b"\x0c".to_vec()),
        Just(b"*3\r\n$3\r\nSET\r\n$1\r\na\r\n$1\r\n1\r\n".to_vec()),
        Just(b"HELLO 3\r\n".to_vec()),
        Just(b"INFO\r\n".to_vec()),
        Just(b"POST\r\n".to_vec()),
        Just(vec![b'1'; 300]),
        Just(b"9223372036854775807".to_vec()),
        any::<u8>().prop_map(|byte| vec![byte]),
    ]
}

/// Numbers as they are frozen.
fn state_piece() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        any::<u8>().prop_map(|byte| vec![byte]),
        any::<u64>().prop_map(|number| number.to_le_bytes().to_vec()),
        prop::sample::select(vec![0, 1, i64::MAX, i64::MAX - 1, i64::MIN, i64::MIN + 1, -1, 200_000])
            .prop_map(|number| number.to_le_bytes().to_vec()),
        any::<u32>().prop_map(|number| number.to_le_bytes().to_vec()),
    ]
}

#[test]
fn the_seeds_of_the_fuzzer() {
    assert!(SEEDS.len() >= 40, "the seeds lie in fuzz/corpus/resp_request");
    SEEDS.iter().for_each(|seed| resp_check::check(seed));
    STATES.iter().for_each(|seed| resp_state_check::check(seed));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(3000))]

    #[test]
    fn mutations_of_the_seeds(
        which in any::<prop::sample::Index>(),
        cuts in proptest::collection::vec((any::<prop::sample::Index>(), 0..6usize, piece()), 1..6),
    ) {
        let mut data = which.get(&SEEDS).clone();
        for (place, removed, piece) in cuts {
            let at = place.index(data.len() + 1);
            let end = (at + removed).min(data.len());
            data.splice(at..end, piece);
        }
        resp_check::check(&data);
    }

    #[test]
    fn mutations_of_frozen_state(
        which in any::<prop::sample::Index>(),
        cuts in proptest::collection::vec((any::<prop::sample::Index>(), 0..9usize, state_piece()), 1..4),
    ) {
        let mut data = which.get(&STATES).clone();
        for (place, removed, piece) in cuts {
            let at = place.index(data.len() + 1);
            let end = (at + removed).min(data.len());
            data.splice(at..end, piece);
        }
        resp_state_check::check(&data);
    }
}
