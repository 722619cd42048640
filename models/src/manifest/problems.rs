//! What a manifest must hold, beside what its types say.

use std::collections::BTreeSet;

use shared::{Intent, TEXT_VERSION};

use super::{
    CASCADE_FILE, CASCADE_SCHEMA_VERSION, CascadeEntry, Compiled, EARLY_EXIT_FILE, EARLY_EXIT_SCHEMA_VERSION,
    EarlyExitEntry, ExitEntry, GOLDENS_FILE, MODULE_FILE, Manifest, Problem, QUERY_CASCADE_FILE,
    QUERY_CASCADE_SCHEMA_VERSION, QueryCascadeEntry, SECOND_READING_SCHEMA_VERSION, SecondReading, TOKENIZER_FILE,
    Thresholds, Tolerance,
};
use crate::mark::MARKS;

/// Logits of the pair head, in their order.
const PAIR_LABELS: [&str; 2] = ["distinct", "duplicate"];
/// `[CLS] a [SEP] b [SEP]` with one token on either side; a model without room for that
/// reads nothing.
const TOKENS_MIN: usize = 5;
/// Rows of the position table of every BERT.
const TOKENS_MAX: usize = 512;

impl Manifest {
    /// All of them.
    pub(super) fn problems(&self) -> Vec<Problem> {
        let mut problems = Problems(Vec::new());
        self.check_reading(&mut problems);
        self.check_verdicts(&mut problems);
        self.check_stages(&mut problems);
        self.check_modules(&mut problems);
        problems.0
    }

    /// What the network reads, and what its logits stand for.
    fn check_reading(&self, problems: &mut Problems) {
        for (name, tokens) in [("pair_tokens_max", self.pair_tokens_max), ("query_tokens_max", self.query_tokens_max)] {
            let reason = format!("{tokens} is not between {TOKENS_MIN} and {TOKENS_MAX}");
            problems.field(!(TOKENS_MIN..=TOKENS_MAX).contains(&tokens), name, reason);
        }
        problems.field(self.marks != MARKS, "marks", format!("must be {MARKS:?} in this order"));
        let intents = Intent::ALL.map(Intent::as_str);
        let in_this_order = |labels: &[&str]| format!("must be {labels:?} in this order");
        problems.field(self.labels.pair != PAIR_LABELS, "labels.pair", in_this_order(&PAIR_LABELS));
        problems.field(self.labels.intent != intents, "labels.intent", in_this_order(&intents));
        if self.text_version != TEXT_VERSION {
            problems.0.push(Problem::TextVersion { found: self.text_version });
        }
    }

    fn check_verdicts(&self, problems: &mut Problems) {
        let is_good = positive(self.temperature);
        problems.field(!is_good, "temperature", format!("{} is not above 0", self.temperature));
        let Thresholds { duplicate, review } = self.thresholds;
        let ordered = 0.0 < review && review <= duplicate && duplicate < 1.0;
        let reason = format!("0 < review ({review}) <= duplicate ({duplicate}) < 1 does not hold");
        problems.field(!ordered, "thresholds", reason);
        if let Some(SecondReading { above, below }) = self.second_reading {
            let ordered = 0.0 < above && above < below && below < 1.0;
            let reason = format!("0 < above ({above}) < below ({below}) < 1 does not hold");
            problems.field(!ordered, "second_reading", reason);
            self.check_schema("second_reading", SECOND_READING_SCHEMA_VERSION, problems);
        }
        let Tolerance { fp32, bf16, int8 } = self.golden_tolerance;
        let all_positive = positive(fp32) && positive(bf16) && int8.is_none_or(positive);
        problems.field(!all_positive, "golden_tolerance", "must be above 0".to_owned());
    }

