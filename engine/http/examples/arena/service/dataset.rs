//! The data set of `/json`, and an answer from it.

use serde::{Deserialize, Serialize};

/// An item of the file.
#[derive(Debug, Deserialize)]
pub(super) struct Item {
    id: i64,
    name: String,
    category: String,
    price: i64,
    quantity: i64,
    active: bool,
    tags: Vec<String>,
    rating: Rating,
}

#[derive(Clone, Copy, Debug, Deserialize, Serialize)]
struct Rating {
    score: i64,
    count: i64,
}

/// An item of an answer.
#[derive(Debug, Serialize)]
struct PricedItem<'d> {
    id: i64,
    name: &'d str,
    category: &'d str,
    price: i64,
    quantity: i64,
    active: bool,
    tags: &'d [String],
    rating: Rating,
    total: i64,
}

/// An answer.
#[derive(Debug, Serialize)]
pub(super) struct Page<'d> {
    items: Vec<PricedItem<'d>>,
    count: usize,
}

/// The first `count` items, or all if there are fewer; `None` if a total exceeds an `i64`.
pub(super) fn page(dataset: &[Item], count: usize, multiplier: i64) -> Option<Page<'_>> {
    let priced = |item: &'_ Item| item.price.checked_mul(item.quantity)?.checked_mul(multiplier);
    let items = dataset.iter().take(count).map(|item| {
        Some(PricedItem {
            id: item.id,
            name: &item.name,
            category: &item.category,
            price: item.price,
            quantity: item.quantity,
            active: item.active,
            tags: &item.tags,
            rating: item.rating,
            total: priced(item)?,
        })
    });
    let items: Vec<_> = items.collect::<Option<_>>()?;
    Some(Page { count: items.len(), items })
}
