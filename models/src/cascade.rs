//! The first stage of an artifact: a forest over [`crate::features`] that settles the pairs
//! of which it is sure, so that the cross-encoder runs for the others alone.

use std::collections::HashMap;

use serde::Deserialize;

use crate::TextPair;
use crate::features::{FEATURES, Sketch, features};

/// Most trees, and nodes of a tree. What is trained stays far below; a file beyond is none
/// of ours.
const TREES_MAX: usize = 512;
const NODES_MAX: usize = 1_024;
/// Sums in another order than the trainer's differ by less.
const GOLDEN_TOLERANCE: f32 = 1e-5;

/// Trees whose leaves add up to the log odds of `duplicate`.
#[derive(Clone, Debug, PartialEq)]
pub struct Forest {
    base: f64,
    trees: Vec<Vec<Node>>,
}

/// `cascade.json`, as `training/cascade.py` writes it.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    features: Vec<String>,
    base: f64,
    trees: Vec<Vec<Node>>,
    goldens: Vec<Golden>,
}

/// In JSON a number, or `[feature, threshold, index of left node, index of right node]`.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize)]
#[serde(untagged)]
enum Node {
    Leaf(f64),
    /// Left where the feature is at most the threshold.
    Split(usize, f64, usize, usize),
}

/// What the trainer's own copy of the forest says of two texts.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Golden {
    a: String,
    b: String,
    probability: f32,
}

