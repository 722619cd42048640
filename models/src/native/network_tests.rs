//! The packed network against one written with plain loops in f64, on random weights.

use std::collections::HashMap;

use super::*;
use crate::early_exit::EarlyExit;
use crate::golden::Goldens;
use crate::native::linear::to_bf16;

/// Both are spans of int8, a part of one, and more than a group of columns that become bytes together.
const HIDDEN: usize = 13 * HEAD;
const INNER: usize = 736;
const VOCABULARY: usize = 60;
const LENGTH_MAX: usize = 40;

type Weights = HashMap<String, (Vec<usize>, Vec<f32>)>;

impl Parameters for Weights {
    fn has(&self, name: &str) -> bool {
        self.contains_key(name)
    }

    fn take(&mut self, name: &str) -> Option<Parameter<f32>> {
        self.remove(name).map(|(shape, values)| Parameter { shape, values })
    }

    fn take_bf16(&mut self, name: &str) -> Option<Parameter<u16>> {
        let Parameter { shape, values } = self.take(name)?;
        Some(Parameter { shape, values: values.into_iter().map(to_bf16).collect() })
    }
}

fn weights() -> Weights {
    let mut rng = fastrand::Rng::with_seed(3);
    let mut weights = Weights::new();
    let mut add = |name: &str, shape: &[usize], scale: f32, centre: f32| {
        // As artifacts have them: numbers of bf16.
        let bf16 = |value: f32| f32::from_bits(u32::from(to_bf16(value)) << 16);
        let values = (0..shape.iter().product()).map(|_| bf16(centre + scale * (rng.f32() - 0.5))).collect();
        weights.insert(name.to_owned(), (shape.to_vec(), values));
    };
    for (name, rows) in [("words", VOCABULARY), ("positions", LENGTH_MAX), ("types", 4)] {
        add(&format!("{name}.weight"), &[rows, HIDDEN], 1.0, 0.0);
    }
    let mut norms = vec!["norm".to_owned()];
    let mut linears = vec![];
    for layer in ["layers.0", "layers.1"] {
        norms.extend(["norm1", "norm2"].map(|norm| format!("{layer}.{norm}")));
        for (name, outputs, inputs) in
            [("qkv", 3 * HIDDEN, HIDDEN), ("out", HIDDEN, HIDDEN), ("up", INNER, HIDDEN), ("down", HIDDEN, INNER)]
        {
            linears.push((format!("{layer}.{name}"), outputs, inputs));
        }
    }
    for (name, outputs) in [("pair", 2), ("intent", 4), ("exit_pair", 2), ("exit_intent", 4)] {
        linears.push((format!("{name}_hidden"), HIDDEN, 2 * HIDDEN));
        linears.push((format!("{name}_out"), outputs, HIDDEN));
    }
    for name in norms {
        add(&format!("{name}.weight"), &[HIDDEN], 0.5, 1.0);
        add(&format!("{name}.bias"), &[HIDDEN], 0.2, 0.0);
    }
    for (name, outputs, inputs) in linears {
        // Outputs are of the order of 1, as inputs are: attention would enlarge errors of larger ones.
        add(&format!("{name}.weight"), &[outputs, inputs], 3.2 / (inputs as f32).sqrt(), 0.0);
        add(&format!("{name}.bias"), &[outputs], 0.2, 0.0);
    }
    weights
}

fn rows() -> Vec<Encoded> {
    let mut rng = fastrand::Rng::with_seed(5);
    let mut row = |length: usize| Encoded {
        ids: (0..length).map(|_| rng.i64(0..VOCABULARY as i64)).collect(),
        types: (0..length).map(|_| rng.i64(0..4)).collect(),
        kind: [Kind::Pairs, Kind::Queries][length % 2],
        may_leave: false,
    };
    // Longer together than what goes through the layers at once, and of every remainder.
    (1..=LENGTH_MAX).map(&mut row).collect()
}

