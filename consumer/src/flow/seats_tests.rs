//! Seats of several queues, under paused time.

use std::time::Duration;

use futures::future::join_all;
use tokio::task::JoinSet;
use tokio::time::sleep;

use super::*;
use crate::source::StopReason;

/// How long an event takes.
const WORK: Duration = Duration::from_millis(10);
const CHUNK: usize = 64;

fn seats<const QUEUES: usize>(count: usize, weights: [u32; QUEUES]) -> Seats {
    Seats::new(count, weights, Shutdown::new())
}

/// Who was served, in order.
#[derive(Clone, Default)]
struct Served(Arc<Mutex<Vec<usize>>>);

impl Served {
    fn note(&self, queue: usize) {
        self.0.lock().expect("no test panics with it").push(queue);
    }

    fn of(&self, queue: usize) -> usize {
        self.0.lock().expect("no test panics with it").iter().filter(|served| **served == queue).count()
    }
}

/// One message of one event after the other.
async fn short_messages(seats: Seats, queue: usize, served: Served) {
    while let Some(_seat) = seats.take(queue).await {
        sleep(WORK).await;
        served.note(queue);
    }
}

/// One message without an end.
async fn long_message(seats: Seats, queue: usize, served: Served) {
    let Some(seat) = seats.take(queue).await else { return };
    while !seats.shutdown.has_begun() {
        for _ in 0..CHUNK {
            sleep(WORK).await;
            served.note(queue);
        }
        seat.give_way(CHUNK).await;
    }
}

#[tokio::test(start_paused = true)]
async fn queues_that_always_have_messages_get_seats_by_weight() {
    let (seats, served) = (seats(3, [4, 1]), Served::default());
    let mut work = JoinSet::new();
    for queue in [0, 1] {
        for _ in 0..5 {
            work.spawn(short_messages(seats.clone(), queue, served.clone()));
        }
    }
    sleep(WORK * 1_000).await;
    let share = served.of(0) as f64 / (served.of(0) + served.of(1)) as f64;
    assert!((0.79..0.81).contains(&share), "{share}");
}

#[tokio::test(start_paused = true)]
async fn long_messages_get_no_more_than_their_weight() {
    let (seats, served) = (seats(3, [4, 1]), Served::default());
    let mut work = JoinSet::new();
    for _ in 0..5 {
        work.spawn(short_messages(seats.clone(), 0, served.clone()));
        work.spawn(long_message(seats.clone(), 1, served.clone()));
    }
    sleep(WORK * 20_000).await;
    let share = served.of(0) as f64 / (served.of(0) + served.of(1)) as f64;
    assert!((0.78..0.82).contains(&share), "{share}");
}

#[tokio::test(start_paused = true)]
async fn a_message_that_comes_among_long_ones_waits_for_a_chunk_at_most() {
    let (seats, served) = (seats(2, [1, 1]), Served::default());
    let mut work = JoinSet::new();
    for _ in 0..4 {
        work.spawn(long_message(seats.clone(), 1, served.clone()));
    }
    sleep(WORK * 1_000).await;
    let before = served.of(1);
    assert!(before >= 2 * 990, "nobody leaves seats unused: {before}");
    let _seat = seats.take(0).await.expect("no shutdown");
    assert!(served.of(1) - before <= 2 * CHUNK, "{} events passed it by", served.of(1) - before);
}

#[tokio::test(start_paused = true)]
async fn what_a_message_waits_for_may_need_its_seat() {
    let seats = seats(1, [1]);
    let waiting = seats.take(0).await.expect("it is free");
    let needed = async {
        let _seat = seats.take(0).await.expect("it is left");
        sleep(WORK).await;
    };
    waiting.leave_for(needed).await;
    assert!(seats.take(0).now_or_never().is_none(), "it has come back to its seat");
    drop(waiting);
    assert!(seats.take(0).now_or_never().is_some());
}

#[tokio::test(start_paused = true)]
async fn whoever_stops_waiting_costs_nobody_a_seat() {
    let seats = seats(2, [1, 1]);
    let held = [seats.take(0).await, seats.take(1).await];
    let mut given_up: Vec<_> = [0, 1, 0, 1].map(|queue| Box::pin(seats.take(queue))).into();
    for waiting in &mut given_up {
        assert!(waiting.now_or_never().is_none(), "all seats are taken");
    }
    // Two go before a seat comes, and two while one is on its way to them.
    given_up.truncate(2);
    drop(held);
    drop(given_up);
    let free = join_all([seats.take(0), seats.take(1)]).now_or_never().expect("both are free");
    assert!(free.iter().all(Option::is_some) && seats.take(0).now_or_never().is_none());
}

#[tokio::test(start_paused = true)]
async fn a_stop_ends_every_wait() {
    let seats = seats(1, [1]);
    let left = seats.take(0).await.expect("it is free");
    let stopped = seats.shutdown.clone();
    let coming_back = tokio::spawn(async move { left.leave_for(stopped.begun()).await });
    sleep(WORK).await;
    let held = seats.take(0).await.expect("it was left");
    let taker = seats.clone();
    let waiting = tokio::spawn(async move { taker.take(0).await.is_none() });
    sleep(WORK).await;
    seats.shutdown.begin(StopReason::Finished);
    assert!(waiting.await.expect("it does not panic"));
    coming_back.await.expect("it does not panic");
    drop(held);
    assert!(seats.take(0).await.is_none(), "nothing begins any more");
}
