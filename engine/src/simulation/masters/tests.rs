use super::*;

#[test]
fn seeds() {
    let count = std::env::var("SEEDS").ok().and_then(|text| text.parse().ok()).unwrap_or(2_000);
    let first = std::env::var("FIRST").ok().and_then(|text| text.parse().ok()).unwrap_or(0);
    let mut tally = std::collections::BTreeMap::new();
    std::panic::set_hook(Box::new(|_| {}));
    let began = std::time::Instant::now();
    for seed in first..first + count {
        if let Err(failing) = history_of(seed) {
            let entry = tally.entry(failing.violation.invariant).or_insert((0, seed));
            entry.0 += 1;
        }
    }
    println!("{count} seeds in {:?}: {tally:#?}", began.elapsed());
    let chosen = std::env::var("SHOW").ok().and_then(|text| text.parse().ok());
    for seed in chosen.into_iter().chain(tally.values().map(|(_, seed)| *seed).filter(|_| chosen.is_none())) {
        println!("{}", run_seed(seed).unwrap_err());
    }
    assert!(tally.is_empty());
}
