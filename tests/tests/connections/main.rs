//! Established connections survive reloads, changes of the number of workers, upgrades and reverts: every byte that
//! clients send and read is known, and no connection ends.

mod classes;
mod faults;
mod long;
mod policy;
mod quarantine;
mod rebalance;
mod reload;
mod secured;
mod state;
mod tools;
mod upgrade;
