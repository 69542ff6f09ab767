//! Which worker gives connections to which other one, so that all are about equally busy; and which connections those
//! are. Both are pure: the master feeds [`Policy`] with what its workers have done, and the giving worker chooses by
//! [`choice`].
//!
//! Busy time comes first, the number of open connections second. A move goes from a worker above the mean to one below
//! it, and brings both nearer to it. These rules prevent useless moves:
//!
//! - A move begins when the excess is above a tenth of the mean, a floor, and the noise of the worker's own samples.
//!   Others follow until the excess is a twentieth.
//! - After a move, the known loads of both workers are adjusted by what has moved, so that a stale mean moves nothing
//!   twice.
//! - Of two workers, the receiver gives nothing back to the giver for a while, and a connection that has moved rests.
//! - A worker that had nothing suitable to give is left alone for a time that grows.
//! - Connections that are in use move because of their number alone only if both workers stay about as busy as they
//!   are.
//!
//! A saturated worker is busy all the time, whatever more it is offered: the offered load is not visible. What its
//! clients could not ask yet keeps it saturated for a while after it has given enough. So the policy assumes that it is
//! offered a fifth more than a core. It gives its part of that, settles, and gives again while it stays saturated, each
//! time after a longer while. Others are filled up only so far that noise does not saturate them.
//!
//! All numbers are integers, so that states compare.

pub(crate) mod choice;
mod evenness;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

pub use self::evenness::{Evenness, Still};

/// One whole core, in the unit of busy time.
pub(crate) const CORE_PPM: u32 = 1_000_000;

/// Connections that may move in a second. Each costs both workers some tens of microseconds.
pub(crate) const BUDGET_PER_SECOND: u32 = 1_000;

/// Weight of the latest sample in the displayed mean: after two samples, two thirds of a change are visible.
const WEIGHT_PERCENT: i64 = 40;

/// Weight of the latest sample in the mean that decides, by the number of samples in it since the load last changed;
/// and by how many times a sample's noise that mean may be wrong: about five of its standard deviations.
const STEADINESS: [Steadiness; 6] = [
    Steadiness { weight_percent: 50, reach_tenths: 35 },
    Steadiness { weight_percent: 45, reach_tenths: 30 },
    Steadiness { weight_percent: 40, reach_tenths: 26 },
    Steadiness { weight_percent: 33, reach_tenths: 23 },
    Steadiness { weight_percent: 25, reach_tenths: 20 },
    Steadiness { weight_percent: 20, reach_tenths: 17 },
];

/// The steadiness of a mean after a move: the part that has moved was counted, but for a short time.
const STEADY_AFTER_MOVE: u8 = 3;

/// Number of differences between samples from which a worker's noise is computed.
const DIFFERENCES: usize = 32;

/// Samples of a worker before it gives because it is busy.
const SAMPLES_MIN: u32 = 3;

/// A smaller part of a core is ignored.
const FLOOR_PPM: u32 = 20_000;

/// From this busy time on, a worker is saturated.
const SATURATED_PPM: u32 = 980_000;

/// The assumed offered load of a saturated worker.
const OFFERED_PPM: u32 = 1_200_000;

/// Samples in a row that make a worker saturated; the second applies if its noise alone may reach that far.
const SATURATED_MIN: u8 = 2;
const SATURATED_NOISY_MIN: u8 = 8;

/// For this time after a move, a sample does not show saturation. It doubles from the third time on that the worker is
/// still saturated.
const SETTLE_MS: u64 = 2_000;
const SETTLE_DOUBLED_MAX: u8 = 6;

/// After this long without saturation, these times begin anew.
const SETTLED_MS: u64 = 300_000;

/// No worker is filled beyond this.
const FULL_PPM: u32 = 940_000;

/// Transfers that one request of an operator can cause, carried out or planned.
pub(crate) const BY_HAND_TRANSFERS_MAX: usize = 64;

