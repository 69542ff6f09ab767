//! Clients that do what a client of a load does not: they are late, slow, silent, send garbage, or leave in the middle.
//! The required answers are known byte by byte.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use super::loads::{any_small, file_path, get, post};
use super::plan::{self, Side, Visit};
use super::server::{LARGE, Place};
use super::state::State;
use super::wire::{Trouble, Wire};
use crate::load::{Dialogue, ExchangePlan, HttpPlan, RequestPlan};
use crate::random::Random;

/// Number of visitors at the same time, for each server.
const COUNT: [(Side, u32); 2] = [(Side::Http, 8), (Side::Echo, 4)];

/// The longest time for which a visitor sends nothing.
const SILENCE_MAX_MS: u64 = 2_500;

/// The longest pause between visits of one visitor, which leaves cores to others.
const PAUSE_MAX_US: u64 = 6_000;

/// Bytes that are read at a time.
const READ_BYTES: usize = 64 * 1024;

/// What a slow reader reads at a time, and its longest pause after that.
const SLOW_READ_BYTES: usize = 16 * 1024;
const SLOW_READ_PAUSE_MAX_US: u64 = 4_000;

/// The most requests in one pipeline.
const PIPELINE_MAX: u64 = 24;

/// The size of an upload that is never finished.
const UNFINISHED_BYTES: usize = 100_000;

/// The results of visits of one kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Visited {
    pub(super) visits: u64,
    pub(super) answers: u64,
    /// Ended by the death of a worker.
    pub(super) lost: u64,
}

/// By kind.
pub(super) type Visits = BTreeMap<(Side, Visit), Visited>;

/// The running visitors.
pub(super) struct Visitors {
    threads: Vec<JoinHandle<Visits>>,
}

/// Starts the visitors of a segment.
///
/// # Errors
/// If a thread cannot be started.
pub(super) fn start(places: &[Place], seed: u64, segment: u32, state: &Arc<State>) -> Result<Visitors, String> {
    let mut threads = Vec::new();
    let sides = places.iter().flat_map(|place| {
        let count = COUNT.iter().find(|(side, _)| *side == place.side).map_or(0, |(_, count)| *count);
        (0..count).map(move |_| place)
    });
    for (place, number) in sides.zip(0..) {
        let (place, state, random) = (place.clone(), Arc::clone(state), plan::visitor(seed, segment, number));
        let body = move || visit_on(&place, random, &state);
        let thread = thread::Builder::new().name(format!("visitor-{number}")).spawn(body);
        threads.push(thread.map_err(|error| format!("a thread could not be started: {error}"))?);
    }
    Ok(Visitors { threads })
}

impl Visitors {
    /// Waits until each has ended its visit, and adds their results.
    ///
    /// # Errors
    /// If one has panicked.
    pub(super) fn join(self, visits: &mut Visits) -> Result<(), String> {
        for thread in self.threads {
            for (kind, seen) in thread.join().map_err(|_| "a visitor panicked")? {
                let sum = visits.entry(kind).or_default();
                sum.visits += seen.visits;
                sum.answers += seen.answers;
                sum.lost += seen.lost;
            }
        }
        Ok(())
    }
}

fn visit_on(place: &Place, mut random: Random, state: &State) -> Visits {
    let mut visits = Visits::new();
    while !state.is_over() {
        let visit = Visit::draw(place.side, &mut random);
        let seen = visits.entry((place.side, visit)).or_default();
        state.visitors_connections.fetch_add(1, Ordering::Relaxed);
        seen.visits += 1;
        let result = match place.side {
            Side::Http => visit_http(place, visit, &mut random, state),
            Side::Echo => visit_echo(place, visit, &mut random, state),
        };
        match result {
            Ok(answers) => seen.answers += answers,
            Err(Trouble { lost_since: Some(since), .. }) if state.ledger.excuses(place.side, since, Instant::now()) => {
                seen.lost += 1;
            }
            Err(trouble) => state.fail(&format!(
                "a visitor of the {} server that {}: {}",
                place.side.name(),
                visit.name(),
                trouble.what
            )),
        }
        thread::sleep(Duration::from_micros(random.below(PAUSE_MAX_US)));
    }
    visits
}

