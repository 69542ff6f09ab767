//! The load on servers: how many clients, of which kind, and how much. Pure.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use crate::load::{ArrivalPlan, Loop, Skew};
use crate::number::{self, NumberRefused};

/// One in 20 asks 50 times as often.
const SKEW: Skew = Skew { one_in: 20, times: 50 };

const CLIENTS_MAX: u32 = 20_000;
const WORKERS_MAX: usize = 256;

/// The scenarios that are measured if none is given, in about a quarter of an hour.
pub(super) const FULL: [&str; 7] = [
    "open:64",
    "open:1000",
    "open:1000:skew",
    "open:1000:churn=100",
    "open:1000:skew:ramp=30",
    "closed:64:load=2:skew",
    "open:1000:workers=64:service-us=10000",
];

/// The scenarios of `--quick`.
pub(super) const QUICK: [&str; 2] = ["open:64", "open:1000:skew"];

/// See the module's head.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Scenario {
    turn: Loop,
    pub(super) clients: u32,
    pub(super) workers: usize,
    pub(super) service_us: u64,
    /// The requested load, as a share of what all workers can do.
    load: f64,
    has_skew: bool,
    churn: f64,
    ramp_s: f64,
}

impl Scenario {
    pub(super) fn service(&self) -> Duration {
        Duration::from_micros(self.service_us)
    }

    pub(super) fn ramp(&self) -> Duration {
        Duration::from_secs_f64(self.ramp_s)
    }

    pub(super) fn arrivals(&self, seed: u64) -> ArrivalPlan {
        ArrivalPlan {
            turn: self.turn,
            rate: self.load * self.workers as f64 / self.service().as_secs_f64(),
            skew: self.has_skew.then_some(SKEW),
            churn: self.churn,
            seed,
        }
    }
}

impl FromStr for Scenario {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut parts = text.split(':');
        let turn = match parts.next() {
            Some("open") => Loop::Open,
            Some("closed") => Loop::Closed,
            _ => return Err("expected open:CLIENTS or closed:CLIENTS, perhaps with options; see --help".to_owned()),
        };
        let clients = given(parts.next().unwrap_or_default(), number::whole(1..=CLIENTS_MAX))?;
        let mut this =
            Self { turn, clients, workers: 8, service_us: 1_000, load: 0.8, has_skew: false, churn: 0.0, ramp_s: 0.0 };
        for part in parts {
            match part.split_once('=') {
                None if part == "skew" => this.has_skew = true,
                Some(("load", value)) => this.load = given(value, number::fraction("", 0.01..=100.0))?,
                Some(("workers", value)) => this.workers = given(value, number::whole(1..=WORKERS_MAX))?,
                Some(("service-us", value)) => this.service_us = given(value, number::whole(100..=1_000_000_u64))?,
                Some(("churn", value)) => this.churn = given(value, number::fraction("", 0.0..=10_000.0))?,
                Some(("ramp", value)) => this.ramp_s = given(value, number::seconds(0.0..=600.0))?,
                _ => return Err(format!("{part:?} is not one of load=, skew, churn=, ramp=, workers=, service-us=")),
            }
        }
        Ok(this)
    }
}

/// One number of several: the refusal repeats it.
fn given<T>(text: &str, read: impl Fn(&str) -> Result<T, NumberRefused>) -> Result<T, String> {
    read(text).map_err(|refused| format!("{text:?} {refused}"))
}

impl fmt::Display for Scenario {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { clients, workers, load, .. } = *self;
        let service_ms = self.service_us as f64 / 1e3;
        let turn = if self.turn == Loop::Open { "open" } else { "closed" };
        write!(
            formatter,
            "{turn} loop, {clients} clients, {workers} workers of {service_ms} ms, {:.0} %",
            load * 100.0
        )?;
        if self.has_skew {
            write!(formatter, ", 1 in {} asks {} times as often", SKEW.one_in, SKEW.times)?;
        }
        if self.churn > 0.0 {
            write!(formatter, ", {} new connections a second", self.churn)?;
        }
        if self.ramp_s > 0.0 {
            write!(formatter, ", arriving over {} s", self.ramp_s)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scenario_is_read_and_its_rate_follows() {
        let scenario: Scenario = "open:1000:skew:load=0.5:workers=4:service-us=2000".parse().expect("a scenario");
        let arrivals = scenario.arrivals(7);
        assert!((arrivals.rate - 1_000.0).abs() < 1e-9);
        assert_eq!((arrivals.turn, arrivals.skew, arrivals.seed), (Loop::Open, Some(SKEW), 7));
        for known in FULL.into_iter().chain(QUICK) {
            known.parse::<Scenario>().expect("a scenario");
        }
        for wrong in ["", "half:3", "open:0", "open:64:load=x", "open:64:swing", "open:64:load=NaN"] {
            assert!(wrong.parse::<Scenario>().is_err(), "{wrong}");
        }
    }
}
