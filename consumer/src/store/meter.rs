//! What the tables were asked and what that cost.

use std::fmt;
use std::ops::AddAssign;
use std::sync::atomic::{AtomicU64, Ordering};

use aws_sdk_dynamodb::types::ConsumedCapacity;
use metrics::Counter;
use shared::table::{ALL, Table};

use crate::metric;

/// Counts of one table.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Usage {
    /// Calls of the API that read; the SDK's own retries of a call count once.
    pub read_requests: u64,
    /// Calls of the API that write.
    pub write_requests: u64,
    pub items_read: u64,
    /// Read request units as the engine reports them. 1 is 4 KB read consistently.
    pub read_units: f64,
    /// Write request units as the engine reports them. 1 is 1 KB written. A write whose
    /// condition failed costs units too, but DynamoDB does not report them.
    pub write_units: f64,
}

impl Usage {
    pub fn requests(&self) -> u64 {
        self.read_requests + self.write_requests
    }
}

impl AddAssign for Usage {
    fn add_assign(&mut self, other: Self) {
        self.read_requests += other.read_requests;
        self.write_requests += other.write_requests;
        self.items_read += other.items_read;
        self.read_units += other.read_units;
        self.write_units += other.write_units;
    }
}

/// Grows for ever; shared by all clones of a store. The process's metrics grow with it.
#[derive(Debug)]
pub struct Meter {
    tables: [Counters; ALL.len()],
}

struct Counters {
    read_requests: AtomicU64,
    write_requests: AtomicU64,
    items_read: AtomicU64,
    /// Units come in halves.
    read_half_units: AtomicU64,
    write_half_units: AtomicU64,
    exported: Exported,
}

/// The same as metrics.
struct Exported {
    read_requests: Counter,
    write_requests: Counter,
    items_read: Counter,
    read_half_units: Counter,
    write_half_units: Counter,
}

/// A reading of a [`Meter`].
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct MeterSnapshot {
    tables: [Usage; ALL.len()],
}

impl Default for Meter {
    fn default() -> Self {
        Self { tables: ALL.each_ref().map(Counters::new) }
    }
}

impl Meter {
    pub fn snapshot(&self) -> MeterSnapshot {
        MeterSnapshot { tables: self.tables.each_ref().map(Counters::usage) }
    }

    pub(super) fn read_request(&self, table: &Table) {
        let counters = self.counters(table);
        add(&counters.read_requests, &counters.exported.read_requests, 1);
    }

    pub(super) fn write_request(&self, table: &Table) {
        let counters = self.counters(table);
        add(&counters.write_requests, &counters.exported.write_requests, 1);
    }

    pub(super) fn read(&self, table: &Table, items: usize, capacity: Option<&ConsumedCapacity>) {
        let counters = self.counters(table);
        add(&counters.items_read, &counters.exported.items_read, items as u64);
        add(&counters.read_half_units, &counters.exported.read_half_units, half_units(capacity));
    }

    pub(super) fn wrote(&self, table: &Table, capacity: Option<&ConsumedCapacity>) {
        let counters = self.counters(table);
        add(&counters.write_half_units, &counters.exported.write_half_units, half_units(capacity));
    }

    fn counters(&self, table: &Table) -> &Counters {
        &self.tables[index(table)]
    }
}

fn add(counter: &AtomicU64, exported: &Counter, amount: u64) {
    counter.fetch_add(amount, Ordering::Relaxed);
    exported.increment(amount);
}

impl Counters {
    fn new(table: &Table) -> Self {
        let requests = |kind| metric::TABLE_REQUESTS.counter(&[("table", table.name), ("kind", kind)]);
        let exported = Exported {
            read_requests: requests("read"),
            write_requests: requests("write"),
            items_read: metric::TABLE_ITEMS_READ.counter(&[("table", table.name)]),
            read_half_units: metric::TABLE_READ_HALF_UNITS.counter(&[("table", table.name)]),
            write_half_units: metric::TABLE_WRITE_HALF_UNITS.counter(&[("table", table.name)]),
        };
        let zero = AtomicU64::default;
        let (read_requests, write_requests, items_read) = (zero(), zero(), zero());
        Self { read_requests, write_requests, items_read, read_half_units: zero(), write_half_units: zero(), exported }
    }

    fn usage(&self) -> Usage {
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Usage {
            read_requests: count(&self.read_requests),
            write_requests: count(&self.write_requests),
            items_read: count(&self.items_read),
            read_units: count(&self.read_half_units) as f64 / 2.0,
            write_units: count(&self.write_half_units) as f64 / 2.0,
        }
    }
}

impl fmt::Debug for Counters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.usage().fmt(f)
    }
}

impl MeterSnapshot {
    pub fn table(&self, table: &Table) -> Usage {
        self.tables[index(table)]
    }

    /// All tables together.
    pub fn total(&self) -> Usage {
        self.tables.iter().fold(Usage::default(), |mut sum, table| {
            sum += *table;
            sum
        })
    }

    /// What came after `earlier`, a reading of the same meter.
    pub fn since(&self, earlier: &Self) -> Self {
        let mut delta = *self;
        for (now, before) in delta.tables.iter_mut().zip(&earlier.tables) {
            now.read_requests -= before.read_requests;
            now.write_requests -= before.write_requests;
            now.items_read -= before.items_read;
            now.read_units -= before.read_units;
            now.write_units -= before.write_units;
        }
        delta
    }
}

fn index(table: &Table) -> usize {
    ALL.iter().position(|known| known.name == table.name).expect("only tables of shared::table::ALL are used")
}

fn half_units(capacity: Option<&ConsumedCapacity>) -> u64 {
    let units = capacity.and_then(ConsumedCapacity::capacity_units).unwrap_or_default();
    (units * 2.0).round() as u64
}

#[cfg(test)]
mod tests {
    use shared::table::{LABELS, PRODUCTS};

    use super::*;

    #[test]
    fn a_delta_holds_only_what_came_later() {
        let meter = Meter::default();
        let half = ConsumedCapacity::builder().capacity_units(0.5).build();
        meter.read_request(&LABELS);
        meter.read(&LABELS, 3, Some(&half));
        let before = meter.snapshot();
        meter.read_request(&LABELS);
        meter.read(&LABELS, 1, Some(&half));
        meter.write_request(&PRODUCTS);
        meter.wrote(&PRODUCTS, Some(&half));
        let delta = meter.snapshot().since(&before);
        let read = Usage { read_requests: 1, items_read: 1, read_units: 0.5, ..Usage::default() };
        assert_eq!(delta.table(&LABELS), read);
        assert_eq!(delta.total(), Usage { write_requests: 1, write_units: 0.5, ..read });
        assert_eq!(delta.total().requests(), 2);
        assert_eq!(meter.snapshot().total().read_units, 1.0);
    }
}
