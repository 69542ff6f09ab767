use std::sync::atomic::{AtomicU64, Ordering};

use proptest::prelude::*;
use rustls::pki_types::UnixTime;

use super::*;

/// A clock that tests set. `u64::MAX` is a clock that does not know the time.
#[derive(Debug)]
pub(crate) struct Clock(AtomicU64);

impl Clock {
    pub(crate) fn at(seconds: u64) -> Arc<Self> {
        Arc::new(Self(AtomicU64::new(seconds)))
    }

    pub(crate) fn set(&self, seconds: u64) {
        self.0.store(seconds, Ordering::Relaxed);
    }
}

impl TimeProvider for Clock {
    fn current_time(&self) -> Option<UnixTime> {
        let seconds = self.0.load(Ordering::Relaxed);
        (seconds != u64::MAX).then(|| UnixTime::since_unix_epoch(std::time::Duration::from_secs(seconds)))
    }
}

/// When a period begins.
const START: u64 = 80_000 * PERIOD_SECONDS;

const SESSION: &[u8] = b"what rustls wants to know again";

fn tickets(secret: u8, clock: &Arc<Clock>) -> Tickets {
    Tickets::new(&[secret; SECRET_BYTES], Arc::clone(clock) as _)
}

#[test]
fn those_with_the_same_secret_open_each_others_tickets_and_nobody_else_does() {
    let clock = Clock::at(START);
    let [one, two, other] = [1, 1, 2].map(|secret| tickets(secret, &clock));
    let ticket = one.encrypt(SESSION).expect("a ticket");
    assert_eq!(ticket.len(), SESSION.len() + NAME_BYTES + NONCE_BYTES + TAG_BYTES);
    assert_eq!(one.decrypt(&ticket).as_deref(), Some(SESSION));
    assert_eq!(two.decrypt(&ticket).as_deref(), Some(SESSION));
    assert_eq!(other.decrypt(&ticket), None);
    assert!(!ticket.windows(12).any(|part| SESSION.windows(12).any(|plain| plain == part)), "it is encrypted");
    assert_ne!(one.encrypt(SESSION).expect("a ticket"), ticket, "each has its own nonce");
    let empty = one.encrypt(b"").expect("a ticket");
    assert_eq!(two.decrypt(&empty).as_deref(), Some(&b""[..]));
    assert!(one.enabled());
    assert_eq!(one.lifetime(), 43_200);
}

#[test]
fn a_ticket_can_be_used_in_its_period_and_the_next_one() {
    for (sealed, last) in
        [(START, START + 2 * PERIOD_SECONDS - 1), (START + PERIOD_SECONDS - 1, START + 2 * PERIOD_SECONDS - 1)]
    {
        let clock = Clock::at(sealed);
        let one = tickets(1, &clock);
        let ticket = one.encrypt(SESSION).expect("a ticket");
        for (now, is_known) in [
            (sealed, true),
            (START + PERIOD_SECONDS, true),
            (last, true),
            (last + 1, false),
            (START - 1, false),
            (sealed, true),
        ] {
            clock.set(now);
            // One that has run all the time, and one that has just been started.
            for tickets in [&one, &tickets(1, &clock)] {
                assert_eq!(tickets.decrypt(&ticket).is_some(), is_known, "{now}");
            }
        }
    }
}

#[test]
fn any_clock_is_good_enough() {
    for now in [0, 1, PERIOD_SECONDS, u64::MAX - 1] {
        let tickets = tickets(1, &Clock::at(now));
        let ticket = tickets.encrypt(SESSION).expect("a ticket");
        assert_eq!(tickets.decrypt(&ticket).as_deref(), Some(SESSION));
    }
    let clock = Clock::at(START);
    let tickets = tickets(1, &clock);
    let ticket = tickets.encrypt(SESSION).expect("a ticket");
    clock.set(u64::MAX);
    assert_eq!((tickets.encrypt(SESSION), tickets.decrypt(&ticket)), (None, None), "nobody knows the time");
}

#[test]
fn a_ticket_that_was_altered_or_cut_is_unknown() {
    let tickets = tickets(1, &Clock::at(START));
    let ticket = tickets.encrypt(SESSION).expect("a ticket");
    for at in 0..ticket.len() {
        let mut altered = ticket.clone();
        altered[at] ^= 1;
        assert_eq!(tickets.decrypt(&altered), None, "byte {at}");
        assert_eq!(tickets.decrypt(&ticket[..at]), None, "{at} bytes");
    }
    assert_eq!(tickets.decrypt(&[&ticket[..], &[0]].concat()), None);
}

/// The next binary must make the same keys, and read the same format. Made by Python's `cryptography`: HKDF(SHA256(),
/// 32, b"baton tickets", b"key" + period).derive(secret), AESGCM(key).encrypt(nonce, session, name).
#[test]
fn keys_and_form_stay_as_they_are() {
    let tickets = tickets(7, &Clock::at(START));
    let ticket = include_bytes!("ticket");
    assert_eq!(tickets.decrypt(ticket).as_deref(), Some(SESSION));
}

#[test]
fn nothing_of_a_secret_is_printed() {
    assert_eq!(format!("{:?}", tickets(7, &Clock::at(START))), "Tickets { .. }");
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(2000) })]

    #[test]
    fn any_bytes_are_an_unknown_ticket(bytes in prop::collection::vec(any::<u8>(), 0..200), is_named: bool) {
        let tickets = tickets(1, &Clock::at(START));
        let mut ticket = tickets.encrypt(SESSION).expect("a ticket");
        ticket.truncate(if is_named { NAME_BYTES } else { 0 });
        ticket.extend_from_slice(&bytes);
        prop_assert_eq!(tickets.decrypt(&ticket), None);
    }
}
