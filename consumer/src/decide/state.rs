//! A product's state and how events move it.

use jiff::Timestamp;
use shared::item::{LabelledMarker, ProductItem};
use shared::{ModelId, Product, ProductId, ProductText, TextHash};

use super::blocking::KeyEpochs;

/// Most earlier texts that a state remembers for the removal of their postings. More than
/// one is there only while a worker that died has not been replaced.
const PREVIOUS_TEXTS_MAX: usize = 8;

/// What an event says a product's state is.
#[derive(Clone, Debug, PartialEq)]
pub struct Change {
    pub id: ProductId,
    pub version: u64,
    pub occurred_at: Timestamp,
    /// None where the product was deleted.
    pub product: Option<Product>,
}

/// What a change means for the known state.
#[derive(Clone, Debug, PartialEq)]
pub enum Advance {
    /// The change is newer: write this state, on the condition that the known one is
    /// still there.
    Write(Box<ProductItem>),
    /// An earlier delivery of this change got as far as the state.
    Same,
    /// A newer state is known.
    Stale,
}

/// Orders states by version, then content hash. A text that changes takes the markers
/// with it; a text that stays keeps them, so that a price change costs no inference.
pub fn advance(known: Option<&ProductItem>, change: &Change, tombstone_expires_at: i64) -> Advance {
    let content_hash = content_hash(change.product.as_ref());
    if let Some(known) = known {
        match (change.version, content_hash).cmp(&(known.version, known.content_hash)) {
            std::cmp::Ordering::Less => return Advance::Stale,
            std::cmp::Ordering::Equal => return Advance::Same,
            std::cmp::Ordering::Greater => {}
        }
    }
    let text = change.product.as_ref().map(ProductText::of);
    let text_hash = text.as_ref().map_or_else(|| TextHash::of(0, ""), |text| text.hash);
    let unchanged = known.filter(|known| known.text_hash == text_hash && known.deleted == change.product.is_none());
    Advance::Write(Box::new(ProductItem {
        id: change.id.clone(),
        version: change.version,
        content_hash,
        text_hash,
        text: text.map(|text| text.text).unwrap_or_default(),
        previous_texts: previous_texts(known, text_hash),
        title: change.product.as_ref().map(|product| product.title.clone()).unwrap_or_default(),
        deleted: change.product.is_none(),
        occurred_at: change.occurred_at,
        expires_at: change.product.is_none().then_some(tombstone_expires_at),
        labelled: unchanged.map(|known| known.labelled.clone()).unwrap_or_default(),
    }))
}

/// True when the labels in the tables were made from this text by this model and these
/// blocking keys, and the postings are there under every key epoch in use.
pub fn is_labelled(state: &ProductItem, model: &ModelId, epochs: &KeyEpochs) -> bool {
    let wanted = marker(state, epochs);
    state.labelled.get(model).is_some_and(|marker| {
        let also_epoch = wanted.also_epoch.or(marker.also_epoch);
        *marker == LabelledMarker { also_epoch, ..wanted }
    })
}

pub fn marker(state: &ProductItem, epochs: &KeyEpochs) -> LabelledMarker {
    LabelledMarker {
        text_hash: state.text_hash,
        key_epoch: epochs.active().number,
        also_epoch: epochs.also().map(|epoch| epoch.number),
    }
}

fn previous_texts(known: Option<&ProductItem>, text_hash: TextHash) -> Vec<String> {
    let Some(known) = known else { return Vec::new() };
    let mut texts = known.previous_texts.clone();
    if known.text_hash != text_hash && !known.text.is_empty() && !texts.contains(&known.text) {
        texts.push(known.text.clone());
    }
    let surplus = texts.len().saturating_sub(PREVIOUS_TEXTS_MAX);
    texts.drain(..surplus);
    texts
}

