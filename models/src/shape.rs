//! Shapes of batches: any on a CPU, without padding where the network is our own; the few of a compiled grid on a
//! NeuronCore.

use std::fmt;
use std::sync::Arc;

use crate::batch::{Budget, LENGTH_STEP, padded};

/// Rows of a batch and tokens of each, as they go through the network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Shape {
    /// Where rows are packed, of all of them.
    pub length: usize,
    /// 1 where rows are packed.
    pub rows: usize,
}

impl Shape {
    pub fn tokens(self) -> usize {
        self.rows * self.length
    }
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}x{}", self.rows, self.length)
    }
}

/// Which shapes a network takes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Shapes {
    /// Rows of all lengths end to end, without padding.
    Packed,
    Padded(Lengths),
}

/// To which lengths rows are padded. They wait in groups, one for each, in order of that length.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Lengths {
    /// Any within the budget, in steps of [`LENGTH_STEP`].
    Steps,
    /// Those of these shapes, and no others: whatever a batch lacks of its shape is padding.
    Grid(Grid),
}

/// The shapes that the modules of an artifact were compiled for, at least one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grid {
    /// For each length, in order, the numbers of rows, in order.
    lengths: Arc<[(usize, Vec<usize>)]>,
}

impl Grid {
    /// # Panics
    /// Without a shape, or with a shape of no rows; the manifest is checked for both.
    pub fn new(shapes: impl IntoIterator<Item = Shape>) -> Self {
        let mut shapes: Vec<Shape> = shapes.into_iter().collect();
        shapes.sort_unstable();
        assert!(!shapes.is_empty() && shapes.iter().all(|shape| shape.rows > 0), "{shapes:?} is no grid");
        let lengths = shapes.chunk_by(|a, b| a.length == b.length);
        let lengths =
            lengths.map(|of_length| (of_length[0].length, of_length.iter().map(|shape| shape.rows).collect()));
        Self { lengths: lengths.collect() }
    }

    pub fn shapes(&self) -> impl Iterator<Item = Shape> {
        self.lengths.iter().flat_map(|(length, rows)| rows.iter().map(|&rows| Shape { length: *length, rows }))
    }

    /// The fewest rows that a module of this group takes and `rows` fit in.
    fn least(&self, group: usize, rows: usize) -> usize {
        let of_length = &self.lengths[group].1;
        of_length.iter().copied().find(|&least| least >= rows).unwrap_or(of_length[of_length.len() - 1])
    }
}

impl Shapes {
    /// Tokens that a row of `length` goes through the network with, in a batch of its like; at least 1.
    pub fn tokens_of(&self, length: usize) -> usize {
        match self {
            Self::Packed => length.max(1),
            Self::Padded(lengths) => lengths.length_of(lengths.group(length)),
        }
    }
}

impl Lengths {
    /// The group of rows of `length` tokens. What is longer than all of a grid is of its
    /// last group; the engine refuses it.
    pub fn group(&self, length: usize) -> usize {
        match self {
            Self::Steps => padded(length) / LENGTH_STEP - 1,
            Self::Grid(grid) => {
                let found = grid.lengths.partition_point(|&(longest, _)| longest < length);
                found.min(grid.lengths.len() - 1)
            }
        }
    }

    /// Tokens of a row of the group after padding.
    pub fn length_of(&self, group: usize) -> usize {
        match self {
            Self::Steps => (group + 1) * LENGTH_STEP,
            Self::Grid(grid) => grid.lengths[group].0,
        }
    }

    /// Most rows in a batch of the group's length; at least 1.
    pub fn rows_max(&self, group: usize, budget: &Budget) -> usize {
        match self {
            Self::Steps => budget.rows_max.min(budget.tokens_max / self.length_of(group)).max(1),
            Self::Grid(grid) => *grid.lengths[group].1.last().expect("a length is there for its shapes"),
        }
    }

    /// Rows of the batch to be made where `waiting` rows of the group wait: of a grid, the
    /// module that takes the least time a row.
    pub fn rows_for(&self, group: usize, waiting: usize, budget: &Budget) -> usize {
        let Self::Grid(grid) = self else { return self.rows_max(group, budget) };
        let (length, of_length) = &grid.lengths[group];
        // Cross-multiplied: cost a / rows a < cost b / rows b.
        let cost = |rows: usize| rows * length + budget.batch_tokens;
        let better = |a: usize, b: usize| cost(a) * b.min(waiting) < cost(b) * a.min(waiting);
        let pick = |best: usize, &rows: &usize| if better(best, rows) { best } else { rows };
        of_length[1..].iter().fold(of_length[0], pick)
    }

    /// The shape that `rows` rows of the group go through the network in.
    pub fn of_batch(&self, group: usize, rows: usize) -> Shape {
        let length = self.length_of(group);
        match self {
            Self::Steps => Shape { length, rows },
            Self::Grid(grid) => Shape { length, rows: grid.least(group, rows) },
        }
    }

    /// Most padding, in tokens, that shorter rows may bring into a batch: as much as a batch
    /// of their own would cost. The empty rows of a static shape are there anyway.
    pub fn padding_max(&self, budget: &Budget) -> usize {
        match self {
            Self::Steps => budget.batch_tokens,
            Self::Grid(_) => usize::MAX,
        }
    }

    /// How full a batch of `waiting` rows of the group would be. Only compared.
    pub fn fullness(&self, group: usize, waiting: usize, budget: &Budget) -> usize {
        match self {
            Self::Steps => (waiting * self.length_of(group)).min(budget.tokens_max),
            Self::Grid(_) => {
                let most = self.rows_max(group, budget);
                waiting.min(most) * 1024 / most
            }
        }
    }
}
