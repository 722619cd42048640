//! The nouns that label writers and readers agree on. Pure: no AWS, no async, no clock.

pub mod event;
pub mod hash;
pub mod item;
pub mod label;
pub mod product;
pub mod table;
pub mod text;

pub use event::{CatalogEvent, Event, QueryEvent};
pub use hash::TextHash;
pub use label::{Intent, ModelId, PairLabel, Stage, Verdict};
pub use product::{Product, ProductId};
pub use text::{ProductText, TEXT_VERSION};
