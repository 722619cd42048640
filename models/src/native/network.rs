//! The network of `training/model.py`, layer by layer.

use std::cell::RefCell;
use std::thread::yield_now;

use super::attention::{self, HEAD, Span, attend};
use super::head::{Exit, ExitParameters, Head};
use super::linear::Linear;
use super::math::Norm;
use super::multiply::{COLUMNS, Instructions};
use super::outputs::{Gelu, Plain, Residual};
use super::rows::{Precision, Rows};
use super::simd::{LANES, Simd, Work};
use crate::early_exit::EarlyExits;
use crate::encode::Encoded;
use crate::engine::RowLogits;
use crate::golden::Kind;
use crate::manifest::ExitEntry;

/// A tensor of a module: its shape, and its values in row-major order.
pub struct Parameter<T> {
    pub shape: Vec<usize>,
    pub values: Vec<T>,
}

/// A module's parameters by name, which it gives up one at a time: a second copy of all
/// weights would double the memory that a start needs.
pub trait Parameters {
    fn has(&self, name: &str) -> bool;

    /// None for a name that it does not have, or was asked for before.
    fn take(&mut self, name: &str) -> Option<Parameter<f32>>;

    /// As [`Parameters::take`], as bits of bf16.
    fn take_bf16(&mut self, name: &str) -> Option<Parameter<u16>>;
}

/// The module is not the network that is written down here. libtorch may still run it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("parameter {name}: {reason}")]
pub struct OtherNetwork {
    name: String,
    reason: String,
}

struct Layer {
    qkv: Linear,
    out: Linear,
    norm1: Norm,
    up: Linear,
    down: Linear,
    norm2: Norm,
}

pub struct Network {
    instructions: Instructions,
    /// Of the layers.
    precision: Precision,
    /// Bits of bf16, (vocabulary, hidden): half of all weights, and read one row a token.
    words: Vec<u16>,
    positions: Vec<f32>,
    types: Vec<f32>,
    norm: Norm,
    layers: Vec<Layer>,
    pair: Head<2>,
    intent: Head<4>,
    /// In the order in which they are tried.
    exits: Vec<Exit>,
    hidden: usize,
}

/// Activations of one thread; kept, so that no batch allocates.
#[derive(Default)]
struct Activations {
    /// What the layers add to, (tokens, hidden).
    x: Vec<f32>,
    normed: Rows,
    qkv: Rows,
    context: Rows,
    wide: Rows,
    pooled: Rows,
    /// A row of `pooled` as it is computed.
    both: Vec<f32>,
    /// A head's hidden layer.
    head: Vec<f32>,
    /// Number and tokens of each row that has not left.
    open: Vec<usize>,
    spans: Vec<Span>,
    attention: attention::Scratch,
}

thread_local! {
    static ACTIVATIONS: RefCell<Activations> = RefCell::default();
}

impl Network {
    /// Packs the weights for `precision`. The heads stay exact under int8: they decide, and cost little.
    pub fn new(
        weights: &mut dyn Parameters,
        precision: Precision,
        instructions: Instructions,
    ) -> Result<Self, OtherNetwork> {
        let mut take = Take { weights, instructions };
        let norm_weight = take.tensor("norm.weight")?;
        let hidden = norm_weight.values.len();
        if hidden == 0 || !hidden.is_multiple_of(HEAD) {
            let reason = format!("has {hidden} values; a multiple of {HEAD} is due");
            return Err(OtherNetwork { name: "norm.weight".to_owned(), reason });
        }
        let words = take.words("words.weight", hidden)?;
        let positions = take.matrix("positions.weight", hidden)?;
        let types = take.matrix("types.weight", hidden)?;
        let norm = Norm { weight: norm_weight.values, bias: take.vector("norm.bias", hidden)? };
        let mut layers = Vec::new();
        let count = take.layers();
        for i in 0..count {
            let mut linear = |name, inputs| take.linear(&format!("layers.{i}.{name}"), inputs, precision);
            let (qkv, out, up) = (linear("qkv", hidden)?, linear("out", hidden)?, linear("up", hidden)?);
            let down = linear("down", up.outputs())?;
            let (norm1, norm2) =
                (take.norm(&format!("layers.{i}.norm1"), hidden)?, take.norm(&format!("layers.{i}.norm2"), hidden)?);
            layers.push(Layer { qkv, out, norm1, up, down, norm2 });
        }
        let (pair, intent) = (take.head("pair", hidden)?, take.head("intent", hidden)?);
        Ok(Self {
            instructions,
            precision,
            words,
            positions,
            types,
            norm,
            layers,
            pair,
            intent,
            exits: Vec::new(),
            hidden,
        })
    }

