//! What one event reads and writes as the catalog grows: `make bench-store`.
//!
//! Loads synthetic products made from real titles into the embedded engine, then lets a sample
//! of changes pass through the real pipeline and prints what DynamoDB would bill for each.

#![expect(clippy::print_stdout, reason = "a bench prints its figures")]

use std::collections::HashMap;
use std::fs::File;
use std::io::{BufRead, BufReader};

use consumer::decide::blocking::KeyEpochs;
use consumer::decide::state::{Advance, Change, advance};
use consumer::store::{Embedded, Store, Usage};
use flate2::read::GzDecoder;
use futures::{StreamExt, stream};
use shared::event::Upsert;
use shared::table::{LABELS, POSTINGS, PRODUCTS, Table};
use shared::{CatalogEvent, Product, ProductText};
use tests::deliveries::{body, tables};
use tests::fleet::{TextModel, pipeline};
use tests::items::id;

/// Events that are measured, and the seed of their choice.
const EVENTS: usize = 500;
const SEED: u64 = 20_261_124;
/// Products written at once while loading.
const LOADERS: usize = 16;
const TABLES: [(&str, Table); 3] = [("products", PRODUCTS), ("postings", POSTINGS), ("labels", LABELS)];

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [titles, sizes @ ..] = arguments.as_slice() else {
        return Err("usage: flat_cost TITLES.csv.gz PRODUCTS...; the second column of the file is a title".into());
    };
    let titles = read_titles(titles)?;
    println!("{} titles", titles.len());
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    for size in sizes {
        runtime.block_on(measure(&titles, size.parse()?))?;
    }
    Ok(())
}

fn read_titles(path: &str) -> Result<Vec<String>, Box<dyn std::error::Error>> {
    let mut titles = Vec::new();
    for line in BufReader::new(GzDecoder::new(File::open(path)?)).lines() {
        titles.extend(line?.split(',').nth(1).filter(|title| !title.is_empty()).map(str::to_owned));
    }
    if titles.is_empty() { Err(format!("{path}: no titles").into()) } else { Ok(titles) }
}

/// Title `number` of a catalog of any size: words keep their skew, and the codes of each round
/// through the real titles are of its own, as other models of a series have other numbers.
fn title(titles: &[String], number: usize) -> String {
    let round = number / titles.len();
    let digits = |word: &str| word.bytes().filter(u8::is_ascii_digit).count() >= 3;
    let word = |word: &str| if round > 0 && digits(word) { format!("{word}{round}") } else { word.to_owned() };
    titles[number % titles.len()].split_whitespace().map(word).collect::<Vec<_>>().join(" ")
}

fn upsert(titles: &[String], number: usize, version: u64, suffix: &str) -> Upsert {
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

/// As a worker leaves a product with no look-alikes; returns its keys.
async fn load(store: &Store, upsert: Upsert) -> Vec<String> {
    let text = ProductText::of(&upsert.product).text;
    let change = Change {
        id: upsert.product_id.clone(),
        version: upsert.version,
        occurred_at: upsert.occurred_at,
        product: Some(upsert.product),
    };
    let Advance::Write(state) = advance(None, &change, 0) else { return Vec::new() };
    store.put_state(&state, None).await.expect("the engine writes");
    let postings = KeyEpochs::shipped().postings(&change.id, &text);
    store.put_postings(&postings).await.expect("the engine writes");
    postings.into_iter().map(|posting| posting.key).collect()
}

async fn measure(titles: &[String], products: usize) -> Result<(), Box<dyn std::error::Error>> {
    let engine = Embedded::memory()?;
    let store = tables(&engine, "flat-").await;
    let mut sizes: HashMap<String, usize> = HashMap::new();
    let mut loaded =
        stream::iter(0..products).map(|number| load(&store, upsert(titles, number, 1, ""))).buffer_unordered(LOADERS);
    while let Some(keys) = loaded.next().await {
        for key in keys {
            *sizes.entry(key).or_default() += 1;
        }
    }
    drop(loaded);
    print_keys(products, &sizes);

    let worker = pipeline(store.clone(), &TextModel::new("m"));
    let mut rng = fastrand::Rng::with_seed(SEED);
    let before = store.meter().snapshot();
    let (mut candidates, mut largest) = (0, 0);
    for _ in 0..EVENTS {
        let number = rng.usize(..products);
        let asked = store.meter().snapshot();
        let event = CatalogEvent::Upsert(upsert(titles, number, 2 + rng.u64(..1 << 40), " renewed"));
        candidates += worker.process(&body(&event), 1).await?.tally.pairs_scored;
        largest = largest.max(store.meter().snapshot().since(&asked).total().items_read);
    }
    let cost = store.meter().snapshot().since(&before);
    println!("  candidates {:.2} an event; items read, most: {largest}", candidates as f64 / EVENTS as f64);
    for (name, table) in &TABLES {
        print_usage(name, cost.table(table));
    }
    print_usage("all", cost.total());
    Ok(())
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

/// How the postings spread over partition keys.
fn print_keys(products: usize, sizes: &HashMap<String, usize>) {
    let mut sorted: Vec<usize> = sizes.values().copied().collect();
    sorted.sort_unstable();
    let postings: usize = sorted.iter().sum();
    let at = |share: f64| sorted.get(((sorted.len() as f64 * share) as usize).min(sorted.len().saturating_sub(1)));
    println!("{products} products: {postings} postings under {} keys", sorted.len());
    for (name, size) in [("median", at(0.5)), ("99th", at(0.99)), ("99.9th", at(0.999)), ("largest", sorted.last())] {
        let size = size.copied().unwrap_or_default();
        println!(
            "  postings under one key, {name}: {size} ({:.4}% of all)",
            100.0 * size as f64 / postings.max(1) as f64
        );
    }
}
