//! A request's arguments, in place: ranges of the bytes they came in.

/// Where one argument lies.
#[derive(Clone, Copy, Debug)]
pub(super) struct Span {
    pub(super) start: u32,
    pub(super) length: u32,
}

/// The name of the command, then what follows it. Never empty.
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

    /// How many there are, the name included.
    pub(crate) fn count(&self) -> usize {
        self.spans.len()
    }

    /// Number 0 is the name.
    ///
    /// # Panics
    /// If there are fewer.
    #[inline]
    pub(crate) fn get(&self, index: usize) -> &'a [u8] {
        self.slice(self.spans[index])
    }

    /// Those from `first` on.
    pub(crate) fn from(&self, first: usize) -> impl ExactSizeIterator<Item = &'a [u8]> + use<'a> {
        let arguments = *self;
        self.spans[first.min(self.spans.len())..].iter().map(move |span| arguments.slice(*span))
    }

    #[inline]
    fn slice(&self, span: Span) -> &'a [u8] {
        &self.bytes[span.start as usize..][..span.length as usize]
    }
}
