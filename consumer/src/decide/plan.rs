//! What an upsert affects: which candidates to score, which are known, and which
//! partners lose their entry.

use shared::item::{LabelItem, PairEntry, ProductItem, distinct_key};
use shared::{PairLabel, ProductId, Stage, Verdict};

/// The work that one product's current state asks for.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Plan {
    /// Candidates whose pair with the product's text was never scored.
    pub to_score: Vec<ProductItem>,
    /// Pairs that the label item holds for both current texts, as they stand there.
    pub known: Vec<PairLabel>,
    /// [`distinct_key`]s of candidates whose pair is known to be distinct.
    pub known_distinct: Vec<u64>,
    /// Partners in the label item that are no candidates: found from their own side, or asked
    /// for by name. Their entries stay.
    pub carried: Vec<ProductId>,
    /// Partners whose other side may hold an entry about another text of this product,
    /// or that changed or left. Their entries go, unless scoring brings them back.
    pub dropped: Vec<ProductId>,
}

/// Plans the labels of `own`. `candidates` are the states that blocking proposes,
/// `item` the own label item as read after the own state was written, and `partners`
/// the states of all products that the item names. Without them entries are taken to be about
/// their partners' newest texts: whoever changes a partner takes them out along with its own.
pub fn plan(
    own: &ProductItem,
    candidates: Vec<ProductItem>,
    item: Option<&LabelItem>,
    partners: Option<&[ProductItem]>,
) -> Plan {
    let mut plan = Plan::default();
    let same_text = item.filter(|item| item.text_hash == own.text_hash && !item.deleted);
    let live: Vec<ProductItem> = candidates.into_iter().filter(|c| !c.deleted && c.id != own.id).collect();

    for (partner, entry) in item.iter().flat_map(|item| &item.pairs) {
        let is_theirs = |p: &ProductItem| p.id == *partner && !p.deleted && p.text_hash == entry.other_hash;
        let is_current = same_text.is_some() && partners.is_none_or(|partners| partners.iter().any(is_theirs));
        match (is_current, live.iter().any(|c| c.id == *partner)) {
            (true, false) => plan.carried.push(partner.clone()),
            (true, true) => {}
            (false, _) => plan.dropped.push(partner.clone()),
        }
    }
    for candidate in live {
        let entry = same_text.and_then(|item| item.pairs.get(&candidate.id));
        if let Some(entry) = entry.filter(|entry| entry.other_hash == candidate.text_hash) {
            plan.known.push(as_label(&candidate, entry));
        } else if let Some(key) = known_distinct(same_text, &candidate) {
            plan.known_distinct.push(key);
        } else {
            plan.to_score.push(candidate);
        }
    }
    plan
}

fn known_distinct(item: Option<&LabelItem>, candidate: &ProductItem) -> Option<u64> {
    let stage = item?.distinct_stage(&candidate.id, candidate.text_hash)?;
    Some(distinct_key(&candidate.id, candidate.text_hash, stage))
}

impl Plan {
    /// Takes over what candidates hold of the pair where the own item does not: `theirs` are
    /// the candidates' label items.
    pub fn adopt<'a>(&mut self, own: &ProductItem, theirs: impl Iterator<Item = &'a LabelItem> + Clone) {
        let (known, known_distinct) = (&mut self.known, &mut self.known_distinct);
        self.to_score.retain(|candidate| {
            let is_theirs = |item: &&LabelItem| item.id == candidate.id && item.text_hash == candidate.text_hash;
            let Some(item) = theirs.clone().filter(|item| !item.deleted).find(is_theirs) else { return true };
            if let Some(entry) = item.pairs.get(&own.id).filter(|entry| entry.other_hash == own.text_hash) {
                known.push(as_label(candidate, entry));
                return false;
            }
            if let Some(stage) = item.distinct_stage(&own.id, own.text_hash) {
                known_distinct.push(distinct_key(&candidate.id, candidate.text_hash, stage));
                return false;
            }
            true
        });
    }
}

/// What an entry says of this candidate, seen from the product that asked.
fn as_label(candidate: &ProductItem, entry: &PairEntry) -> PairLabel {
    PairLabel {
        other: candidate.id.clone(),
        other_hash: candidate.text_hash,
        other_version: candidate.version,
        score: entry.score,
        verdict: entry.verdict,
        stage: entry.stage,
        labelled_at: entry.labelled_at,
    }
}

/// The label of a scored candidate.
pub fn label(candidate: &ProductItem, score: f32, verdict: Verdict, stage: Stage, now: jiff::Timestamp) -> PairLabel {
    PairLabel {
        other: candidate.id.clone(),
        other_hash: candidate.text_hash,
        other_version: candidate.version,
        score,
        verdict,
        stage,
        labelled_at: now,
    }
}
