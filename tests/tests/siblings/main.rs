//! Workers speak to each other: what one says, the others hear, once and in order, whatever happens to workers and masters.

mod basics;
mod handover;
mod load;
mod server;
