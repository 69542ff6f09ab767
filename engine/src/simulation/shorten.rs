//! Shortens a history that breaks an invariant: leaves out steps, many at a time and then one by one, as long as the
//! same invariant still breaks.

/// The most runs of a history.
const RUNS_MAX: usize = 2_000;

/// The first `fixed` steps stay.
pub(super) fn shorten<S: Clone>(steps: Vec<S>, fixed: usize, mut still_fails: impl FnMut(&[S]) -> bool) -> Vec<S> {
    let mut steps = steps;
    let mut runs = 0;
    let mut length = (steps.len() / 2).max(1);
    loop {
        let mut is_shorter = false;
        let mut from = fixed;
        while from < steps.len() {
            let to = (from + length).min(steps.len());
            let mut fewer = steps[..from].to_vec();
            fewer.extend_from_slice(&steps[to..]);
            runs += 1;
            if runs > RUNS_MAX {
                return steps;
            }
            if still_fails(&fewer) {
                steps = fewer;
                is_shorter = true;
            } else {
                from = to;
            }
        }
        if length > 1 {
            length /= 2;
        } else if !is_shorter {
            return steps;
        }
    }
}