    /// Lets rows leave after some of the layers. Pair logits are to be divided by `temperature`.
    ///
    /// # Errors
    /// An exit is of another network.
    pub fn add_exits(&mut self, exits: &EarlyExits, temperature: f32) -> Result<(), OtherNetwork> {
        for exit in &exits.exits {
            let after = exit.entry.after();
            if after >= self.layers.len() {
                let reason = format!("is {after}; the network has {} layers", self.layers.len());
                return Err(OtherNetwork { name: "after".to_owned(), reason });
            }
            let mut weights = ExitParameters(exit);
            let mut take = Take { weights: &mut weights, instructions: self.instructions };
            self.exits.push(match exit.entry {
                ExitEntry::Queries { settle_from, .. } => {
                    Exit::of_queries(after, take.head("exit", self.hidden)?, settle_from)
                }
                ExitEntry::Pairs { distinct_below, .. } => {
                    Exit::of_pairs(after, take.head("exit", self.hidden)?, distinct_below, temperature)
                }
            });
        }
        Ok(())
    }

    pub fn has_exits(&self) -> bool {
        !self.exits.is_empty()
    }

    pub fn instructions(&self) -> Instructions {
        self.instructions
    }

    /// Scores rows, whose order is of no consequence to speed or result.
    ///
    /// # Errors
    /// A token id, type or length that the network has no vector for.
    pub fn forward<'r>(&self, rows: impl Iterator<Item = &'r Encoded>) -> Result<Vec<RowLogits>, String> {
        let rows: Vec<&Encoded> = rows.collect();
        rows.iter().try_for_each(|row| self.check(row))?;
        let mut logits = Vec::with_capacity(rows.len());
        ACTIVATIONS.with_borrow_mut(|activations| {
            let mut rest = &rows[..];
            while !rest.is_empty() {
                let mut tokens = 0;
                let fits = rest.iter().take_while(|row| {
                    tokens += row.ids.len();
                    tokens <= self.instructions.tokens_at_once()
                });
                let (now, later) = rest.split_at(fits.count().max(1));
                self.run(now, activations, &mut logits);
                rest = later;
            }
        });
        Ok(logits)
    }

    fn check(&self, row: &Encoded) -> Result<(), String> {
        let rows_of = |values: usize| values / self.hidden;
        let beyond = |values: &[i64], count: usize| values.iter().find(|v| !(0..count as i64).contains(v)).copied();
        if row.ids.is_empty() || row.ids.len() > rows_of(self.positions.len()) || row.types.len() != row.ids.len() {
            return Err(format!("a row has {} ids and {} types", row.ids.len(), row.types.len()));
        }
        if let Some(id) = beyond(&row.ids, rows_of(self.words.len())) {
            return Err(format!("token id {id} is beyond the vocabulary"));
        }
        match beyond(&row.types, rows_of(self.types.len())) {
            Some(kind) => Err(format!("token type {kind} is unknown to the network")),
            None => Ok(()),
        }
    }

    fn run(&self, rows: &[&Encoded], activations: &mut Activations, logits: &mut Vec<RowLogits>) {
        self.instructions.run(Pass { network: self, rows, activations, logits });
    }

    /// Sums of word, position and type vectors, normalised: (tokens, hidden).
    #[inline(always)]
    fn embed<S: Simd>(&self, rows: &[&Encoded], activations: &mut Activations) {
        let hidden = self.hidden;
        let Activations { x, normed, open, spans, .. } = activations;
        x.clear();
        spans.clear();
        open.clear();
        open.extend(0..rows.len());
        for row in rows {
            spans.push(Span { start: x.len() / hidden, length: row.ids.len() });
            for (position, (&id, &kind)) in row.ids.iter().zip(&row.types).enumerate() {
                let word = &self.words[id as usize * hidden..][..hidden];
                let place = &self.positions[position * hidden..][..hidden];
                let kind = &self.types[kind as usize * hidden..][..hidden];
                let start = x.len();
                x.resize(start + hidden, 0.0);
                for (column, to) in x[start..].chunks_exact_mut(LANES).enumerate() {
                    let at = column * LANES;
                    let sum = S::add(S::load_bf16(&word[at..]), S::load(&place[at..]));
                    S::store(S::add(sum, S::load(&kind[at..])), to);
                }
            }
        }
        let tokens = x.len() / hidden;
        normed.begin::<S>(tokens, hidden, self.precision);
        self.norm.apply::<S>(x, 0..tokens, normed);
    }

    /// `normed` is what the layer takes, and becomes what the next one does. Between its products, threads that wait
    /// for this core go first: they hand requests on, which takes microseconds, and the kernel would let them wait
    /// for milliseconds until its next tick.
    #[inline(always)]
    fn run_layer<S: Simd>(&self, layer: &Layer, simd: &S, activations: &mut Activations) {
        let Activations { x, normed, qkv, context, wide, spans, attention, .. } = activations;
        let (hidden, tokens, precision) = (self.hidden, normed.count(), self.precision);
        qkv.begin::<S>(tokens, 3 * hidden, Precision::Exact);
        layer.qkv.apply(simd, normed, Plain { to: qkv });
        yield_now();
        context.begin::<S>(tokens, hidden, precision);
        for span in spans {
            attend(qkv, *span, hidden / HEAD, simd, context, attention);
        }
        normed.begin::<S>(tokens, hidden, precision);
        layer.out.apply(simd, context, Residual { x, norm: &layer.norm1, normed });
        wide.begin::<S>(tokens, layer.up.outputs(), precision);
        yield_now();
        layer.up.apply(simd, normed, Gelu { to: wide });
        yield_now();
        normed.begin::<S>(tokens, hidden, precision);
        layer.down.apply(simd, wide, Residual { x, norm: &layer.norm2, normed });
        yield_now();
    }

    /// Answers the rows that may leave after `done` layers and of which an exit is sure; the others close up.
    #[inline(always)]
    fn leave_after<S: Simd>(
        &self,
        done: usize,
        simd: &S,
        rows: &[&Encoded],
        activations: &mut Activations,
        logits: &mut [RowLogits],
    ) {
        for exit in &self.exits {
            let may_leave = |row: usize| rows[row].may_leave && rows[row].kind == exit.kind();
            if exit.after != done || !activations.open.iter().any(|&row| may_leave(row)) {
                continue;
            }
            self.pool::<S>(activations);
            let Activations { pooled, head, open, spans, x, .. } = activations;
            let (hidden, mut kept, mut tokens) = (self.hidden, 0, 0);
            for (at, answer) in exit.answers(simd, pooled, head).into_iter().enumerate() {
                let (row, Span { start, length }) = (open[at], spans[at]);
                if let Some(answer) = answer.filter(|_| may_leave(row)) {
                    logits[row] = answer;
                    continue;
                }
                x.copy_within(start * hidden..(start + length) * hidden, tokens * hidden);
                (open[kept], spans[kept]) = (row, Span { start: tokens, length });
                (kept, tokens) = (kept + 1, tokens + length);
            }
            if kept < open.len() {
                self.close_up::<S>(kept, tokens, activations);
            }
        }
    }

    /// Answers the open rows by the head of their kind.
    #[inline(always)]
    fn judge<S: Simd>(&self, simd: &S, rows: &[&Encoded], activations: &mut Activations, logits: &mut [RowLogits]) {
        let Activations { pooled, head, open, .. } = activations;
        let has = |kind: Kind| open.iter().any(|&row| rows[row].kind == kind);
        if has(Kind::Pairs) {
            for (&row, pair) in open.iter().zip(self.pair.apply(simd, pooled, head)) {
                if rows[row].kind == Kind::Pairs {
                    logits[row].pair = pair;
                }
            }
        }
        if has(Kind::Queries) {
            for (&row, intent) in open.iter().zip(self.intent.apply(simd, pooled, head)) {
                if rows[row].kind == Kind::Queries {
                    logits[row].intent = intent;
                }
            }
        }
    }

    /// Goes on with the first so many rows and tokens.
    #[inline(always)]
    fn close_up<S: Simd>(&self, rows: usize, tokens: usize, activations: &mut Activations) {
        let Activations { x, normed, open, spans, .. } = activations;
        open.truncate(rows);
        spans.truncate(rows);
        x.truncate(tokens * self.hidden);
        normed.fill::<S>(x, self.hidden, self.precision);
    }

    /// The first token and the mean of all, of each row: (rows, 2 hidden).
    #[inline(always)]
    fn pool<S: Simd>(&self, activations: &mut Activations) {
        let hidden = self.hidden;
        let Activations { x, pooled, both, spans, .. } = activations;
        both.resize(2 * hidden, 0.0);
        pooled.begin::<S>(spans.len(), 2 * hidden, Precision::Exact);
        for (row, span) in spans.iter().enumerate() {
            let tokens = &x[span.start * hidden..][..span.length * hidden];
            let scale = S::splat(1.0 / span.length as f32);
            for column in (0..hidden).step_by(LANES) {
                let first = S::load(&tokens[column..]);
                let mut sum = first;
                for token in tokens.chunks_exact(hidden).skip(1) {
                    sum = S::add(sum, S::load(&token[column..]));
                }
                S::store(first, &mut both[column..]);
                S::store(S::mul(sum, scale), &mut both[hidden + column..]);
            }
            pooled.put_row::<S>(row, both);
        }
    }
}

