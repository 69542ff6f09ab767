//! One kind of request, and what the answers to it must be. Pure.

use std::ops::Range;
use std::rc::Rc;

use super::head::{Body, Head};
use super::template::Template;
use crate::load::plan::{Expected, RequestPlan};
use crate::random::Random;

/// Heads of longer answers are not kept.
const ANSWER_BYTES_MAX: usize = 16 * 1024;

/// Heads that are kept for each request: one for each length of body, up to this many.
const HEADS_MAX: usize = 8;

/// Requests of at least this length are sent without copying them.
const LARGE_BYTES_MIN: usize = 32 * 1024;

/// A first answer's body is kept to compare others with up to this size.
pub(super) const REFERENCE_BYTES_MAX: usize = 16 << 20;

/// What all answers' bodies to one kind of request must be.
pub(super) enum Reference {
    Any,
    Known(Rc<[u8]>),
    /// The first one that is complete will decide.
    Unknown,
    /// The sum of this and the request's random numbers, in digits.
    Sum(u64),
}

/// One kind of request.
pub(super) struct Request {
    pub(super) template: Template,
    /// The whole request, if it is long and always the same.
    pub(super) large: Option<Rc<[u8]>>,
    pub(super) reference: Reference,
    heads: Vec<KnownHead>,
}

/// The head of a correct answer.
struct KnownHead {
    bytes: Vec<u8>,
    /// The range of the Date's value.
    date: Range<usize>,
    body_bytes: usize,
}

impl KnownHead {
    #[inline]
    fn matches(&self, input: &[u8]) -> bool {
        let Range { start, end } = self.date;
        input.len() >= self.bytes.len()
            && input[..start] == self.bytes[..start]
            && input[end..self.bytes.len()] == self.bytes[end..]
            && !input[start..end].contains(&b'\r')
    }
}

impl Request {
    pub(super) fn new(plan: &RequestPlan) -> Self {
        let mut whole = Vec::new();
        plan.template.fill(Random::new(0), &mut whole);
        let is_large = plan.template.is_constant() && whole.len() >= LARGE_BYTES_MIN;
        Self {
            template: plan.template.clone(),
            large: is_large.then(|| whole.into()),
            reference: match &plan.expected {
                Expected::Any => Reference::Any,
                Expected::First => Reference::Unknown,
                Expected::Body(body) => Reference::Known(body.as_slice().into()),
                Expected::Sum { constant } => Reference::Sum(*constant),
            },
            heads: Vec::new(),
        }
    }

    /// The required body of an answer, if it is known.
    #[inline]
    pub(super) fn expected<'a>(&'a self, random: Random, digits: &'a mut itoa::Buffer) -> Option<&'a [u8]> {
        match &self.reference {
            Reference::Known(body) => Some(body),
            Reference::Sum(constant) => {
                Some(digits.format(constant.wrapping_add(self.template.sum(random))).as_bytes())
            }
            Reference::Any | Reference::Unknown => None,
        }
    }

    /// The length of the first answer in `input`, if it is complete, correct, and has a known head.
    #[inline]
    pub(super) fn match_known(&self, random: Random, input: &[u8]) -> Option<usize> {
        let mut digits = itoa::Buffer::new();
        let body = self.expected(random, &mut digits)?;
        let head = self.heads.iter().find(|head| head.body_bytes == body.len())?;
        let is_right = head.matches(input) && input[head.bytes.len()..].starts_with(body);
        is_right.then_some(head.bytes.len() + body.len())
    }

    /// Keeps the head of an answer that arrived in one piece, as a model for others.
    pub(super) fn keep_head(&mut self, random: Random, input: &[u8], head: &Head) {
        let Body::Length { remaining, closes: false } = head.body else { return };
        let length = usize::try_from(remaining).ok();
        let Some(answer) = length.and_then(|length| input.get(..head.bytes.checked_add(length)?)) else { return };
        let body = &answer[head.bytes..];
        if matches!(self.reference, Reference::Unknown) && body.len() <= REFERENCE_BYTES_MAX {
            self.reference = Reference::Known(body.into());
        }
        let mut digits = itoa::Buffer::new();
        if answer.len() > ANSWER_BYTES_MAX || self.expected(random, &mut digits) != Some(body) {
            return;
        }
        let known = KnownHead { bytes: answer[..head.bytes].to_vec(), date: head.date.clone(), body_bytes: body.len() };
        match self.heads.iter().position(|head| head.body_bytes == known.body_bytes) {
            Some(index) => self.heads[index] = known,
            None if self.heads.len() < HEADS_MAX => self.heads.push(known),
            None => {}
        }
    }
}