/// The network in f64, as `training/model.py` states it.
struct Plain(Weights);

impl Plain {
    fn values(&self, name: &str) -> &[f32] {
        &self.0[name].1
    }

    fn linear(&self, name: &str, x: &[f64]) -> Vec<f64> {
        let (weight, bias) = (self.values(&format!("{name}.weight")), self.values(&format!("{name}.bias")));
        let dot = |row: &[f32]| row.iter().zip(x).map(|(w, x)| f64::from(*w) * x).sum::<f64>();
        weight.chunks(x.len()).zip(bias).map(|(row, bias)| dot(row) + f64::from(*bias)).collect()
    }

    fn norm(&self, name: &str, x: &[f64]) -> Vec<f64> {
        let n = x.len() as f64;
        let mean = x.iter().sum::<f64>() / n;
        let deviation = (x.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / n).sqrt();
        let (weight, bias) = (self.values(&format!("{name}.weight")), self.values(&format!("{name}.bias")));
        x.iter()
            .zip(weight)
            .zip(bias)
            .map(|((v, w), b)| (v - mean) / deviation * f64::from(*w) + f64::from(*b))
            .collect()
    }

    fn attention(&self, qkv: &[Vec<f64>], query: usize) -> Vec<f64> {
        let mut context = Vec::new();
        for head in 0..HIDDEN / HEAD {
            let part = |token: usize, which: usize| &qkv[token][which * HIDDEN + head * HEAD..][..HEAD];
            let product = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
            let weight = |key| (product(part(query, 0), part(key, 1)) / (HEAD as f64).sqrt()).exp();
            let weights: Vec<f64> = (0..qkv.len()).map(weight).collect();
            let sum: f64 = weights.iter().sum();
            context.extend(
                (0..HEAD).map(|d| weights.iter().enumerate().map(|(key, w)| w / sum * part(key, 2)[d]).sum::<f64>()),
            );
        }
        context
    }

    fn logits(&self, row: &Encoded) -> Vec<f64> {
        self.head(head_of(row.kind), &self.pooled(row, &["layers.0", "layers.1"]))
    }

    fn head(&self, name: &str, pooled: &[f64]) -> Vec<f64> {
        let hidden: Vec<f64> = self.linear(&format!("{name}_hidden"), pooled).into_iter().map(gelu).collect();
        self.linear(&format!("{name}_out"), &hidden)
    }

    /// The first token and the mean, after `layers`.
    fn pooled(&self, row: &Encoded, layers: &[&str]) -> Vec<f64> {
        let vector = |name: &str, at: usize| self.values(name)[at * HIDDEN..][..HIDDEN].to_vec();
        let embed = |(position, (id, kind)): (usize, (&i64, &i64))| {
            let parts = [
                vector("words.weight", *id as usize),
                vector("positions.weight", position),
                vector("types.weight", *kind as usize),
            ];
            let sum: Vec<f64> = (0..HIDDEN).map(|d| parts.iter().map(|part| f64::from(part[d])).sum()).collect();
            self.norm("norm", &sum)
        };
        let mut x: Vec<Vec<f64>> = row.ids.iter().zip(&row.types).enumerate().map(embed).collect();
        let plus = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a + b).collect::<Vec<f64>>();
        for layer in layers {
            let qkv: Vec<Vec<f64>> = x.iter().map(|x| self.linear(&format!("{layer}.qkv"), x)).collect();
            x = (0..x.len())
                .map(|i| {
                    let out = self.linear(&format!("{layer}.out"), &self.attention(&qkv, i));
                    let x = self.norm(&format!("{layer}.norm1"), &plus(&x[i], &out));
                    let up = self.linear(&format!("{layer}.up"), &x).into_iter().map(gelu).collect::<Vec<_>>();
                    self.norm(&format!("{layer}.norm2"), &plus(&x, &self.linear(&format!("{layer}.down"), &up)))
                })
                .collect();
        }
        let mean = (0..HIDDEN).map(|d| x.iter().map(|x| x[d]).sum::<f64>() / x.len() as f64);
        x[0].iter().copied().chain(mean).collect()
    }
}

