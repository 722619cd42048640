use models::TextPair;
use shared::ProductId;
use shared::event::ScorePairs;
use shared::item::ProductItem;

use super::bisect::score_each;
use super::product::Step;
use super::sides::Sides;
use super::{ATTEMPTS_MAX, FlowError, Outcome, Pipeline, Tally};
use crate::decide::plan;
use crate::fault::{Fault, Faulty};

impl Pipeline {
    /// Labels the pairs that somebody asked for by name, on both sides. A pair that can never
    /// be labelled keeps no other from its label; the last one is the event's error.
    pub(super) async fn label_pairs(
        &self,
        event: &ScorePairs,
        receive_count: u32,
    ) -> Result<(Outcome, Tally), FlowError> {
        let (mut tally, mut poison) = (Tally::default(), None);
        for (left, right) in &event.pairs {
            match self.label_pair(left, right, receive_count, &mut tally).await {
                Ok(()) => {}
                Err(error) if matches!(error.fault(), Fault::Poison { .. }) => poison = Some(error),
                Err(error) => return Err(error),
            }
        }
        match poison {
            Some(error) => Err(error),
            None => Ok((tally.outcome(), tally)),
        }
    }

    async fn label_pair(
        &self,
        left: &ProductId,
        right: &ProductId,
        receive_count: u32,
        tally: &mut Tally,
    ) -> Result<(), FlowError> {
        for _ in 0..ATTEMPTS_MAX {
            let states = self.store.products(&[left.clone(), right.clone()]).await?;
            let live = |id: &ProductId| {
                let unknown = FlowError::UnknownProduct { id: id.clone(), receive_count };
                states.iter().find(|state| state.id == *id && !state.deleted).ok_or(unknown)
            };
            let (left, right) = (live(left)?, live(right)?);
            let mut sides = Sides::new(&self.store, self.scorer.model_id());
            sides.read(vec![&left.id, &right.id]).await?;
            if is_known(&sides, left, right) {
                tally.pairs_skipped += 1;
                return Ok(());
            }
            let text_pair = TextPair { left: left.text.as_str().into(), right: right.text.as_str().into() };
            let scores =
                score_each(self.scorer.as_ref(), vec![text_pair]).await?.into_iter().collect::<Result<Vec<_>, _>>();
            let scores = scores.map_err(|reason| FlowError::unscorable(&left.id, &right.id, &reason))?;
            tally.count_scores(scores.iter());
            let now = (self.clock)();
            let mut is_settled = true;
            for score in scores {
                let label = plan::label(right, score.probability, score.verdict, score.stage, now);
                is_settled = self.write_pair(&sides, left, right, &label, tally).await? == Step::Done;
            }
            if is_settled {
                return Ok(());
            }
        }
        Err(FlowError::Contended { id: left.clone() })
    }
}

/// Of a distinct pair only the side that scored it knows.
fn is_known(sides: &Sides<'_>, left: &ProductItem, right: &ProductItem) -> bool {
    let knows = |own: &ProductItem, other: &ProductItem| {
        plan::plan(own, vec![other.clone()], sides.get(&own.id), None).to_score.is_empty()
    };
    knows(left, right) || knows(right, left)
}
