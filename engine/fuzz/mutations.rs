//! A fuzzer's seeds, and mutations of them: the same ones in every run. For normal tests, which have no libFuzzer.

use std::fs;
use std::panic;
use std::path::Path;
use std::time::{Duration, Instant};

/// Mutations in a normal run.
const MUTATIONS: u64 = 2_000;

/// Pieces that a mutation inserts for any reader. Each reader has further ones of its own.
const PIECES: &[&[u8]] = &[
    b"0",
    b"-1",
    b"1e308",
    b"255",
    b"65536",
    b"4294967295",
    b"18446744073709551615",
    b"18446744073709551616",
    b"\0",
    b"\n",
    b"\xff",
    b"\"",
    b",",
    b":",
    b" ",
];

/// The number of these that are numbers.
const NUMBERS: usize = 8;

struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((self.0 >> 33) as usize) % bound.max(1)
    }

    fn piece<'a>(&mut self, own: &[&'a [u8]]) -> &'a [u8] {
        let place = self.below(PIECES.len() + own.len());
        PIECES.get(place).copied().unwrap_or_else(|| own[place - PIECES.len()])
    }
}

/// Runs a check of the seeds in `folder`, and of mutations of them, into which `pieces` are inserted. With
/// `BATON_FUZZ_SECONDS` it continues for this time.
///
/// # Panics
/// If the check does; the panic names the bytes.
pub(crate) fn run(folder: &Path, pieces: &[&[u8]], check: fn(&[u8])) {
    let mut files: Vec<_> = fs::read_dir(folder).expect("seeds").map(|file| file.expect("a file").path()).collect();
    files.sort();
    let seeds: Vec<Vec<u8>> = files.into_iter().map(|file| fs::read(file).expect("a seed")).collect();
    assert!(!seeds.is_empty(), "the seeds lie in {}", folder.display());
    seeds.iter().for_each(|seed| check(seed));
    let seconds = std::env::var("BATON_FUZZ_SECONDS").ok().and_then(|seconds| seconds.parse().ok());
    let until = seconds.map(|seconds| Instant::now() + Duration::from_secs(seconds));
    let (mut random, mut count) = (Random(1), 0);
    while until.map_or(count < MUTATIONS, |until| Instant::now() < until) {
        let data = mutate(&seeds, pieces, &mut random);
        let result = panic::catch_unwind(|| check(&data));
        assert!(result.is_ok(), "mutation {count}: {}", data.escape_ascii());
        count += 1;
    }
    println!("{}: {count} mutations", folder.display());
}

fn mutate(seeds: &[Vec<u8>], pieces: &[&[u8]], random: &mut Random) -> Vec<u8> {
    let mut data = seeds[random.below(seeds.len())].clone();
    for _ in 0..=random.below(4) {
        let at = random.below(data.len() + 1);
        let end = (at + random.below(12)).min(data.len());
        match random.below(7) {
            0 if at < data.len() => data[at] = random.below(256) as u8,
            1 => drop(data.drain(at..end)),
            2 => {
                let piece = data[at..end].to_vec();
                data.splice(at..at, piece);
            }
            3 => data.truncate(data.len() - random.below(data.len().min(20))),
            // Replaces a number with another one.
            4 => {
                let Some(start) = (at..data.len()).find(|place| data[*place].is_ascii_digit()) else { continue };
                let end = (start..data.len()).find(|place| !data[*place].is_ascii_digit()).unwrap_or(data.len());
                data.splice(start..end, PIECES[random.below(NUMBERS)].iter().copied());
            }
            // Inserts a line of another seed.
            5 => {
                let other = &seeds[random.below(seeds.len())];
                let lines: Vec<&[u8]> = other.split(|byte| *byte == b'\n').collect();
                data.extend([b"\n", lines[random.below(lines.len())]].concat());
            }
            _ => drop(data.splice(at..at, random.piece(pieces).iter().copied())),
        }
    }
    data
}
