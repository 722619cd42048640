//! Reconciliation: every product is planned once more, with no new events.
//!
//! Events look at one product at a time and obey limits, so what they leave can depend on
//! their order: a pair that was among the best candidates once stays, and an item that was
//! full keeps no trace of what it dropped. Afterwards the labels are a function of the
//! newest states alone: those of each pair that one of its two products proposes.
//!
//! What is done is noted page by page, so that a run that was cut off goes on where it stopped.

use std::time::Duration;

use futures::{StreamExt, TryStreamExt, stream};
use shared::ProductId;
use shared::item::ProductItem;
use shared::table::PRODUCTS;

use super::product::Purpose;
use super::{FlowError, Pipeline, Tally};
use crate::fault::{Fault, Faulty};
use crate::source::Backoff;
use crate::store::{Reached, Reconciling, Store};

/// Parts of the table that are read side by side.
const SEGMENTS: u16 = 2;
/// A run goes on with what another one left only for so long: what was planned before is planned again.
const GONE_ON_WITH_FOR: Duration = Duration::from_secs(24 * 3_600);
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
    /// Products that runs which were cut off had planned already; this one went on after them.
    pub planned_before: u64,
    pub tally: Tally,
    /// Products that can never be labelled.
    pub failed: u64,
    /// Why, for the first of them.
    pub reasons: Vec<(ProductId, String)>,
}

impl Pipeline {
    /// Reconciles every product, `concurrency` at once, but for those that a run for the same model
    /// and key epochs had done when it was cut off. `progress` hears how many have been planned.
    /// Live events may go on meanwhile; what they change is theirs to label.
    ///
    /// # Errors
    /// What would fail for every product, or did not pass within several tries. The work
    /// done until then stands, and the next run goes on after it.
    pub async fn reconcile(
        &self,
        concurrency: usize,
        progress: &(dyn Fn(u64) + Sync),
    ) -> Result<Reconciled, FlowError> {
        let mut noted = self.begun_or_left().await?;
        let mut done = Reconciled { planned_before: noted.planned, ..Reconciled::default() };
        if !noted.refills {
            self.reconcile_rest(Purpose::Prune, concurrency, &mut noted, &mut done, progress).await?;
            if noted.overflows > 0 {
                (noted.refills, noted.segments) = (true, from_start());
            }
        }
        if noted.refills {
            self.reconcile_rest(Purpose::Refill, concurrency, &mut noted, &mut done, progress).await?;
        }
        self.store.forget_reconciling(&noted).await?;
        Ok(done)
    }

    /// Forgets what a run that was cut off has done, so that the next one plans every product.
    ///
    /// # Errors
    /// When the table does not answer.
    pub async fn reconcile_from_start(&self) -> Result<(), FlowError> {
        Ok(self.store.forget_reconciling(&self.begun()?).await?)
    }

    /// What a run begins with.
    fn begun(&self) -> Result<Reconciling, FlowError> {
        let epochs = self.epochs()?;
        Ok(Reconciling {
            name: Reconciling::name(self.scorer.model_id()),
            key_epoch: epochs.active().number,
            also_epoch: epochs.also().map(|epoch| epoch.number),
            refills: false,
            planned: 0,
            overflows: 0,
            saved_at: (self.clock)(),
            segments: from_start(),
        })
    }

    /// The same, or what a run that was cut off has left, if that still holds.
    async fn begun_or_left(&self) -> Result<Reconciling, FlowError> {
        let begun = self.begun()?;
        let left = self.store.reconciling(self.scorer.model_id()).await?;
        let holds = |left: &Reconciling| {
            (left.key_epoch, left.also_epoch) == (begun.key_epoch, begun.also_epoch)
                && left.segments.len() == begun.segments.len()
                && begun.saved_at.duration_since(left.saved_at).unsigned_abs() <= GONE_ON_WITH_FOR
        };
        Ok(left.filter(holds).unwrap_or(begun))
    }

    /// One pass over the products that `noted` does not say are done. Notes each page that is.
    async fn reconcile_rest(
        &self,
        purpose: Purpose,
        concurrency: usize,
        noted: &mut Reconciling,
        done: &mut Reconciled,
        progress: &(dyn Fn(u64) + Sync),
    ) -> Result<(), FlowError> {
        let plan = |id: ProductId| async move { Ok((id.clone(), self.reconcile_product(&id, purpose).await?)) };
        let mut pages = self.store.scan_products(&noted.segments);
        while let Some(page) = pages.try_next().await? {
            let (planned, overflows) = (done.planned, done.tally.overflows);
            let ids = page.items.into_iter().map(|state| state.id);
            for_each(ids, concurrency, plan, |(id, result)| {
                done.add(id, result);
                progress(done.planned);
            })
            .await?;
            noted.planned += done.planned - planned;
            noted.overflows += done.tally.overflows - overflows;
            noted.segments[page.segment] = page.reached;
            noted.saved_at = (self.clock)();
            self.store.save_reconciling(noted).await?;
        }
        Ok(())
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

impl Reconciled {
    /// One more product, with what was done for it or the reason why it can never be labelled.
    fn add(&mut self, id: ProductId, result: Result<Tally, String>) {
        self.planned += 1;
        match result {
            Ok(tally) => self.tally += tally,
            Err(reason) => {
                self.failed += 1;
                if self.reasons.len() < REASONS_MAX {
                    self.reasons.push((id, reason));
                }
            }
        }
    }
}

fn from_start() -> Vec<Reached> {
    vec![Reached::Start; usize::from(SEGMENTS)]
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
        for_each(page.items.into_iter().map(|state| state.id), concurrency, &act, &mut take).await?;
    }
    Ok(())
}

/// The same for these products.
async fn for_each<T, F>(
    ids: impl Iterator<Item = ProductId>,
    concurrency: usize,
    act: impl Fn(ProductId) -> F,
    mut take: impl FnMut(T),
) -> Result<(), FlowError>
where
    F: Future<Output = Result<T, FlowError>>,
{
    let mut acting = stream::iter(ids).map(act).buffer_unordered(concurrency.max(1));
    while let Some(result) = acting.try_next().await? {
        take(result);
    }
    Ok(())
}
