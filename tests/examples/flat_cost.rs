//! What one event reads and writes as the catalog grows: `make bench-store`.
//!
//! Loads synthetic products made from real titles into the embedded engine, then lets a sample
//! of changes pass through the real pipeline and prints what DynamoDB would bill for each.

#![expect(clippy::print_stdout, reason = "a bench prints its figures")]

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::sync::Arc;

use consumer::decide::blocking::{KEYS_MAX, KeyEpoch, KeyEpochs};
use consumer::decide::state::{Advance, Change, advance};
use consumer::flow::{KnownEpochs, Pipeline, candidates};
use consumer::store::{Embedded, Store, Usage};
use dynoxide::types::{AttributeValue, Item};
use dynoxide::{Database, ImportOptions};
use flate2::read::GzDecoder;
use serde::Serialize;
use serde_json::Value;
use shared::event::Upsert;
use shared::item::{Posting, ProductItem};
use shared::table::{LABELS, POSTINGS, PRODUCTS, Table};
use shared::{CatalogEvent, Product, ProductText};
use tests::deliveries::{body, tables};
use tests::fleet::{TextModel, pipeline};
use tests::items::id;

/// Events that are measured, and the seed of their choice.
const EVENTS: usize = 500;
const SEED: u64 = 20_261_124;
/// Products that the engine takes in at once; they go past the API, which would take hours.
const IMPORTED_AT_ONCE: usize = 5_000;
/// Words in so few of the real titles are names.
const NAME_TITLES_MAX: usize = 35;
/// Most texts that an epoch is counted from.
const SAMPLE: usize = 250_000;
/// What one partition of DynamoDB writes in a second.
const PARTITION_WRITE_UNITS: f64 = 1_000.0;
const TABLES: [(&str, Table); 3] = [("products", PRODUCTS), ("postings", POSTINGS), ("labels", LABELS)];

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [titles, sizes @ ..] = arguments.as_slice() else {
        return Err(
            "usage: flat_cost TITLES.csv.gz PRODUCTS...; columns 2 and 4 of the file are title and product".into()
        );
    };
    let titles = read_titles(titles)?;
    println!("{} titles", titles.titles.len());
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    for size in sizes {
        let products = size.parse()?;
        for epochs in [own_epoch(&titles, products), KeyEpochs::shipped()] {
            runtime.block_on(measure(&titles, products, &epochs))?;
        }
    }
    Ok(())
}

/// Real titles, and how many of them have each word.
struct Titles {
    titles: Vec<String>,
    /// What each is an offer of; offers of one product are its look-alikes.
    products: Vec<String>,
    counts: HashMap<String, usize>,
    commonest: String,
}

fn read_titles(path: &str) -> Result<Titles, Box<dyn std::error::Error>> {
    let (mut titles, mut products) = (Vec::new(), Vec::new());
    for line in BufReader::new(GzDecoder::new(File::open(path)?)).lines() {
        let line = line?;
        if let [_, title, _, product, ..] = line.split(',').collect::<Vec<_>>()[..]
            && !title.is_empty()
        {
            titles.push(title.to_owned());
            products.push(product.to_owned());
        }
    }
    if titles.is_empty() {
        return Err(format!("{path}: no titles").into());
    }
    let mut counts: HashMap<String, usize> = HashMap::new();
    for word in titles.iter().flat_map(|title| title.split_whitespace().collect::<HashSet<_>>()) {
        *counts.entry(word.to_owned()).or_default() += 1;
    }
    let commonest = counts.iter().filter(|(word, _)| word.len() > 3).max_by_key(|(word, count)| (**count, *word));
    let commonest = commonest.map(|(word, _)| word.clone()).unwrap_or_default();
    Ok(Titles { titles, products, counts, commonest })
}

/// Title `number` of a catalog of any size. Common words keep their share, whatever the size. Of
/// the others, codes are new in each round through the real titles, as other models of a series
/// have other numbers, and half of the names are: vocabularies grow with catalogs.
fn title(titles: &Titles, number: usize) -> String {
    let round = number / titles.titles.len();
    let word = |word: &str| {
        let is_code = word.bytes().filter(u8::is_ascii_digit).count() >= 3;
        let is_name = titles.counts.get(word).is_some_and(|count| *count <= NAME_TITLES_MAX);
        let changes = is_code || is_name && (word.len() + round).is_multiple_of(2);
        if round > 0 && changes { format!("{word}{}", suffix(round)) } else { word.to_owned() }
    };
    titles.titles[number % titles.titles.len()].split_whitespace().map(word).collect::<Vec<_>>().join(" ")
}