/// Number of workers that count ahead of their turn.
const GIVERS_MAX: usize = 64;

/// The smallest excess of connections for which moves begin.
const CONNECTIONS_MIN: u64 = 24;

/// Looks in a row that must find too many connections.
const LOOKS_MIN: u8 = 2;

/// For this time a worker takes nothing from one to which it gave.
pub(crate) const PAIR_REST_MS: u64 = 20_000;

/// For this time a worker gives nothing after it had nothing suitable to give. It doubles each time.
const VAIN_REST_MS: u64 = 5_000;
const VAIN_DOUBLED_MAX: u8 = 6;

/// For this time a worker gets no offers after it took nothing.
const SHY_REST_MS: u64 = 10_000;

/// A worker's activity since the last look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Sample {
    /// A number that no other worker has.
    pub(crate) worker: u32,
    /// Its busy time, as a part of the time between the looks; `None` if it is not known yet.
    pub(crate) busy_ppm: Option<u32>,
    pub(crate) open: u64,
}

/// Which connections must move.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Portion {
    /// Connections that together make about this part of the worker's load, and none that alone is above `limit_ppm`.
    Busy { share_ppm: u32, limit_ppm: u32 },
    /// The idlest ones, as long as they make at most about this part of the worker's load.
    Idlest { limit_ppm: u32 },
}

/// One worker gives to another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Transfer {
    pub(crate) from: u32,
    pub(crate) to: u32,
    pub(crate) portion: Portion,
    /// The most that may move.
    pub(crate) connections_max: u32,
}

/// The outcome of a transfer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Result {
    pub(crate) moved: u64,
    /// The part of the giver's work that the moved connections caused.
    pub(crate) share_ppm: u32,
    /// The other worker takes nothing, whichever worker gives.
    pub(crate) is_refused: bool,
}

/// See [`STEADINESS`].
struct Steadiness {
    weight_percent: i64,
    reach_tenths: u32,
}

/// What is known of a worker.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Known {
    worker: u32,
    /// A moving mean of the load that it is offered, as far as that is known: adjusted by moves, and above one core if
    /// it is saturated.
    busy_ppm: u32,
    /// A moving mean of the samples alone.
    shown_ppm: u32,
    last_ppm: u32,
    /// The differences between successive samples, the latest first.
    differences_ppm: Vec<u32>,
    /// The median of all workers' noise.
    common_noise_ppm: u32,
    samples: u32,
    /// Samples since its load last changed, as far as they matter: an index of [`STEADINESS`].
    steady: u8,
    /// Something has moved since the last sample, so the next one still includes the time before.
    is_stale: bool,
    /// Number of latest samples in a row that showed saturation.
    saturated: u8,
    /// How often it has given and was saturated again.
    pressed: u8,
    settles_at_ms: u64,
    open: u64,
    /// Until when it gives nothing because it is busy; and until when because it has many connections.
    busy_rest: Rest,
    open_rest: Rest,
    /// Until when it takes nothing.
    takes_at_ms: u64,
}

/// How long a worker that had nothing suitable to give is left alone.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
struct Rest {
    until_ms: u64,
    /// How often in a row it had nothing to give.
    vain: u8,
}

impl Rest {
    fn after(self, now_ms: u64, is_vain: bool) -> Self {
        let until_ms = now_ms + (VAIN_REST_MS << self.vain.min(VAIN_DOUBLED_MAX));
        if is_vain { Self { until_ms, vain: self.vain.saturating_add(1) } } else { Self::default() }
    }
}

/// The direction of the last moves between a pair of workers.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Gone {
    from: u32,
    to: u32,
    until_ms: u64,
}

/// See the module's head.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Policy {
    workers: BTreeMap<u32, Known>,
    gone: Vec<Gone>,
    /// Moves for this reason have begun, and continue down to a smaller excess.
    is_busy_on: bool,
    is_open_on: bool,
    /// Looks in a row that found too many connections at one worker.
    uneven_looks: u8,
    /// Connections that may move now.
    budget: u32,
    budget_at_ms: u64,
}

