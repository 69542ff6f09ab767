//! Defects that were found, put back one at a time, so that a test can show that the simulation finds each of them.
//! Outside of tests and the simulator `is_put_back` is constant, and costs nothing.

/// Creates the type of a part's defects, and the functions that put one of them back on a thread.
macro_rules! mutations {
    ($(#[$attribute:meta])* enum $type:ident { $($(#[$defect:meta])* $name:ident,)+ }) => {
        $(#[$attribute])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub(crate) enum $type {
            $($(#[$defect])* $name,)+
        }

        #[cfg(test)]
        impl $type {
            /// All defects.
            pub(crate) const ALL: &[Self] = &[$(Self::$name),+];
        }

        #[cfg(any(test, feature = "simulation"))]
        thread_local! {
            static CHOSEN: std::cell::Cell<Option<$type>> = const { std::cell::Cell::new(None) };
        }

        /// Whether this defect is put back on this thread.
        #[cfg(any(test, feature = "simulation"))]
        pub(crate) fn is_put_back(mutation: $type) -> bool {
            CHOSEN.get() == Some(mutation)
        }

        /// Always `false`: there are no defects here.
        #[cfg(not(any(test, feature = "simulation")))]
        #[inline(always)]
        pub(crate) const fn is_put_back(_: $type) -> bool {
            false
        }

        /// Runs `run` with a defect put back, or without any.
        #[cfg(test)]
        pub(crate) fn with<T>(mutation: Option<$type>, run: impl FnOnce() -> T) -> T {
            let before = CHOSEN.replace(mutation);
            let result = run();
            CHOSEN.set(before);
            result
        }
    };
}

pub(crate) use mutations;
