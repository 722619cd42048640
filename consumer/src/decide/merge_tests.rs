use jiff::Timestamp;
use proptest::prelude::*;
use shared::{Stage, Verdict};

use super::*;

fn id(name: &str) -> ProductId {
    ProductId::new(name).expect("a valid id")
}

fn hash(text: &str) -> TextHash {
    TextHash::of(1, text)
}

fn owner(version: u64, text: &str) -> Owner {
    let (content_hash, text_hash) = (hash(&format!("content of {text}")), hash(text));
    Owner { id: id("own"), model: ModelId("m".to_owned()), version, content_hash, text_hash }
}

fn label(other: &str, version: u64, score: f32) -> PairLabel {
    PairLabel {
        other: id(other),
        other_hash: hash(&format!("{other} v{version}")),
        other_version: version,
        score,
        verdict: if score > 0.8 {
            Verdict::Duplicate
        } else if score > 0.5 {
            Verdict::Review
        } else {
            Verdict::Distinct
        },
        stage: Stage::CrossEncoder,
        labelled_at: Timestamp::UNIX_EPOCH,
    }
}

fn written(merged: Merged) -> LabelItem {
    match merged {
        Merged::Write(item) => item,
        other => panic!("expected a write, got {other:?}"),
    }
}

#[test]
fn own_labels_are_split_into_entries_and_distinct_keys() {
    let item = written(own(None, &owner(1, "a"), &[label("b", 1, 0.9), label("c", 1, 0.6), label("d", 1, 0.1)], &[]));
    assert_eq!(item.pairs.keys().map(ProductId::as_str).collect::<Vec<_>>(), ["b", "c"]);
    assert_eq!(item.distinct, [distinct_key(&id("d"), hash("d v1"), Stage::CrossEncoder)]);
    assert_eq!(item.revision, 1);
    assert_eq!(own(Some(&item), &owner(1, "a"), &[label("b", 1, 0.9)], &[id("c")]), Merged::Unchanged);
}

/// Whatever the order of the pairs, each keeps its stage, and the first scoring stands.
#[test]
fn a_distinct_pair_keeps_the_stage_that_settled_it() {
    let stages = [Stage::Cascade, Stage::CrossEncoder];
    let of = |n: usize| PairLabel { stage: stages[n % 2], ..label(&format!("d{n}"), 1, 0.1) };
    let labels: Vec<PairLabel> = (0..40).rev().map(of).collect();
    let item = written(own(None, &owner(1, "a"), &labels, &[]));
    assert!(item.distinct.is_sorted() && item.distinct.len() == labels.len());
    for known in &labels {
        assert_eq!(item.distinct_stage(&known.other, known.other_hash), Some(known.stage), "{}", known.other);
        assert_eq!(item.distinct_stage(&known.other, hash("another text")), None);
    }
    assert_eq!(item.distinct_stage(&id("unknown"), hash("d0 v1")), None);
    let otherwise: Vec<PairLabel> = (1..41).map(|n| PairLabel { stage: stages[n % 2], ..of(n - 1) }).collect();
    assert_eq!(own(Some(&item), &owner(1, "a"), &otherwise, &[]), Merged::Unchanged);
}

#[test]
fn a_new_text_starts_over_and_an_old_one_is_stale() {
    let item = written(own(None, &owner(2, "a"), &[label("b", 1, 0.9)], &[]));
    let next = written(own(Some(&item), &owner(3, "a2"), &[label("c", 1, 0.9)], &[]));
    assert_eq!(next.pairs.keys().map(ProductId::as_str).collect::<Vec<_>>(), ["c"]);
    assert_eq!(own(Some(&next), &owner(2, "a"), &[label("b", 1, 0.9)], &[]), Merged::Stale);
    assert_eq!(other_side(Some(&next), &owner(2, "a"), &label("b", 1, 0.9)), Merged::Stale);
}

#[test]
fn entries_of_the_other_side_survive_the_own_write() {
    let early = written(other_side(None, &owner(1, "a"), &label("z", 4, 0.9)));
    let item = written(own(Some(&early), &owner(1, "a"), &[label("b", 1, 0.9)], &[id("z")]));
    assert_eq!(item.pairs.len(), 2);
}