/// The mean of `value` over `workers`.
fn mean<'a>(workers: impl Iterator<Item = &'a Known>, value: impl Fn(&Known) -> u64) -> u64 {
    let (sum, count) = workers.fold((0_u64, 0), |(sum, count), one| (sum.saturating_add(value(one)), count + 1));
    sum / count.max(1)
}

impl Policy {
    /// Takes the samples of all workers that may give or take. Workers without a sample are forgotten.
    pub(crate) fn look(&mut self, now_ms: u64, samples: &[Sample]) {
        let mut before = std::mem::take(&mut self.workers);
        self.workers = samples.iter().map(|sample| (sample.worker, Self::known(&mut before, sample, now_ms))).collect();
        let mut noises_ppm: Vec<u32> = self.workers.values().map(Known::own_noise_ppm).collect();
        noises_ppm.sort_unstable();
        let common_noise_ppm = noises_ppm.get(noises_ppm.len() / 2).copied().unwrap_or(0);
        self.workers.values_mut().for_each(|one| one.common_noise_ppm = common_noise_ppm);
        self.gone.retain(|gone| gone.until_ms > now_ms);
        let earned = now_ms.saturating_sub(self.budget_at_ms).saturating_mul(BUDGET_PER_SECOND.into()) / 1000;
        self.budget = u64::from(self.budget).saturating_add(earned).min(BUDGET_PER_SECOND.into()) as u32;
        self.budget_at_ms = now_ms;
        self.uneven_looks = if self.has_uneven_counts() { self.uneven_looks.saturating_add(1) } else { 0 };
    }

    fn known(before: &mut BTreeMap<u32, Known>, sample: &Sample, now_ms: u64) -> Known {
        let open = sample.open;
        let known = before.remove(&sample.worker).unwrap_or_else(|| Known::new(sample.worker));
        let Some(busy_ppm) = sample.busy_ppm.map(|busy_ppm| busy_ppm.min(CORE_PPM)) else {
            return Known { open, ..known };
        };
        let is_saturated = busy_ppm >= SATURATED_PPM;
        let (samples, is_stale) = (known.samples.saturating_add(1), known.is_stale);
        if known.samples == 0 {
            let saturated = u8::from(is_saturated);
            return Known { busy_ppm, shown_ppm: busy_ppm, last_ppm: busy_ppm, samples, saturated, open, ..known };
        }
        let towards = |mean: u32, value: u32, percent: i64| {
            (i64::from(mean) + (i64::from(value) - i64::from(mean)) * percent / 100) as u32
        };
        let shown_ppm = towards(known.shown_ppm, busy_ppm, WEIGHT_PERCENT);
        let known = Known { shown_ppm, open, samples, is_stale: false, ..known };
        if is_saturated {
            let saturated = known.saturated.saturating_add(1);
            // Until it has settled, the sample shows work from before.
            let has_settled = known.settles_at_ms <= now_ms;
            let busy_ppm = if has_settled && saturated >= known.saturated_min() {
                OFFERED_PPM
            } else if has_settled && !is_stale && known.busy_ppm < busy_ppm {
                // The offered load is at least this.
                towards(known.busy_ppm, busy_ppm, known.steadiness().weight_percent)
            } else {
                known.busy_ppm
            };
            return Known { busy_ppm, saturated, ..known };
        }
        if is_stale {
            return Known { saturated: 0, ..known };
        }
        if known.busy_ppm > CORE_PPM {
            return Known { busy_ppm, last_ppm: busy_ppm, saturated: 0, steady: 0, ..known };
        }
        let has_jumped = busy_ppm.abs_diff(known.busy_ppm) > known.noise_ppm() * 3 + FLOOR_PPM;
        let steady = if has_jumped { 0 } else { (known.steady + 1).min(STEADINESS.len() as u8 - 1) };
        let known = Known { steady, ..known };
        let mean_ppm = towards(known.busy_ppm, busy_ppm, known.steadiness().weight_percent);
        let mut differences_ppm = known.differences_ppm;
        differences_ppm.truncate(DIFFERENCES - 1);
        differences_ppm.insert(0, busy_ppm.abs_diff(known.last_ppm));
        Known { busy_ppm: mean_ppm, differences_ppm, last_ppm: busy_ppm, saturated: 0, ..known }
    }

