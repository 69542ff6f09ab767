//! Latency and cost; run by hand.
