//! Blocking: finds a product's likely duplicates by key look-ups whose cost does not
//! grow with the catalog.
//!
//! Every product is written under a few keys that follow from its text and the key epoch
//! alone. A look-up reads the first postings of each of its own keys and ranks them by
//! their sketches. Keys are of two kinds, rare in any catalog that the epoch fits:
//! - `w`: one rare word or code, the core of a code ("ih16" of "ih16gxc"), or
//!   two neighbours run together ("titan pro" and "titanpro");
//! - `g`: a group of two to four common words that are rare together.

mod epoch;
mod epochs;
mod sketch;
mod tokens;

use std::collections::HashMap;

use shared::ProductId;

pub use epoch::{EpochError, KeyEpoch};
pub use epochs::KeyEpochs;
pub use sketch::{SKETCH_BYTES_MAX, sketch};

use sketch::Own;
use tokens::{Token, has_digit, stem, title_parts, tokens};

/// Most keys that one product is written under and looks up: each is one write unit and one
/// request. Ten keep the whole event within [`Limits::requests_max`], and its postings and those
/// of the text before within one BatchWriteItem.
pub const KEYS_MAX: usize = 10;
/// Most postings that a look-up reads of one key. A good key has about as many products, in a catalog
/// of any size; of one that has more, more would be read the larger the catalog is, and no more
/// found: the ids that come first are as good as any.
const POSTINGS_PER_KEY_MAX: usize = 12;
/// Requests of an event that are no key look-up: the state read, the state written, the
/// postings, the candidates' texts with the own labels, the labels of the other sides, and
/// one transaction for labels and marker (or, where no other side changes, two writes in the place
/// of the last two).
const OTHER_REQUESTS: usize = 6;
/// Texts with fewer keys than this also get keys that are not rare.
const KEYS_MIN: usize = 4;

/// Rarest words that become keys by themselves.
const RARE_WORDS_MAX: usize = 5;
/// How much rarer than a group a word has to be to be a key by itself, in bits.
const RARE_MARGIN_BITS: f32 = 0.5;
/// What a word of prose must be rarer by, in bits, to be taken before others.
const DETAIL_PENALTY_BITS: f32 = 4.0;
/// Tokens looked at for code cores, rarest first, and their least rarity in bits.
const CODES_MAX: usize = 8;
const CODE_BITS: f32 = 8.5;
const CORES_MAX: usize = 3;
const CODE_CHARS_MIN: usize = 4;
const JOINED_CHARS_MIN: usize = 5;
/// Common words that groups are made of, rarest first.
const GROUPED_WORDS_MAX: usize = 7;
const GROUP_WORDS_MAX: u32 = 4;

/// What one event may cost, whatever the catalog's size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Requests of the whole event: one for each key, and six.
    pub requests_max: usize,
    /// Candidates to score.
    pub candidates_max: usize,
    /// Items read: postings and candidate texts.
    pub items_max: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { requests_max: 16, candidates_max: 20, items_max: 400 }
    }
}

impl Limits {
    /// Most keys to read.
    pub fn keys_max(&self) -> usize {
        self.requests_max.saturating_sub(OTHER_REQUESTS).min(KEYS_MAX)
    }

    /// Postings to read of each of `keys` keys: few, and so that all of them and the candidates'
    /// texts stay within `items_max`. 0 when there is nothing to read.
    pub fn limit_per_key(&self, keys: usize) -> usize {
        let share = self.items_max.saturating_sub(self.candidates_max).checked_div(keys).unwrap_or(0);
        share.min(POSTINGS_PER_KEY_MAX)
    }
}

/// The keys to write a product under, best first: at most [`KEYS_MAX`], and at
/// least one if the title has a digit or a word of two letters. A pure function of text
/// and epoch.
pub fn posting_keys(text: &str, epoch: &KeyEpoch) -> Vec<String> {
    let words = Words::of(text, epoch);
    let mut keys = Keys { epoch: epoch.number, keys: Vec::with_capacity(KEYS_MAX) };
    let rare: Vec<&Word> = words.0.iter().filter(|word| word.is_rare(epoch)).take(RARE_WORDS_MAX).collect();
    for word in &rare {
        keys.push('w', &word.token.text);
    }
    for core in words.code_cores(&rare, epoch) {
        keys.push('w', &core);
    }
    if let Some(joined) = rarest_neighbours(text, epoch) {
        keys.push('w', &joined);
    }
    let common = words.common(&rare);
    let groups = Groups::of(&common, epoch);
    for group in groups.rare_by_cost() {
        keys.push('g', &groups.name(group));
    }
    if keys.keys.len() < KEYS_MIN {
        for key in groups.fall_back() {
            keys.push(if key.count_ones() == 1 { 'w' } else { 'g' }, &groups.name(key));
            if keys.keys.len() >= KEYS_MIN {
                break;
            }
        }
    }
    keys.keys
}

