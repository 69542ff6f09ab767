//! Defects in messages that tests put back one at a time.

use crate::mutation::mutations;

mutations! {
    /// A defect in what is heard while connections move.
    enum Mutation {
        /// A leaving worker reads beyond the marks.
        LeaverReadsOn,
        /// Its heir reads beyond the marks.
        HeirReadsOn,
        /// The leaving worker does not wait for the heir.
        HeirIsNotAwaited,
        /// Messages that a connection sends at the heir are heard before its earlier ones.
        BeganIsIgnored,
        /// After its mark, messages for a slot still go to the leaving worker.
        SlotStays,
        /// The leaving worker forgets a sender that ends instead of marking its place.
        EndsAreForgotten,
        /// The leaving worker waits for a sender that had ended, and that the heir still hears.
        PastIsForgotten,
    }
}