fn silence(random: &mut Random) -> Duration {
    Duration::from_millis(random.below(SILENCE_MAX_MS))
}

/// How a visit sends its bytes.
struct Manner {
    pieces: u64,
    pause: Duration,
    is_slow_reader: bool,
    half_closes: bool,
}

const BRISK: Manner = Manner { pieces: 1, pause: Duration::ZERO, is_slow_reader: false, half_closes: false };

fn visit_http(place: &Place, visit: Visit, random: &mut Random, state: &State) -> Result<u64, Trouble> {
    let mut wire = Wire::connect(place.address, random)?;
    let some = |random: &mut Random, count: u64| {
        (0..count).map(|_| any_small(place, random)).collect::<Result<Vec<_>, _>>().map_err(Trouble::wrong)
    };
    match visit {
        Visit::Silent => wire.stay_silent(silence(random), state).map(|()| 0),
        Visit::Late => {
            wire.stay_silent(silence(random), state)?;
            ask(wire, some(random, 1)?, &BRISK, random)
        }
        Visit::Pipeline => {
            let count = 1 + random.below(PIPELINE_MAX);
            let pieces = 1 + random.below(4);
            ask(wire, some(random, count)?, &Manner { pieces, ..BRISK }, random)
        }
        Visit::SlowWriter => {
            let manner = Manner { pieces: 12, pause: Duration::from_millis(30), ..BRISK };
            ask(wire, some(random, 2)?, &manner, random)
        }
        Visit::SlowReader => {
            wire.narrow();
            let large = get(&file_path(LARGE), &place.files[LARGE]).map_err(Trouble::wrong)?;
            ask(wire, vec![large], &Manner { is_slow_reader: true, ..BRISK }, random)
        }
        Visit::HalfClose => {
            let count = 1 + random.below(4);
            ask(wire, some(random, count)?, &Manner { half_closes: true, ..BRISK }, random)
        }
        Visit::Reset => {
            let bytes = requests_of(some(random, 3)?, random)?;
            let part = random.below(bytes.len() as u64 + 1) as usize;
            wire.write(&bytes[..part], 1, Duration::ZERO, random)?;
            wire.reset().map(|()| 0)
        }
        Visit::Leaves => {
            let request = post(&plan::random_bytes(random, UNFINISHED_BYTES), None).map_err(Trouble::wrong)?;
            let bytes = requests_of(vec![request], random)?;
            let part = random.below(bytes.len() as u64) as usize;
            wire.write(&bytes[..part], 1, Duration::ZERO, random).map(|()| 0)
        }
        Visit::Garbage => be_refused(wire, random),
    }
}

fn dialogue(requests: Vec<RequestPlan>, random: &mut Random) -> (Dialogue, u32) {
    let count = requests.len() as u32;
    let plan = ExchangePlan::Http(HttpPlan::rotation("requests of a visitor", requests));
    (Dialogue::new(&plan, random.next() as u32 as usize), count)
}

fn requests_of(requests: Vec<RequestPlan>, random: &mut Random) -> Result<Vec<u8>, Trouble> {
    let (mut dialogue, count) = dialogue(requests, random);
    Ok(dialogue.requests(count))
}

/// Sends requests, and checks all answers.
fn ask(mut wire: Wire, requests: Vec<RequestPlan>, manner: &Manner, random: &mut Random) -> Result<u64, Trouble> {
    let (mut dialogue, count) = dialogue(requests, random);
    let bytes = dialogue.requests(count);
    wire.write(&bytes, manner.pieces, manner.pause, random)?;
    if manner.half_closes {
        wire.half_close()?;
    }
    let mut buffer = vec![0; if manner.is_slow_reader { SLOW_READ_BYTES } else { READ_BYTES }];
    let mut answers = 0;
    while answers < count {
        let received = wire.read(&mut buffer)?;
        if received == 0 {
            return Err(wire.lost(format!("closed after {answers} of {count} answers")));
        }
        answers += dialogue.answers(&buffer[..received]).map_err(Trouble::wrong)?;
        if manner.is_slow_reader {
            thread::sleep(Duration::from_micros(random.below(SLOW_READ_PAUSE_MAX_US)));
        }
    }
    if manner.half_closes {
        wire.read_end()?;
    }
    Ok(u64::from(answers))
}

