//! Simulated worlds around the pure machines, which try to break them: compiled for tests and for the simulator only.

#[cfg(test)]
mod balance;
pub mod masters;
pub mod moving;
mod random;
mod shorten;