    /// How busy a worker is: a moving mean.
    pub(crate) fn busy_ppm(&self, worker: u32) -> Option<u32> {
        self.workers.get(&worker).map(|one| one.shown_ppm)
    }

    fn of_mut(&mut self, worker: u32) -> Option<&mut Known> {
        self.workers.get_mut(&worker)
    }

    /// The next transfer, if one is worth it. Call [`Policy::done`] before the next call.
    pub(crate) fn next(&mut self, now_ms: u64) -> Option<Transfer> {
        if self.workers.len() < 2 || self.budget == 0 {
            return None;
        }
        let by_busy = self.by_busy_time(now_ms);
        self.is_busy_on = by_busy.is_some();
        if by_busy.is_some() {
            return by_busy;
        }
        let by_open = self.by_connections(now_ms);
        self.is_open_on = by_open.is_some();
        by_open
    }

    /// Begins for an operator: moves begin at the excess at which they otherwise only continue.
    pub(crate) fn begin_by_hand(&mut self) {
        (self.is_busy_on, self.is_open_on) = (true, true);
    }

    /// The transfers that [`Policy::next`] would return in turn, when begun by hand, if everything fits.
    pub(crate) fn plan(&self, now_ms: u64) -> Vec<Transfer> {
        let mut policy = self.clone();
        policy.begin_by_hand();
        let mut transfers = Vec::new();
        while transfers.len() < BY_HAND_TRANSFERS_MAX
            && let Some(transfer) = policy.next(now_ms)
        {
            let open = policy.workers.get(&transfer.from).map_or(0, |giver| giver.open);
            let most = open.min(transfer.connections_max.into());
            let (share_ppm, moved) = match transfer.portion {
                Portion::Busy { share_ppm, .. } => {
                    // As many as if all connections caused the same load.
                    let part = (u128::from(open) * u128::from(share_ppm) / u128::from(CORE_PPM)) as u64;
                    (share_ppm, part.clamp(1, most.max(1)))
                }
                Portion::Idlest { .. } => (0, most),
            };
            transfers.push(Transfer { connections_max: most as u32, ..transfer });
            policy.done(now_ms, &transfer, &Result { moved, share_ppm, is_refused: false });
        }
        transfers
    }

    /// Whether enough is known of all workers to decide.
    pub(crate) fn is_known(&self) -> bool {
        !self.workers.is_empty() && self.workers.values().all(|one| one.samples >= SAMPLES_MIN)
    }

    /// The load of the most loaded worker, in percent of the mean.
    pub(crate) fn evenness(&self) -> Evenness {
        let percent = |mean_min: u64, value: fn(&Known) -> u64| {
            let most = self.workers.values().map(value).max()?;
            let mean = mean(self.workers.values(), value);
            (mean >= mean_min).then(|| (u128::from(most) * 100 / u128::from(mean)).try_into().unwrap_or(u32::MAX))
        };
        let busy_percent = percent(FLOOR_PPM.into(), |one| one.shown_ppm.into());
        Evenness { busy_percent, open_percent: percent(1, |one| one.open) }
    }

