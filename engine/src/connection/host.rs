//! What a connection needs to call callbacks.

use crate::context::Others;

/// The protocol, and the other connections of the worker.
pub(crate) struct Host<'a, P> {
    pub(crate) protocol: &'a mut P,
    pub(crate) others: &'a mut (dyn Others + 'a),
}

impl<'a, P> Host<'a, P> {
    #[inline]
    pub(crate) fn new(protocol: &'a mut P, others: &'a mut (dyn Others + 'a)) -> Self {
        Self { protocol, others }
    }
}
