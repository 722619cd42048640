//! A small catalog of our own making, with its truth: what `demo` labels and is judged by.
//!
//! Brands, model codes and texts are invented; none of them stands in any training set.
//! `products.ndjson` holds one upsert event a line, as a queue would carry it;
//! `pairs.csv` says which pairs are duplicates and which only look like it, and why;
//! `queries.tsv` holds queries with their intent, in the layout that
//! `evaluate queries --file` reads.

pub mod outcome;

use std::collections::BTreeSet;

use jiff::Timestamp;
use serde::Deserialize;
use shared::event::{EventError, QueryEventKind, SCHEMA_VERSION, Upsert};
use shared::{CatalogEvent, Event, Intent, Product, ProductId, QueryEvent};

pub use outcome::{Outcome, Pair, judge};

const PRODUCTS: &str = include_str!("products.ndjson");
const PAIRS: &str = include_str!("pairs.csv");
const QUERIES: &str = include_str!("queries.tsv");

/// The sample catalog, its queries and its truth.
#[derive(Clone, Debug)]
pub struct Sample {
    pub upserts: Vec<Upsert>,
    /// Duplicates and near misses; every pair that is not named here is distinct.
    pub pairs: Vec<KnownPair>,
    pub queries: Vec<KnownQuery>,
}

/// A pair whose truth is known.
#[derive(Clone, Debug)]
pub struct KnownPair {
    pub pair: Pair,
    /// False for a near miss.
    pub duplicate: bool,
    /// How the two listings differ, for people.
    pub why: String,
}

/// A query whose intent is known.
#[derive(Clone, Debug, Deserialize)]
pub struct KnownQuery {
    pub text: String,
    #[serde(rename = "label")]
    pub intent: Intent,
    pub style: QueryStyle,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum QueryStyle {
    Keyword,
    Sentence,
}

/// The embedded files are broken: only possible in a build whose tests fail.
#[derive(Debug, thiserror::Error)]
pub enum SampleError {
    #[error("products.ndjson, line {line}: the event is refused")]
    Event {
        line: usize,
        #[source]
        source: EventError,
    },
    #[error("products.ndjson, line {line}: is not an upsert")]
    NotAnUpsert { line: usize },
    #[error("{file}: a row does not parse")]
    Row {
        file: &'static str,
        #[source]
        source: csv::Error,
    },
    #[error("pairs.csv: {id} is paired with itself")]
    SelfPair { id: ProductId },
}

#[derive(Deserialize)]
struct PairRow {
    left: ProductId,
    right: ProductId,
    label: u8,
    why: String,
}

impl Sample {
    /// Parses the embedded files; `now` is the clock that events are checked against.
    ///
    /// # Errors
    /// Names the file and line that does not parse.
    pub fn load(now: Timestamp) -> Result<Self, SampleError> {
        Ok(Self { upserts: upserts(now)?, pairs: pairs()?, queries: queries()? })
    }

    /// Every pair of products that are the same product, smaller id first.
    pub fn duplicates(&self) -> BTreeSet<Pair> {
        self.pairs.iter().filter(|known| known.duplicate).map(|known| known.pair.clone()).collect()
    }

    pub fn product(&self, id: &ProductId) -> Option<&Product> {
        self.upserts.iter().find(|upsert| upsert.product_id == *id).map(|upsert| &upsert.product)
    }

    /// One upsert event for each product, in the order of the file.
    pub fn catalog_events(&self) -> Vec<CatalogEvent> {
        self.upserts.iter().cloned().map(CatalogEvent::Upsert).collect()
    }

    /// One sighting of each query, seen at `occurred_at`.
    pub fn query_events(&self, occurred_at: Timestamp) -> Vec<QueryEvent> {
        let event = |known: &KnownQuery| QueryEvent {
            schema_version: SCHEMA_VERSION,
            kind: QueryEventKind::Query,
            query: known.text.clone(),
            version: 1,
            occurred_at,
        };
        self.queries.iter().map(event).collect()
    }
}

fn upserts(now: Timestamp) -> Result<Vec<Upsert>, SampleError> {
    let parse = |(index, body): (usize, &str)| {
        let line = index + 1;
        match Event::parse(body.as_bytes(), now) {
            Ok(Event::Catalog(CatalogEvent::Upsert(upsert))) => Ok(upsert),
            Ok(_) => Err(SampleError::NotAnUpsert { line }),
            Err(source) => Err(SampleError::Event { line, source }),
        }
    };
    PRODUCTS.lines().enumerate().map(parse).collect()
}

fn pairs() -> Result<Vec<KnownPair>, SampleError> {
    let mut rows = csv::Reader::from_reader(PAIRS.as_bytes());
    let known = |row: Result<PairRow, csv::Error>| {
        let PairRow { left, right, label, why } =
            row.map_err(|source| SampleError::Row { file: "pairs.csv", source })?;
        let pair = Pair::new(left, right).map_err(|id| SampleError::SelfPair { id })?;
        Ok(KnownPair { pair, duplicate: label == 1, why })
    };
    rows.deserialize().map(known).collect()
}

fn queries() -> Result<Vec<KnownQuery>, SampleError> {
    // No quoting: an apostrophe or a quote in a query is part of it.
    let mut rows = csv::ReaderBuilder::new().delimiter(b'\t').quoting(false).from_reader(QUERIES.as_bytes());
    rows.deserialize()
        .collect::<Result<_, csv::Error>>()
        .map_err(|source| SampleError::Row { file: "queries.tsv", source })
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, HashMap, HashSet};

