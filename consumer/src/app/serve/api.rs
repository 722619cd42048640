//! What `serve` reads and answers. The OpenAPI document is made from these types.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use shared::event::{EventError, validate_product, validate_query};
use shared::{Intent, Product, Stage, Verdict};

use super::problem::Problem;

/// Most queries or pairs of one request.
pub const ROWS_MAX: usize = 256;

/// One query, or up to 256.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, expecting = "an object such as {\"query\": \"usb c cable\"}")]
pub struct IntentRequest {
    /// One query of 1 to 512 characters; send this or `queries`.
    #[serde(default)]
    pub query: Option<String>,
    /// 1 to 256 queries of 1 to 512 characters each.
    #[serde(default)]
    #[schemars(length(min = 1, max = 256))]
    pub queries: Option<Vec<String>>,
}

/// Results in the order of the queries.
#[derive(Debug, Serialize, JsonSchema)]
pub struct IntentResponse {
    pub results: Vec<IntentResult>,
}

/// What kind of query this is.
#[derive(Debug, Serialize, JsonSchema)]
pub struct IntentResult {
    /// The most probable one.
    #[schemars(with = "IntentName")]
    pub intent: Intent,
    pub probabilities: Probabilities,
    /// Which stage of the model said so.
    #[schemars(with = "StageName")]
    pub stage: Stage,
    /// The model that says so.
    pub model: String,
    pub source: Source,
}

/// Probability of each intent; their sum is 1.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Probabilities {
    pub product: f32,
    pub media: f32,
    pub help: f32,
    pub other: f32,
}

/// Where a label was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Source {
    /// The label table had a live one.
    Table,
    /// It was scored for this request.
    Model,
}

/// 1 to 256 pairs of products.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, expecting = "an object with `pairs`")]
pub struct DuplicatesRequest {
    #[schemars(length(min = 1, max = 256))]
    pub pairs: Vec<ProductPair>,
}

/// Two products; their order makes no difference.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, expecting = "an object with `left` and `right`")]
pub struct ProductPair {
    pub left: Product,
    pub right: Product,
}

/// Results in the order of the pairs.
#[derive(Debug, Serialize, JsonSchema)]
pub struct DuplicatesResponse {
    pub model: String,
    pub results: Vec<PairResult>,
}

/// What a shopper would say of two products.
#[derive(Debug, Serialize, JsonSchema)]
pub struct PairResult {
    #[schemars(with = "VerdictName")]
    pub verdict: Verdict,
    /// Calibrated probability that the two are duplicates.
    pub probability: f32,
    /// Which stage of the model settled it.
    #[schemars(with = "StageName")]
    pub stage: Stage,
}

/// Names of [`Intent`], for the document alone.
#[derive(JsonSchema)]
#[schemars(rename = "Intent", rename_all = "snake_case")]
#[expect(dead_code, reason = "a schema without values")]
enum IntentName {
    Product,
    Media,
    Help,
    Other,
}

/// Names of [`Verdict`], for the document alone.
#[derive(JsonSchema)]
#[schemars(rename = "Verdict", rename_all = "snake_case")]
#[expect(dead_code, reason = "a schema without values")]
enum VerdictName {
    Distinct,
    Review,
    Duplicate,
}

/// Names of [`Stage`], for the document alone.
#[derive(JsonSchema)]
#[schemars(rename = "Stage", rename_all = "snake_case")]
#[expect(dead_code, reason = "a schema without values")]
enum StageName {
    Cascade,
    CrossEncoder,
}

impl From<[f32; 4]> for Probabilities {
    fn from([product, media, help, other]: [f32; 4]) -> Self {
        Self { product, media, help, other }
    }
}

impl IntentRequest {
    /// The queries, each of them checked.
    pub fn checked(self) -> Result<Vec<String>, Problem> {
        let (queries, is_single) = match (self.query, self.queries) {
            (Some(query), None) => (vec![query], true),
            (None, Some(queries)) => (queries, false),
            (None, None) => return Err(Problem::field("query", "is missing; send `query` or `queries`")),
            (Some(_), Some(_)) => {
                return Err(Problem::field("queries", "and `query` were both sent; send one of them"));
            }
        };
        checked_count("queries", queries.len())?;
        for (i, query) in queries.iter().enumerate() {
            let field = if is_single { "query".to_owned() } else { format!("queries[{i}]") };
            validate_query(query).map_err(|error| refused(&field, "query", error))?;
        }
        Ok(queries)
    }
}

impl DuplicatesRequest {
    /// The pairs, each of them checked.
    pub fn checked(self) -> Result<Vec<ProductPair>, Problem> {
        checked_count("pairs", self.pairs.len())?;
        for (i, pair) in self.pairs.iter().enumerate() {
            for (side, product) in [("left", &pair.left), ("right", &pair.right)] {
                let field = format!("pairs[{i}].{side}");
                validate_product(product).map_err(|error| refused(&field, "product", error))?;
            }
        }
        Ok(self.pairs)
    }
}

fn checked_count(field: &str, count: usize) -> Result<(), Problem> {
    if (1..=ROWS_MAX).contains(&count) {
        return Ok(());
    }
    Err(Problem::field(field, &format!("has {count} entries; send 1 to {ROWS_MAX}")))
}

/// An event's error, with the field's name in an event replaced by the one in the request.
fn refused(field: &str, event_field: &str, error: EventError) -> Problem {
    match error {
        EventError::Field { field: named, reason } => {
            let below = named.strip_prefix(event_field).unwrap_or(&named);
            Problem::field(&format!("{field}{below}"), &reason)
        }
        other => Problem::field(field, &other.to_string()),
    }
}