fn head_of(kind: Kind) -> &'static str {
    match kind {
        Kind::Pairs => "pair",
        Kind::Queries => "intent",
    }
}

/// The logits that were asked for.
fn asked(kind: Kind, logits: &RowLogits) -> Vec<f64> {
    let logits = match kind {
        Kind::Pairs => &logits.pair[..],
        Kind::Queries => &logits.intent[..],
    };
    logits.iter().copied().map(f64::from).collect()
}

/// The largest difference of two rows of logits.
fn apart(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max)
}

fn gelu(x: f64) -> f64 {
    0.5 * x * (1.0 + erf(x / 2f64.sqrt()))
}

/// By its series, which converges for any argument.
fn erf(x: f64) -> f64 {
    let (mut term, mut sum) = (x, x);
    for n in 1..200 {
        term *= -x * x / f64::from(n);
        sum += term / f64::from(2 * n + 1);
    }
    (2.0 / std::f64::consts::PI.sqrt() * sum).clamp(-1.0, 1.0)
}

/// Rows of both kinds, with their logits by plain loops.
fn expected() -> Vec<(Encoded, Vec<f64>)> {
    let plain = Plain(weights());
    let of_kind = |kind| rows().into_iter().map(move |row| Encoded { kind, ..row });
    let both = [Kind::Pairs, Kind::Queries].into_iter().flat_map(of_kind);
    both.map(|row| (row.clone(), plain.logits(&row))).collect()
}

fn largest_error(expected: &[(Encoded, Vec<f64>)], precision: Precision, instructions: Instructions) -> f64 {
    let network = Network::new(&mut weights(), precision, instructions).expect("the shapes are right");
    let found = network.forward(expected.iter().map(|(row, _)| row)).expect("the rows are good");
    let errors = expected.iter().zip(&found).map(|((row, logits), found)| apart(logits, &asked(row.kind, found)));
    errors.fold(0.0, f64::max)
}

// Where the CPU lacks the instructions, libtorch computes, and nothing of this module runs.

#[test]
fn exact_and_int8_compute_the_network() {
    let expected = expected();
    for instructions in Instructions::detect() {
        let error = |precision| largest_error(&expected, precision, instructions);
        let (exact, int8) = (error(Precision::Exact), error(Precision::Int8));
        // The logits are of the order of 1; a wrong index or order would be an error of that order.
        let tolerance = if instructions.multiplies_bf16() { 0.04 } else { 0.001 };
        assert!(exact < tolerance, "{instructions}: {exact}");
        assert!(int8 < 0.08, "{instructions}: {int8}");
    }
}

#[test]
fn a_row_has_one_score_whatever_is_beside_it() {
    for instructions in Instructions::detect() {
        for precision in [Precision::Exact, Precision::Int8] {
            let network = Network::new(&mut weights(), precision, instructions).expect("the shapes are right");
            let rows = rows();
            let together = network.forward(rows.iter().rev()).expect("the rows are good");
            for (row, logits) in rows.iter().rev().zip(together) {
                assert_eq!(network.forward([row].into_iter()), Ok(vec![logits]), "{instructions}");
            }
        }
    }
}

/// With the weights of the exits' heads.
fn exits(entries: &[ExitEntry]) -> EarlyExits {
    let weights = weights();
    let exit = |&entry: &ExitEntry| {
        let values = |name: &str| weights[&format!("exit_{}_{name}", head_of(entry.kind()))].1.clone();
        EarlyExit {
            entry,
            hidden_weight: values("hidden.weight"),
            hidden_bias: values("hidden.bias"),
            out_weight: values("out.weight"),
            out_bias: values("out.bias"),
        }
    };
    EarlyExits { exits: entries.iter().map(exit).collect(), goldens: Goldens { cases: Vec::new() } }
}