    use shared::ProductText;
    use shared::text::normalise_query;

    use super::*;

    fn sample() -> Sample {
        Sample::load(Timestamp::now()).expect("the embedded sample parses")
    }

    #[test]
    fn the_sample_has_the_promised_size() {
        let sample = sample();
        let duplicates = sample.pairs.iter().filter(|known| known.duplicate).count();
        assert!((290..=310).contains(&sample.upserts.len()), "{} products", sample.upserts.len());
        assert!((55..=65).contains(&duplicates), "{duplicates} duplicates");
        assert!(
            (55..=65).contains(&(sample.pairs.len() - duplicates)),
            "{} near misses",
            sample.pairs.len() - duplicates
        );
        assert_eq!(sample.queries.len(), 60);
        let types: HashSet<&str> = sample.upserts.iter().map(|u| &u.product_id.as_str()[..3]).collect();
        assert!(types.len() >= 8, "{types:?}");
    }

    #[test]
    fn product_ids_and_texts_are_unique() {
        let sample = sample();
        let ids: HashSet<_> = sample.upserts.iter().map(|u| &u.product_id).collect();
        let texts: HashSet<_> = sample.upserts.iter().map(|u| ProductText::of(&u.product).hash).collect();
        assert_eq!(ids.len(), sample.upserts.len());
        assert_eq!(texts.len(), sample.upserts.len(), "two listings that read the same test nothing");
    }

    #[test]
    fn pairs_name_products_of_the_sample_once() {
        let sample = sample();
        let mut seen = HashSet::new();
        for known in &sample.pairs {
            for id in [known.pair.low(), known.pair.high()] {
                assert!(sample.product(id).is_some(), "{id} is no product");
            }
            assert!(seen.insert(&known.pair), "{:?} stands twice", known.pair);
            assert!(!known.why.trim().is_empty(), "{:?} does not say why", known.pair);
        }
        assert!(PAIRS.lines().skip(1).all(|row| row.contains(",0,") || row.contains(",1,")));
    }

    /// Being the same product is an equivalence: where A is B and B is C, A is C, and a
    /// near miss never lies within one group.
    #[test]
    fn duplicates_of_one_product_form_a_clique() {
        let sample = sample();
        let truth = sample.duplicates();
        let mut partners: BTreeMap<&ProductId, BTreeSet<&ProductId>> = BTreeMap::new();
        for pair in &truth {
            partners.entry(pair.low()).or_default().insert(pair.high());
            partners.entry(pair.high()).or_default().insert(pair.low());
        }
        for (id, others) in &partners {
            for a in others {
                for b in others.iter().filter(|b| *b != a) {
                    let pair = Pair::new((*a).clone(), (*b).clone()).expect("two ids of a set differ");
                    assert!(truth.contains(&pair), "{a} and {b} are both {id}, but {pair:?} is no duplicate");
                }
            }
        }
        for near in sample.pairs.iter().filter(|known| !known.duplicate) {
            assert!(!truth.contains(&near.pair));
        }
        assert!(partners.values().any(|others| others.len() > 1), "some product is listed three times");
    }

    #[test]
    fn queries_cover_every_intent_in_both_styles_and_are_unique() {
        let sample = sample();
        let mut styles: HashMap<Intent, HashSet<bool>> = HashMap::new();
        let mut counts: HashMap<Intent, usize> = HashMap::new();
        let mut texts = HashSet::new();
        for known in &sample.queries {
            styles.entry(known.intent).or_default().insert(known.style == QueryStyle::Keyword);
            *counts.entry(known.intent).or_default() += 1;
            assert!(texts.insert(normalise_query(&known.text)), "{:?} stands twice", known.text);
        }
        for intent in Intent::ALL {
            assert!(counts.get(&intent).is_some_and(|n| *n >= 10), "{intent:?}: {counts:?}");
            assert_eq!(styles.get(&intent).map(HashSet::len), Some(2), "{intent:?} has one style only");
        }
    }

    #[test]
    fn query_events_are_accepted_by_the_parser() {
        let now = Timestamp::now();
        for event in sample().query_events(now) {
            let body = serde_json::to_vec(&event).expect("events serialise");
            assert_eq!(Event::parse(&body, now), Ok(Event::Query(event)));
        }
    }
}
