//! Step 3: the look-up of candidates, whose cost the limits bound.

use shared::item::ProductItem;

use crate::decide::blocking::{KeyEpoch, Limits, posting_keys, query_keys, rank};
use crate::store::{Store, StoreError};

/// What blocking proposes for a product, as it stands in the tables now: at most
/// `candidates_max` live states, best first. Reads at most `items_max` items by at most
/// `requests_max` requests, but for keys that DynamoDB left unprocessed more than once.
///
/// A posting may be left over from an earlier text, so a candidate has to hold a key that
/// was asked for.
pub async fn candidates(
    store: &Store,
    epoch: &KeyEpoch,
    limits: &Limits,
    own: &ProductItem,
) -> Result<Vec<ProductItem>, StoreError> {
    let keys = query_keys(&own.text, epoch, limits);
    let postings = store.postings(&keys, limits.limit_per_key(keys.len())).await?;
    let sketches = postings.into_iter().map(|posting| (posting.id, posting.sketch.unwrap_or_default()));
    let ids = rank(&own.id, &own.text, epoch, sketches, limits);
    let mut candidates = store.products(&ids).await?;
    candidates.retain(|candidate| {
        !candidate.deleted && {
            let held = posting_keys(&candidate.text, epoch);
            keys.iter().any(|key| held.contains(key))
        }
    });
    Ok(candidates)
}
