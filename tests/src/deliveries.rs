//! Deliveries of short histories over several workers, some of which die on the way.

use std::collections::VecDeque;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use consumer::flow::{FlowError, Pipeline};
use consumer::store::{Embedded, Store};
use futures::future::join_all;
use shared::CatalogEvent;

use crate::fleet::mortal;

const WORKERS: usize = 4;
/// More deliveries than any history of a test can need.
const DELIVERIES_MAX: usize = 2_000;

/// The event as a message says it.
pub fn body(event: &CatalogEvent) -> String {
    serde_json::to_string(event).expect("events are JSON")
}

/// One message: an event for the fleet of one model.
#[derive(Clone, Debug)]
pub struct Message {
    pub event: CatalogEvent,
    pub fleet: usize,
    /// Requests after which the worker of each delivery dies; the delivery after the last
    /// one is left alone.
    pub crashes: VecDeque<i64>,
    /// Where in the queue it comes back.
    pub delay: usize,
    pub receive_count: u32,
}

impl Message {
    /// One delivery for the first fleet.
    pub fn of(event: &CatalogEvent) -> Self {
        Self { event: event.clone(), fleet: 0, crashes: VecDeque::new(), delay: 0, receive_count: 0 }
    }
}

/// Several workers take messages until none is left; a delivery that fails comes back.
/// `worker` makes the worker of one delivery for a fleet, on these tables.
pub async fn process(store: &Store, worker: impl Fn(Store, usize) -> Pipeline, messages: Vec<Message>) {
    let queue = Mutex::new(VecDeque::from(messages));
    let deliveries = AtomicUsize::new(0);
    let work = async || {
        while let Some(mut message) = take(&queue) {
            assert!(deliveries.fetch_add(1, Ordering::SeqCst) < DELIVERIES_MAX, "{message:?} never ends");
            message.receive_count += 1;
            let crash = message.crashes.pop_front();
            let tables = crash.map_or_else(|| store.clone(), |requests| mortal(store, requests));
            match worker(tables, message.fleet).process(&body(&message.event), message.receive_count).await {
                Ok(_) => {}
                Err(error) => {
                    let expected = crash.is_some() || matches!(error, FlowError::Contended { .. });
                    assert!(expected, "{message:?}: {error:?}");
                    let mut queue = queue.lock().expect("nobody panics with it");
                    let place = message.delay.min(queue.len());
                    queue.insert(place, message);
                }
            }
        }
    };
    join_all((0..WORKERS).map(|_| work())).await;
}

fn take(queue: &Mutex<VecDeque<Message>>) -> Option<Message> {
    queue.lock().expect("nobody panics with it").pop_front()
}

/// Empty tables of their own.
pub async fn tables(engine: &Embedded, prefix: &str) -> Store {
    let store = engine.store(prefix);
    store.create_tables().await.expect("creates");
    store
}
