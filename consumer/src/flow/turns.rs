//! Whose turn it is among several queues.
//!
//! Stride scheduling (Waldspurger and Weihl, "Stride Scheduling", MIT/LCS/TM-528, 1995):
//! each turn moves a queue's pass ahead by the inverse of its weight, and the lowest pass
//! is next. Queues that always have something share the turns in the ratio of their
//! weights; what an idle queue does not take goes to the others, and is not saved up.

/// Pass that a turn costs at weight 1. 2^44 turns fit into a u64.
const STRIDE: u64 = 1 << 20;

#[derive(Debug)]
pub(super) struct Turns {
    strides: Vec<u64>,
    passes: Vec<u64>,
    /// The pass of the last turn. Who comes back from idleness starts here.
    now: u64,
}

impl Turns {
    /// One place for each weight; a weight of 0 counts as 1.
    pub(super) fn new(weights: impl IntoIterator<Item = u32>) -> Self {
        let strides: Vec<u64> = weights.into_iter().map(|weight| STRIDE / u64::from(weight.max(1))).collect();
        Self { passes: vec![0; strides.len()], strides, now: 0 }
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.passes.len()
    }

    /// Whose turn it is among those who are ready; none if nobody is.
    pub(super) fn next(&self, ready: impl Fn(usize) -> bool) -> Option<usize> {
        (0..self.passes.len()).filter(|index| ready(*index)).min_by_key(|index| self.passes[*index].max(self.now))
    }

    /// Somebody takes a turn.
    pub(super) fn take(&mut self, index: usize) {
        self.now = self.passes[index].max(self.now);
        self.passes[index] = self.now + self.strides[index];
    }

    /// Somebody has used so many turns beyond those that were taken. The time stands still
    /// meanwhile, so that the others are given what they waited for.
    pub(super) fn charge(&mut self, index: usize, turns: u64) {
        self.passes[index] = self.passes[index].max(self.now) + self.strides[index] * turns;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Turns that each of them got out of `rounds`, where `ready` says who wants them.
    fn run(turns: &mut Turns, rounds: usize, ready: impl Fn(usize) -> bool) -> Vec<usize> {
        let mut taken = vec![0; turns.passes.len()];
        for _ in 0..rounds {
            let Some(index) = turns.next(&ready) else { break };
            turns.take(index);
            taken[index] += 1;
        }
        taken
    }

    #[test]
    fn who_always_has_something_gets_the_share_of_its_weight() {
        let mut turns = Turns::new([4, 4, 1]);
        assert_eq!(run(&mut turns, 900, |_| true), [400, 400, 100]);
    }

    #[test]
    fn nobody_waits_longer_than_the_others_weights_say() {
        let mut turns = Turns::new([4, 1]);
        let mut between = 0;
        for _ in 0..1_000 {
            let index = turns.next(|_| true).expect("all are ready");
            turns.take(index);
            between = if index == 1 { 0 } else { between + 1 };
            assert!(between <= 5, "{between} turns passed the lighter one by");
        }
    }

    #[test]
    fn what_an_idle_one_leaves_goes_to_the_others_and_is_not_saved_up() {
        let mut turns = Turns::new([1, 1]);
        assert_eq!(run(&mut turns, 1_000, |index| index == 1), [0, 1_000]);
        let taken = run(&mut turns, 100, |_| true);
        assert!(taken[0].abs_diff(taken[1]) <= 2, "{taken:?}");
    }

    #[test]
    fn who_has_used_more_than_a_turn_waits_for_the_others_to_have_theirs() {
        let mut turns = Turns::new([4, 1]);
        let mut taken = [0, 0];
        while taken[0] + taken[1] < 5_000 {
            let index = turns.next(|_| true).expect("all are ready");
            turns.take(index);
            // The lighter one works off ten at a time, which is known only then.
            let more = if index == 1 { 9 } else { 0 };
            turns.charge(index, more);
            taken[index] += 1 + more;
        }
        assert!(taken[1].abs_diff(1_000) <= 10, "{taken:?}");
    }

    #[test]
    fn nobody_ready_is_nobodys_turn() {
        assert_eq!(Turns::new([1, 0]).next(|_| false), None);
    }
}
