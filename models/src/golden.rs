//! Golden outputs: what the exported network said of known texts, checked at every load.

use std::fmt;

use serde::Deserialize;

use crate::TextPair;
use crate::encode::{EncodeError, Encoded, Encoder, leaving};
use crate::engine::{Engine, EngineError};
use crate::shape::{Lengths, Shape, Shapes};

#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct Goldens {
    pub cases: Vec<GoldenCase>,
}

/// Rows of one head that are scored as one batch.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct GoldenCase {
    pub name: String,
    pub kind: Kind,
    /// Tokens of each row after padding.
    pub length: usize,
    /// Two texts a row for pairs, one for queries.
    pub texts: Vec<Vec<String>>,
    /// Token ids of each row, without padding.
    pub input_ids: Vec<Vec<i64>>,
    /// Type of each id: its mark and side.
    pub token_types: Vec<Vec<i64>>,
    /// Two logits a row for pairs, four for queries.
    pub logits: Vec<Vec<f32>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    Pairs,
    Queries,
}

impl Kind {
    /// Logits of a row.
    pub fn logits(self) -> usize {
        match self {
            Self::Pairs => 2,
            Self::Queries => 4,
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Pairs => "pairs",
            Self::Queries => "queries",
        })
    }
}

/// How a loaded artifact differs from what was exported.
#[derive(Debug, thiserror::Error)]
pub enum GoldenError {
    #[error("there are no golden cases for {kind:?}")]
    Missing { kind: Kind },
    #[error("golden case {case:?}: a row has the wrong number of texts or logits")]
    Shape { case: String },
    #[error("golden case {case:?}, row {row}: this build gives other token ids or types than the export's")]
    Tokens { case: String, row: usize },
    #[error(
        "golden case {case:?}, row {row}: logits are {found:?} in a batch of {shape}, the export gave {expected:?} \
         (tolerance {tolerance}); this device, libtorch or numeric path does not compute this model"
    )]
    Logits { case: String, row: usize, shape: Shape, expected: Vec<f32>, found: Vec<f32>, tolerance: f32 },
    #[error("golden case {case:?}, row {row}: it leaves the network late, and left early at the export")]
    Late { case: String, row: usize },
    #[error("golden case {case:?} cannot be tokenised")]
    Encode { case: String, source: EncodeError },
    #[error("golden case {case:?} cannot be scored in a batch of {shape}")]
    Engine { case: String, shape: Shape, source: EngineError },
    #[error("no golden row fits in a batch of {shape}, so nothing vouches for its module")]
    NoRow { shape: Shape },
}

impl Goldens {
    /// Tokenises the texts of every case with `encoder` and compares the ids; the encoded
    /// cases are what [`check`] scores.
    pub(crate) fn encode(&self, encoder: &Encoder) -> Result<Vec<EncodedCase>, GoldenError> {
        for kind in [Kind::Pairs, Kind::Queries] {
            if !self.cases.iter().any(|case| case.kind == kind && !case.texts.is_empty()) {
                return Err(GoldenError::Missing { kind });
            }
        }
        self.cases.iter().map(|case| case.encode(encoder)).collect()
    }

    /// As [`Goldens::encode`], of rows that leave early.
    pub(crate) fn encode_leaving(&self, encoder: &Encoder) -> Result<Vec<EncodedCase>, GoldenError> {
        let leaving_case = |case: &GoldenCase| {
            let case = case.encode(encoder)?;
            Ok(EncodedCase { rows: leaving(case.rows), ..case })
        };
        self.cases.iter().map(leaving_case).collect()
    }
}

