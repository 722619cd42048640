//! Whether tables say what a history must end in, and the small catalog that histories start from.

use std::collections::{BTreeMap, BTreeSet};

use consumer::decide::blocking::{KeyEpoch, posting_keys};
use consumer::store::Store;
use shared::table::POSTINGS;
use shared::{CatalogEvent, Product, ProductId, ProductText};

use crate::fleet::{TextModel, stored};
use crate::history::upsert;
use crate::table_model::{newest, table};

/// Every posting, as (key, id).
///
/// # Panics
/// When the table cannot be read.
pub async fn stored_postings(store: &Store) -> BTreeSet<(String, String)> {
    let request = store.client().scan().table_name(POSTINGS.physical_name(store.prefix())).consistent_read(true);
    let items: Vec<_> = request.into_paginator().items().send().try_collect().await.expect("scans");
    let text = |item: &std::collections::HashMap<String, _>, name: &str| {
        let value: &aws_sdk_dynamodb::types::AttributeValue = &item[name];
        value.as_s().expect("a string").clone()
    };
    items.iter().map(|item| (text(item, "key"), text(item, "id"))).collect()
}

/// What the postings table has to hold for these states.
fn postings_of(states: &BTreeMap<ProductId, Option<Product>>) -> BTreeSet<(String, String)> {
    let live = states.iter().filter_map(|(id, product)| Some((id, ProductText::of(product.as_ref()?).text)));
    live.flat_map(|(id, text)| {
        posting_keys(&text, KeyEpoch::shipped()).into_iter().map(move |key| (key, id.to_string()))
    })
    .collect()
}

/// Compares labels in every fleet's slot, postings and markers with what `history` must
/// end in.
///
/// # Panics
/// Where they differ.
pub async fn assert_converged(store: &Store, fleets: &[TextModel], history: &[CatalogEvent]) {
    let states = newest(history);
    for model in fleets {
        let expected = table(&states, |left, right| model.score(left, right));
        assert_eq!(stored(store, states.keys(), model).await, expected, "slot {} of {history:#?}", model.id);
    }
    assert_eq!(stored_postings(store).await, postings_of(&states), "postings of {history:#?}");
    for state in store.products(&states.keys().cloned().collect::<Vec<_>>()).await.expect("reads") {
        assert!(!state.labelled.is_empty() && state.previous_texts.is_empty(), "{state:?}");
    }
}

/// Four products, two to each of two codes.
pub fn neighbours() -> Vec<CatalogEvent> {
    let titles = ["kettle qx4471z", "steel kettle qx4471z", "kettle mv8835k", "large lamp mv8835k"];
    titles.iter().enumerate().map(|(n, title)| upsert(&format!("N{n}"), 1, title, 1.0)).collect()
}
