//! What two label items say of their pair. Pure.
//!
//! A label is of two texts alone. Two products that are told apart cannot both be the same as a third: where
//! labels say so, the surer of them holds, and the other one is for a person to decide (docs/adr/0038).

use std::collections::BTreeMap;

use shared::item::{LabelItem, PairEntry};
use shared::{ProductId, Verdict};

/// From this probability on two products are more likely the same than not. Not the manifest's threshold, which may be
/// lower: what is for a person to decide takes away from no other label that it contradicts it.
pub const RATHER_SAME: f32 = 0.5;

/// A product of so many look-alikes is not told apart from a third by having no label of it. Look-ups read 12 postings of
/// a key: of a larger group of listings some are never compared, and would contest each other's labels.
pub const CROWDED_FROM: usize = 10;

/// A pair as a reader is to take it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Said<'a> {
    /// The label, whose verdict is of the two texts alone.
    pub entry: &'a PairEntry,
    /// The product that contests it; none where the label is no duplicate.
    pub contested_by: Option<&'a ProductId>,
}

impl Said<'_> {
    /// Review where the label is contested, else the label's own.
    pub fn verdict(&self) -> Verdict {
        if self.contested_by.is_some() { Verdict::Review } else { self.entry.verdict }
    }
}

/// What either side says of the pair now; the later word where both do. One side is enough: the other may have
/// dropped the entry to stay small. None where the labels are about other texts, or one of the two is gone.
pub fn said<'a>(a: &'a LabelItem, b: &'a LabelItem) -> Option<Said<'a>> {
    let entries = [current_entry(a, b), current_entry(b, a)];
    let entry = entries.into_iter().flatten().max_by_key(|entry| entry.labelled_at)?;
    let is_duplicate = entry.verdict == Verdict::Duplicate;
    let contested_by = is_duplicate.then(|| rival((&a.id, &a.pairs), (&b.id, &b.pairs), entry.score)).flatten();
    Some(Said { entry, contested_by })
}

/// `own`'s entry about `other`, unless it is about another text of `other`, or one of the two is gone.
fn current_entry<'a>(own: &'a LabelItem, other: &LabelItem) -> Option<&'a PairEntry> {
    if own.deleted || other.deleted {
        return None;
    }
    own.pairs
        .get(&other.id)
        .filter(|entry| entry.other_hash == other.text_hash)
        .filter(|entry| entry.verdict != Verdict::Distinct)
}

/// A product and the labels of its look-alikes.
type Side<'a> = (&'a ProductId, &'a BTreeMap<ProductId, PairEntry>);

