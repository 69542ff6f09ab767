//! Attackers on the same machine: they cannot harm other users. One file for each kind of attacker.

mod calls;
mod names;
mod orphan;
mod stranger;
mod visitor;
mod worker;
