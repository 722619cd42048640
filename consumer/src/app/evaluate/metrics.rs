//! Counts of right and wrong answers, and the usual ratios of them. Pure.

use shared::Intent;

/// Precision, recall and F1 of one class against the rest. A ratio whose denominator is 0
/// is 0.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct ClassScore {
    pub precision: f64,
    pub recall: f64,
    pub f1: f64,
    /// Rows that truly are of this class.
    pub support: usize,
}

/// Scores one class from (said, true) of each row.
pub fn class_score(rows: impl Iterator<Item = (bool, bool)>) -> ClassScore {
    let (mut hits, mut said, mut support) = (0, 0, 0);
    for (is_said, is_true) in rows {
        hits += usize::from(is_said && is_true);
        said += usize::from(is_said);
        support += usize::from(is_true);
    }
    ClassScore {
        precision: ratio(hits, said),
        recall: ratio(hits, support),
        f1: ratio(2 * hits, said + support),
        support,
    }
}

/// Answers about queries.
#[derive(Clone, Debug, PartialEq)]
pub struct IntentReport {
    pub rows: usize,
    pub accuracy: f64,
    /// Mean F1 of the classes that have support.
    pub macro_f1: f64,
    /// In the order of [`Intent::ALL`].
    pub classes: [(Intent, ClassScore); 4],
}

impl IntentReport {
    /// Scores all classes from (said, true) of each row.
    pub fn of(rows: &[(Intent, Intent)]) -> Self {
        let classes = Intent::ALL
            .map(|intent| (intent, class_score(rows.iter().map(|&(said, truth)| (said == intent, truth == intent)))));
        let supported: Vec<f64> = classes.iter().filter(|(_, c)| c.support > 0).map(|(_, c)| c.f1).collect();
        let right = rows.iter().filter(|(said, truth)| said == truth).count();
        Self {
            rows: rows.len(),
            accuracy: ratio(right, rows.len()),
            macro_f1: if supported.is_empty() { 0.0 } else { supported.iter().sum::<f64>() / supported.len() as f64 },
            classes,
        }
    }
}

fn ratio(part: usize, whole: usize) -> f64 {
    if whole == 0 { 0.0 } else { part as f64 / whole as f64 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Intent::{Help, Media, Other, Product};

    #[test]
    fn ratios_are_those_of_the_textbook() {
        let rows = [(true, true), (true, true), (true, false), (false, true), (false, false)];
        let score = class_score(rows.into_iter());
        assert_eq!((score.precision, score.recall, score.support), (2.0 / 3.0, 2.0 / 3.0, 3));
        assert!((score.f1 - 2.0 / 3.0).abs() < 1e-12);
    }

    #[test]
    fn nothing_said_or_nothing_there_is_zero_and_not_nan() {
        assert_eq!(class_score([(false, true)].into_iter()), ClassScore { support: 1, ..ClassScore::default() });
        assert_eq!(class_score(std::iter::empty()), ClassScore::default());
        assert_eq!(IntentReport::of(&[]).macro_f1, 0.0);
    }

    #[test]
    fn the_macro_mean_is_over_classes_that_occur() {
        let report = IntentReport::of(&[(Product, Product), (Media, Product), (Help, Help), (Help, Help)]);
        assert_eq!(report.accuracy, 0.75);
        assert!((report.macro_f1 - (2.0 / 3.0 + 1.0) / 2.0).abs() < 1e-12);
        assert_eq!(report.classes[3], (Other, ClassScore::default()));
    }
}