    fn check_stages(&self, problems: &mut Problems) {
        let review = self.thresholds.review;
        if let Some(CascadeEntry { distinct_below }) = self.cascade {
            let is_below = 0.0 < distinct_below && distinct_below <= review;
            let reason = format!("0 < distinct_below ({distinct_below}) <= thresholds.review ({review}) does not hold");
            problems.field(!is_below, "cascade", reason);
            self.check_schema("cascade", CASCADE_SCHEMA_VERSION, problems);
            self.check_file(CASCADE_FILE, problems);
        }
        if let Some(QueryCascadeEntry { settle_from }) = self.query_cascade {
            let reason = format!("0.5 < settle_from ({settle_from}) < 1 does not hold");
            problems.field(!(0.5 < settle_from && settle_from < 1.0), "query_cascade", reason);
            self.check_schema("query_cascade", QUERY_CASCADE_SCHEMA_VERSION, problems);
            self.check_file(QUERY_CASCADE_FILE, problems);
        }
        if let Some(EarlyExitEntry { exits }) = &self.early_exit {
            for reason in exits.iter().filter_map(|exit| exit.problem(review)) {
                problems.field(true, "early_exit", reason);
            }
            self.check_schema("early_exit", EARLY_EXIT_SCHEMA_VERSION, problems);
            self.check_file(EARLY_EXIT_FILE, problems);
        }
    }

    fn check_modules(&self, problems: &mut Problems) {
        let modules = match &self.compiled {
            Some(compiled) => compiled.buckets.iter().map(|bucket| bucket.file.as_str()).collect(),
            None => vec![MODULE_FILE],
        };
        for name in modules.into_iter().chain([TOKENIZER_FILE, GOLDENS_FILE]) {
            self.check_file(name, problems);
        }
        for reason in self.compiled.iter().flat_map(|compiled| compiled.problems(self.pair_tokens_max)) {
            problems.field(true, "static.buckets", reason);
        }
    }

    /// A manifest of an older schema cannot hold `field`.
    fn check_schema(&self, field: &str, since: u32, problems: &mut Problems) {
        let reason = format!("{} has no {field}, and {since} has", self.schema_version);
        problems.field(self.schema_version < since, "schema_version", reason);
    }

    fn check_file(&self, name: &str, problems: &mut Problems) {
        problems.field(!self.files.contains_key(name), "files", format!("{name} is missing"));
    }
}

struct Problems(Vec<Problem>);

impl Problems {
    fn field(&mut self, bad: bool, field: &'static str, reason: String) {
        if bad {
            self.0.push(Problem::Field { field, reason });
        }
    }
}

fn positive(x: f32) -> bool {
    x.is_finite() && x > 0.0
}

impl ExitEntry {
    /// What is wrong with it, beside a threshold of `review`.
    fn problem(self, review: f32) -> Option<String> {
        match self {
            Self::Queries { settle_from, .. } if !(0.5 < settle_from && settle_from < 1.0) => {
                Some(format!("0.5 < settle_from ({settle_from}) < 1 does not hold"))
            }
            Self::Pairs { distinct_below, .. } if !(0.0 < distinct_below && distinct_below < review) => {
                Some(format!("0 < distinct_below ({distinct_below}) < thresholds.review ({review}) does not hold"))
            }
            _ => None,
        }
    }
}

impl Compiled {
    fn problems(&self, pair_tokens_max: usize) -> Vec<String> {
        let mut problems = Vec::new();
        let mut shapes = BTreeSet::new();
        for bucket in &self.buckets {
            let shape = bucket.shape();
            if bucket.batch == 0 || !(TOKENS_MIN..=TOKENS_MAX).contains(&bucket.length) {
                problems.push(format!("{shape} has no rows, or not between {TOKENS_MIN} and {TOKENS_MAX} tokens"));
            }
            if !shapes.insert(shape) {
                problems.push(format!("{shape} is there twice"));
            }
        }
        let longest = self.buckets.iter().map(|bucket| bucket.length).max().unwrap_or_default();
        if longest < pair_tokens_max {
            problems.push(format!("the longest is {longest}, and pairs have up to {pair_tokens_max} tokens"));
        }
        problems
    }
}