/// Rows through all layers, at most [`Instructions::tokens_at_once`] tokens or one row.
struct Pass<'p> {
    network: &'p Network,
    rows: &'p [&'p Encoded],
    activations: &'p mut Activations,
    logits: &'p mut Vec<RowLogits>,
}

impl Work for Pass<'_> {
    type Output = ();

    #[inline(always)]
    fn with<S: Simd>(self, simd: &S) {
        let Self { network, rows, activations, logits } = self;
        let first = logits.len();
        logits.resize(first + rows.len(), RowLogits::default());
        let logits = &mut logits[first..];
        network.embed::<S>(rows, activations);
        for (done, layer) in network.layers.iter().enumerate() {
            network.leave_after(done, simd, rows, activations, logits);
            if activations.open.is_empty() {
                return;
            }
            network.run_layer(layer, simd, activations);
        }
        network.pool::<S>(activations);
        network.judge(simd, rows, activations, logits);
    }
}

fn missing(name: &str) -> OtherNetwork {
    OtherNetwork { name: name.to_owned(), reason: "is missing".to_owned() }
}

impl<T> Parameter<T> {
    fn matrix(self, name: &str, columns: usize) -> Result<Vec<T>, OtherNetwork> {
        match self {
            Self { shape, values } if shape.len() == 2 && shape[1] == columns => Ok(values),
            Self { shape, .. } => {
                Err(OtherNetwork { name: name.to_owned(), reason: format!("is {shape:?}; {columns} columns are due") })
            }
        }
    }
}