impl GoldenCase {
    fn encode(&self, encoder: &Encoder) -> Result<EncodedCase, GoldenError> {
        let case = || self.name.clone();
        let texts = match self.kind {
            Kind::Pairs => 2,
            Kind::Queries => 1,
        };
        let shaped = self.texts.iter().all(|row| row.len() == texts)
            && self.logits.iter().all(|row| row.len() == self.kind.logits());
        let counts = [self.logits.len(), self.input_ids.len(), self.token_types.len()];
        if !shaped || counts.iter().any(|&count| count != self.texts.len()) {
            return Err(GoldenError::Shape { case: case() });
        }
        let encoded = match self.kind {
            Kind::Pairs => {
                let pairs: Vec<TextPair> = self
                    .texts
                    .iter()
                    .map(|row| TextPair { left: row[0].as_str().into(), right: row[1].as_str().into() })
                    .collect();
                encoder.pairs(&pairs)
            }
            Kind::Queries => encoder.queries(&self.texts.concat()),
        };
        let rows = encoded.map_err(|source| GoldenError::Encode { case: case(), source })?;
        let expected = self.input_ids.iter().zip(&self.token_types);
        if let Some(row) =
            rows.iter().zip(expected).position(|(found, (ids, types))| found.ids != *ids || found.types != *types)
        {
            return Err(GoldenError::Tokens { case: case(), row });
        }
        if rows.iter().any(|row| row.ids.len() > self.length) {
            return Err(GoldenError::Shape { case: case() });
        }
        Ok(EncodedCase {
            name: self.name.clone(),
            kind: self.kind,
            length: self.length,
            rows,
            logits: self.logits.clone(),
        })
    }
}

/// A golden case whose token ids were found right.
#[derive(Clone, Debug)]
pub(crate) struct EncodedCase {
    name: String,
    kind: Kind,
    length: usize,
    rows: Vec<Encoded>,
    logits: Vec<Vec<f32>>,
}

/// Scores every case on `engine`; each logit must be within `tolerance` of the export's. An
/// engine of static shapes scores the rows that fit at each of them. Where nothing leaves early,
/// cases that do are passed over.
pub(crate) fn check(cases: &[EncodedCase], engine: &Engine, tolerance: f32) -> Result<(), GoldenError> {
    let is_meant = |case: &&EncodedCase| engine.has_exits() || !case.rows.iter().any(|row| row.may_leave);
    let cases: Vec<&EncodedCase> = cases.iter().filter(is_meant).collect();
    let Shapes::Padded(Lengths::Grid(grid)) = engine.shapes() else {
        return cases.iter().try_for_each(|case| {
            let shape = Shape { rows: case.rows.len(), length: case.length };
            case.check(&(0..case.rows.len()).collect::<Vec<_>>(), engine, shape, tolerance)
        });
    };
    for shape in grid.shapes() {
        let mut has_row = false;
        for case in &cases {
            let fits: Vec<usize> = (0..case.rows.len()).filter(|&i| case.rows[i].ids.len() <= shape.length).collect();
            has_row |= !fits.is_empty();
            fits.chunks(shape.rows).try_for_each(|part| case.check(part, engine, shape, tolerance))?;
        }
        if !has_row {
            return Err(GoldenError::NoRow { shape });
        }
    }
    Ok(())
}

impl EncodedCase {
    /// Scores some of the case's rows as one batch.
    fn check(&self, rows: &[usize], engine: &Engine, shape: Shape, tolerance: f32) -> Result<(), GoldenError> {
        let logits = engine
            .forward(rows.iter().map(|&row| &self.rows[row]), shape)
            .map_err(|source| GoldenError::Engine { case: self.name.clone(), shape, source })?;
        for (&row, logits) in rows.iter().zip(&logits) {
            if self.rows[row].may_leave && !logits.left_early {
                return Err(GoldenError::Late { case: self.name.clone(), row });
            }
            let found = match self.kind {
                Kind::Pairs => &logits.pair[..],
                Kind::Queries => &logits.intent[..],
            };
            let expected = &self.logits[row];
            // Written so that a NaN fails.
            if !found.iter().zip(expected).all(|(x, y)| (x - y).abs() <= tolerance) {
                let (case, expected, found) = (self.name.clone(), expected.clone(), found.to_vec());
                return Err(GoldenError::Logits { case, row, shape, expected, found, tolerance });
            }
        }
        Ok(())
    }
}