/// The product that one of two duplicates of this `score` is more surely the same as, and the other rather is not
/// ([`RATHER_SAME`]): the surest. Nothing but the two products' own labels is asked, so that reading a page takes no
/// more than its items.
pub fn rival<'a>(a: Side<'a>, b: Side<'a>, score: f32) -> Option<&'a ProductId> {
    let surer = |(_, own): Side<'a>, (other, of_other): Side<'a>| {
        own.iter().filter(move |(third, entry)| {
            let may_be_both = match of_other.get(*third) {
                Some(entry) => entry.score >= RATHER_SAME,
                None => of_other.len() >= CROWDED_FROM,
            };
            *third != other && entry.score > score && !may_be_both
        })
    };
    let rivals = surer(a, b).chain(surer(b, a));
    rivals.max_by(|x, y| x.1.score.total_cmp(&y.1.score).then_with(|| y.0.cmp(x.0))).map(|(third, _)| third)
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;
    use proptest::prelude::*;
    use shared::{ModelId, Stage, TextHash};

    use super::*;

    /// From here on a label is a duplicate; less than [`RATHER_SAME`].
    const DUPLICATE: f32 = 0.3;

    fn id(name: &str) -> ProductId {
        ProductId::new(name).expect("a valid id")
    }

    /// `name` with the labels "other score".
    fn item(name: &str, labels: &[(&str, f32)]) -> LabelItem {
        let hash = |name: &str| TextHash::of(1, name);
        let pairs = labels.iter().map(|(other, score)| {
            let verdict = if *score >= DUPLICATE { Verdict::Duplicate } else { Verdict::Review };
            let (stage, labelled_at) = (Stage::CrossEncoder, Timestamp::UNIX_EPOCH);
            let entry =
                PairEntry { other_hash: hash(other), other_version: 1, score: *score, verdict, stage, labelled_at };
            (id(other), entry)
        });
        LabelItem {
            id: id(name),
            model: ModelId("m".to_owned()),
            text_hash: hash(name),
            version: 1,
            content_hash: hash(name),
            pairs: pairs.collect(),
            distinct: vec![],
            overflow: false,
            deleted: false,
            expires_at: None,
            revision: 1,
        }
    }

    fn verdict_and_rival(a: &LabelItem, b: &LabelItem) -> Option<(Verdict, Option<String>)> {
        let said = said(a, b)?;
        assert_eq!(said.verdict(), super::said(b, a).expect("either way").verdict());
        Some((said.verdict(), said.contested_by.map(ToString::to_string)))
    }

    #[test]
    fn the_surer_of_two_labels_that_exclude_each_other_holds() {
        let (black, white) = (("black", 0.9), ("white", 0.6));
        let shop = item("shop", &[black, white]);
        let of_black = item("black", &[("shop", 0.9)]);
        let of_white = item("white", &[("shop", 0.6)]);
        assert_eq!(verdict_and_rival(&shop, &of_black), Some((Verdict::Duplicate, None)));
        assert_eq!(verdict_and_rival(&shop, &of_white), Some((Verdict::Review, Some("black".to_owned()))));
        // That black and white may be the same does not make them one.
        let of_white = item("white", &[("shop", 0.6), ("black", 0.4)]);
        assert_eq!(verdict_and_rival(&shop, &of_white), Some((Verdict::Review, Some("black".to_owned()))));
    }

    #[test]
    fn listings_of_one_product_do_not_contest_each_other() {
        let one = item("one", &[("two", 0.9), ("three", 0.6)]);
        let two = item("two", &[("one", 0.9), ("three", 0.7)]);
        let three = item("three", &[("one", 0.6), ("two", 0.7)]);
        for (a, b) in [(&one, &two), (&two, &three), (&one, &three)] {
            assert_eq!(verdict_and_rival(a, b), Some((Verdict::Duplicate, None)));
        }
    }

    #[test]
    fn of_many_listings_some_were_never_compared_and_silence_says_nothing() {
        let names: Vec<String> = (0..CROWDED_FROM - 1).map(|n| format!("listing-{n}")).collect();
        let others: Vec<(&str, f32)> = names.iter().map(|name| (name.as_str(), 0.55)).collect();
        let one = item("one", &[("two", 0.6), ("three", 0.9)]);
        let two = item("two", &[&others[..], &[("one", 0.6)]].concat());
        assert_eq!(verdict_and_rival(&one, &two), Some((Verdict::Duplicate, None)));
        // That it rather is not "three" is said, not left out.
        let two = item("two", &[&others[..], &[("one", 0.6), ("three", 0.2)]].concat());
        assert_eq!(verdict_and_rival(&one, &two), Some((Verdict::Review, Some("three".to_owned()))));
        let two = item("two", &[&others[1..], &[("one", 0.6)]].concat());
        assert_eq!(verdict_and_rival(&one, &two), Some((Verdict::Review, Some("three".to_owned()))));
    }

    #[test]
    fn as_sure_is_not_surer_and_a_review_label_is_not_contested() {
        let a = item("a", &[("b", 0.6), ("c", 0.6), ("d", 0.2)]);
        assert_eq!(verdict_and_rival(&a, &item("b", &[("a", 0.6)])), Some((Verdict::Duplicate, None)));
        assert_eq!(verdict_and_rival(&a, &item("d", &[("a", 0.2)])), Some((Verdict::Review, None)));
    }

    #[test]
    fn what_is_about_another_text_or_gone_says_nothing() {
        let (a, b) = (item("a", &[("b", 0.9)]), item("b", &[("a", 0.9)]));
        let changed = LabelItem { text_hash: TextHash::of(1, "another"), ..item("b", &[]) };
        assert_eq!(verdict_and_rival(&a, &changed), None);
        assert_eq!(verdict_and_rival(&a, &LabelItem { deleted: true, ..b.clone() }), None);
        assert_eq!(verdict_and_rival(&a, &item("b", &[])), Some((Verdict::Duplicate, None)), "one side is enough");
    }

    proptest! {
        /// Whatever the scores: what readers take for duplicates of one product are rather the same themselves, unless
        /// both are equally sure.
        #[test]
        fn duplicates_of_one_product_are_rather_the_same(scores in proptest::collection::vec(0u8..100, 15)) {
            const NAMES: [&str; 6] = ["a", "b", "c", "d", "e", "f"];
            let place = |i: usize, j: usize| i.max(j) * (i.max(j) - 1) / 2 + i.min(j);
            let score = |i: usize, j: usize| f32::from(scores[place(i, j)]) / 100.0;
            let items: Vec<LabelItem> = (0..NAMES.len()).map(|i| {
                let others = (0..NAMES.len()).filter(|j| *j != i && score(i, *j) >= 0.05);
                item(NAMES[i], &others.map(|j| (NAMES[j], score(i, j))).collect::<Vec<_>>())
            }).collect();
            let is_duplicate = |i: usize, j: usize| {
                said(&items[i], &items[j]).is_some_and(|said| said.verdict() == Verdict::Duplicate)
            };
            for (i, name) in NAMES.iter().enumerate() {
                for (j, k) in (0..NAMES.len()).flat_map(|j| (0..j).map(move |k| (j, k))).filter(|(j, k)| *j != i && *k != i) {
                    if is_duplicate(i, j) && is_duplicate(i, k) && score(i, j) != score(i, k) {
                        prop_assert!(score(j, k) >= RATHER_SAME, "{name} is {} and {}", NAMES[j], NAMES[k]);
                    }
                }
            }
        }
    }
}
