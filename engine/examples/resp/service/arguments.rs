//! A request's arguments, in place: ranges of the bytes in which they came.

/// The range of one argument.
#[derive(Clone, Copy, Debug)]
pub(super) struct Span {
    pub(super) start: u32,
    pub(super) length: u32,
}

/// The name of the command, then its arguments. Never empty.
#[derive(Clone, Copy)]
pub(crate) struct Arguments<'a> {
    bytes: &'a [u8],
    spans: &'a [Span],
}

impl<'a> Arguments<'a> {
    pub(super) fn new(bytes: &'a [u8], spans: &'a [Span]) -> Self {
        debug_assert!(!spans.is_empty(), "a request has a name");
        Self { bytes, spans }
    }

    /// Their number, including the name.
    pub(crate) fn count(&self) -> usize {
        self.spans.len()
    }

    /// The argument with this index; 0 is the name.
    ///
    /// # Panics
    /// If there are fewer.
    #[inline]
    pub(crate) fn get(&self, index: usize) -> &'a [u8] {
        self.slice(self.spans[index])
    }

    /// The arguments from `first` on.
    pub(crate) fn from(&self, first: usize) -> impl ExactSizeIterator<Item = &'a [u8]> + use<'a> {
        let arguments = *self;
        self.spans[first.min(self.spans.len())..].iter().map(move |span| arguments.slice(*span))
    }

    #[inline]
    fn slice(&self, span: Span) -> &'a [u8] {
        &self.bytes[span.start as usize..][..span.length as usize]
    }
}
