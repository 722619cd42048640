//! Versions of one product that are in the process at once: they take turns, the newest of
//! those that wait first, so that the others find a newer state and cost one read each.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use shared::ProductId;
use tokio::sync::oneshot;

/// Who is at work on which product, and who waits. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct Versions {
    /// Products with an event in work, each with the events that wait by (version, arrival).
    lines: Arc<Mutex<HashMap<ProductId, Line>>>,
}

#[derive(Debug, Default)]
struct Line {
    waiting: BTreeMap<(u64, u64), oneshot::Sender<Turn>>,
    arrivals: u64,
}

/// The right to work on one product; it goes to the newest version that waits when dropped.
#[derive(Debug)]
pub(super) struct Turn {
    versions: Versions,
    id: ProductId,
    /// Whether others had their turn meanwhile.
    pub(super) has_waited: bool,
}

impl Versions {
    /// Waits until no other event of this product is at work, and none of a newer version
    /// waits.
    pub(super) async fn turn(&self, id: &ProductId, version: u64) -> Turn {
        let turn = match self.join(id, version) {
            None => None,
            Some(turn) => turn.await.ok(),
        };
        // A line hands its turn on for as long as anybody waits, so there is always one.
        turn.unwrap_or_else(|| Turn { versions: self.clone(), id: id.clone(), has_waited: false })
    }

    /// None where nobody is at work.
    fn join(&self, id: &ProductId, version: u64) -> Option<oneshot::Receiver<Turn>> {
        let mut lines = self.lock();
        let Some(line) = lines.get_mut(id) else {
            lines.insert(id.clone(), Line::default());
            return None;
        };
        let (sender, receiver) = oneshot::channel();
        line.arrivals += 1;
        line.waiting.insert((version, line.arrivals), sender);
        Some(receiver)
    }

    /// The newest that waits; the line goes with the last one.
    fn next(&self, id: &ProductId) -> Option<oneshot::Sender<Turn>> {
        let mut lines = self.lock();
        let newest = lines.get_mut(id).and_then(|line| line.waiting.pop_last());
        if newest.is_none() {
            lines.remove(id);
        }
        newest.map(|(_, sender)| sender)
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<ProductId, Line>> {
        // Nothing in here is left half done by a panic.
        self.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        if let Some(next) = self.versions.next(&self.id) {
            let turn = Self { versions: self.versions.clone(), id: self.id.clone(), has_waited: true };
            // One that was given up while it waited gives its turn back, and so drops it.
            drop(next.send(turn));
        }
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    fn id(name: &str) -> ProductId {
        ProductId::new(name).expect("a valid id")
    }

    #[test]
    fn the_newest_that_waits_comes_next_and_a_line_ends_empty() {
        let (versions, a) = (Versions::default(), id("A"));
        let first = versions.turn(&a, 1).now_or_never().expect("nobody is at work");
        assert!(!first.has_waited);
        assert!(versions.turn(&id("B"), 1).now_or_never().is_some(), "another product");
        let [mut second, mut fourth, mut given_up] = [2, 4, 9].map(|version| Box::pin(versions.turn(&a, version)));
        for waiting in [&mut second, &mut fourth, &mut given_up] {
            assert!(waiting.now_or_never().is_none());
        }
        drop(given_up);
        drop(first);
        assert!((&mut second).now_or_never().is_none(), "a newer one waits");
        let turn = (&mut fourth).now_or_never().expect("it is the newest");
        assert!(turn.has_waited);
        drop(turn);
        drop((&mut second).now_or_never().expect("it is the last"));
        assert!(versions.lock().is_empty());
    }
}
