//! One exported label, flat. Names and types are a promise.

use std::collections::HashMap;

use jiff::Timestamp;
use serde::Serialize;
use shared::item::{IntentItem, LabelItem};
use shared::{Intent, ModelId, ProductId, Stage, TextHash, Verdict};

/// A row of an export: JSON by its serialisation, Parquet by its columns.
pub trait Row: Serialize + 'static {
    /// All of the same names and in the order of the JSON fields.
    const COLUMNS: &'static [Column<Self>];
}

/// A column that every row has a value in.
pub struct Column<R: ?Sized> {
    pub name: &'static str,
    pub value: Value<R>,
}

pub enum Value<R: ?Sized> {
    Text(fn(&R) -> String),
    Number(fn(&R) -> u64),
    Share(fn(&R) -> f32),
    Time(fn(&R) -> Timestamp),
}

/// Two products that look alike.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct PairRow {
    pub model: ModelId,
    /// The smaller of the two ids, byte for byte.
    pub first: ProductId,
    pub second: ProductId,
    /// Calibrated probability of `duplicate`, 0 to 1.
    pub score: f32,
    /// Duplicate or review.
    pub verdict: Verdict,
    /// Empty but where a duplicate is for review since one of the two is more surely the same as this product, and
    /// the other is not.
    #[serde(serialize_with = "or_empty")]
    pub contested_by: Option<ProductId>,
    pub stage: Stage,
    pub first_text_hash: TextHash,
    pub second_text_hash: TextHash,
    pub first_version: u64,
    pub second_version: u64,
    pub labelled_at: Timestamp,
}

/// What a query looks for.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct IntentRow {
    pub model: ModelId,
    /// Normalised.
    pub query: String,
    pub intent: Intent,
    pub score_product: f32,
    pub score_media: f32,
    pub score_help: f32,
    pub score_other: f32,
    pub stage: Stage,
    pub version: u64,
    pub labelled_at: Timestamp,
    pub expires_at: Timestamp,
}

impl Row for PairRow {
    const COLUMNS: &'static [Column<Self>] = &[
        Column { name: "model", value: Value::Text(|row| row.model.to_string()) },
        Column { name: "first", value: Value::Text(|row| row.first.to_string()) },
        Column { name: "second", value: Value::Text(|row| row.second.to_string()) },
        Column { name: "score", value: Value::Share(|row| row.score) },
        Column { name: "verdict", value: Value::Text(|row| row.verdict.as_str().to_owned()) },
        Column { name: "contested_by", value: Value::Text(|row| text_or_empty(row.contested_by.as_ref())) },
        Column { name: "stage", value: Value::Text(|row| row.stage.as_str().to_owned()) },
        Column { name: "first_text_hash", value: Value::Text(|row| row.first_text_hash.to_hex()) },
        Column { name: "second_text_hash", value: Value::Text(|row| row.second_text_hash.to_hex()) },
        Column { name: "first_version", value: Value::Number(|row| row.first_version) },
        Column { name: "second_version", value: Value::Number(|row| row.second_version) },
        Column { name: "labelled_at", value: Value::Time(|row| row.labelled_at) },
    ];
}

impl Row for IntentRow {
    const COLUMNS: &'static [Column<Self>] = &[
        Column { name: "model", value: Value::Text(|row| row.model.to_string()) },
        Column { name: "query", value: Value::Text(|row| row.query.clone()) },
        Column { name: "intent", value: Value::Text(|row| row.intent.as_str().to_owned()) },
        Column { name: "score_product", value: Value::Share(|row| row.score_product) },
        Column { name: "score_media", value: Value::Share(|row| row.score_media) },
        Column { name: "score_help", value: Value::Share(|row| row.score_help) },
        Column { name: "score_other", value: Value::Share(|row| row.score_other) },
        Column { name: "stage", value: Value::Text(|row| row.stage.as_str().to_owned()) },
        Column { name: "version", value: Value::Number(|row| row.version) },
        Column { name: "labelled_at", value: Value::Time(|row| row.labelled_at) },
        Column { name: "expires_at", value: Value::Time(|row| row.expires_at) },
    ];
}

