//! What the label table must say once a history is processed: brute force over all pairs,
//! with no blocking, no plan and no merge.

use std::collections::{BTreeMap, BTreeSet};

use shared::{CatalogEvent, Product, ProductId, ProductText, TextHash, Verdict};

/// What is said of one pair: the other side's text, the score's bits and the verdict.
pub type Entry = (TextHash, u32, Verdict);
/// Live products by id, each with its text's hash and its entries by the other's id.
pub type Table = BTreeMap<ProductId, (TextHash, BTreeMap<ProductId, Entry>)>;

/// S: the newest content of each product of a history, in whatever order it is told; none
/// where it is deleted. Of equal versions the higher content hash is the newest.
pub fn newest<'a>(history: impl IntoIterator<Item = &'a CatalogEvent>) -> BTreeMap<ProductId, Option<Product>> {
    let mut states: BTreeMap<ProductId, ((u64, TextHash), Option<Product>)> = BTreeMap::new();
    for event in history {
        let (id, version, product) = match event {
            CatalogEvent::Upsert(upsert) => (&upsert.product_id, upsert.version, Some(upsert.product.clone())),
            CatalogEvent::Delete(delete) => (&delete.product_id, delete.version, None),
            CatalogEvent::ScorePairs(_) => continue,
        };
        let content = product
            .as_ref()
            .map_or_else(|| "deleted".to_owned(), |product| serde_json::to_string(product).expect("a product is JSON"));
        let rank = (version, TextHash::of(0, &content));
        if states.get(id).is_none_or(|(known, _)| *known < rank) {
            states.insert(id.clone(), (rank, product));
        }
    }
    states.into_iter().map(|(id, (_, product))| (id, product)).collect()
}

/// T(S) under the model that is `score`.
pub fn table(states: &BTreeMap<ProductId, Option<Product>>, score: impl Fn(&str, &str) -> (f32, Verdict)) -> Table {
    table_of(states, |_, _| true, score)
}

/// T(S) where only some pairs are candidates; `is_pair` is asked for both orders, and one is
/// enough.
pub fn table_of(
    states: &BTreeMap<ProductId, Option<Product>>,
    is_pair: impl Fn(&ProductId, &ProductId) -> bool,
    score: impl Fn(&str, &str) -> (f32, Verdict),
) -> Table {
    let texts = || states.iter().filter_map(|(id, product)| Some((id, ProductText::of(product.as_ref()?))));
    let entries = |own_id: &ProductId, own: &ProductText| {
        let others = texts().filter(|(id, _)| *id != own_id && (is_pair(own_id, id) || is_pair(id, own_id)));
        let scored = others.map(|(id, other)| (id, other.hash, score(&own.text, &other.text)));
        let kept = scored.filter(|(_, _, (_, verdict))| *verdict != Verdict::Distinct);
        kept.map(|(id, hash, (score, verdict))| (id.clone(), (hash, score.to_bits(), verdict))).collect()
    };
    texts().map(|(id, own)| (id.clone(), (own.hash, entries(id, &own)))).collect()
}

/// The table where an item has room for `most` entries: the best by verdict, then score, then
/// id. Also says which items had more.
pub fn strongest(table: Table, most: usize) -> (Table, BTreeSet<ProductId>) {
    let full = table.iter().filter(|(_, (_, entries))| entries.len() > most).map(|(id, _)| id.clone()).collect();
    let cut = |entries: BTreeMap<ProductId, Entry>| {
        let mut best: Vec<_> = entries.into_iter().collect();
        best.sort_by(|(a, (_, s, v)), (b, (_, t, w))| w.cmp(v).then(t.cmp(s)).then(a.cmp(b)));
        best.into_iter().take(most).collect()
    };
    (table.into_iter().map(|(id, (hash, entries))| (id, (hash, cut(entries)))).collect(), full)
}