/// Letters, so that names stay names.
fn suffix(round: usize) -> String {
    [round / 26, round % 26].map(|place| char::from(b'a' + (place % 26) as u8)).iter().collect()
}

fn upsert(titles: &Titles, number: usize, version: u64, suffix: &str) -> Upsert {
    let title = title(titles, number);
    Upsert {
        schema_version: 1,
        product_id: id(&format!("P{:08}", scattered(number))),
        version,
        occurred_at: jiff::Timestamp::UNIX_EPOCH,
        product: Product { title: format!("{title}{suffix}"), ..Product::default() },
    }
}

/// Ids in no order of titles: an odd factor permutes the 27-bit numbers.
fn scattered(number: usize) -> usize {
    number.wrapping_mul(40_503_261) % (1 << 27)
}

/// A product as a worker leaves it that has found no look-alikes.
fn stored(epochs: &KeyEpochs, upsert: Upsert) -> (ProductItem, Vec<Posting>) {
    let change = Change {
        id: upsert.product_id.clone(),
        version: upsert.version,
        occurred_at: upsert.occurred_at,
        product: Some(upsert.product),
    };
    let Advance::Write(state) = advance(None, &change, 0) else { panic!("a first state is written") };
    let postings = epochs.postings(&change.id, &state.text);
    (*state, postings)
}

/// What the tables hold of the products, and how the postings spread.
#[derive(Default)]
struct Loaded {
    bytes: usize,
    /// Postings by partition key.
    sizes: HashMap<String, usize>,
}

fn load(database: &Database, store: &Store, epochs: &KeyEpochs, titles: &Titles, products: usize) -> Loaded {
    let mut loaded = Loaded::default();
    for first in (0..products).step_by(IMPORTED_AT_ONCE) {
        let (mut states, mut postings) = (Vec::new(), Vec::new());
        for number in first..products.min(first + IMPORTED_AT_ONCE) {
            let (state, of_product) = stored(epochs, upsert(titles, number, 1, ""));
            states.push(item_of(&state));
            for posting in of_product {
                postings.push(item_of(&posting));
                *loaded.sizes.entry(posting.key).or_default() += 1;
            }
        }
        for (table, items) in [(PRODUCTS, states), (POSTINGS, postings)] {
            let name = table.physical_name(store.prefix());
            let result = database.import_items(&name, items, ImportOptions::default()).expect("the engine takes them");
            loaded.bytes += result.bytes_imported;
        }
    }
    loaded
}

/// An item as the engine keeps it; lists of numbers are its byte strings.
fn item_of(value: &impl Serialize) -> Item {
    let Ok(Value::Object(fields)) = serde_json::to_value(value) else { panic!("items are objects") };
    fields.into_iter().filter(|(_, value)| !value.is_null()).map(|(name, value)| (name, attribute(value))).collect()
}

fn attribute(value: Value) -> AttributeValue {
    match value {
        Value::String(text) => AttributeValue::S(text),
        Value::Number(number) => AttributeValue::N(number.to_string()),
        Value::Bool(value) => AttributeValue::BOOL(value),
        Value::Array(bytes) => AttributeValue::B(
            bytes.iter().filter_map(Value::as_u64).filter_map(|byte| u8::try_from(byte).ok()).collect(),
        ),
        Value::Object(fields) => {
            AttributeValue::M(fields.into_iter().map(|(name, value)| (name, attribute(value))).collect())
        }
        Value::Null => AttributeValue::NULL(true),
    }
}

/// What `key-epoch build` makes of this catalog.
fn own_epoch(titles: &Titles, products: usize) -> KeyEpochs {
    let mut rng = fastrand::Rng::with_seed(SEED);
    let numbers: Vec<usize> =
        if products <= SAMPLE { (0..products).collect() } else { (0..SAMPLE).map(|_| rng.usize(..products)).collect() };
    let text = |number: usize| ProductText::of(&upsert(titles, number, 1, "").product).text;
    let texts: Vec<String> = numbers.into_iter().map(text).collect();
    KeyEpochs::new(Arc::new(KeyEpoch::build(1, &texts, products)), None)
}