/// Sends an invalid request: the answer must be 400, and then the end.
fn be_refused(mut wire: Wire, random: &mut Random) -> Result<u64, Trouble> {
    const FORMS: [&[u8]; 5] = [
        b"GET / HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
        b"POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nno size\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nName : a\r\n\r\n",
    ];
    let form = random.below(FORMS.len() as u64 + 1) as usize;
    let garbage = match FORMS.get(form) {
        Some(bytes) => bytes.to_vec(),
        // No method begins with such a byte.
        None => {
            let count = 1 + random.below(60) as usize;
            [&b"\x01"[..], &plan::random_bytes(random, count), b"\r\n\r\n"].concat()
        }
    };
    wire.write(&garbage, 1, Duration::ZERO, random)?;
    let (mut answer, mut buffer) = (Vec::new(), [0; 4096]);
    loop {
        match wire.read(&mut buffer)? {
            0 => break,
            count => answer.extend_from_slice(&buffer[..count]),
        }
    }
    let said = || format!("\"{}\" was answered with \"{}\"", garbage.escape_ascii(), answer.escape_ascii());
    match answer.starts_with(b"HTTP/1.1 400 ") {
        true => Ok(1),
        false if answer.is_empty() => Err(wire.lost(said())),
        false => Err(Trouble::wrong(said())),
    }
}

fn visit_echo(place: &Place, visit: Visit, random: &mut Random, state: &State) -> Result<u64, Trouble> {
    let mut wire = Wire::connect(place.address, random)?;
    let payload = |random: &mut Random, most: u64| {
        let bytes = 1 + random.below(most) as usize;
        plan::random_bytes(random, bytes)
    };
    match visit {
        Visit::Silent => wire.stay_silent(silence(random), state).map(|()| 0),
        Visit::Late => {
            wire.stay_silent(silence(random), state)?;
            let bytes = payload(random, 4_000);
            echo(wire, &bytes, &BRISK, random)
        }
        Visit::SlowWriter => {
            let (bytes, pause) = (payload(random, 20_000), Duration::from_millis(30));
            echo(wire, &bytes, &Manner { pieces: 12, pause, ..BRISK }, random)
        }
        Visit::SlowReader => {
            wire.narrow();
            let bytes = payload(random, 200_000);
            echo(wire, &bytes, &Manner { is_slow_reader: true, ..BRISK }, random)
        }
        Visit::HalfClose => {
            let bytes = payload(random, 60_000);
            echo(wire, &bytes, &Manner { half_closes: true, ..BRISK }, random)
        }
        Visit::Reset => {
            let bytes = payload(random, 20_000);
            wire.write(&bytes, 1, Duration::ZERO, random)?;
            wire.reset().map(|()| 0)
        }
        Visit::Pipeline | Visit::Leaves | Visit::Garbage => {
            let (pieces, bytes) = (1 + random.below(6), payload(random, 60_000));
            echo(wire, &bytes, &Manner { pieces, ..BRISK }, random)
        }
    }
}

/// Sends bytes, and checks that they come back.
fn echo(mut wire: Wire, bytes: &[u8], manner: &Manner, random: &mut Random) -> Result<u64, Trouble> {
    wire.write(bytes, manner.pieces, manner.pause, random)?;
    if manner.half_closes {
        wire.half_close()?;
    }
    let mut buffer = vec![0; if manner.is_slow_reader { SLOW_READ_BYTES } else { READ_BYTES }];
    let mut at = 0;
    while at < bytes.len() {
        let count = wire.read(&mut buffer)?;
        if count == 0 {
            return Err(wire.lost(format!("closed after {at} of {} bytes", bytes.len())));
        }
        if bytes.get(at..at + count) != Some(&buffer[..count]) {
            return Err(Trouble::wrong(format!("other bytes than were sent, after {at} of {}", bytes.len())));
        }
        at += count;
        if manner.is_slow_reader {
            thread::sleep(Duration::from_micros(random.below(SLOW_READ_PAUSE_MAX_US)));
        }
    }
    if manner.half_closes {
        wire.read_end()?;
    }
    Ok(1)
}
