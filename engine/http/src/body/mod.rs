//! Request bodies: where they end, and what of them is missing.

pub(crate) mod chunked;
