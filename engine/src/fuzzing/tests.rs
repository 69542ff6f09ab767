//! The fuzzers' seeds, and mutations of them: the same ones in every run. `BATON_FUZZ_SECONDS` makes each target go on for so
//! long, with others.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use super::{masters, workers};

/// Mutations of one target in an ordinary run.
const MUTATIONS: u64 = 1_500;

/// What a mutation puts in: what readers trip over.
const PIECES: &[&[u8]] = &[
    b"0",
    b"-1",
    b"1e308",
    b"255",
    b"65536",
    b"4294967295",
    b"4294967296",
    b"18446744073709551615",
    b"18446744073709551616",
    b"null",
    b"true",
    b"\"\"",
    b"[]",
    b"{}",
    b"[[",
    b"}",
    b",",
    b":",
    b"\"",
    b"\\u0000",
    b"\xff",
    b"\0",
    b"\n",
    b"\"127.0.0.1:0\"",
    b"\"[::1%4294967295]:65535\"",
    b"\"protocol\"",
    b"\"unknown\"",
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
    let mut files: Vec<_> = fs::read_dir(folder).expect("seeds").map(|file| file.expect("a file").path()).collect();
    files.sort();
    files.into_iter().map(|file| fs::read(file).expect("a seed")).collect()
}

fn mutate(seeds: &[Vec<u8>], random: &mut Random) -> Vec<u8> {
    let mut data = seeds[random.below(seeds.len())].clone();
    for _ in 0..=random.below(4) {
        let at = random.below(data.len() + 1);
        let end = (at + random.below(12)).min(data.len());
        match random.below(6) {
            0 if at < data.len() => data[at] = random.below(256) as u8,
            1 => drop(data.drain(at..end)),
            2 => {
                let piece = data[at..end].to_vec();
                data.splice(at..at, piece);
            }
            // A number becomes another one.
            3 => {
                let is_digit = |byte: &u8| byte.is_ascii_digit();
                let Some(start) = data.iter().skip(at).position(is_digit).map(|start| start + at) else { continue };
                let end = data[start..].iter().position(|byte| !is_digit(byte)).map_or(data.len(), |end| start + end);
                data.splice(start..end, PIECES[random.below(9)].iter().copied());
            }
            // A line of another seed.
            4 => {
                let other = &seeds[random.below(seeds.len())];
                let lines: Vec<&[u8]> = other.split(|byte| *byte == b'\n').collect();
                let line = [b"\n", lines[random.below(lines.len())]].concat();
                data.extend(line);
            }
            _ => drop(data.splice(at..at, PIECES[random.below(PIECES.len())].iter().copied())),
        }
    }
    data
}

fn run(target: &str, check: fn(&[u8])) {
    let seeds = seeds(target);
    assert!(!seeds.is_empty(), "the seeds lie in fuzz/corpus/{target}");
    seeds.iter().for_each(|seed| check(seed));
    let seconds = std::env::var("BATON_FUZZ_SECONDS").ok().and_then(|seconds| seconds.parse().ok());
    let until = seconds.map(|seconds| Instant::now() + Duration::from_secs(seconds));
    let mut random = Random(1);
    let mut count = 0;
    while until.map_or(count < MUTATIONS, |until| Instant::now() < until) {
        let data = mutate(&seeds, &mut random);
        // So that a test that fails says why.
        let result = std::panic::catch_unwind(|| check(&data));
        assert!(result.is_ok(), "mutation {count} of {target}: {}", data.escape_ascii());
        count += 1;
    }
    println!("{target}: {count} mutations");
}

#[test]
fn reports() {
    run("reports", masters::reports);
}

#[test]
fn relay() {
    run("relay", masters::relay);
}

#[test]
fn control_requests() {
    run("control_requests", masters::control_requests);
}

#[test]
fn control_replies() {
    run("control_replies", masters::control_replies);
}

#[test]
fn orders() {
    run("orders", workers::orders);
}

#[test]
fn envelopes() {
    run("envelopes", workers::envelopes);
}

#[test]
fn worker_state() {
    run("worker_state", workers::worker_state);
}
