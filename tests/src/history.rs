//! Long histories of a catalog, made from a seed, whose end brute force can foretell.

use jiff::Timestamp;
use shared::event::{Delete, Upsert};
use shared::product::Price;
use shared::{CatalogEvent, Product};

use crate::items::id;

/// Products that share a code, and so may be duplicates; few enough that no limit on
/// candidates is ever met.
const GROUP: usize = 4;
/// Events for each product, on average.
const EVENTS_PER_PRODUCT: usize = 8;
/// Events may overtake each other by this many places.
const OVERTAKEN_MAX: usize = 60;
/// One in so many messages is poison, and one in so many events is sent twice.
const POISON_EVERY: usize = 97;
const TWICE_EVERY: usize = 11;

/// What is sent, in this order.
#[derive(Clone, Debug)]
pub struct History {
    /// Every event that counts, repeats included.
    pub events: Vec<CatalogEvent>,
    /// Bodies of all messages: the events, and poison between them.
    pub bodies: Vec<String>,
    /// The bodies that no worker can read; all different.
    pub poison: Vec<String>,
}

impl History {
    /// `messages` messages about an eighth as many products: new versions, price changes,
    /// deletes and re-creations, in disorder and with repeats. All occurred long ago.
    pub fn new(seed: u64, messages: usize) -> Self {
        Self::occurring_at(Timestamp::UNIX_EPOCH, seed, messages)
    }

    /// The same, at another time.
    pub fn occurring_at(occurred_at: Timestamp, seed: u64, messages: usize) -> Self {
        let mut rng = fastrand::Rng::with_seed(seed);
        let mut events = upheaval(&mut rng, messages - messages / POISON_EVERY);
        for event in &mut events {
            match event {
                CatalogEvent::Upsert(upsert) => upsert.occurred_at = occurred_at,
                CatalogEvent::Delete(delete) => delete.occurred_at = occurred_at,
                CatalogEvent::ScorePairs(request) => request.occurred_at = occurred_at,
            }
        }
        overtake(&mut rng, &mut events);
        let mut bodies: Vec<String> =
            events.iter().map(|event| serde_json::to_string(event).expect("events are JSON")).collect();
        let poison: Vec<String> = (0..messages / POISON_EVERY).map(poison).collect();
        for body in &poison {
            bodies.insert(rng.usize(..=bodies.len()), body.clone());
        }
        Self { events, bodies, poison }
    }
}

fn upheaval(rng: &mut fastrand::Rng, count: usize) -> Vec<CatalogEvent> {
    let mut versions = vec![0_u64; (count / EVENTS_PER_PRODUCT).max(GROUP)];
    let mut titles = vec![String::new(); versions.len()];
    let mut events: Vec<CatalogEvent> = Vec::with_capacity(count);
    while events.len() < count {
        if events.len() % TWICE_EVERY == TWICE_EVERY - 1 {
            events.push(events[rng.usize(..events.len())].clone());
            continue;
        }
        let product = rng.usize(..versions.len());
        versions[product] += 1;
        let price_only = rng.u8(..) < 64 && !titles[product].is_empty();
        if !price_only {
            titles[product] = title(rng, product / GROUP);
        }
        let name = format!("P{product}");
        let deleted = rng.u8(..) < 24;
        events.push(if deleted {
            delete(&name, versions[product])
        } else {
            upsert(&name, versions[product], &titles[product], f64::from(rng.u32(1..1_000)))
        });
    }
    events
}

/// One of two codes of the group, so that pairs come and go, and words that no other
/// product has, so that only codes bring products together.
fn title(rng: &mut fastrand::Rng, group: usize) -> String {
    let code = group * 2 + rng.usize(..2);
    let letters = |rng: &mut fastrand::Rng| (0..7).map(|_| rng.lowercase()).collect::<String>();
    format!("{} {} {}", letters(rng), letters(rng), code_of(code))
}

/// Codes that have no part in common, whatever a code's parts may be taken for.
fn code_of(number: usize) -> String {
    let letter = |place: u32| char::from(b'a' + u8::try_from(number / 26_usize.pow(place) % 26).unwrap_or_default());
    format!("{}{}{}{:05}{}{}", letter(2), letter(1), letter(0), 20_011 + number * 3, letter(0), letter(1))
}

/// A product as no more than a title and a price.
pub fn upsert(name: &str, version: u64, title: &str, price: f64) -> CatalogEvent {
    let price = Some(Price { amount: price, currency: None });
    CatalogEvent::Upsert(Upsert {
        schema_version: 1,
        product_id: id(name),
        version,
        occurred_at: Timestamp::UNIX_EPOCH,
        product: Product { title: title.to_owned(), price, ..Product::default() },
    })
}

pub fn delete(name: &str, version: u64) -> CatalogEvent {
    CatalogEvent::Delete(Delete {
        schema_version: 1,
        product_id: id(name),
        version,
        occurred_at: Timestamp::UNIX_EPOCH,
    })
}

fn overtake(rng: &mut fastrand::Rng, events: &mut [CatalogEvent]) {
    for place in 0..events.len() {
        let other = (place + rng.usize(..OVERTAKEN_MAX)).min(events.len() - 1);
        events.swap(place, other);
    }
}

fn poison(number: usize) -> String {
    match number % 4 {
        0 => format!("{{\"schema_version\": 1, \"type\": \"upsert\", \"number\": {number}"),
        1 => format!("{{\"schema_version\": 9, \"type\": \"upsert\", \"product_id\": \"X{number}\"}}"),
        2 => format!("{{\"schema_version\": 1, \"type\": \"upsert\", \"product_id\": \"X{number}\", \"version\": 1}}"),
        _ => format!("poison {number}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_gives_the_same_history_and_its_numbers_add_up() {
        let (history, again) = (History::new(7, 2_000), History::new(7, 2_000));
        assert_eq!(history.bodies, again.bodies);
        assert_eq!(history.bodies.len(), 2_000);
        assert_eq!(history.events.len() + history.poison.len(), 2_000);
        let deletes = history.events.iter().filter(|event| matches!(event, CatalogEvent::Delete(_))).count();
        assert!(deletes > 100, "{deletes}");
    }
}
