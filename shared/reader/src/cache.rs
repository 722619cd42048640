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

/// A read under way. Closed without an end if it died.
type Flight<K, V> = watch::Receiver<Landed<K, V>>;

/// What a read under way has given.
struct Landed<K, V> {
    found: HashMap<K, V>,
    /// None while more may come.
    end: Option<Result<(), ReaderError>>,
}

/// Where a read puts what it finds, as it finds it.
pub(crate) struct Landing<K, V> {
    cache: Arc<Cache<K, V>>,
    flight: watch::Sender<Landed<K, V>>,
}

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
        let in_one_part = |keys, landing: Arc<Landing<K, V>>| {
            let read = read(keys);
            async move { read.await.map(|found| landing.found(found)) }
        };
        self.get_in_parts(keys, until, in_one_part).await
    }

    /// The same for a `read` that finds one part after the other: whoever's deadline passes in
    /// between has the parts until then.
    pub async fn get_in_parts<F>(
        self: &Arc<Self>,
        keys: &[K],
        until: Instant,
        read: impl FnOnce(Vec<K>, Arc<Landing<K, V>>) -> F,
    ) -> Answers<K, V>
    where
        F: Future<Output = Result<(), ReaderError>> + Send + 'static,
    {
        let (sender, flight) = watch::channel(Landed { found: HashMap::new(), end: None });
        let (mut values, flights, unread) = self.known(keys, &flight);
        if !unread.is_empty() {
            let landing = Arc::new(Landing { cache: self.clone(), flight: sender });
            let read = read(unread.clone(), landing.clone());
            tokio::spawn(async move { landing.end(&unread, read.await) });
        }
        let mut error = None;
        for (key, mut flight) in flights {
            let is_settled = |landed: &Landed<K, V>| landed.found.contains_key(&key) || landed.end.is_some();
            // Late, or the read died: either way what is here is all there is.
            drop(timeout_at(until, flight.wait_for(is_settled)).await);
            let landed = flight.borrow();
            match (landed.found.get(&key), &landed.end) {
                (Some(value), _) => drop(values.insert(key, value.clone())),
                (None, Some(Err(failed))) => error = Some(failed.clone()),
                (None, _) => {}
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

    /// Nothing here panics half way, so a poisoned lock guards whole data.
    fn lock(&self) -> MutexGuard<'_, State<K, V>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<K, V> Landing<K, V>
where
    K: Clone + Eq + Hash + Send + Sync + 'static,
    V: Clone + Send + Sync + 'static,
{
    /// For all who wait for one of these, and for the cache.
    pub fn found(&self, found: HashMap<K, V>) {
        let mut state = self.cache.lock();
        let read_at = Instant::now();
        for (key, value) in &found {
            state.insert(key.clone(), Entry { value: value.clone(), read_at }, self.cache.entries_max);
        }
        drop(state);
        self.flight.send_modify(|landed| landed.found.extend(found));
    }

    /// No more comes of these keys.
    fn end(&self, keys: &[K], end: Result<(), ReaderError>) {
        let mut state = self.cache.lock();
        for key in keys {
            state.flights.remove(key);
        }
        drop(state);
        self.flight.send_modify(|landed| landed.end = Some(end));
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