    /// Why [`Policy::next`] returns nothing, when begun by hand.
    pub(crate) fn still(&self, now_ms: u64) -> Still {
        let mean = mean(self.workers.values(), |one| one.busy_ppm.into()) as u32;
        let busiest = self.workers.values().max_by_key(|one| one.busy_ppm);
        let Some(busiest) = busiest.filter(|one| one.busy_ppm - mean > (mean / 20).max(FLOOR_PPM)) else {
            return Still::Even;
        };
        let has_room = |one: &Known| one.busy_ppm < FULL_PPM && one.saturated == 0;
        if busiest.busy_rest.until_ms > now_ms {
            Still::NothingFits
        } else if busiest.busy_ppm - mean <= busiest.noise_margin_ppm() {
            Still::Noise
        } else if self.workers.values().any(|one| has_room(one) && one.worker != busiest.worker) {
            Still::Rests
        } else {
            Still::NoRoom
        }
    }

    fn may_pair(&self, from: u32, to: u32) -> bool {
        from != to && !self.gone.iter().any(|gone| (gone.from, gone.to) == (to, from))
    }

    /// Workers that will probably give in the next second, the most probable first. They can count their connections'
    /// events meanwhile, so that transfers follow each other without waiting for that.
    pub(crate) fn givers(&self, now_ms: u64) -> Vec<u32> {
        let (busy, _) = self.busy_givers(now_ms);
        let open = self.open_givers(now_ms);
        let mut givers: Vec<u32> = Vec::new();
        for worker in busy.into_iter().chain(open).map(|one| one.worker) {
            if givers.len() < GIVERS_MAX && !givers.contains(&worker) {
                givers.push(worker);
            }
        }
        givers
    }

    /// Workers that have too much load, the busiest first; and the mean of all that could give.
    fn busy_givers(&self, now_ms: u64) -> (Vec<&Known>, u32) {
        // A worker whose one connection is most of its load cannot be helped: the others are compared among themselves.
        let gives = |one: &&Known| one.busy_rest.until_ms <= now_ms;
        let mean = mean(self.workers.values().filter(gives), |one| one.busy_ppm.into()) as u32;
        let worth_it = mean / if self.is_busy_on { 20 } else { 10 };
        let mut givers: Vec<&Known> = self.workers.values().filter(gives).collect();
        givers.retain(|one| {
            let least_ppm = worth_it.max(FLOOR_PPM).max(one.noise_margin_ppm());
            // The next sample will show whether it is saturated.
            let is_undecided = (1..SATURATED_MIN).contains(&one.saturated);
            !is_undecided && one.samples >= SAMPLES_MIN && one.busy_ppm.saturating_sub(mean) > least_ppm
        });
        givers.sort_by_key(|one| std::cmp::Reverse(one.busy_ppm));
        (givers, mean)
    }

    fn by_busy_time(&self, now_ms: u64) -> Option<Transfer> {
        let (givers, mean) = self.busy_givers(now_ms);
        let full = (mean + mean / 20).min(FULL_PPM);
        let mut takers: Vec<&Known> = self.workers.values().filter(|one| one.takes_at_ms <= now_ms).collect();
        takers.retain(|one| one.busy_ppm < full && one.saturated == 0);
        takers.sort_by_key(|one| one.busy_ppm);
        for giver in givers {
            let Some(taker) = takers.iter().find(|taker| self.may_pair(giver.worker, taker.worker)) else { continue };
            let amount_ppm = (giver.busy_ppm - mean).min(full - taker.busy_ppm);
            // If this taker's room is less than noise, no other taker has more.
            if amount_ppm < FLOOR_PPM.max(taker.noise_ppm()) {
                continue;
            }
            // A connection that is larger than that may move if it lowers the larger load of the two.
            let limit_ppm = giver.part_ppm((giver.busy_ppm - taker.busy_ppm) / 4 * 3);
            return Some(Transfer {
                from: giver.worker,
                to: taker.worker,
                portion: Portion::Busy { share_ppm: giver.part_ppm(amount_ppm), limit_ppm },
                connections_max: self.budget,
            });
        }
        None
    }

