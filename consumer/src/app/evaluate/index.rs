//! The postings table in memory: the worker's own planner over two tables of products.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;

use shared::product::BadProductId;
use shared::{ProductId, ProductText};

use super::dataset::{self, DatasetError};
use crate::decide::blocking::{KeyEpoch, Limits, posting_keys, query_keys, rank, sketch};

/// What keeps the ids of two tables apart.
pub const LEFT: &str = "l:";
pub const RIGHT: &str = "r:";

/// Product texts by id.
pub type Texts = BTreeMap<ProductId, String>;

/// Two products in the order of their ids.
pub type Pair = (ProductId, ProductId);

#[derive(Debug, thiserror::Error)]
pub enum ProductsError {
    #[error(transparent)]
    Dataset(#[from] DatasetError),
    #[error("{}, product {id:?}", path.display())]
    Id { path: PathBuf, id: String, source: BadProductId },
}

pub fn ordered(a: ProductId, b: ProductId) -> Pair {
    if a <= b { (a, b) } else { (b, a) }
}

/// The id that a product of a table goes by; `path` names the file in an error.
pub fn of_table(path: &Path, table: &str, id: &str) -> Result<ProductId, ProductsError> {
    let bad = |source| ProductsError::Id { path: path.to_owned(), id: id.to_owned(), source };
    ProductId::new(format!("{table}{id}")).map_err(bad)
}

pub fn read_products(path: &Path, table: &str) -> Result<Texts, ProductsError> {
    let rows = dataset::read_table(path)?.into_iter();
    rows.map(|(id, product)| Ok((of_table(path, table, &id)?, ProductText::of(&product).text))).collect()
}

pub struct Planner {
    pub epoch: &'static Arc<KeyEpoch>,
    pub limits: Limits,
}

#[derive(Default)]
pub struct Index {
    /// By key, then by id, as DynamoDB sorts them.
    postings: HashMap<String, BTreeMap<ProductId, Rc<[u8]>>>,
    pub products: usize,
    pub keys_written: usize,
}

/// What a product finds, and what it reads for that.
pub struct LookUp {
    pub candidates: Vec<ProductId>,
    pub keys: usize,
    pub postings: usize,
}

impl Index {
    pub fn put(&mut self, planner: &Planner, id: &ProductId, text: &str) {
        let sketch: Rc<[u8]> = sketch(text, planner.epoch).into();
        self.products += 1;
        for key in posting_keys(text, planner.epoch) {
            self.keys_written += 1;
            self.postings.entry(key).or_default().insert(id.clone(), Rc::clone(&sketch));
        }
    }

    pub fn look_up(&self, planner: &Planner, id: &ProductId, text: &str) -> LookUp {
        let keys = query_keys(text, planner.epoch, &planner.limits);
        let limit = planner.limits.limit_per_key(keys.len());
        let found: Vec<(ProductId, &Rc<[u8]>)> = keys
            .iter()
            .filter_map(|key| self.postings.get(key))
            .flat_map(|postings| postings.iter().take(limit))
            .map(|(id, sketch)| (id.clone(), sketch))
            .collect();
        let postings = found.len();
        let candidates = rank(id, text, planner.epoch, found, &planner.limits);
        LookUp { candidates, keys: keys.len(), postings }
    }

    /// How many postings lie under each key.
    pub fn sizes(&self) -> impl Iterator<Item = (usize, &str)> {
        self.postings.iter().map(|(key, postings)| (postings.len(), key.as_str()))
    }
}
