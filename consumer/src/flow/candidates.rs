//! Step 3: the look-up of candidates, whose cost the limits bound.

use shared::item::{LabelItem, ProductItem};
use shared::{ModelId, ProductId};

use crate::decide::blocking::{KeyEpoch, Limits, posting_keys, query_keys, rank};
use crate::store::{Store, StoreError};

/// What blocking proposes for a product, as it stands in the tables now: at most
/// `candidates_max` live states, best first. Reads at most `items_max` items by one request for
/// each key and one more, but for keys that DynamoDB left unprocessed.
pub async fn candidates(
    store: &Store,
    epoch: &KeyEpoch,
    limits: &Limits,
    own: &ProductItem,
) -> Result<Vec<ProductItem>, StoreError> {
    let proposed = Proposed::of(store, epoch, limits, own).await?;
    let states = store.products(&proposed.ids).await?;
    Ok(proposed.alive(states, epoch))
}

/// The same, and the product's own label item in the same requests.
pub(super) async fn candidates_and_label_item(
    store: &Store,
    epoch: &KeyEpoch,
    limits: &Limits,
    own: &ProductItem,
    model: &ModelId,
) -> Result<(Vec<ProductItem>, Option<LabelItem>), StoreError> {
    let proposed = Proposed::of(store, epoch, limits, own).await?;
    let (states, item) = store.products_and_label_item(&proposed.ids, &own.id, model).await?;
    Ok((proposed.alive(states, epoch), item))
}

/// What the postings say.
struct Proposed {
    keys: Vec<String>,
    ids: Vec<ProductId>,
}

impl Proposed {
    async fn of(store: &Store, epoch: &KeyEpoch, limits: &Limits, own: &ProductItem) -> Result<Self, StoreError> {
        let keys = query_keys(&own.text, epoch, limits);
        let postings = store.postings(&keys, limits.limit_per_key(keys.len())).await?;
        let sketches = postings.into_iter().map(|posting| (posting.id, posting.sketch.unwrap_or_default()));
        let ids = rank(&own.id, &own.text, epoch, sketches, limits);
        Ok(Self { keys, ids })
    }

    /// A posting may be left over from an earlier text, so a candidate has to hold a key that
    /// was asked for.
    fn alive(&self, mut states: Vec<ProductItem>, epoch: &KeyEpoch) -> Vec<ProductItem> {
        states.retain(|candidate| {
            !candidate.deleted && {
                let held = posting_keys(&candidate.text, epoch);
                self.keys.iter().any(|key| held.contains(key))
            }
        });
        states
    }
}