    /// Whether one worker has clearly more connections than the mean.
    fn has_uneven_counts(&self) -> bool {
        let mean = mean(self.workers.values(), |one| one.open);
        let most = self.workers.values().map(|one| one.open).max().unwrap_or(0);
        most > mean.saturating_add(mean / 4) && most - mean >= CONNECTIONS_MIN
    }

    /// Workers with too many connections, those with the most first.
    fn open_givers(&self, now_ms: u64) -> Vec<&Known> {
        if !self.is_open_on && self.uneven_looks < LOOKS_MIN {
            return Vec::new();
        }
        let mean_open = mean(self.workers.values(), |one| one.open);
        let mut givers: Vec<&Known> = self.workers.values().filter(|one| one.open_rest.until_ms <= now_ms).collect();
        givers.retain(|one| one.open.saturating_sub(mean_open) > (mean_open / 16).max(1));
        givers.sort_by_key(|one| std::cmp::Reverse(one.open));
        givers
    }

    fn by_connections(&self, now_ms: u64) -> Option<Transfer> {
        let givers = self.open_givers(now_ms);
        let mean_open = mean(self.workers.values(), |one| one.open);
        let mean_busy = mean(self.workers.values(), |one| one.busy_ppm.into()) as u32;
        let is_cool = |one: &&Known| one.busy_ppm <= (mean_busy + mean_busy / 20).saturating_add(FLOOR_PPM);
        let mut takers: Vec<&Known> = self.workers.values().filter(|one| one.takes_at_ms <= now_ms).collect();
        takers.retain(|one| one.open < mean_open && is_cool(one));
        takers.sort_by_key(|one| one.open);
        givers.into_iter().find_map(|giver| {
            // Between equally busy workers, few connections that are in use may move, and none may move back.
            let room_ppm = |taker: &Known| {
                let gap_ppm = i64::from(giver.busy_ppm) - i64::from(taker.busy_ppm);
                let slack_ppm = i64::from((mean_busy / 40).max(FLOOR_PPM / 2));
                u32::try_from(gap_ppm / 2 + slack_ppm - i64::from(giver.noise_ppm())).unwrap_or(0)
            };
            let taker = takers.iter().find(|taker| self.may_pair(giver.worker, taker.worker))?;
            let connections_max = (giver.open - mean_open).min(mean_open - taker.open).min(self.budget.into()) as u32;
            let portion = Portion::Idlest { limit_ppm: giver.part_ppm(room_ppm(taker)) };
            Some(Transfer { from: giver.worker, to: taker.worker, portion, connections_max })
        })
    }

