//! Simulated worlds around the pure state machines, which try to break them. Compiled for tests and for the simulator
//! only.

#[cfg(test)]
mod balance;
pub mod masters;
pub mod moving;
mod random;
mod shorten;
