//! Which shapes to compile for NeuronCores: few that score given traffic in little device time.
//! Pure: traffic is played through the planner that will serve it, in a time of its own.
//!
//! Rows of a static shape that are left empty cost as much as others, so how much of a shape is
//! filled decides what a row costs. That depends on the lengths of the rows and on how many wait
//! when a core becomes free, and neither has a formula.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::time::{Duration, Instant};

use crate::batch::{Batch, Budget, LENGTH_STEP, Waiting};
use crate::scorer::{BULK, ONLINE};
use crate::shape::{Grid, Lengths, Shape, Shapes};

/// What a batch costs a NeuronCore beside its tokens, in tokens. From the public figures of
/// BERT-base at length 128 on inf1 (Neuron's performance page): 7.9 ms for 1 row, and 6 rows
/// on each of 4 cores at 1,181 rows/s, which is 20.3 ms; so 5.4 ms and 19.4 us a token.
pub const NEURON_BATCH_TOKENS: usize = 280;
/// By the same figures.
pub const NEURON_TOKEN_TIME: Duration = Duration::from_nanos(19_400);

/// Another module is compiled and loaded only where it saves this share of what a lane costs.
const GAIN_MIN: f64 = 0.005;

/// Rows that one caller brings at once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Call {
    /// From the beginning of the traffic.
    pub at: Duration,
    /// Tokens of each row.
    pub lengths: Vec<usize>,
}

/// What arrives on one lane, and what serves it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Traffic {
    /// In order of arrival.
    calls: Vec<Call>,
    cores: usize,
    budget: Budget,
    /// Where callers come one after the other for all time: how many are there at once.
    at_once: Option<usize>,
}

/// How many of each shape ran, and what was in them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Played {
    pub by_shape: BTreeMap<Shape, Runs>,
    /// Of all rows, from arrival to answer.
    pub answer_time: Duration,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Runs {
    pub batches: usize,
    pub rows: usize,
    /// Of the rows, without padding.
    pub tokens: usize,
}

/// A row on its way: whose, when it came, and its tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Row {
    call: usize,
    since: Duration,
    length: usize,
}

/// What a grid may be made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Modules that fit in a core's memory; at least 1.
    pub modules_max: usize,
    /// Tokens of a batch, padding included. A batch of one row may have more.
    pub batch_tokens_max: usize,
    /// Tokens of the longest row that must fit.
    pub length_max: usize,
}

impl Traffic {
    /// A backlog: calls of rows by their tokens, of which `at_once` are in work at any time, as
    /// a busy worker has it. What such rows cost is the time of the device.
    pub fn bulk(calls: Vec<Vec<usize>>, cores: usize, at_once: usize) -> Self {
        let calls = calls.into_iter().map(|lengths| Call { at: Duration::ZERO, lengths }).collect();
        let budget = Budget { batch_tokens: NEURON_BATCH_TOKENS, ..BULK };
        Self { calls, cores: cores.max(1), budget, at_once: Some(at_once.max(1)) }
    }

    /// Calls that come when they come, whoever is served. What such rows cost is the time until
    /// their answer: a device that is free takes what there is, so its own time says little.
    pub fn online(calls: Vec<Call>, cores: usize) -> Self {
        let budget = Budget { batch_tokens: NEURON_BATCH_TOKENS, ..ONLINE };
        Self { calls, cores: cores.max(1), budget, at_once: None }
    }

    /// What the planner makes of the traffic where cores have the modules of `grid`.
    pub fn play(&self, grid: &Grid) -> Played {
        let mut waiting = Waiting::new(self.budget, Shapes::Padded(Lengths::Grid(grid.clone())));
        let mut running: BinaryHeap<Reverse<(Duration, Vec<Row>)>> = BinaryHeap::new();
        let mut left: Vec<usize> = self.calls.iter().map(|call| call.lengths.len()).collect();
        let (mut calls, mut in_work) = (self.calls.iter().enumerate().peekable(), 0);
        let (start, mut now, mut played) = (Instant::now(), Duration::ZERO, Played::default());
        loop {
            let enters = |call: &Call| self.at_once.map_or(call.at <= now, |most| in_work < most);
            if let Some((number, call)) = calls.next_if(|(_, call)| enters(call)) {
                in_work += usize::from(!call.lengths.is_empty());
                let since = if self.at_once.is_some() { now } else { call.at };
                let row = |&length: &usize| Row { call: number, since, length };
                call.lengths.iter().map(row).for_each(|row| waiting.push(row, row.length, start + since));
                continue;
            }
            while running.len() < self.cores
                && let Some(batch) = waiting.next(start + now, |_| true)
            {
                let cost = (batch.tokens() + NEURON_BATCH_TOKENS) as u32;
                played.note(&batch);
                running.push(Reverse((now + NEURON_TOKEN_TIME * cost, batch.rows)));
            }
            let arrival = calls.peek().map(|(_, call)| call.at).filter(|_| self.at_once.is_none());
            let end = running.peek().map(|Reverse((end, _))| *end);
            let Some(next) = end.into_iter().chain(arrival).min() else { return played };
            now = next;
            while running.peek().is_some_and(|Reverse((end, _))| *end <= now) {
                for row in running.pop().map(|Reverse((_, rows))| rows).unwrap_or_default() {
                    played.answer_time += now - row.since;
                    left[row.call] -= 1;
                    in_work -= usize::from(left[row.call] == 0);
                }
            }
        }
    }

