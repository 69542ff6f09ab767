//! Defects of messages, which tests put back one at a time.

use crate::mutation::mutations;

mutations! {
    /// A defect of what is heard while connections move.
    enum Mutation {
        /// A worker that leaves reads on behind the marks.
        LeaverReadsOn,
        /// Its heir reads on behind the marks.
        HeirReadsOn,
        /// The heir is not waited for.
        HeirIsNotAwaited,
        /// What a connection says at the heir is heard before what it had said.
        BeganIsIgnored,
        /// What is for a slot goes on to the worker that leaves behind its mark.
        SlotStays,
        /// A sender that ends instead of marking its place is forgotten by the worker that leaves.
        EndsAreForgotten,
        /// A sender that had ended, and that the heir still hears, is waited for.
        PastIsForgotten,
    }
}