/// Why a `cascade.json` is of no use.
#[derive(Debug, thiserror::Error)]
pub enum ForestError {
    #[error("{0}")]
    Json(#[from] serde_json::Error),
    #[error("the forest was trained with other features than this build's; use an artifact of this version")]
    Features,
    #[error("there are {found} {what}; 1 to {max} are read")]
    Count { what: &'static str, found: usize, max: usize },
    #[error("tree {tree}, node {node}: {reason}")]
    Node { tree: usize, node: usize, reason: &'static str },
    #[error("golden {golden}: the probability is {found}, the trainer's was {expected}")]
    Golden { golden: usize, found: f32, expected: f32 },
}

impl Forest {
    /// Reads the content of a `cascade.json` and checks it against its own goldens, so that
    /// features which are computed in another way are noticed.
    pub fn read(json: &[u8]) -> Result<Self, ForestError> {
        let File { features, base, trees, goldens } = serde_json::from_slice(json)?;
        if features != FEATURES {
            return Err(ForestError::Features);
        }
        count("trees", trees.len(), TREES_MAX)?;
        count("goldens", goldens.len(), usize::MAX)?;
        for (number, tree) in trees.iter().enumerate() {
            count("nodes in one tree", tree.len(), NODES_MAX)?;
            for (node, content) in tree.iter().enumerate() {
                let wrong = content.problem(node, tree.len());
                wrong.map_or(Ok(()), |reason| Err(ForestError::Node { tree: number, node, reason }))?;
            }
        }
        let forest = Self { base, trees };
        for (number, Golden { a, b, probability: expected }) in goldens.into_iter().enumerate() {
            let found = forest.probability(&Sketch::of(&a), &Sketch::of(&b));
            // The other way round, a NaN would pass.
            let is_close = (found - expected).abs() <= GOLDEN_TOLERANCE;
            if !is_close {
                return Err(ForestError::Golden { golden: number, found, expected });
            }
        }
        Ok(forest)
    }

    /// Probability of `duplicate`, 0 to 1; the same in both directions.
    pub fn probability(&self, left: &Sketch, right: &Sketch) -> f32 {
        let row = features(left, right);
        let log_odds = self.trees.iter().fold(self.base, |sum, tree| sum + leaf(tree, &row));
        (1.0 / (1.0 + (-log_odds).exp())) as f32
    }
}

impl Node {
    /// Children come after their parent, so that every walk ends.
    fn problem(&self, node: usize, nodes: usize) -> Option<&'static str> {
        match *self {
            Self::Leaf(_) => None,
            Self::Split(feature, ..) if feature >= FEATURES.len() => Some("there is no such feature"),
            Self::Split(_, _, left, right) if left.max(right) >= nodes => Some("there is no such node to go on with"),
            Self::Split(_, _, left, right) if left.min(right) <= node => {
                Some("a node that it leads to is not behind it")
            }
            Self::Split(..) => None,
        }
    }
}

fn count(what: &'static str, found: usize, max: usize) -> Result<(), ForestError> {
    if (1..=max).contains(&found) { Ok(()) } else { Err(ForestError::Count { what, found, max }) }
}

/// The value of the leaf that a row of features ends in.
fn leaf(tree: &[Node], row: &[f32]) -> f64 {
    let mut node = 0;
    loop {
        match tree[node] {
            Node::Leaf(value) => return value,
            Node::Split(feature, threshold, left, right) => {
                node = if f64::from(row[feature]) <= threshold { left } else { right };
            }
        }
    }
}

/// A forest and how sure it has to be.
#[derive(Clone, Debug, PartialEq)]
pub struct Cascade {
    pub forest: Forest,
    /// Pairs of a smaller probability are distinct.
    pub distinct_below: f32,
}

impl Cascade {
    /// The forest's probability of each pair that it settles as distinct, in the order of
    /// `pairs`; none for those that the cross-encoder has to judge.
    pub fn settle(&self, pairs: &[TextPair]) -> Vec<Option<f32>> {
        // The pairs of one product share its text.
        let mut sketches: HashMap<&str, Sketch> = HashMap::new();
        for text in pairs.iter().flat_map(|pair| [&pair.left, &pair.right]) {
            sketches.entry(text).or_insert_with(|| Sketch::of(text));
        }
        let settle = |TextPair { left, right }: &TextPair| {
            let probability = self.forest.probability(&sketches[left.as_ref()], &sketches[right.as_ref()]);
            (probability < self.distinct_below).then_some(probability)
        };
        pairs.iter().map(settle).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::{Value, json};

    const NORVIK: [&str; 2] = ["norvik kettle kt1700 black", "kettle by norvik kt1700"];
    const OTHER: &str = "orbisk lamp";

    fn feature(name: &str) -> usize {
        FEATURES.iter().position(|feature| *feature == name).expect("a feature")
    }

    /// Two trees that know a shared code and shared words.
    fn file() -> Value {
        let code = json!([[feature("longest_shared_code"), 3.5, 1, 2], -1.0, 2.0]);
        let words =
            json!([[feature("short_words_share"), 0.25, 1, 2], -2.0, [feature("long_words"), 9.0, 3, 4], 0.5, 0.0]);
        let probability = |log_odds: f64| 1.0 / (1.0 + (-log_odds).exp());
        json!({"features": FEATURES.to_vec(), "base": -0.5, "trees": [code, words], "goldens": [
            {"a": NORVIK[0], "b": NORVIK[1], "probability": probability(2.0)},
            {"a": NORVIK[0], "b": OTHER, "probability": probability(-3.5)},
        ]})
    }

    fn read(file: &Value) -> Result<Forest, String> {
        Forest::read(&serde_json::to_vec(file).expect("JSON")).map_err(|error| error.to_string())
    }

    fn pair(left: &str, right: &str) -> TextPair {
        TextPair { left: left.into(), right: right.into() }
    }

    #[test]
    fn sure_pairs_are_settled_with_their_probability() {
        let cascade = Cascade { forest: read(&file()).expect("a forest"), distinct_below: 0.03 };
        let pairs = [pair(NORVIK[0], NORVIK[1]), pair(OTHER, NORVIK[0]), pair(NORVIK[0], OTHER)];
        let settled = cascade.settle(&pairs);
        assert_eq!((settled[0], settled[1]), (None, settled[2]));
        assert!((settled[1].expect("settled") - 0.029_312_23).abs() < 1e-6);
        let less_sure = Cascade { distinct_below: 0.029, ..cascade };
        assert_eq!(less_sure.settle(&pairs), [None; 3]);
    }

    #[test]
    fn files_that_are_no_forest_are_refused_with_the_reason() {
        let spoil = |at: &str, value: Value| {
            let mut spoilt = file();
            *spoilt.pointer_mut(at).expect("it is there") = value;
            read(&spoilt).expect_err("it is refused")
        };
        let mut names = FEATURES.to_vec();
        names.swap(0, 1);
        for (at, value, reason) in [
            ("", json!([]), "invalid"),
            ("/features", json!(FEATURES[1..]), "other features"),
            ("/features", json!(names), "other features"),
            ("/base", json!("x"), "invalid type"),
            ("/trees", json!([]), "there are 0 trees"),
            ("/trees/1", json!([]), "there are 0 nodes in one tree"),
            ("/trees/1", json!(vec![0.5; NODES_MAX + 1]), "there are 1025 nodes in one tree"),
            ("/trees/0/1", json!([0, 1.0]), "did not match"),
            ("/trees/1/2", json!([FEATURES.len(), 1.0, 3, 4]), "tree 1, node 2: there is no such feature"),
            ("/trees/1/2", json!([0, 1.0, 3, 5]), "tree 1, node 2: there is no such node"),
            ("/trees/1/2", json!([0, 1.0, 2, 4]), "tree 1, node 2: a node that it leads to is not behind it"),
            ("/trees/1/1", json!(-2.5), "golden 1: the probability is"),
            ("/goldens", json!([]), "there are 0 goldens"),
        ] {
            let said = spoil(at, value);
            assert!(said.contains(reason), "{at}: {said}");
        }
        let mut more = file();
        more["more"] = json!(1);
        assert!(read(&more).expect_err("it is refused").contains("unknown field `more`"));
        assert!(Forest::read(b"{").is_err());
    }

    proptest! {
        #[test]
        fn direction_makes_no_difference(a in "[a-c1-3|. -]{0,40}", b in "[a-c1-3|. -]{0,40}") {
            let forest = read(&file()).expect("a forest");
            let (a, b) = (Sketch::of(&a), Sketch::of(&b));
            prop_assert_eq!(forest.probability(&a, &b), forest.probability(&b, &a));
        }
    }
}
