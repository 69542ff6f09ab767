//! The promise, proven in network namespaces of their own: whatever is done to the server, no connection is lost, as
//! counted by clients that connect continuously. A new kind of event is one more action for [`case::prove`].
//!
//! Each case prints a line; to see them all: `cargo test --release -p baton-tests --test promise -- --nocapture
//! --test-threads 1`

mod case;
mod handshake;
mod hang;
mod idle;
mod kill;
mod long;
mod masters;
mod nginx;
mod orphans;
mod reload;
mod scale;
mod start;
mod upgrade;
