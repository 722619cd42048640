//! Both tables of a set, in which a pair is judged as readers of its labels would take it.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::Path;

use jiff::Timestamp;
use models::{PairScore, ScoreError, Scorer, TextPair};
use shared::item::PairEntry;
use shared::{ProductId, TEXT_VERSION, TextHash, Verdict};

use super::dataset::{IdPair, read_id_pairs};
use super::index::{Index, LEFT, Pair, Planner, ProductsError, RIGHT, Texts, of_table, ordered, read_products};
use super::pairs::{score, text_pair};
use crate::decide::blocking::{KeyEpoch, Limits};

/// Two tables as the sets have them: each is one source's, and known duplicates are of one product of each. So a
/// product's look-alikes are those of the other table. In a catalog where both lie together there are more of them,
/// which `evaluate stored` judges.
pub struct Catalog {
    texts: Texts,
    /// Of each product, those that it or they would propose.
    look_alikes: HashMap<ProductId, BTreeSet<ProductId>>,
    /// The labelled ones, in the order of their file.
    pairs: Vec<Pair>,
}

/// Of each product, duplicate and review labels by the other one.
type Labels = HashMap<ProductId, BTreeMap<ProductId, PairEntry>>;

impl Catalog {
    pub fn read(left: &Path, right: &Path, pairs: &Path) -> Result<Self, ProductsError> {
        let rows = read_id_pairs([left, right], pairs)?.into_iter();
        let of_row = |row: IdPair| Ok((of_table(left, LEFT, &row.left)?, of_table(right, RIGHT, &row.right)?));
        let pairs = rows.map(of_row).collect::<Result<_, ProductsError>>()?;
        Ok(Self::of(read_products(left, LEFT)?, read_products(right, RIGHT)?, pairs))
    }

    fn of(left: Texts, right: Texts, pairs: Vec<Pair>) -> Self {
        let planner = Planner { epoch: KeyEpoch::shipped(), limits: Limits::default() };
        let mut look_alikes: HashMap<ProductId, BTreeSet<ProductId>> = HashMap::new();
        for (own, others) in [(&left, &right), (&right, &left)] {
            let mut index = Index::default();
            others.iter().for_each(|(id, text)| index.put(&planner, id, text));
            for (id, text) in own {
                for other in index.look_up(&planner, id, text).candidates {
                    look_alikes.entry(other.clone()).or_default().insert(id.clone());
                    look_alikes.entry(id.clone()).or_default().insert(other);
                }
            }
        }
        Self { texts: left.into_iter().chain(right).collect(), look_alikes, pairs }
    }

    /// For each labelled pair that `scores` do not call distinct, how sure the label is that contests it, if one does.
    pub async fn rivals(&self, scorer: &Scorer, scores: &[PairScore]) -> Result<Vec<Option<f32>>, ScoreError> {
        let open = || self.pairs.iter().zip(scores).filter(|(_, score)| score.verdict != Verdict::Distinct);
        let mut labels = Labels::new();
        let asked = open().flat_map(|((a, b), _)| [a, b]).flat_map(|id| self.proposed_for(id)).collect();
        self.label(scorer, asked, &mut labels).await?;
        let asked = open().flat_map(|((a, b), score)| rivals(&labels, a, b, score.probability)).collect();
        self.label(scorer, asked, &mut labels).await?;
        let none = BTreeMap::new();
        let surest = |((a, b), score): (&Pair, &PairScore)| {
            let [of_a, of_b] = [a, b].map(|id| labels.get(id).unwrap_or(&none));
            let rival = reader::rival((a, of_a), (b, of_b), score.probability)?;
            let scores = [of_a, of_b].into_iter().filter_map(|own| own.get(rival)).map(|entry| entry.score);
            scores.max_by(f32::total_cmp)
        };
        let is_open = |score: &PairScore| score.verdict != Verdict::Distinct;
        Ok(self.pairs.iter().zip(scores).map(|pair| is_open(pair.1).then(|| surest(pair)).flatten()).collect())
    }

