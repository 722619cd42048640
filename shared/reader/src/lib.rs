//! The search side of the labels: which products of a results page look alike, and what
//! kind of query this is. Reads three tables and writes none.
//!
//! ```no_run
//! # async fn page(client: aws_sdk_dynamodb::Client, ids: Vec<shared::ProductId>) -> Result<(), reader::ReaderError> {
//! let reader = reader::LabelReader::new(client, "catalog-labels-", reader::Options::default());
//! let labels = reader.labels_for_page(&ids).await?;
//! for group in labels.groups() {
//!     // Show `group.kept`, fold `group.collapsed` under it.
//! }
//! # Ok(())
//! # }
//! ```

mod cache;
mod contest;
mod error;
mod page;
mod reader;
mod table;

pub use contest::{CROWDED_FROM, RATHER_SAME, Said, rival, said};
pub use error::ReaderError;
pub use page::{Group, PageLabels, PagePair};
pub use reader::{LabelReader, Options, PAGE_PRODUCTS_MAX, ProductLabels};