/// How far these logits are beyond what an exit asks of them, as a probability.
fn beyond(entry: ExitEntry, logits: &[f64]) -> f64 {
    let probability = |temperature: f64, i: usize| {
        1.0 / logits.iter().map(|logit| ((logit - logits[i]) / temperature).exp()).sum::<f64>()
    };
    match entry {
        ExitEntry::Queries { settle_from, .. } => {
            (0..logits.len()).map(|i| probability(1.0, i)).fold(0.0, f64::max) - f64::from(settle_from)
        }
        ExitEntry::Pairs { distinct_below, .. } => f64::from(distinct_below) - probability(f64::from(TEMPERATURE), 1),
    }
}

const TEMPERATURE: f32 = 1.7;

#[test]
fn rows_leave_where_an_exit_is_sure_and_change_nothing_for_the_rest() {
    let plain = Plain(weights());
    let rows: Vec<Encoded> =
        rows().into_iter().enumerate().map(|(i, row)| Encoded { may_leave: i % 3 > 0, ..row }).collect();
    for entry in [
        ExitEntry::Queries { after: 0, settle_from: 0.4 },
        ExitEntry::Queries { after: 1, settle_from: 0.4 },
        ExitEntry::Pairs { after: 0, distinct_below: 0.5 },
        ExitEntry::Pairs { after: 1, distinct_below: 0.5 },
    ] {
        let (layers, head) = (&["layers.0"][..entry.after()], format!("exit_{}", head_of(entry.kind())));
        let expected: Vec<Vec<f64>> = rows.iter().map(|row| plain.head(&head, &plain.pooled(row, layers))).collect();
        // A fifth of all rows leaves.
        let mut sorted: Vec<f64> = expected.iter().map(|logits| beyond(entry, logits)).collect();
        sorted.sort_by(f64::total_cmp);
        let more = sorted[sorted.len() / 2] as f32;
        let entry = match entry {
            ExitEntry::Queries { after, settle_from } => ExitEntry::Queries { after, settle_from: settle_from + more },
            ExitEntry::Pairs { after, distinct_below } => {
                ExitEntry::Pairs { after, distinct_below: distinct_below - more }
            }
        };
        for instructions in Instructions::detect() {
            for precision in [Precision::Exact, Precision::Int8] {
                let mut network = Network::new(&mut weights(), precision, instructions).expect("the shapes are right");
                let whole = network.forward(rows.iter()).expect("the rows are good");
                network.add_exits(&exits(&[entry]), TEMPERATURE).expect("it fits");
                let found = network.forward(rows.iter()).expect("the rows are good");
                let mut left = 0;
                for (i, row) in rows.iter().enumerate() {
                    let beyond = beyond(entry, &expected[i]);
                    if !row.may_leave || row.kind != entry.kind() || beyond < -0.02 {
                        assert_eq!(found[i], whole[i], "{instructions}, {entry:?}, row {i}");
                    } else if beyond > 0.02 {
                        let error = apart(&asked(row.kind, &found[i]), &expected[i]);
                        assert!(found[i].left_early && error < 0.08, "{instructions}, {entry:?}, row {i}: {error}");
                        left += 1;
                    }
                }
                assert!(left > 1 && left < rows.len() / 3, "{left} of the rows are surely left by {entry:?}");
                let alone = network.forward([&rows[rows.len() - 1]].into_iter()).expect("the row is good");
                assert_eq!(alone[0], found[rows.len() - 1]);
            }
        }
    }
}

