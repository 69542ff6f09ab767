//! Whether connections move between serving workers.

/// Whether connections move between serving workers. The protocol must be able to hand them over
/// ([`Protocol::STATE`](crate::Protocol::STATE)) and have neither worker state nor messages between workers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Rebalance {
    /// They move when a worker is clearly busier than the mean or has clearly more connections.
    #[default]
    Auto,
    /// They stay.
    Off,
    /// Some move each second, whatever the load is: for trials.
    #[doc(hidden)]
    Always,
}
