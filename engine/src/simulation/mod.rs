//! Simulated worlds around the pure machines, which try to break them: compiled for tests and for the simulator only.

pub mod masters;
pub mod moving;
pub(crate) mod random;
mod shorten;
