//! Reconciliation: every product is planned once more, with no new events.
//!
//! Events look at one product at a time and obey limits, so what they leave can depend on
//! their order: a pair that was among the best candidates once stays, and an item that was
//! full keeps no trace of what it dropped. Afterwards the labels are a function of the
//! newest states alone: those of each pair that one of its two products proposes.

use std::time::Duration;

use futures::{StreamExt, TryStreamExt, stream};
use shared::ProductId;
use shared::item::ProductItem;
use shared::table::PRODUCTS;

use super::product::Purpose;
use super::{FlowError, Pipeline, Tally};
use crate::fault::{Fault, Faulty};
use crate::source::Backoff;
use crate::store::Store;

/// Parts of the table that are read side by side.
const SEGMENTS: u16 = 2;
/// Tries of one product before the run gives up.
const TRIES_MAX: u32 = 6;
/// Products that are named, of those that can never be labelled.
const REASONS_MAX: usize = 100;
const BACKOFF: Backoff = Backoff { base: Duration::from_millis(200), max: Duration::from_secs(10) };

/// What a reconciliation did.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Reconciled {
    /// Products planned, tombstones included; twice each where an item had overflowed.
    pub planned: u64,
    pub tally: Tally,
    /// Products that can never be labelled.
    pub failed: u64,
    /// Why, for the first of them.
    pub reasons: Vec<(ProductId, String)>,
}

impl Pipeline {
    /// Reconciles every product, `concurrency` at once. `progress` hears how many have been
    /// planned. Live events may go on meanwhile; what they change is theirs to label.
    ///
    /// # Errors
    /// What would fail for every product, or did not pass within several tries. The work
    /// done until then stands, and a second run repeats none of its scoring.
    pub async fn reconcile(
        &self,
        concurrency: usize,
        progress: &(dyn Fn(u64) + Sync),
    ) -> Result<Reconciled, FlowError> {
        let mut done = Reconciled::default();
        self.reconcile_all(Purpose::Prune, concurrency, &mut done, progress).await?;
        if done.tally.overflows > 0 {
            self.reconcile_all(Purpose::Refill, concurrency, &mut done, progress).await?;
        }
        Ok(done)
    }

    async fn reconcile_all(
        &self,
        purpose: Purpose,
        concurrency: usize,
        done: &mut Reconciled,
        progress: &(dyn Fn(u64) + Sync),
    ) -> Result<(), FlowError> {
        let plan = |id: ProductId| async move { Ok((id.clone(), self.reconcile_product(&id, purpose).await?)) };
        for_each_product(&self.store, concurrency, plan, |(id, result)| {
            done.planned += 1;
            match result {
                Ok(tally) => done.tally += tally,
                Err(reason) => {
                    done.failed += 1;
                    if done.reasons.len() < REASONS_MAX {
                        done.reasons.push((id, reason));
                    }
                }
            }
            progress(done.planned);
        })
        .await
    }

    /// The inner error is the reason why this product alone can never be labelled.
    async fn reconcile_product(&self, id: &ProductId, purpose: Purpose) -> Result<Result<Tally, String>, FlowError> {
        let mut attempt = 0;
        loop {
            attempt += 1;
            let error = match self.label_product(id, None, "", purpose).await {
                Ok(tally) => return Ok(Ok(tally)),
                Err(error) => error,
            };
            match error.fault() {
                Fault::Retry { .. } if attempt < TRIES_MAX => {
                    tokio::time::sleep(BACKOFF.delay(attempt, &mut fastrand::Rng::new())).await;
                }
                Fault::Poison { reason } => return Ok(Err(reason)),
                Fault::Retry { .. } | Fault::Fatal { .. } => return Err(error),
            }
        }
    }
}

/// Lets `act` do its work for the id of every product, tombstones included, `concurrency`
/// at once, a page of the table at a time, and gives what it returned to
/// `take`. Ends at the first error.
pub(super) async fn for_each_product<T, F>(
    store: &Store,
    concurrency: usize,
    act: impl Fn(ProductId) -> F,
    mut take: impl FnMut(T),
) -> Result<(), FlowError>
where
    F: Future<Output = Result<T, FlowError>>,
{
    let mut pages = store.scan::<ProductItem>(&PRODUCTS, None, SEGMENTS);
    while let Some(page) = pages.try_next().await? {
        let ids = page.items.into_iter().map(|state| state.id);
        let mut acting = stream::iter(ids).map(&act).buffer_unordered(concurrency.max(1));
        while let Some(result) = acting.try_next().await? {
            take(result);
        }
    }
    Ok(())
}
