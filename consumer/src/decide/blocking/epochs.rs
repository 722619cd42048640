//! The key epochs that are in use at one time.

use std::sync::Arc;

use shared::ProductId;
use shared::item::Posting;

use super::{KeyEpoch, posting_keys, sketch};

/// Look-ups read the active epoch. While another one is rolled out, or kept to go back to,
/// postings are written under both, so that a switch finds them there.
#[derive(Clone, Debug)]
pub struct KeyEpochs {
    active: Arc<KeyEpoch>,
    also: Option<Arc<KeyEpoch>>,
}

impl KeyEpochs {
    pub fn new(active: Arc<KeyEpoch>, also: Option<Arc<KeyEpoch>>) -> Self {
        Self { active, also }
    }

    /// Epoch 0 alone: what a table set without an epoch of its own uses.
    pub fn shipped() -> Self {
        Self::new(KeyEpoch::shipped().clone(), None)
    }

    pub fn active(&self) -> &KeyEpoch {
        &self.active
    }

    pub fn also(&self) -> Option<&KeyEpoch> {
        self.also.as_deref()
    }

    /// The keys that a product of this text has postings under, of every epoch in use.
    pub fn posting_keys(&self, text: &str) -> Vec<String> {
        self.in_use().flat_map(|epoch| posting_keys(text, epoch)).collect()
    }

    /// The postings of a product of this text, of every epoch in use.
    pub fn postings(&self, id: &ProductId, text: &str) -> Vec<Posting> {
        let of_epoch = |epoch| {
            let sketch = sketch(text, epoch);
            let posting = move |key| Posting { key, id: id.clone(), sketch: Some(sketch.clone()) };
            posting_keys(text, epoch).into_iter().map(posting)
        };
        self.in_use().flat_map(of_epoch).collect()
    }

    fn in_use(&self) -> impl Iterator<Item = &KeyEpoch> {
        std::iter::once(&*self.active).chain(self.also())
    }
}