#[test]
fn an_entry_of_a_changed_partner_goes_unless_it_was_scored_again() {
    let item = written(own(None, &owner(1, "a"), &[label("b", 1, 0.9), label("c", 1, 0.9)], &[]));
    let next = written(own(Some(&item), &owner(1, "a"), &[label("c", 2, 0.95)], &[]));
    assert_eq!(next.pairs.keys().map(ProductId::as_str).collect::<Vec<_>>(), ["c"]);
    assert_eq!(next.pairs[&id("c")].other_version, 2);
}

#[test]
fn a_newer_version_of_the_other_product_wins_in_either_order() {
    let (old, new) = (label("b", 1, 0.9), label("b", 2, 0.6));
    let first = written(other_side(None, &owner(1, "a"), &old));
    let then = written(other_side(Some(&first), &owner(1, "a"), &new));
    let reverse = written(other_side(None, &owner(1, "a"), &new));
    assert_eq!(other_side(Some(&reverse), &owner(1, "a"), &old), Merged::Unchanged);
    assert_eq!(then.pairs, reverse.pairs);
}

#[test]
fn without_spares_newer_and_current_entries() {
    let item = written(own(None, &owner(1, "a"), &[label("b", 5, 0.9)], &[]));
    assert_eq!(without(Some(&item), &id("b"), 4, None), Merged::Unchanged);
    assert_eq!(without(Some(&item), &id("b"), 5, Some(hash("b v5"))), Merged::Unchanged);
    assert!(written(without(Some(&item), &id("b"), 5, Some(hash("b v6")))).pairs.is_empty());
    assert!(written(without(Some(&item), &id("b"), 6, None)).pairs.is_empty());
    assert_eq!(without(Some(&item), &id("x"), 9, None), Merged::Unchanged);
    assert_eq!(without(None, &id("x"), 9, None), Merged::Unchanged);
}

#[test]
fn a_tombstone_beats_older_labels_and_yields_to_a_newer_state() {
    let item = written(own(None, &owner(1, "a"), &[label("b", 1, 0.9)], &[]));
    let gone = written(tombstone(Some(&item), &owner(2, ""), 99));
    assert!(gone.deleted && gone.pairs.is_empty());
    assert_eq!(own(Some(&gone), &owner(1, "a"), &[label("b", 1, 0.9)], &[]), Merged::Stale);
    assert_eq!(tombstone(Some(&gone), &owner(2, ""), 120), Merged::Unchanged);
    let back = written(own(Some(&gone), &owner(3, "a"), &[label("b", 1, 0.9)], &[]));
    assert!(!back.deleted && back.expires_at.is_none() && back.revision == 3);
    assert_eq!(tombstone(Some(&back), &owner(2, ""), 99), Merged::Stale);
}

#[test]
fn an_item_keeps_its_strongest_entries_and_says_so() {
    let labels: Vec<PairLabel> = (0..200).map(|i| label(&format!("p{i:03}"), 1, 0.6 + i as f32 / 1000.0)).collect();
    let item = written(own(None, &owner(1, "a"), &labels, &[]));
    assert_eq!(item.pairs.len(), ENTRIES_MAX);
    assert!(item.overflow);
    assert!(item.pairs.contains_key(&id("p199")) && !item.pairs.contains_key(&id("p000")));
}

proptest! {
    /// Any order of the same other-side writes, repeated or not, ends in the same labels.
    #[test]
    fn the_order_of_writes_does_not_matter(
        writes in prop::collection::vec((0..4u8, 1..4u64), 1..12),
        order in any::<prop::sample::Index>(),
    ) {
        let apply_all = |writes: &[(u8, u64)]| {
            writes.iter().fold(None, |current: Option<LabelItem>, (other, version)| {
                let score = 0.6 + f32::from(other * 7 + *version as u8 * 13) % 40.0 / 100.0;
                match other_side(current.as_ref(), &owner(1, "a"), &label(&format!("p{other}"), *version, score)) {
                    Merged::Write(item) => Some(item),
                    _ => current,
                }
            })
        };
        let mut shuffled = writes.clone();
        shuffled.rotate_left(order.index(writes.len()));
        shuffled.reverse();
        let pairs = |item: Option<LabelItem>| item.map(|item| item.pairs);
        prop_assert_eq!(pairs(apply_all(&writes)), pairs(apply_all(&shuffled)));
    }
}
