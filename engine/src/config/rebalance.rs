//! Whether workers that serve give each other connections.

/// Whether connections move between workers that serve, in a server whose protocol can hand them over
/// ([`Protocol::STATE`](crate::Protocol::STATE)) and has neither worker state nor messages between workers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Rebalance {
    /// Where one worker is clearly busier than the mean, or has clearly more connections.
    #[default]
    Auto,
    /// They stay.
    Off,
    /// Some move each second, whatever the load is: for trials.
    #[doc(hidden)]
    Always,
}
