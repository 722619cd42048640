//! Products and their ids.

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Longest product id, in bytes. An ASIN has 10.
pub const ID_BYTES_MAX: usize = 64;
/// Longest title, in characters; marketplaces cut at 200 to 500.
pub const TITLE_CHARS_MAX: usize = 2_000;
/// Longest brand, model number, product type, language or currency, in characters.
pub const ATTRIBUTE_CHARS_MAX: usize = 500;
/// Longest description or bullet point, in characters. A product item has to stay far
/// below DynamoDB's 400 KB.
pub const DESCRIPTION_CHARS_MAX: usize = 50_000;
/// Most bullet points.
pub const BULLET_POINTS_MAX: usize = 50;

/// An opaque product id: 1 to 64 bytes of printable ASCII without spaces. Two ids are
/// equal only byte for byte, so ids that differ by case name two products.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "String", into = "String")]
#[schemars(extend("pattern" = "^[!-~]{1,64}$"))]
pub struct ProductId(#[schemars(with = "String")] String);

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a product id is 1 to {ID_BYTES_MAX} printable ASCII characters without spaces, not {given:?}")]
pub struct BadProductId {
    given: String,
}

impl ProductId {
    pub fn new(id: impl Into<String>) -> Result<Self, BadProductId> {
        let id = id.into();
        if (1..=ID_BYTES_MAX).contains(&id.len()) && id.bytes().all(|b| b.is_ascii_graphic()) {
            return Ok(Self(id));
        }
        let mut given: String = id.chars().take(ID_BYTES_MAX).collect();
        if given.len() < id.len() {
            given.push('…');
        }
        Err(BadProductId { given })
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for ProductId {
    type Error = BadProductId;

    fn try_from(id: String) -> Result<Self, BadProductId> {
        Self::new(id)
    }
}

impl From<ProductId> for String {
    fn from(id: ProductId) -> Self {
        id.0
    }
}

impl fmt::Display for ProductId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for ProductId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

/// A product snapshot, as the catalog has it. Only the title is required.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, expecting = "an object such as {\"title\": \"usb-c cable, 2 m\"}")]
pub struct Product {
    /// What the shopper reads first. 1 to 2,000 characters.
    #[schemars(length(min = 1, max = TITLE_CHARS_MAX))]
    pub title: String,
    /// For example "headphones". At most 500 characters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = ATTRIBUTE_CHARS_MAX))]
    pub product_type: Option<String>,
    /// At most 500 characters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = ATTRIBUTE_CHARS_MAX))]
    pub brand: Option<String>,
    /// The maker's number. At most 500 characters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = ATTRIBUTE_CHARS_MAX))]
    pub model_number: Option<String>,
    /// Plain text or HTML. At most 50,000 characters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = DESCRIPTION_CHARS_MAX))]
    pub description: Option<String>,
    /// At most 50, each at most 50,000 characters.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = BULLET_POINTS_MAX), inner(length(max = DESCRIPTION_CHARS_MAX)))]
    pub bullet_points: Vec<String>,
    /// Not read by the model: a price change costs no inference.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub price: Option<Price>,
    /// BCP 47 tag such as "en-GB". Not read by the model.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = ATTRIBUTE_CHARS_MAX))]
    pub language: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, expecting = "an object such as {\"amount\": 9.99, \"currency\": \"EUR\"}")]
pub struct Price {
    /// In units of the currency; finite and not negative.
    #[schemars(range(min = 0))]
    pub amount: f64,
    /// ISO 4217 code.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = ATTRIBUTE_CHARS_MAX))]
    pub currency: Option<String>,
}
