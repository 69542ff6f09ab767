//! Certificates of listeners, for `status` and for a daily warning in the log.

use std::time::SystemTime;

use super::Master;
use crate::config::Listener;
use crate::ipc::control::{CertificateStatus, REPLY_BYTES_MAX};
use crate::layer::SharedLayers;
use crate::master::core::{Generation, Time, World as _};

/// Most of a status is for workers: certificates get this many bytes of it. Those that expire first come first.
const SHOWN_BYTES_MAX: usize = REPLY_BYTES_MAX / 8;

/// Time between two reminders.
const REMIND_MS: u64 = 24 * 60 * 60 * 1_000;

/// When the log warns again. The code that reads certificates warns as well, so the first time is a day later.
pub(super) struct Reminder {
    next: Time,
}

impl Reminder {
    pub(super) fn new(now: Time) -> Self {
        Self { next: now.after_ms(REMIND_MS) }
    }

    pub(super) fn next(&self) -> Time {
        self.next
    }

    /// Whether it is time. If so, the next time is a day later.
    fn is_due(&mut self, now: Time) -> bool {
        let is_due = self.next <= now;
        if is_due {
            *self = Self::new(now);
        }
        is_due
    }
}

impl Master<'_> {
    /// Warns of the certificates of the serving generation when it is time to.
    pub(super) fn remind(&mut self) {
        if !self.reminder.is_due(self.driver.now()) {
            return;
        }
        let Some(serving) = self.core.serving() else { return };
        let all = self.certificates(&self.core.generations()[serving]);
        all.iter().flat_map(|one| &one.warnings).for_each(|warning| tracing::warn!("{warning}"));
    }

    /// All certificates that clients of a generation may get; those that expire first come first.
    pub(super) fn certificates(&self, generation: &Generation) -> Vec<CertificateStatus> {
        let Ok(configuration) = self.driver.configurations.get(generation.plan.configuration) else {
            return Vec::new();
        };
        let bound = generation.addresses.iter().map(|address| address.bound.to_string());
        certificates(configuration.settings.listen.iter().zip(bound), SystemTime::now())
    }
}

fn certificates<'a>(
    listeners: impl Iterator<Item = (&'a Listener, String)>,
    now: SystemTime,
) -> Vec<CertificateStatus> {
    let mut layers: Vec<(&SharedLayers, Vec<String>)> = Vec::new();
    for (listener, address) in listeners {
        let Some(layer) = &listener.layer else { continue };
        match layers.iter_mut().find(|(one, _)| *one == layer) {
            Some((_, addresses)) => addresses.push(address),
            None => layers.push((layer, vec![address])),
        }
    }
    let of_layer = |(layer, addresses): (&SharedLayers, Vec<String>)| {
        let all = layer.certificates(now).into_iter();
        all.map(move |one| CertificateStatus { addresses: addresses.clone(), ..one })
    };
    let mut all: Vec<_> = layers.into_iter().flat_map(of_layer).collect();
    all.sort_by_key(|one| one.expires_at_s);
    all
}

/// As many certificates as fit into a status, and the number of the others.
pub(super) fn shown(mut all: Vec<CertificateStatus>) -> (Vec<CertificateStatus>, u64) {
    let mut bytes = 0;
    let bytes_of = |one: &CertificateStatus| serde_json::to_vec(one).map_or(SHOWN_BYTES_MAX, |text| text.len() + 1);
    let fitting = all.iter().take_while(|one| {
        bytes += bytes_of(one);
        bytes <= SHOWN_BYTES_MAX
    });
    let count = fitting.count();
    let others = all.split_off(count);
    (all, others.len() as u64)
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use super::*;
    use crate::layer::{Layer, Layers};
    use crate::types::ThawError;

    /// A layer with certificates that expire at these times.
    #[derive(Debug)]
    struct Expiring(Vec<u64>);

    impl Layers for Expiring {
        fn accept(&self) -> Option<Box<dyn Layer>> {
            None
        }

        fn thaw(&self, _: &[u8]) -> Result<Box<dyn Layer>, ThawError> {
            Err(ThawError::Malformed)
        }

        fn certificates(&self, now: SystemTime) -> Vec<CertificateStatus> {
            let now_s = now.duration_since(UNIX_EPOCH).expect("after 1970").as_secs() as i64;
            let one = |at_s: &u64| CertificateStatus {
                expires_at_s: *at_s,
                expires_in_s: *at_s as i64 - now_s,
                ..CertificateStatus::default()
            };
            self.0.iter().map(one).collect()
        }
    }

    #[test]
    fn a_layer_of_several_addresses_is_asked_once_and_the_first_to_expire_comes_first() {
        let shared = Some(SharedLayers::new(Expiring(vec![90, 120])));
        let listener = |port: u16| Listener::new(([127, 0, 0, 1], port));
        let listeners = [
            Listener { layer: shared.clone(), ..listener(1) },
            listener(2),
            listener(3).with_layer(Expiring(vec![110])),
            Listener { layer: shared, ..listener(4) },
        ];
        let addressed = listeners.iter().map(|listener| (listener, listener.address.to_string()));
        let all = certificates(addressed, UNIX_EPOCH + Duration::from_secs(100));
        let found: Vec<_> = all.iter().map(|one| (one.expires_in_s, one.addresses.join(" "))).collect();
        let both = || "127.0.0.1:1 127.0.0.1:4".to_owned();
        assert_eq!(found, [(-10, both()), (10, "127.0.0.1:3".to_owned()), (20, both())]);
    }

    #[test]
    fn a_status_has_room_for_other_things() {
        let one = CertificateStatus { names: vec!["n".repeat(250); 100], ..CertificateStatus::default() };
        let (shown, left_off) = shown(vec![one; 50]);
        assert!(serde_json::to_vec(&shown).expect("written").len() <= SHOWN_BYTES_MAX + 1);
        assert!(shown.len() > 10);
        assert_eq!(shown.len() as u64 + left_off, 50);
        assert_eq!(super::shown(Vec::new()), (Vec::new(), 0));
    }

    #[test]
    fn a_reminder_is_due_once_a_day() {
        let day_ns = REMIND_MS * 1_000_000;
        let mut reminder = Reminder::new(Time(5));
        assert_eq!(reminder.next(), Time(5 + day_ns));
        assert!(!reminder.is_due(Time(4 + day_ns)));
        assert!(reminder.is_due(Time(6 + day_ns)));
        assert!(!reminder.is_due(Time(6 + day_ns)));
        assert!(reminder.is_due(Time(6 + 3 * day_ns)));
        assert_eq!(reminder.next(), Time(6 + 4 * day_ns));
    }
}
