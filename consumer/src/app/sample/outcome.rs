//! How good a set of found duplicates is, by the truth. Pure.

use std::collections::BTreeSet;

use shared::ProductId;

/// Two different products, in either order one and the same value.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Pair {
    low: ProductId,
    high: ProductId,
}

impl Pair {
    /// # Errors
    /// Gives the id back when both are the same.
    pub fn new(a: ProductId, b: ProductId) -> Result<Self, ProductId> {
        match a.cmp(&b) {
            std::cmp::Ordering::Less => Ok(Self { low: a, high: b }),
            std::cmp::Ordering::Greater => Ok(Self { low: b, high: a }),
            std::cmp::Ordering::Equal => Err(a),
        }
    }

    pub fn low(&self) -> &ProductId {
        &self.low
    }

    pub fn high(&self) -> &ProductId {
        &self.high
    }
}

/// Found duplicates against the truth, over all pairs of products.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// Found, and true.
    pub correct: BTreeSet<Pair>,
    /// Found, but not in the truth.
    pub wrong: BTreeSet<Pair>,
    /// In the truth, but not found.
    pub missed: BTreeSet<Pair>,
}

/// Compares found pairs with true ones; every pair outside `truth` is distinct.
pub fn judge(found: &BTreeSet<Pair>, truth: &BTreeSet<Pair>) -> Outcome {
    Outcome {
        correct: found.intersection(truth).cloned().collect(),
        wrong: found.difference(truth).cloned().collect(),
        missed: truth.difference(found).cloned().collect(),
    }
}

impl Outcome {
    /// Share of the found pairs that are true, 0 to 1; 0 where nothing was found.
    pub fn precision(&self) -> f64 {
        share(self.correct.len(), self.wrong.len())
    }

    /// Share of the true pairs that were found, 0 to 1; 0 where there are none.
    pub fn recall(&self) -> f64 {
        share(self.correct.len(), self.missed.len())
    }

    /// Harmonic mean of precision and recall, 0 to 1; 0 where no found pair is true.
    pub fn f1(&self) -> f64 {
        share(2 * self.correct.len(), self.wrong.len() + self.missed.len())
    }
}

fn share(part: usize, rest: usize) -> f64 {
    if part == 0 { 0.0 } else { part as f64 / (part + rest) as f64 }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pairs(pairs: &[(&str, &str)]) -> BTreeSet<Pair> {
        let id = |id: &str| ProductId::new(id).expect("a valid id");
        pairs.iter().map(|(a, b)| Pair::new(id(a), id(b)).expect("two products")).collect()
    }

    #[test]
    fn a_pair_has_no_order_and_no_self() {
        assert_eq!(pairs(&[("a", "b")]), pairs(&[("b", "a")]));
        assert_eq!(pairs(&[("a", "A")]).len(), 1, "ids that differ by case name two products");
        let id = ProductId::new("a").expect("a valid id");
        assert_eq!(Pair::new(id.clone(), id.clone()), Err(id));
    }

    #[test]
    fn counts_by_hand() {
        let truth = pairs(&[("a", "b"), ("c", "d"), ("e", "f"), ("g", "h")]);
        let outcome = judge(&pairs(&[("b", "a"), ("c", "d"), ("a", "c")]), &truth);
        assert_eq!(outcome.correct, pairs(&[("a", "b"), ("c", "d")]));
        assert_eq!(outcome.wrong, pairs(&[("a", "c")]));
        assert_eq!(outcome.missed, pairs(&[("e", "f"), ("g", "h")]));
        assert!((outcome.precision() - 2.0 / 3.0).abs() < 1e-12);
        assert!((outcome.recall() - 0.5).abs() < 1e-12);
        // 2PR / (P + R) = 2 * (2/3) * (1/2) / (7/6) = 4/7.
        assert!((outcome.f1() - 4.0 / 7.0).abs() < 1e-12);
    }

    #[test]
    fn extremes() {
        let truth = pairs(&[("a", "b")]);
        let none = BTreeSet::new();
        assert_eq!(judge(&truth, &truth).f1(), 1.0);
        let silent = judge(&none, &truth);
        assert_eq!((silent.precision(), silent.recall(), silent.f1()), (0.0, 0.0, 0.0));
        let all_wrong = judge(&pairs(&[("a", "c")]), &truth);
        assert_eq!((all_wrong.precision(), all_wrong.recall(), all_wrong.f1()), (0.0, 0.0, 0.0));
        assert_eq!(judge(&none, &none).f1(), 0.0, "nothing to find proves nothing");
    }
}