    /// Takes the outcome of a transfer.
    pub(crate) fn done(&mut self, now_ms: u64, transfer: &Transfer, result: &Result) {
        let Transfer { from, to, portion, .. } = *transfer;
        self.budget = self.budget.saturating_sub(u32::try_from(result.moved).unwrap_or(u32::MAX));
        if result.is_refused {
            self.of_mut(to).into_iter().for_each(|taker| taker.takes_at_ms = now_ms + SHY_REST_MS);
        }
        let Some(giver) = self.of_mut(from) else { return };
        let has_moved = result.moved > 0;
        if has_moved || !result.is_refused {
            let (rest, is_vain) = match portion {
                Portion::Busy { .. } => (&mut giver.busy_rest, !has_moved),
                // The remaining ones are in use.
                Portion::Idlest { .. } => {
                    (&mut giver.open_rest, result.moved < u64::from(transfer.connections_max / 4))
                }
            };
            *rest = rest.after(now_ms, is_vain);
        }
        if !has_moved {
            return;
        }
        let share_ppm = result.share_ppm.min(CORE_PPM);
        let part_ppm = |ppm: u32| (u64::from(ppm) * u64::from(share_ppm) / u64::from(CORE_PPM)) as u32;
        let (gone_ppm, last_ppm) = (part_ppm(giver.busy_ppm), part_ppm(giver.last_ppm));
        giver.busy_ppm -= gone_ppm;
        (giver.is_stale, giver.steady) = (true, giver.steady.min(STEADY_AFTER_MOVE));
        if giver.is_saturated() && giver.settles_at_ms <= now_ms {
            let is_new = now_ms - giver.settles_at_ms > SETTLED_MS;
            giver.pressed = if is_new { 0 } else { (giver.pressed + 1).min(SETTLE_DOUBLED_MAX) };
        }
        giver.settles_at_ms = now_ms + (SETTLE_MS << giver.pressed.saturating_sub(1));
        giver.last_ppm -= last_ppm;
        giver.open = giver.open.saturating_sub(result.moved);
        if let Some(taker) = self.of_mut(to) {
            (taker.is_stale, taker.steady) = (true, taker.steady.min(STEADY_AFTER_MOVE));
            taker.settles_at_ms = taker.settles_at_ms.max(now_ms + SETTLE_MS);
            taker.busy_ppm = (taker.busy_ppm + gone_ppm).min(CORE_PPM);
            taker.last_ppm = (taker.last_ppm + last_ppm).min(CORE_PPM);
            taker.open = taker.open.saturating_add(result.moved);
        }
        self.gone.retain(|gone| (gone.from, gone.to) != (from, to));
        self.gone.push(Gone { from, to, until_ms: now_ms + PAIR_REST_MS });
    }
}

impl Known {
    fn new(worker: u32) -> Self {
        Self {
            worker,
            busy_ppm: 0,
            shown_ppm: 0,
            last_ppm: 0,
            differences_ppm: Vec::new(),
            common_noise_ppm: 0,
            samples: 0,
            steady: 0,
            is_stale: false,
            saturated: 0,
            pressed: 0,
            settles_at_ms: 0,
            open: 0,
            busy_rest: Rest::default(),
            open_rest: Rest::default(),
            takes_at_ms: 0,
        }
    }

    /// Converts to a part of this worker's load.
    fn part_ppm(&self, ppm: u32) -> u32 {
        (u64::from(ppm) * u64::from(CORE_PPM) / u64::from(self.busy_ppm.max(1))).min(CORE_PPM.into()) as u32
    }

    /// How much successive samples differ. With few samples this may be small by chance, so it counts as at least the
    /// common noise of the workers.
    fn noise_ppm(&self) -> u32 {
        self.own_noise_ppm().max(self.common_noise_ppm)
    }

    /// A load that appears or disappears makes a few large differences, which count less.
    fn own_noise_ppm(&self) -> u32 {
        let mut differences_ppm = self.differences_ppm.clone();
        differences_ppm.sort_unstable();
        let most_ppm = differences_ppm.get(differences_ppm.len() / 2).map_or(0, |median_ppm| median_ppm * 3);
        let sum_ppm: u32 = differences_ppm.iter().map(|one| *one.min(&most_ppm)).sum();
        sum_ppm / differences_ppm.len().max(1) as u32
    }

    fn steadiness(&self) -> &'static Steadiness {
        &STEADINESS[usize::from(self.steady)]
    }

    /// An excess above the mean of all may be noise up to this amount. If the worker is saturated, none of it is.
    fn noise_margin_ppm(&self) -> u32 {
        if self.is_saturated() { 0 } else { self.noise_ppm() * self.steadiness().reach_tenths / 10 }
    }

    fn saturated_min(&self) -> u8 {
        let noisy_ppm = self.busy_ppm + self.own_noise_ppm() * 5 / 2;
        let may_be_noise = self.busy_ppm < SATURATED_PPM && noisy_ppm >= SATURATED_PPM;
        if may_be_noise { SATURATED_NOISY_MIN } else { SATURATED_MIN }
    }

    fn is_saturated(&self) -> bool {
        self.saturated >= self.saturated_min()
    }
}
