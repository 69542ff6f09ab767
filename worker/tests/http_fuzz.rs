//! The fuzzer's check over its seeds and over mutations of them, the same ones in every run.

use std::path::Path;

use batond::http::fuzz::{check, check_frozen};

const MUTATIONS_PER_SEED: usize = 250;

/// What a mutation puts in: what parsers trip over.
const PIECES: &[&[u8]] = &[
    b"\r\n",
    b"\n",
    b"\r",
    b"\0",
    b" ",
    b":",
    b",",
    b";",
    b"0",
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
    b"18446744073709551615",
    b"256",
    b"\"Data\"",
    b"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
];

struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((self.0 >> 33) as usize) % bound.max(1)
    }
}

fn seeds(target: &str) -> Vec<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target);
    let mut files: Vec<_> =
        std::fs::read_dir(folder).expect("seeds").map(|file| file.expect("a file").path()).collect();
    files.sort();
    files.into_iter().map(|file| std::fs::read(file).expect("a seed")).collect()
}

fn mutate(mut data: Vec<u8>, random: &mut Random) -> Vec<u8> {
    for _ in 0..=random.below(3) {
        let at = random.below(data.len() + 1);
        let end = (at + random.below(12)).min(data.len());
        match random.below(5) {
            0 if at < data.len() => data[at] = random.below(256) as u8,
            1 => drop(data.drain(at..end)),
            2 => {
                let piece = data[at..end].to_vec();
                data.splice(at..at, piece);
            }
            3 => data.truncate(data.len() - random.below(data.len().min(20))),
            _ => drop(data.splice(at..at, PIECES[random.below(PIECES.len())].iter().copied())),
        }
    }
    data
}

/// Runs the seeds of a target, and mutations of each.
fn run(target: &str, check: fn(&[u8])) {
    let seeds = seeds(target);
    assert!(seeds.len() >= 7, "the seeds lie in fuzz/corpus/{target}");
    let mut random = Random(1);
    for seed in &seeds {
        check(seed);
        for _ in 0..MUTATIONS_PER_SEED {
            check(&mutate(seed.clone(), &mut random));
        }
    }
}

#[test]
fn seeds_and_their_mutations() {
    run("http_request", check);
}

#[test]
fn frozen_state_and_its_mutations() {
    run("http_state", check_frozen);
}
