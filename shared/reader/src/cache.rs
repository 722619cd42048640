//! What was read lately, and what is being read: bounded, with a time to live, and never
//! two reads of one key at a time.
//!
//! Caches that one can buy load one key at a time. A page is up to a hundred keys in one
//! request, some of which are here already and some in a request under way, so this one
//! loads whatever is left of a set of keys together.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};

use crate::error::ReaderError;

/// What one read of several keys gave. Keys that are left out were not answered.
pub(crate) type Read<K, V> = Result<HashMap<K, V>, ReaderError>;

/// What is known of the keys asked for.
pub(crate) struct Answers<K, V> {
    /// Keys that are left out were not answered in time.
    pub values: HashMap<K, V>,
    /// Why a read failed that would have answered some of the rest.
    pub error: Option<ReaderError>,
}

pub(crate) struct Cache<K, V> {
    state: Mutex<State<K, V>>,
    entries_max: usize,
    ttl: Duration,
}

/// Two generations: what is read moves to the young one; when that holds half of the
/// bound it becomes the old one, and what was not read since the last time is forgotten.
struct State<K, V> {
    young: HashMap<K, Entry<V>>,
    old: HashMap<K, Entry<V>>,
    flights: HashMap<K, Flight<K, V>>,
}

struct Entry<V> {
    value: V,
    read_at: Instant,
}

/// A read under way: none until it has landed. Closed without a value if it died.
type Flight<K, V> = watch::Receiver<Option<Arc<Read<K, V>>>>;

impl<K, V> Cache<K, V>
where
    K: Clone + Eq + Hash + Send + Sync + 'static,
    V: Clone + Send + Sync + 'static,
{
    pub fn new(entries_max: usize, ttl: Duration) -> Self {
        let state = State { young: HashMap::new(), old: HashMap::new(), flights: HashMap::new() };
        Self { state: Mutex::new(state), entries_max, ttl }
    }

    /// The values of `keys`: those that are fresh here, those of reads under way, and those
    /// that `read` gives for the rest, which it gets in one call. That read goes on when the
    /// caller's deadline has passed or the caller has gone: the next one finds its result.
    pub async fn get<F>(self: &Arc<Self>, keys: &[K], until: Instant, read: impl FnOnce(Vec<K>) -> F) -> Answers<K, V>
    where
        F: Future<Output = Read<K, V>> + Send + 'static,
    {
        let (landing, flight) = watch::channel(None);
        let (mut values, flights, unread) = self.known(keys, &flight);
        if !unread.is_empty() {
            let (cache, read) = (self.clone(), read(unread.clone()));
            tokio::spawn(async move { cache.land(&unread, read.await, &landing) });
        }
        let mut error = None;
        for (key, mut flight) in flights {
            // Late, or the read died: either way the key stays unanswered.
            let Ok(Ok(landed)) = timeout_at(until, flight.wait_for(Option::is_some)).await else { continue };
            match landed.as_deref() {
                Some(Ok(found)) => values.extend(found.get(&key).map(|value| (key, value.clone()))),
                Some(Err(failed)) => error = Some(failed.clone()),
                None => {}
            }
        }
        Answers { values, error }
    }

    /// Remembers a value as if it had just been read.
    pub fn put(&self, key: K, value: V) {
        self.lock().insert(key, Entry { value, read_at: Instant::now() }, self.entries_max);
    }

    /// Fresh values, the reads to wait for, and the keys that nobody reads yet, which are
    /// from now on read by `flight`.
    #[expect(clippy::type_complexity, reason = "three lists that only `get` takes apart")]
    fn known(&self, keys: &[K], flight: &Flight<K, V>) -> (HashMap<K, V>, Vec<(K, Flight<K, V>)>, Vec<K>) {
        let (mut values, mut flights, mut unread) = (HashMap::new(), Vec::new(), Vec::new());
        let mut state = self.lock();
        for key in keys {
            if let Some(value) = state.fresh(key, self.ttl, self.entries_max) {
                values.insert(key.clone(), value);
                continue;
            }
            let under_way = state.flights.get(key).filter(|flight| flight.has_changed().is_ok()).cloned();
            let joined = under_way.unwrap_or_else(|| {
                unread.push(key.clone());
                state.flights.insert(key.clone(), flight.clone());
                flight.clone()
            });
            flights.push((key.clone(), joined));
        }
        (values, flights, unread)
    }

    fn land(&self, keys: &[K], read: Read<K, V>, landing: &watch::Sender<Option<Arc<Read<K, V>>>>) {
        let mut state = self.lock();
        let read_at = Instant::now();
        for key in keys {
            state.flights.remove(key);
            if let Some(value) = read.as_ref().ok().and_then(|found| found.get(key)) {
                state.insert(key.clone(), Entry { value: value.clone(), read_at }, self.entries_max);
            }
        }
        landing.send_replace(Some(Arc::new(read)));
    }

    /// Nothing here panics half way, so a poisoned lock guards whole data.
    fn lock(&self) -> MutexGuard<'_, State<K, V>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<K: Clone + Eq + Hash, V: Clone> State<K, V> {
    fn fresh(&mut self, key: &K, ttl: Duration, entries_max: usize) -> Option<V> {
        if let Some(entry) = self.young.get(key) {
            return (entry.read_at.elapsed() < ttl).then(|| entry.value.clone());
        }
        let entry = self.old.remove(key).filter(|entry| entry.read_at.elapsed() < ttl)?;
        let value = entry.value.clone();
        self.insert(key.clone(), entry, entries_max);
        Some(value)
    }

    fn insert(&mut self, key: K, entry: Entry<V>, entries_max: usize) {
        if self.young.len() >= entries_max.div_ceil(2) {
            self.old = std::mem::take(&mut self.young);
        }
        self.old.remove(&key);
        self.young.insert(key, entry);
    }
}

#[cfg(test)]
#[path = "cache_tests.rs"]
mod tests;
