//! Reads of a whole table, in segments that are read side by side.

use aws_sdk_dynamodb::types::ReturnConsumedCapacity;
use futures::stream::{self, SelectAll};
use futures::{Stream, StreamExt};
use serde::de::DeserializeOwned;
use shared::item::ProductItem;
use shared::table::{PRODUCTS, Table};
use shared::{ModelId, ProductId};

use super::codec::{Item, decode, string};
use super::{Reached, Store, StoreError};

/// Items read by one request: what bounds the memory of a scan, at 8 KB an item and one
/// page a segment.
const PAGE_ITEMS: i32 = 200;

/// One page of a scan.
#[derive(Clone, Debug, PartialEq)]
pub struct Page<T> {
    /// Those that belong to the model that was asked for.
    pub items: Vec<T>,
    /// Items read, those of other models included.
    pub scanned: u64,
}

/// One page of a scan of the products that can be gone on with.
#[derive(Clone, Debug, PartialEq)]
pub struct ProductPage {
    pub items: Vec<ProductItem>,
    /// Which segment it is of.
    pub segment: usize,
    /// How far that segment is read once these items are done.
    pub reached: Reached,
}

/// One of `of` equal parts of a table.
#[derive(Clone, Copy, Debug)]
struct Segment {
    index: u16,
    of: u16,
}

impl Store {
    /// All items of a table, or those of one model's slot, page by page in no order that
    /// means anything. `segments` requests are under way at once. What is written
    /// meanwhile may or may not be among them.
    pub fn scan<'a, T: DeserializeOwned + Send + 'a>(
        &'a self,
        table: &'a Table,
        model: Option<&'a ModelId>,
        segments: u16,
    ) -> SelectAll<stream::BoxStream<'a, Result<Page<T>, StoreError>>> {
        let segment = |index| {
            let pages = self.scan_segment(table, model, Segment { index, of: segments.max(1) }, None);
            pages.map(|page| page.map(|(page, _)| page)).boxed()
        };
        stream::select_all((0..segments.max(1)).map(segment))
    }

    /// All products in as many segments as `reached` has, each from where it says on. Which products
    /// a segment has depends on how many there are.
    pub fn scan_products<'a>(
        &'a self,
        reached: &[Reached],
    ) -> SelectAll<stream::BoxStream<'a, Result<ProductPage, StoreError>>> {
        let of = u16::try_from(reached.len()).unwrap_or(u16::MAX);
        let segment = |(index, reached): (u16, &Reached)| {
            let from = match reached {
                Reached::Start => None,
                Reached::After(id) => Some(Item::from([("id".to_owned(), string(id))])),
                Reached::End => return stream::empty().boxed(),
            };
            let pages = self.scan_segment::<ProductItem>(&PRODUCTS, None, Segment { index, of }, from);
            pages.map(move |page| self.product_page(usize::from(index), page?)).boxed()
        };
        stream::select_all((0..of).zip(reached).map(segment))
    }

    fn product_page(
        &self,
        segment: usize,
        (page, next): (Page<ProductItem>, Option<Item>),
    ) -> Result<ProductPage, StoreError> {
        let reached = match &next {
            None => Reached::End,
            Some(key) => {
                let id = key.get("id").and_then(|id| id.as_s().ok()).and_then(|id| ProductId::new(id.clone()).ok());
                let reason = "a scan of the products stopped at a key that is no product's";
                Reached::After(id.ok_or(StoreError::Contradiction { call: self.call("Scan", &PRODUCTS), reason })?)
            }
        };
        Ok(ProductPage { items: page.items, segment, reached })
    }

    /// Pages, each with the key after which the next one begins.
    fn scan_segment<'a, T: DeserializeOwned + Send + 'a>(
        &'a self,
        table: &'a Table,
        model: Option<&'a ModelId>,
        segment: Segment,
        from: Option<Item>,
    ) -> impl Stream<Item = Result<(Page<T>, Option<Item>), StoreError>> + Send + 'a {
        // None once the last page was read.
        stream::try_unfold(Some(from), move |from: Option<Option<Item>>| async move {
            let Some(from) = from else { return Ok(None) };
            let (page, next) = self.scan_page(table, model, segment, from).await?;
            Ok(Some(((page, next.clone()), next.map(Some))))
        })
    }

    async fn scan_page<T: DeserializeOwned>(
        &self,
        table: &Table,
        model: Option<&ModelId>,
        segment: Segment,
        from: Option<Item>,
    ) -> Result<(Page<T>, Option<Item>), StoreError> {
        let call = self.call("Scan", table);
        let mut request = self
            .client
            .scan()
            .table_name(&call.table)
            .segment(i32::from(segment.index))
            .total_segments(i32::from(segment.of))
            .limit(PAGE_ITEMS)
            .consistent_read(true)
            .set_exclusive_start_key(from)
            .return_consumed_capacity(ReturnConsumedCapacity::Total);
        if let Some(model) = model {
            request = request
                .filter_expression("#model = :model")
                .expression_attribute_names("#model", "model")
                .expression_attribute_values(":model", string(model));
        }
        self.meter.read_request(table);
        let answer = request.send().await.map_err(|error| StoreError::of(call.clone(), "", error))?;
        let scanned = u64::try_from(answer.scanned_count()).unwrap_or_default();
        self.meter.read(table, scanned as usize, answer.consumed_capacity());
        let items = answer.items.unwrap_or_default().into_iter().map(|item| decode(&call, item));
        let page = Page { items: items.collect::<Result<_, _>>()?, scanned };
        Ok((page, answer.last_evaluated_key.filter(|key| !key.is_empty())))
    }

    /// About how many items the table holds; DynamoDB counts every six hours.
    pub async fn item_count(&self, table: &Table) -> Result<u64, StoreError> {
        let count = self.describe(table).await?.item_count();
        Ok(count.and_then(|count| u64::try_from(count).ok()).unwrap_or_default())
    }
}