/// Hash of everything the source said of the product, price included.
fn content_hash(product: Option<&Product>) -> TextHash {
    let content = product.map(|product| serde_json::to_string(product).expect("a product has no map with other keys"));
    TextHash::of(0, content.as_deref().unwrap_or("deleted"))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::sync::Arc;

    use super::super::blocking::KeyEpoch;
    use super::*;

    fn change(version: u64, title: &str, price: Option<f64>) -> Change {
        let price = price.map(|amount| shared::product::Price { amount, currency: None });
        let product = (!title.is_empty()).then(|| Product { title: title.to_owned(), price, ..Product::default() });
        let id = ProductId::new("B01").expect("a valid id");
        Change { id, version, occurred_at: Timestamp::UNIX_EPOCH, product }
    }

    fn written(known: Option<&ProductItem>, change: &Change) -> ProductItem {
        match advance(known, change, 99) {
            Advance::Write(state) => *state,
            other => panic!("{change:?} after {known:?} gave {other:?}"),
        }
    }

    fn labelled(mut state: ProductItem) -> ProductItem {
        state.labelled.insert(ModelId("m".to_owned()), marker(&state, &KeyEpochs::shipped()));
        state
    }

    #[test]
    fn a_price_change_keeps_the_marker() {
        let first = labelled(written(None, &change(1, "kettle", Some(10.0))));
        let second = written(Some(&first), &change(2, "kettle", Some(12.0)));
        let (m, n) = (ModelId("m".to_owned()), ModelId("n".to_owned()));
        assert!(is_labelled(&second, &m, &KeyEpochs::shipped()));
        assert!(!is_labelled(&second, &n, &KeyEpochs::shipped()));
    }

    #[test]
    fn a_marker_is_about_every_key_epoch_in_use() {
        let [old, new] = [0, 1].map(|number| Arc::new(KeyEpoch::build::<&str>(number, &[], 0)));
        let model = ModelId("m".to_owned());
        let labelled = |epochs: &KeyEpochs| {
            let state = written(None, &change(1, "kettle", None));
            ProductItem { labelled: BTreeMap::from([(model.clone(), marker(&state, epochs))]), ..state }
        };
        let alone = KeyEpochs::new(old.clone(), None);
        let both = KeyEpochs::new(old.clone(), Some(new.clone()));
        let switched = KeyEpochs::new(new, Some(old));
        assert!(!is_labelled(&labelled(&alone), &model, &both), "postings are missing");
        assert!(is_labelled(&labelled(&both), &model, &alone), "more postings do no harm");
        assert!(!is_labelled(&labelled(&both), &model, &switched), "other candidates");
    }

    #[test]
    fn a_text_change_drops_the_marker_and_remembers_the_old_text() {
        let first = labelled(written(None, &change(1, "kettle", None)));
        let second = written(Some(&first), &change(2, "red kettle", None));
        assert_eq!(second.labelled, BTreeMap::new());
        assert_eq!(second.previous_texts, ["kettle"]);
        let third = written(Some(&second), &change(3, "blue kettle", None));
        assert_eq!(third.previous_texts, ["kettle", "red kettle"]);
    }

    #[test]
    fn a_text_that_comes_back_is_labelled_again() {
        let first = labelled(written(None, &change(1, "kettle", None)));
        let second = written(Some(&first), &change(2, "red kettle", None));
        let third = written(Some(&second), &change(3, "kettle", None));
        assert_eq!(third.labelled, BTreeMap::new());
    }

    #[test]
    fn older_is_stale_and_equal_is_same() {
        let second = written(None, &change(2, "kettle", None));
        assert_eq!(advance(Some(&second), &change(1, "pot", None), 99), Advance::Stale);
        assert_eq!(advance(Some(&second), &change(2, "kettle", None), 99), Advance::Same);
    }

    #[test]
    fn of_equal_versions_one_content_wins_in_either_order() {
        let (pot, kettle) = (change(2, "pot", None), change(2, "kettle", None));
        let (first, second) = (written(None, &pot), written(None, &kettle));
        let pot_wins = matches!(advance(Some(&second), &pot, 99), Advance::Write(_));
        let kettle_wins = matches!(advance(Some(&first), &kettle, 99), Advance::Write(_));
        assert!(pot_wins != kettle_wins);
    }

    #[test]
    fn a_delete_leaves_a_tombstone_that_beats_late_upserts() {
        let first = written(None, &change(1, "kettle", None));
        let gone = written(Some(&first), &change(3, "", None));
        assert!(gone.deleted && gone.text.is_empty() && gone.expires_at == Some(99));
        assert_eq!(gone.previous_texts, ["kettle"]);
        assert_eq!(advance(Some(&gone), &change(2, "late", None), 99), Advance::Stale);
        assert!(!written(Some(&gone), &change(4, "back", None)).deleted);
    }
}
