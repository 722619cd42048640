//! Which key epochs this process uses, as the control table says.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use shared::ProductId;
use shared::item::KeyEpochsItem;
use tokio::sync::watch;
use tokio::time::Instant;

use super::{FlowError, Pipeline};
use crate::decide::blocking::{EpochError, KeyEpoch, KeyEpochs, posting_keys};
use crate::decide::rollout;
use crate::source::Shutdown;
use crate::store::{Store, StoreError};

/// How often the control table is asked.
const REFRESH: Duration = Duration::from_secs(15);
/// How long a worker goes on with what it knows; far below [`rollout::SETTLE`].
const STALE: Duration = Duration::from_secs(60);

/// Why the key epochs are not known.
#[derive(Debug, thiserror::Error)]
pub enum EpochsError {
    #[error("the key epochs cannot be read")]
    Store(#[from] StoreError),
    #[error("key epoch {number} is in use and was never published; `key-epoch publish` it")]
    Unpublished { number: u32 },
    #[error("the published file of key epoch {number} cannot be read")]
    File { number: u32, source: EpochError },
    #[error("the published file of key epoch {number} says that it is key epoch {found}")]
    Misnamed { number: u32, found: u32 },
}

/// What a pipeline knows of the key epochs.
#[derive(Clone, Debug)]
pub struct KnownEpochs {
    epochs: KeyEpochs,
    /// Until when it may be relied on; none for ever.
    until: Option<Instant>,
}

impl KnownEpochs {
    /// For runs to which nothing can happen meanwhile.
    pub fn fixed(epochs: KeyEpochs) -> watch::Receiver<Self> {
        watch::channel(Self { epochs, until: None }).1
    }
}

impl Pipeline {
    /// The key epochs of now.
    pub(super) fn epochs(&self) -> Result<KeyEpochs, FlowError> {
        let known = self.epochs.borrow();
        match known.until {
            Some(until) if Instant::now() > until => Err(FlowError::EpochsUnknown),
            _ => Ok(known.epochs.clone()),
        }
    }
}

/// Reads the control table again and again, so that every worker takes part in a roll-out.
pub struct EpochFeed {
    store: Store,
    loaded: HashMap<u32, Arc<KeyEpoch>>,
    sender: watch::Sender<KnownEpochs>,
    /// When the table was asked last.
    renewed: Option<Instant>,
}

impl EpochFeed {
    /// Reads it for the first time.
    pub async fn start(store: Store) -> Result<(Self, watch::Receiver<KnownEpochs>), EpochsError> {
        let loaded = HashMap::from([(0, KeyEpoch::shipped().clone())]);
        let (sender, receiver) = watch::channel(KnownEpochs { epochs: KeyEpochs::shipped(), until: None });
        let mut feed = Self { store, loaded, sender, renewed: None };
        feed.renew().await?;
        Ok((feed, receiver))
    }

    /// Runs until the shutdown begins. A worker that cannot read the table for a minute
    /// processes nothing more until it can.
    pub async fn run(mut self, shutdown: Shutdown) {
        loop {
            tokio::select! {
                () = shutdown.begun() => return,
                () = tokio::time::sleep(REFRESH) => {}
            }
            if let Err(error) = self.renew().await {
                tracing::warn!(error = crate::source::with_causes(&error), "the key epochs cannot be read");
            }
        }
    }

    /// Asks again, if the last answer is older than [`REFRESH`].
    ///
    /// # Errors
    /// When the table does not answer, or names an epoch that is not published.
    pub async fn renew(&mut self) -> Result<(), EpochsError> {
        let asked = Instant::now();
        if self.renewed.is_some_and(|renewed| asked < renewed + REFRESH) {
            return Ok(());
        }
        let item = self.store.key_epochs().await?.unwrap_or_else(rollout::shipped);
        let epochs = self.load(&item).await?;
        self.sender.send_replace(KnownEpochs { epochs, until: Some(asked + STALE) });
        self.renewed = Some(asked);
        Ok(())
    }

    async fn load(&mut self, item: &KeyEpochsItem) -> Result<KeyEpochs, EpochsError> {
        let active = self.epoch(item.active).await?;
        let also = match item.also {
            Some(number) => Some(self.epoch(number).await?),
            None => None,
        };
        Ok(KeyEpochs::new(active, also))
    }

    async fn epoch(&mut self, number: u32) -> Result<Arc<KeyEpoch>, EpochsError> {
        if let Some(known) = self.loaded.get(&number) {
            return Ok(known.clone());
        }
        let epoch = Arc::new(published_epoch(&self.store, number).await?);
        self.loaded.insert(number, epoch.clone());
        Ok(epoch)
    }
}

/// A key epoch as it was published; 0 is the shipped one.
pub async fn published_epoch(store: &Store, number: u32) -> Result<KeyEpoch, EpochsError> {
    if number == 0 {
        return Ok(KeyEpoch::clone(KeyEpoch::shipped()));
    }
    let file = store.key_epoch_file(number).await?.ok_or(EpochsError::Unpublished { number })?;
    let epoch = KeyEpoch::parse(&file).map_err(|source| EpochsError::File { number, source })?;
    if epoch.number == number { Ok(epoch) } else { Err(EpochsError::Misnamed { number, found: epoch.number }) }
}

/// Deletes every product's postings under an epoch that is no longer in use.
pub async fn drop_postings(
    store: &Store,
    epoch: &KeyEpoch,
    concurrency: usize,
    progress: &(dyn Fn(u64) + Sync),
) -> Result<u64, FlowError> {
    let mut done = 0;
    let drop_of = |id: ProductId| async move {
        let Some(state) = store.product(&id).await? else { return Ok(()) };
        let texts = state.previous_texts.iter().chain([&state.text]);
        let keys: Vec<String> = texts.flat_map(|text| posting_keys(text, epoch)).collect();
        Ok(store.delete_postings(&id, &keys).await?)
    };
    super::reconcile::for_each_product(store, concurrency, drop_of, |()| {
        done += 1;
        progress(done);
    })
    .await?;
    Ok(done)
}