#[test]
fn a_batch_that_leaves_whole_needs_no_later_layer() {
    let Some(instructions) = Instructions::detect().next() else { return };
    let mut spoilt = weights();
    spoilt.insert("layers.1.norm2.bias".to_owned(), (vec![HIDDEN], vec![f32::NAN; HIDDEN]));
    let mut network = Network::new(&mut spoilt, Precision::Exact, instructions).expect("the shapes are right");
    let all = [ExitEntry::Pairs { after: 0, distinct_below: 1.0 }, ExitEntry::Queries { after: 1, settle_from: 0.2 }];
    network.add_exits(&exits(&all), TEMPERATURE).expect("they fit");
    let leaving = crate::encode::leaving(rows());
    let found = network.forward(leaving.iter()).expect("the rows are good");
    for (row, found) in leaving.iter().zip(&found) {
        assert!(found.left_early && asked(row.kind, found).iter().all(|logit| logit.is_finite()));
    }
}

#[test]
fn an_exit_that_is_not_finite_lets_nothing_leave() {
    let Some(instructions) = Instructions::detect().next() else { return };
    let mut network = Network::new(&mut weights(), Precision::Exact, instructions).expect("the shapes are right");
    let rows = crate::encode::leaving(rows());
    let whole = network.forward(rows.iter()).expect("the rows are good");
    let all = [ExitEntry::Pairs { after: 0, distinct_below: 0.9 }, ExitEntry::Queries { after: 1, settle_from: 0.2 }];
    let mut spoilt = exits(&all);
    spoilt.exits.iter_mut().for_each(|exit| exit.out_bias.fill(f32::NAN));
    network.add_exits(&spoilt, TEMPERATURE).expect("they fit");
    assert_eq!(network.forward(rows.iter()), Ok(whole));
}

#[test]
fn exits_of_another_network_are_refused() {
    let Some(instructions) = Instructions::detect().next() else { return };
    let mut network = Network::new(&mut weights(), Precision::Exact, instructions).expect("the shapes are right");
    let mut refused =
        |exits: &EarlyExits| network.add_exits(exits, TEMPERATURE).expect_err("it does not fit").to_string();
    let said = refused(&exits(&[ExitEntry::Queries { after: 2, settle_from: 0.9 }]));
    assert!(said.contains("after: is 2; the network has 2 layers"), "{said}");
    let mut narrow = exits(&[ExitEntry::Pairs { after: 1, distinct_below: 0.1 }]);
    narrow.exits[0].hidden_weight = vec![0.0; HIDDEN * HIDDEN];
    let said = refused(&narrow);
    assert!(said.contains("exit_hidden.weight") && said.contains("columns are due"), "{said}");
    assert!(!network.has_exits());
}

#[test]
fn other_networks_and_rows_are_refused() {
    let Some(instructions) = Instructions::detect().next() else { return };
    let mut missing = weights();
    missing.remove("layers.1.up.weight");
    let error = Network::new(&mut missing, Precision::Exact, instructions).err().expect("a weight is missing");
    assert!(error.to_string().contains("layers.1.up.weight"), "{error}");
    let mut narrow = weights();
    narrow.insert("pair_out.bias".to_owned(), (vec![3], vec![0.0; 3]));
    assert!(Network::new(&mut narrow, Precision::Exact, instructions).is_err());

    let network = Network::new(&mut weights(), Precision::Exact, instructions).expect("the shapes are right");
    let refused = |ids: Vec<i64>, kind: i64| {
        let types = vec![kind; ids.len()];
        network.forward([Encoded { ids, types, kind: Kind::Queries, may_leave: false }].iter()).expect_err("a bad row")
    };
    assert!(refused(vec![VOCABULARY as i64], 0).contains("vocabulary"));
    assert!(refused(vec![-1], 0).contains("vocabulary"));
    assert!(refused(vec![1], 9).contains("type 9"));
    assert!(refused(vec![], 0).contains("0 ids"));
    assert!(refused(vec![1; LENGTH_MAX + 1], 0).contains("ids"));
    assert_eq!(network.forward([].into_iter()), Ok(Vec::new()));
}