/// The keys to read: the best of [`posting_keys`], as many as the limits allow.
pub fn query_keys(text: &str, epoch: &KeyEpoch, limits: &Limits) -> Vec<String> {
    let mut keys = posting_keys(text, epoch);
    keys.truncate(limits.keys_max());
    keys
}

/// The most similar of the products whose postings were read, best first, at most
/// `candidates_max`, without `own`. Ties go by id; a product that was read under several
/// keys counts once, with its best sketch. Does not depend on the order of `postings`.
pub fn rank<S: AsRef<[u8]>>(
    own: &ProductId,
    own_text: &str,
    epoch: &KeyEpoch,
    postings: impl IntoIterator<Item = (ProductId, S)>,
    limits: &Limits,
) -> Vec<ProductId> {
    let own_sketch = Own::of(own_text, epoch);
    let mut scores: HashMap<ProductId, f64> = HashMap::new();
    for (id, sketch) in postings {
        if id != *own {
            let score = own_sketch.score(sketch.as_ref());
            scores.entry(id).and_modify(|best| *best = best.max(score)).or_insert(score);
        }
    }
    let mut ranked: Vec<(ProductId, f64)> = scores.into_iter().collect();
    ranked.sort_unstable_by(|(id, score), (other, theirs)| theirs.total_cmp(score).then_with(|| id.cmp(other)));
    ranked.truncate(limits.candidates_max);
    ranked.into_iter().map(|(id, _)| id).collect()
}

/// Keys in order, without repeats, never more than [`KEYS_MAX`].
struct Keys {
    epoch: u32,
    keys: Vec<String>,
}

impl Keys {
    fn push(&mut self, kind: char, name: &str) {
        let key = format!("{}:{kind}:{name}", self.epoch);
        if self.keys.len() < KEYS_MAX && !self.keys.contains(&key) {
            self.keys.push(key);
        }
    }
}

struct Word {
    token: Token,
    /// Rarity, less the penalty for prose.
    bits: f32,
}

impl Word {
    fn is_rare(&self, epoch: &KeyEpoch) -> bool {
        self.bits >= epoch.cool_bits() + RARE_MARGIN_BITS && self.token.text.chars().count() > 2
    }
}

/// The tokens of a text that keys are made of, rarest first, ties by spelling.
struct Words(Vec<Word>);

impl Words {
    fn of(text: &str, epoch: &KeyEpoch) -> Self {
        let mut words: Vec<Word> = tokens(text)
            .into_iter()
            .filter(|token| token.text.len() > 1 || has_digit(&token.text))
            .map(|token| {
                let penalty = if token.detail { DETAIL_PENALTY_BITS } else { 0.0 };
                Word { bits: epoch.word_bits(&token.text) - penalty, token }
            })
            .collect();
        words.sort_by(|a, b| b.bits.total_cmp(&a.bits).then_with(|| a.token.text.cmp(&b.token.text)));
        Self(words)
    }

    /// The cores of the rarest codes. "2004" of "office2004" is no core: it is a common
    /// word, whatever it was cut out of.
    fn code_cores(&self, rare: &[&Word], epoch: &KeyEpoch) -> Vec<String> {
        let codes = self.0.iter().take(CODES_MAX).filter(|word| {
            word.bits > CODE_BITS && has_digit(&word.token.text) && word.token.text.len() >= CODE_CHARS_MIN
        });
        let mut cores: Vec<String> = Vec::new();
        for core in codes.flat_map(|word| cores_of(&word.token.text)) {
            let is_key = rare.iter().any(|word| word.token.text == core);
            if epoch.word_bits(&core) >= epoch.cool_bits() + RARE_MARGIN_BITS && !is_key && !cores.contains(&core) {
                cores.push(core);
            }
        }
        cores.truncate(CORES_MAX);
        cores
    }

    /// The rarest words outside prose that are not keys by themselves.
    fn common(&self, rare: &[&Word]) -> Vec<&Word> {
        let is_key = |word: &Word| rare.iter().any(|rare| rare.token.text == word.token.text);
        self.0.iter().filter(|word| !word.token.detail && !is_key(word)).take(GROUPED_WORDS_MAX).collect()
    }
}

/// What another shop may write of a code: each run of digits that is long enough to say
/// something alone, and each shorter or longer one with one or two letters before it.
/// "ih16gxc" gives "ih16"; "va354824my" gives "354824" and "a354824".
fn cores_of(code: &str) -> Vec<String> {
    let mut cores = Vec::new();
    let mut rest = code;
    while let Some(start) = rest.find(|c: char| c.is_ascii_digit()) {
        let (before, run_and_more) = rest.split_at(start);
        let end = run_and_more.find(|c: char| !c.is_ascii_digit()).unwrap_or(run_and_more.len());
        let (run, more) = run_and_more.split_at(end);
        let digits = run.trim_start_matches('0');
        if digits.len() >= CODE_CHARS_MIN {
            cores.push(digits.to_owned());
        }
        // Two digits and one letter would be no rarer than a common word.
        let letters = last_letters(before, if digits.len() > 2 { 1 } else { 2 });
        if !letters.is_empty() && digits.len() >= 2 && letters.len() + digits.len() >= CODE_CHARS_MIN {
            cores.push(format!("{letters}{digits}"));
        }
        rest = more;
    }
    cores
}

