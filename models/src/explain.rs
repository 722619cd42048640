//! Why a pair scores as it does, in the words of its two texts.
//!
//! These are the marks that the model is given with each token, so what is shown here is
//! what it reads; how much each word weighs is the network's own.

use serde::Serialize;

use crate::mark::{MARKS, Mark, Words};

/// What two texts share, and what each says alone. Words are in the order of their text,
/// each once.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Explanation {
    pub shared: Vec<String>,
    pub left_only: Vec<OwnWord>,
    pub right_only: Vec<OwnWord>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct OwnWord {
    pub word: String,
    /// One of [`MARKS`]: whether it is a word, a number or a code, and what the other text
    /// has in its place.
    pub mark: &'static str,
}

/// Compares two product texts.
pub fn explain(left: &str, right: &str) -> Explanation {
    let words = (Words::of(left), Words::of(right));
    // What both say is the same from either side, but for its spelling.
    let (shared, left_only) = sorted_out(left, &words.0.marks_beside(&words.1));
    let (_, right_only) = sorted_out(right, &words.1.marks_beside(&words.0));
    Explanation { shared, left_only, right_only }
}

fn sorted_out(text: &str, marks: &[Mark]) -> (Vec<String>, Vec<OwnWord>) {
    let (mut shared, mut own) = (Vec::new(), Vec::new());
    for (word, &mark) in text.split_whitespace().zip(marks) {
        match mark {
            Mark::Plain => {}
            Mark::SharedWord | Mark::SharedNumber => push_new(&mut shared, word.to_owned()),
            _ => push_new(&mut own, OwnWord { word: word.to_owned(), mark: MARKS[mark as usize] }),
        }
    }
    (shared, own)
}

fn push_new<T: PartialEq>(list: &mut Vec<T>, value: T) {
    if !list.contains(&value) {
        list.push(value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_sorted_by_who_says_them() {
        let found = explain("sony dsc-w55 pink | sony camera", "sony dscw55 camera 7.1 mp");
        assert_eq!(found.shared, ["sony", "dsc-w55", "camera"]);
        assert_eq!(found.left_only, [OwnWord { word: "pink".to_owned(), mark: "own_word" }]);
        let right: Vec<&str> = found.right_only.iter().map(|own| own.word.as_str()).collect();
        assert_eq!(right, ["7.1", "mp"]);
        assert_eq!(found.right_only[0].mark, "own_number");
    }

    #[test]
    fn equal_texts_have_nothing_of_their_own() {
        let found = explain("red kettle", "red kettle");
        assert_eq!((found.shared.len(), found.left_only.len(), found.right_only.len()), (2, 0, 0));
    }
}