    fn cost(&self, played: &Played) -> f64 {
        match self.at_once {
            Some(_) => played.cost_tokens() as f64,
            None => played.answer_time.as_secs_f64(),
        }
    }
}

impl Played {
    fn note(&mut self, batch: &Batch<Row>) {
        let runs = self.by_shape.entry(batch.shape).or_default();
        runs.batches += 1;
        runs.rows += batch.rows.len();
        runs.tokens += batch.rows.iter().map(|row| row.length).sum::<usize>();
    }

    /// Tokens that went through the network, padding included.
    pub fn shape_tokens(&self) -> usize {
        self.by_shape.iter().map(|(shape, runs)| runs.batches * shape.tokens()).sum()
    }

    /// Device time in tokens: those that went through the network, and what each batch costs
    /// beside them.
    pub fn cost_tokens(&self) -> usize {
        let batches: usize = self.by_shape.values().map(|runs| runs.batches).sum();
        self.shape_tokens() + batches * NEURON_BATCH_TOKENS
    }

    /// Share of the tokens through the network that is of rows, 0 to 1; 1 of nothing.
    pub fn fill(&self) -> f64 {
        let tokens: usize = self.by_shape.values().map(|runs| runs.tokens).sum();
        if tokens == 0 { 1.0 } else { tokens as f64 / self.shape_tokens() as f64 }
    }
}

/// The shapes of a grid for all of `lanes` together, in order. A percent of one lane's cost is
/// worth a percent of another's. Each step takes the best of all ways to add a shape, or to put
/// one in another's place, until none is worth it; then shapes that others have made needless go.
pub fn choose(lanes: &[Traffic], limits: &Limits) -> Vec<Shape> {
    let candidates = candidates(limits);
    let takes_all = |shapes: &[Shape]| shapes.iter().any(|shape| shape.length >= limits.length_max);
    let best = |grids: Vec<Vec<Shape>>| {
        let costed = grids.into_iter().filter(|grid| takes_all(grid)).map(|grid| (cost(lanes, &grid), grid));
        costed.min_by(|(a, _), (b, _)| a.total_cmp(b))
    };
    let alone = candidates.iter().map(|&shape| vec![shape]).collect();
    let Some((mut least, mut chosen)) = best(alone) else { return Vec::new() };
    loop {
        let grown = if chosen.len() < limits.modules_max { added(&chosen, &candidates) } else { Vec::new() };
        let is_better = |(found, _): &(f64, Vec<Shape>)| *found < least - GAIN_MIN;
        let next = best(grown).filter(is_better).or_else(|| best(replaced(&chosen, &candidates)).filter(is_better));
        let Some(next) = next else { break };
        (least, chosen) = next;
    }
    while let Some((found, fewer)) = best(without_one(&chosen)).filter(|(found, _)| *found <= least + GAIN_MIN) {
        (least, chosen) = (found, fewer);
    }
    chosen.sort_unstable();
    chosen
}

/// The sum of the logarithms of what each lane costs, those without a row left out.
fn cost(lanes: &[Traffic], shapes: &[Shape]) -> f64 {
    let grid = Grid::new(shapes.iter().copied());
    let of_lane = |lane: &Traffic| lane.cost(&lane.play(&grid));
    lanes.iter().map(of_lane).filter(|&cost| cost > 0.0).map(f64::ln).sum()
}

/// Every length that rows are rounded to, with a power of two of rows and with as many as there
/// is room for.
fn candidates(limits: &Limits) -> Vec<Shape> {
    let steps = (LENGTH_STEP..limits.length_max).step_by(LENGTH_STEP).chain([limits.length_max.max(1)]);
    let of_length = |length: usize| {
        let most = (limits.batch_tokens_max / length).max(1);
        let fewer = (0..usize::BITS).map(|power| 1 << power).take_while(move |&rows| rows < most);
        fewer.chain([most]).map(move |rows| Shape { length, rows })
    };
    steps.flat_map(of_length).collect()
}

fn added(chosen: &[Shape], candidates: &[Shape]) -> Vec<Vec<Shape>> {
    let new = candidates.iter().filter(|shape| !chosen.contains(shape));
    new.map(|&shape| chosen.iter().copied().chain([shape]).collect()).collect()
}

fn replaced(chosen: &[Shape], candidates: &[Shape]) -> Vec<Vec<Shape>> {
    without_one(chosen).iter().flat_map(|fewer| added(fewer, candidates)).collect()
}

fn without_one(chosen: &[Shape]) -> Vec<Vec<Shape>> {
    let without = |gone: usize| chosen.iter().enumerate().filter(move |&(i, _)| i != gone).map(|(_, &shape)| shape);
    (0..chosen.len()).map(|gone| without(gone).collect()).collect()
}

#[cfg(test)]
#[path = "grid_tests.rs"]
mod tests;
