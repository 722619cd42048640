//! `control`: how far the lines of an object were processed. The item is there only while
//! an object is being processed.

use serde::{Deserialize, Serialize};
use shared::TextHash;
use shared::table::CONTROL;

use super::codec::{Item, number, string};
use super::{Store, StoreError, WriteOutcome};

/// Every line before this place is labelled or parked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ObjectProgress {
    /// Of the item; see [`ObjectProgress::start`].
    pub name: String,
    /// For whoever reads the table.
    pub object: String,
    pub lines: u64,
    /// Decoded ones.
    pub bytes: u64,
    pub gzip: bool,
}

impl ObjectProgress {
    /// None of the lines of `object`, which is named with everything that tells its content
    /// from another's.
    pub fn start(object: &str) -> Self {
        let name = format!("object/{}", TextHash::of(0, object).to_hex());
        Self { name, object: object.to_owned(), lines: 0, bytes: 0, gzip: false }
    }
}

impl Store {
    /// Where a reader of this object goes on; `start` if nobody has begun.
    pub async fn object_progress(&self, start: ObjectProgress) -> Result<ObjectProgress, StoreError> {
        let known = self.get(&CONTROL, Item::from([("name".to_owned(), string(&start.name))])).await?;
        Ok(known.unwrap_or(start))
    }

    /// Moves from `before` to `after`. A conflict means that somebody else reads the object
    /// too.
    pub async fn advance_object(
        &self,
        before: &ObjectProgress,
        after: &ObjectProgress,
    ) -> Result<WriteOutcome, StoreError> {
        self.put_if(&CONTROL, after, &after.name, |put| {
            if before.lines == 0 {
                return put
                    .condition_expression("attribute_not_exists(#name)")
                    .expression_attribute_names("#name", "name");
            }
            put.condition_expression("#lines = :before")
                .expression_attribute_names("#lines", "lines")
                .expression_attribute_values(":before", number(before.lines))
        })
        .await
    }

    /// Once every line is done.
    pub async fn forget_object(&self, progress: &ObjectProgress) -> Result<(), StoreError> {
        self.forget(&progress.name).await
    }
}