async fn measure(titles: &Titles, products: usize, epochs: &KeyEpochs) -> Result<(), Box<dyn std::error::Error>> {
    let database = Database::memory().map_err(|error| error.to_string())?;
    let engine = Embedded::of(database.clone())?;
    let store = tables(&engine, "flat-").await;
    let Loaded { bytes, sizes } = load(&database, &store, epochs, titles, products);
    println!("{products} products, key epoch {}: {} bytes each", epochs.active().number, bytes / products);
    print_keys(epochs, &sizes);

    let known = KnownEpochs::fixed(epochs.clone());
    let worker = Pipeline { epochs: known, ..pipeline(store.clone(), &TextModel::new("m")) };
    let mut rng = fastrand::Rng::with_seed(SEED);
    let before = store.meter().snapshot();
    let (mut scored, mut most_items, mut most_requests) = (0, 0, 0);
    let numbers: Vec<usize> = (0..EVENTS).map(|_| rng.usize(..products)).collect();
    for number in numbers.iter().copied() {
        let asked = store.meter().snapshot();
        // A word that many have: one that nobody has would be a key that all events share.
        let changed = format!(" {}", titles.commonest);
        let event = CatalogEvent::Upsert(upsert(titles, number, 2 + rng.u64(..1 << 40), &changed));
        scored += worker.process(&body(&event), 1).await?.tally.pairs_scored;
        let usage = store.meter().snapshot().since(&asked).total();
        most_items = most_items.max(usage.items_read);
        most_requests = most_requests.max(usage.requests());
    }
    let cost = store.meter().snapshot().since(&before);
    println!("  candidates {:.2} an event", scored as f64 / EVENTS as f64);
    println!("  of one event at most: {most_requests} requests, {most_items} items read");
    for (name, table) in &TABLES {
        print_usage(name, cost.table(table));
    }
    print_usage("all", cost.total());
    let (found, all) = offers_found(titles, products, (&worker, epochs), &numbers).await?;
    println!("  of {all} other offers of the same products, {found} ({:.3}) are candidates", found as f64 / all as f64);
    Ok(())
}

/// How many offers of the same products are among the candidates of these, of those that there are,
/// 20 for each at most. What is asked here is not counted as an event's cost.
async fn offers_found(
    titles: &Titles,
    products: usize,
    (worker, epochs): (&Pipeline, &KeyEpochs),
    numbers: &[usize],
) -> Result<(usize, usize), Box<dyn std::error::Error>> {
    let place = |number: usize| (number / titles.titles.len(), &titles.products[number % titles.titles.len()]);
    let mut offers: HashMap<_, Vec<usize>> = HashMap::new();
    for number in 0..products {
        offers.entry(place(number)).or_default().push(number);
    }
    let id_of = |number: usize| upsert(titles, number, 1, "").product_id;
    let (mut found, mut all) = (0, 0);
    for number in numbers {
        let state = worker.store.product(&id_of(*number)).await?.ok_or("an event's product has a state")?;
        let proposed = candidates(&worker.store, epochs.active(), &worker.limits, &state).await?;
        let proposed: HashSet<_> = proposed.into_iter().map(|candidate| candidate.id).collect();
        let others: Vec<usize> = offers[&place(*number)].iter().copied().filter(|other| other != number).collect();
        let most = others.len().min(worker.limits.candidates_max);
        all += most;
        found += others.into_iter().filter(|other| proposed.contains(&id_of(*other))).count().min(most);
    }
    Ok((found, all))
}

fn print_usage(name: &str, usage: Usage) {
    let each = |value: f64| value / EVENTS as f64;
    println!(
        "  {name:<9} requests {:6.2}  items read {:6.2}  RCU {:6.2}  WCU {:6.2} an event",
        each(usage.requests() as f64),
        each(usage.items_read as f64),
        each(usage.read_units),
        each(usage.write_units)
    );
}

/// How the postings spread over partition keys. An event writes and reads each of its keys
/// once, so a key's share of the postings is its share of the writes and of the reads.
fn print_keys(epochs: &KeyEpochs, sizes: &HashMap<String, usize>) {
    let mut sorted: Vec<usize> = sizes.values().copied().collect();
    sorted.sort_unstable();
    let postings: usize = sorted.iter().sum::<usize>().max(1);
    let at = |share: f64| sorted.get((sorted.len() as f64 * share) as usize).or(sorted.last()).copied().unwrap_or(0);
    println!("  postings: {postings} under {} keys", sorted.len());
    for (name, size) in [("median", at(0.5)), ("99th", at(0.99)), ("99.9th", at(0.999)), ("largest", at(1.0))] {
        println!("  postings under one key, {name}: {size} ({:.4}% of all)", 100.0 * size as f64 / postings as f64);
    }
    let hottest: usize = sorted.iter().rev().take(100).sum();
    println!("  the 100 largest keys hold {:.3}% of all", 100.0 * hottest as f64 / postings as f64);
    let writes_an_event = KEYS_MAX as f64 * at(1.0) as f64 / postings as f64;
    let rate = PARTITION_WRITE_UNITS / writes_an_event;
    println!("  events/s at which key epoch {}'s largest key fills a partition: {rate:.0}", epochs.active().number);
}