/// Up to `most` letters at the end.
fn last_letters(text: &str, most: usize) -> &str {
    let letters = text.chars().rev().take(most).take_while(|c| c.is_alphabetic());
    &text[text.len() - letters.map(char::len_utf8).sum::<usize>()..]
}

/// The rarest two neighbours of the title, run together.
fn rarest_neighbours(text: &str, epoch: &KeyEpoch) -> Option<String> {
    let parts = title_parts(text);
    let joined = parts.windows(2).filter(|pair| {
        let [first, second] = pair else { return false };
        first.len() > 1 && second.len() > 1 && first.len() + second.len() >= JOINED_CHARS_MIN
    });
    let rarity = |pair: &[String]| pair.iter().map(|part| epoch.word_bits(part)).sum::<f32>();
    joined
        .map(|pair| (rarity(pair), stem(&pair.concat())))
        .max_by(|(bits, name), (other, theirs)| bits.total_cmp(other).then_with(|| name.cmp(theirs)))
        .map(|(_, name)| name)
}

/// Groups of a few common words, as bit masks over them.
struct Groups<'a> {
    words: &'a [&'a Word],
    /// Estimated rarity in bits of each group of up to [`GROUP_WORDS_MAX`], by mask.
    bits: Vec<f32>,
    /// From which a group is a key.
    cool_bits: f32,
}

impl<'a> Groups<'a> {
    fn of(words: &'a [&'a Word], epoch: &KeyEpoch) -> Self {
        let single: Vec<f32> = words.iter().map(|word| word.bits).collect();
        let mut pairs = [[0.0_f32; GROUPED_WORDS_MAX]; GROUPED_WORDS_MAX];
        for i in 0..words.len() {
            for j in 0..i {
                // No penalty is in these bits, since no word of prose is grouped.
                let known = epoch.pair_bits(&words[i].token.text, &words[j].token.text);
                pairs[i][j] = known.unwrap_or_else(|| (single[i] + single[j]).max(epoch.cool_bits()));
                pairs[j][i] = pairs[i][j];
            }
        }
        let mut bits = vec![0.0_f32; 1 << words.len()];
        for mask in (1..bits.len()).filter(|mask| mask.count_ones() <= GROUP_WORDS_MAX) {
            let estimate = members(mask).map(|last| {
                let others = mask & !(1 << last);
                // What the last word adds is at least what it adds to the word that it
                // goes with most: a phrase is as common as its rarest link.
                let adds = members(others).map(|other| (pairs[other][last] - single[other]).max(0.0));
                bits[others] + adds.reduce(f32::min).unwrap_or(single[last])
            });
            bits[mask] = estimate.reduce(f32::min).unwrap_or(0.0);
        }
        Self { words, bits, cool_bits: epoch.cool_bits() }
    }

    /// Smallest groups that are rare enough: none holds another one. In the order in
    /// which another shop's text is likely to share them: rare words and words at the
    /// start of the title first.
    fn rare_by_cost(&self) -> Vec<usize> {
        let mut covered = vec![false; self.bits.len()];
        let mut rare = Vec::new();
        for mask in 1..self.bits.len() {
            let held = members(mask).any(|word| covered[mask & !(1 << word)]);
            let size = mask.count_ones();
            let is_rare = !held && (2..=GROUP_WORDS_MAX).contains(&size) && self.bits[mask] >= self.cool_bits;
            covered[mask] = held || is_rare;
            if is_rare {
                rare.push(mask);
            }
        }
        rare.sort_by_cached_key(|mask| (self.cost(*mask), self.name(*mask)));
        rare
    }

    /// For texts of few or very common words: all of them, then single ones.
    fn fall_back(&self) -> Vec<usize> {
        let all = self.bits.len() - 1;
        std::iter::once(all).chain((0..self.words.len()).map(|word| 1 << word)).filter(|mask| *mask > 0).collect()
    }

    /// Twice the rank by rarity plus the position in the text, summed over the group.
    fn cost(&self, mask: usize) -> usize {
        members(mask).map(|word| 2 * word + self.words[word].token.position).sum()
    }

    /// Its words in alphabetical order.
    fn name(&self, mask: usize) -> String {
        let mut names: Vec<&str> = members(mask).map(|word| self.words[word].token.text.as_str()).collect();
        names.sort_unstable();
        names.join(" ")
    }
}

/// Places of the bits that are set.
fn members(mask: usize) -> impl Iterator<Item = usize> {
    (0..GROUPED_WORDS_MAX).filter(move |bit| mask & (1 << bit) != 0)
}

#[cfg(test)]
mod tests;
