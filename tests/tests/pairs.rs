//! Pairs that are asked for by name.

use consumer::flow::Outcome;
use consumer::store::Embedded;
use shared::Verdict;
use tests::deliveries::{body, tables};
use tests::events::score_pairs;
use tests::fleet::{TextModel, pipeline};
use tests::history::upsert;
use tests::items::id;

/// Scored once and labelled on both sides with one score, whichever verdict it has.
#[tokio::test]
async fn a_pair_in_both_orders_is_one_pair() {
    let engine = Embedded::memory().expect("memory needs nothing");
    let mut verdicts = std::collections::BTreeSet::new();
    for number in 0..8 {
        let store = tables(&engine, &format!("order{number}-")).await;
        let model = TextModel::new(&format!("model {number}"));
        let worker = pipeline(store.clone(), &model);
        // No key is common to both, so that blocking does not propose the pair.
        for (name, title) in [("A", "qx4471z 11"), ("B", "large lamp with shade 11")] {
            worker.process(&body(&upsert(name, 1, title, 1.0)), 1).await.expect("nothing is in its way");
        }
        assert_eq!(model.pairs_scored(), 0);
        let both = score_pairs(1, &[("A", "B"), ("B", "A"), ("A", "B")]).to_string();
        let done = worker.process(&both, 1).await.expect("both are known");
        assert_eq!((done.outcome, done.tally.pairs_scored, done.tally.pairs_skipped), (Outcome::Written, 1, 2));
        assert_eq!(model.pairs_scored(), 1);
        let again = worker.process(&score_pairs(2, &[("B", "A")]).to_string(), 1).await.expect("both are known");
        assert_eq!((again.outcome, model.pairs_scored()), (Outcome::Unchanged, 1));

        let (left, right) = (label(&store, &model, "A").await, label(&store, &model, "B").await);
        let (at_left, at_right) = (left.pairs.get(&id("B")), right.pairs.get(&id("A")));
        assert_eq!(at_left.map(|e| (e.score, e.verdict)), at_right.map(|e| (e.score, e.verdict)));
        let verdict = at_left.map_or(Verdict::Distinct, |entry| entry.verdict);
        assert_eq!(left.distinct.len() + right.distinct.len(), if verdict == Verdict::Distinct { 2 } else { 0 });
        verdicts.insert(verdict);
    }
    assert_eq!(verdicts.len(), 3, "the models give every verdict");
}

async fn label(store: &consumer::store::Store, model: &TextModel, name: &str) -> shared::item::LabelItem {
    store.label_item(&id(name), &model.id).await.expect("reads").expect("is labelled")
}