/// Takes parameters by name, each with its shape checked.
struct Take<'w> {
    weights: &'w mut dyn Parameters,
    instructions: Instructions,
}

impl Take<'_> {
    fn layers(&self) -> usize {
        (0..).take_while(|i| self.weights.has(&format!("layers.{i}.qkv.weight"))).count()
    }

    fn tensor(&mut self, name: &str) -> Result<Parameter<f32>, OtherNetwork> {
        self.weights.take(name).ok_or_else(|| missing(name))
    }

    fn matrix(&mut self, name: &str, columns: usize) -> Result<Vec<f32>, OtherNetwork> {
        self.tensor(name)?.matrix(name, columns)
    }

    fn words(&mut self, name: &str, columns: usize) -> Result<Vec<u16>, OtherNetwork> {
        self.weights.take_bf16(name).ok_or_else(|| missing(name))?.matrix(name, columns)
    }

    fn vector(&mut self, name: &str, length: usize) -> Result<Vec<f32>, OtherNetwork> {
        match self.tensor(name)? {
            Parameter { shape, values } if shape == [length] => Ok(values),
            Parameter { shape, .. } => {
                Err(OtherNetwork { name: name.to_owned(), reason: format!("is {shape:?}; [{length}] is due") })
            }
        }
    }

    fn norm(&mut self, name: &str, hidden: usize) -> Result<Norm, OtherNetwork> {
        let weight = self.vector(&format!("{name}.weight"), hidden)?;
        Ok(Norm { weight, bias: self.vector(&format!("{name}.bias"), hidden)? })
    }

    fn linear(&mut self, name: &str, inputs: usize, precision: Precision) -> Result<Linear, OtherNetwork> {
        let weight = self.matrix(&format!("{name}.weight"), inputs)?;
        let outputs = weight.len() / inputs;
        let bias = self.vector(&format!("{name}.bias"), outputs)?;
        if !outputs.is_multiple_of(COLUMNS) {
            let reason = format!("has {outputs} outputs; a multiple of {} is due", COLUMNS);
            return Err(OtherNetwork { name: name.to_owned(), reason });
        }
        Ok(Linear::pack(&weight, &bias, precision, self.instructions))
    }

    fn head<const N: usize>(&mut self, name: &str, hidden: usize) -> Result<Head<N>, OtherNetwork> {
        let first = self.linear(&format!("{name}_hidden"), 2 * hidden, Precision::Exact)?;
        let out = self.matrix(&format!("{name}_out.weight"), first.outputs())?;
        let bias = self.vector(&format!("{name}_out.bias"), N)?;
        if out.len() != N * first.outputs() {
            let reason = format!("has {} outputs; {N} are due", out.len() / first.outputs());
            return Err(OtherNetwork { name: format!("{name}_out"), reason });
        }
        let bias = bias.try_into().expect("its length was checked");
        Ok(Head { hidden: first, out, bias })
    }
}

#[cfg(test)]
#[path = "network_tests.rs"]
mod tests;