    fn proposed_for<'c>(&'c self, id: &'c ProductId) -> impl Iterator<Item = Pair> + 'c {
        self.look_alikes.get(id).into_iter().flatten().map(|other| ordered(id.clone(), other.clone()))
    }

    /// Adds what the products' label items would hold of these pairs, on both sides.
    async fn label(&self, scorer: &Scorer, pairs: BTreeSet<Pair>, labels: &mut Labels) -> Result<(), ScoreError> {
        let texts: Vec<TextPair> = pairs.iter().map(|(a, b)| text_pair(self.text(a), self.text(b))).collect();
        let scores = score(scorer, texts).await?;
        for ((a, b), score) in pairs.iter().zip(scores).filter(|(_, score)| score.verdict != Verdict::Distinct) {
            for (own, other) in [(a, b), (b, a)] {
                let entry = PairEntry {
                    other_hash: TextHash::of(TEXT_VERSION, self.text(other)),
                    other_version: 1,
                    score: score.probability,
                    verdict: score.verdict,
                    stage: score.stage,
                    labelled_at: Timestamp::UNIX_EPOCH,
                };
                labels.entry(own.clone()).or_default().insert(other.clone(), entry);
            }
        }
        Ok(())
    }

    fn text(&self, id: &ProductId) -> &str {
        self.texts.get(id).map(String::as_str).unwrap_or_default()
    }
}

/// The pairs that say whether what one of both is more surely the same as is the other as well.
fn rivals(labels: &Labels, a: &ProductId, b: &ProductId, score: f32) -> Vec<Pair> {
    let surer = |own: &ProductId, other: &ProductId| {
        let found = labels.get(own).into_iter().flatten();
        let found = found.filter(|(third, entry)| *third != other && entry.score > score);
        found.map(|(third, _)| ordered(third.clone(), other.clone())).collect::<Vec<_>>()
    };
    [surer(a, b), surer(b, a)].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(name: &str) -> ProductId {
        ProductId::new(name).expect("a valid id")
    }

    #[test]
    fn look_alikes_are_of_the_other_table_and_known_on_both_sides() {
        let texts = |table: &str, titles: [&str; 2]| -> Texts {
            titles.iter().enumerate().map(|(n, title)| (id(&format!("{table}{n}")), (*title).to_owned())).collect()
        };
        let left = texts(LEFT, ["fenwick kettle fk2714ss", "fenwick kettle fk2714ss in red"]);
        let catalog = Catalog::of(left, texts(RIGHT, ["kettle by fenwick fk-2714ss", "orbisk lamp"]), vec![]);
        let pairs: Vec<Pair> = catalog.proposed_for(&id("r:0")).collect();
        assert_eq!(pairs, [(id("l:0"), id("r:0")), (id("l:1"), id("r:0"))]);
        assert_eq!(catalog.proposed_for(&id("l:0")).collect::<Vec<_>>(), [(id("l:0"), id("r:0"))]);
        assert_eq!(catalog.proposed_for(&id("r:1")).count(), 0);
    }

    #[test]
    fn only_what_is_surer_is_asked_about() {
        let entry = |score| PairEntry {
            other_hash: TextHash::of(TEXT_VERSION, ""),
            other_version: 1,
            score,
            verdict: Verdict::Review,
            stage: shared::Stage::CrossEncoder,
            labelled_at: Timestamp::UNIX_EPOCH,
        };
        let of_a = [("r:0", 0.6), ("r:1", 0.7), ("r:2", 0.5)].map(|(other, score)| (id(other), entry(score)));
        let labels = Labels::from([(id("l:0"), BTreeMap::from(of_a))]);
        assert_eq!(rivals(&labels, &id("l:0"), &id("r:0"), 0.6), [(id("r:0"), id("r:1"))]);
    }
}
