//! What the tables were asked and what that cost.

use std::sync::atomic::{AtomicU64, Ordering};

use aws_sdk_dynamodb::types::ConsumedCapacity;
use shared::table::{ALL, Table};

/// Counts of one table.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Usage {
    /// Calls of the API; the SDK's own retries of a call count once.
    pub requests: u64,
    pub items_read: u64,
    /// Read request units as the engine reports them. 1 is 4 KB read consistently.
    pub read_units: f64,
    /// Write request units as the engine reports them. 1 is 1 KB written. A write whose
    /// condition failed costs units too, but DynamoDB does not report them.
    pub write_units: f64,
}

/// Grows for ever; shared by all clones of a store.
#[derive(Debug, Default)]
pub struct Meter {
    tables: [Counters; ALL.len()],
}

#[derive(Debug, Default)]
struct Counters {
    requests: AtomicU64,
    items_read: AtomicU64,
    /// Thousandths, since units come in halves.
    read_units: AtomicU64,
    write_units: AtomicU64,
}

/// A reading of a [`Meter`].
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct MeterSnapshot {
    tables: [Usage; ALL.len()],
}

impl Meter {
    pub fn snapshot(&self) -> MeterSnapshot {
        MeterSnapshot { tables: self.tables.each_ref().map(Counters::usage) }
    }

    pub(super) fn request(&self, table: &Table) {
        self.counters(table).requests.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn read(&self, table: &Table, items: usize, capacity: Option<&ConsumedCapacity>) {
        self.counters(table).items_read.fetch_add(items as u64, Ordering::Relaxed);
        self.counters(table).read_units.fetch_add(thousandths(capacity), Ordering::Relaxed);
    }

    pub(super) fn wrote(&self, table: &Table, capacity: Option<&ConsumedCapacity>) {
        self.counters(table).write_units.fetch_add(thousandths(capacity), Ordering::Relaxed);
    }

    fn counters(&self, table: &Table) -> &Counters {
        &self.tables[index(table)]
    }
}

impl Counters {
    fn usage(&self) -> Usage {
        let units = |counter: &AtomicU64| counter.load(Ordering::Relaxed) as f64 / 1000.0;
        Usage {
            requests: self.requests.load(Ordering::Relaxed),
            items_read: self.items_read.load(Ordering::Relaxed),
            read_units: units(&self.read_units),
            write_units: units(&self.write_units),
        }
    }
}

impl MeterSnapshot {
    pub fn table(&self, table: &Table) -> Usage {
        self.tables[index(table)]
    }

    /// All tables together.
    pub fn total(&self) -> Usage {
        self.tables.iter().fold(Usage::default(), |sum, table| Usage {
            requests: sum.requests + table.requests,
            items_read: sum.items_read + table.items_read,
            read_units: sum.read_units + table.read_units,
            write_units: sum.write_units + table.write_units,
        })
    }

    /// What came after `earlier`, a reading of the same meter.
    pub fn since(&self, earlier: &Self) -> Self {
        let mut delta = *self;
        for (now, before) in delta.tables.iter_mut().zip(&earlier.tables) {
            now.requests -= before.requests;
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

fn thousandths(capacity: Option<&ConsumedCapacity>) -> u64 {
    let units = capacity.and_then(ConsumedCapacity::capacity_units).unwrap_or_default();
    (units * 1000.0).round() as u64
}

#[cfg(test)]
mod tests {
    use shared::table::{LABELS, PRODUCTS};

    use super::*;

    #[test]
    fn a_delta_holds_only_what_came_later() {
        let meter = Meter::default();
        let half = ConsumedCapacity::builder().capacity_units(0.5).build();
        meter.request(&LABELS);
        meter.read(&LABELS, 3, Some(&half));
        let before = meter.snapshot();
        meter.request(&LABELS);
        meter.read(&LABELS, 1, Some(&half));
        meter.wrote(&PRODUCTS, Some(&half));
        let delta = meter.snapshot().since(&before);
        assert_eq!(delta.table(&LABELS), Usage { requests: 1, items_read: 1, read_units: 0.5, write_units: 0.0 });
        assert_eq!(delta.total(), Usage { requests: 1, items_read: 1, read_units: 0.5, write_units: 0.5 });
        assert_eq!(meter.snapshot().total().read_units, 1.0);
    }
}