fn text_or_empty(id: Option<&ProductId>) -> String {
    id.map(ToString::to_string).unwrap_or_default()
}

/// As the Parquet column has it, in which every row has a value.
fn or_empty<S: serde::Serializer>(id: &Option<ProductId>, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&text_or_empty(id.as_ref()))
}

impl From<IntentItem> for IntentRow {
    fn from(item: IntentItem) -> Self {
        let [score_product, score_media, score_help, score_other] = item.scores;
        let expires_at = Timestamp::from_second(item.expires_at).unwrap_or(Timestamp::MAX);
        let IntentItem { query, model, intent, stage, version, labelled_at, .. } = item;
        Self {
            model,
            query,
            intent,
            score_product,
            score_media,
            score_help,
            score_other,
            stage,
            version,
            labelled_at,
            expires_at,
        }
    }
}

/// The live pairs that `items` are to export; `others` are the items of all products that
/// they name. The side with the smaller id exports a pair; the other side does where that
/// one has no entry about it, having dropped it to stay small.
pub fn pairs_of(items: &[LabelItem], others: &[LabelItem]) -> Vec<PairRow> {
    let others: HashMap<&ProductId, &LabelItem> = others.iter().map(|item| (&item.id, item)).collect();
    let mut rows = Vec::new();
    for item in items {
        for other in item.pairs.keys().filter_map(|id| others.get(id)) {
            let (first, second) = if item.id < other.id { (item, *other) } else { (*other, item) };
            let exports = if first.pairs.contains_key(&second.id) { first } else { second };
            let Some(said) = reader::said(first, second).filter(|_| exports.id == item.id) else { continue };
            rows.push(PairRow {
                model: item.model.clone(),
                first: first.id.clone(),
                second: second.id.clone(),
                score: said.entry.score,
                verdict: said.verdict(),
                contested_by: said.contested_by.cloned(),
                stage: said.entry.stage,
                first_text_hash: first.text_hash,
                second_text_hash: second.text_hash,
                first_version: first.version,
                second_version: second.version,
                labelled_at: said.entry.labelled_at,
            });
        }
    }
    rows
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names<R: Row>(row: &R) -> (Vec<String>, Vec<&'static str>) {
        let json = serde_json::to_value(row).expect("a row is JSON");
        let mut fields: Vec<String> = json.as_object().expect("an object").keys().cloned().collect();
        fields.sort();
        let mut columns: Vec<_> = R::COLUMNS.iter().map(|column| column.name).collect();
        columns.sort();
        (fields, columns)
    }

    #[test]
    fn both_formats_have_the_same_names() {
        let intent = IntentItem {
            query: "red kettle".to_owned(),
            model: ModelId("m".to_owned()),
            intent: Intent::Help,
            scores: [0.1, 0.2, 0.4, 0.3],
            stage: Stage::Cascade,
            version: 3,
            labelled_at: Timestamp::UNIX_EPOCH,
            expires_at: 60,
        };
        let intent = IntentRow::from(intent);
        assert_eq!((intent.score_help, intent.expires_at.as_second()), (0.4, 60));
        let id = |id: &str| ProductId::new(id).expect("a valid id");
        let pair = PairRow {
            model: ModelId("m".to_owned()),
            first: id("A"),
            second: id("B"),
            score: 0.5,
            verdict: Verdict::Review,
            contested_by: None,
            stage: Stage::CrossEncoder,
            first_text_hash: TextHash::of(1, "a"),
            second_text_hash: TextHash::of(1, "b"),
            first_version: 1,
            second_version: 2,
            labelled_at: Timestamp::UNIX_EPOCH,
        };
        for (fields, columns) in [names(&intent), names(&pair)] {
            assert_eq!(fields, columns);
        }
    }
}
