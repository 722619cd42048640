//! The labels of one page, from the label items of its products. Pure.

use std::collections::HashSet;

use jiff::Timestamp;
use shared::{ModelId, ProductId, Stage, Verdict};

use crate::contest::said;
use crate::table::LabelItems;

/// What is known about the products of one results page.
#[derive(Clone, Debug, PartialEq)]
pub struct PageLabels {
    /// Whose labels these are.
    pub model: ModelId,
    /// The page's products in rank order, each once.
    pub products: Vec<ProductId>,
    /// Pairs on this page that are duplicates or under review, by the ranks of both.
    pub pairs: Vec<PagePair>,
    /// Products without labels: not labelled yet, or not answered within the deadline.
    pub missing: Vec<ProductId>,
    /// Those of `missing` of which nothing is known, since the table did not answer: ask
    /// again, or show them as they are.
    pub unanswered: Vec<ProductId>,
}

/// Two products of the page that look alike.
#[derive(Clone, Debug, PartialEq)]
pub struct PagePair {
    /// The one of better rank.
    pub first: ProductId,
    pub second: ProductId,
    /// Calibrated probability of `duplicate`, 0 to 1.
    pub score: f32,
    /// Duplicate or review.
    pub verdict: Verdict,
    /// Where a duplicate is for review since one of the two is more surely the same as this product, and the
    /// other is not.
    pub contested_by: Option<ProductId>,
    pub stage: Stage,
    /// When the pair was scored.
    pub labelled_at: Timestamp,
}

/// A product to show, and those to fold under it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group {
    pub kept: ProductId,
    /// In rank order; each is a direct duplicate of `kept`.
    pub collapsed: Vec<ProductId>,
}

impl PageLabels {
    /// `products` in rank order without repetition.
    pub(crate) fn of(model: ModelId, products: Vec<ProductId>, items: &LabelItems) -> Self {
        let item = |id: &ProductId| items.get(id).and_then(Option::as_deref);
        let mut pairs = Vec::new();
        for (rank, first) in products.iter().enumerate() {
            let Some(own) = item(first) else { continue };
            for second in &products[rank + 1..] {
                let Some(said) = item(second).and_then(|other| said(own, other)) else { continue };
                pairs.push(PagePair {
                    first: first.clone(),
                    second: second.clone(),
                    score: said.entry.score,
                    verdict: said.verdict(),
                    contested_by: said.contested_by.cloned(),
                    stage: said.entry.stage,
                    labelled_at: said.entry.labelled_at,
                });
            }
        }
        let missing = products.iter().filter(|id| item(id).is_none()).cloned().collect();
        let unanswered = products.iter().filter(|id| !items.contains_key(*id)).cloned().collect();
        Self { model, products, pairs, missing, unanswered }
    }

    /// Groups the page greedily by rank: a product collapses into the best-ranked *kept*
    /// product that is its direct duplicate. A like B and B like C does not make A like C,
    /// so with A kept and B folded under it, C stays.
    pub fn groups(&self) -> Vec<Group> {
        let duplicates: HashSet<(&ProductId, &ProductId)> = self
            .pairs
            .iter()
            .filter(|pair| pair.verdict == Verdict::Duplicate)
            .map(|pair| (&pair.first, &pair.second))
            .collect();
        let mut groups: Vec<Group> = Vec::new();
        for product in &self.products {
            match groups.iter_mut().find(|group| duplicates.contains(&(&group.kept, product))) {
                Some(group) => group.collapsed.push(product.clone()),
                None => groups.push(Group { kept: product.clone(), collapsed: Vec::new() }),
            }
        }
        groups
    }
}
