use std::thread;

use tokio::task::block_in_place;

use super::*;
use crate::engine::{Engine, Numeric, SUMMING_MODULE};
use crate::golden::Kind;
use crate::replica::{Checks, Replicas};

const BUDGET: Budget = Budget { tokens_max: 64, rows_max: 100, batch_tokens: 0, wait_max: Duration::from_secs(3600) };

fn options(replicas: usize) -> LaneOptions {
    LaneOptions { budget: BUDGET, rows_max: 64, replicas, run_time_max: Duration::from_secs(3600) }
}

/// Replicas of the module that sums the ids of each row.
fn replicas(count: usize, options: LaneOptions) -> Replicas {
    replicas_that(false, count, options)
}

fn replicas_that(give_way: bool, count: usize, options: LaneOptions) -> Replicas {
    let engine = Engine::load(SUMMING_MODULE.as_ref(), Numeric::Fp32, crate::Kernel::Auto).expect("the module loads");
    let checks = Arc::new(Checks { goldens: Vec::new(), tolerance: 1.0 });
    let engines = std::iter::repeat_n(Arc::new(engine), count).collect();
    Replicas::start(engines, &checks, options, give_way).expect("the replicas start")
}

fn row(id: i64, length: usize) -> Encoded {
    Encoded { ids: vec![id; length], types: vec![0; length], kind: Kind::Queries, may_leave: false }
}

async fn summed(lane: &Arc<Lane>, rows: Vec<Encoded>) -> Result<Vec<f32>, RunError> {
    let mut call = lane.call(None);
    call.enter(rows).await?;
    Ok(call.answers().await?.iter().map(|logits| logits.pair[0]).collect())
}

/// Answers a batch as a replica does: each row with its first id.
fn answer(lane: &Lane, batch: Batch<Row>, took: Duration) {
    lane.finished(batch.tokens(), took);
    for row in batch.rows {
        let logits = RowLogits { pair: [row.encoded.ids[0] as f32, 0.0], ..RowLogits::default() };
        row.answer(Ok(logits));
    }
}

/// A replica's next batch, which a replica waits for on a thread of its own.
fn next(lane: &Arc<Lane>) -> Option<Batch<Row>> {
    block_in_place(|| lane.batches().next())
}

fn soon(after: Duration) -> Option<Instant> {
    Some(Instant::now() + after)
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_come_back_in_their_order_though_the_lane_is_smaller_than_the_call() {
    let replicas = replicas(2, options(2));
    let rows: Vec<Encoded> = (1..=500).map(|i| row(i, 1 + i as usize % 30)).collect();
    let sums: Vec<f32> = rows.iter().map(|row| row.ids.iter().sum::<i64>() as f32).collect();
    assert_eq!(summed(&replicas.lane, rows).await, Ok(sums));
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_of_different_callers_share_a_batch() {
    let lane = Lane::new(options(1), Shapes::Packed);
    let (mut one, mut other) = (lane.call(None), lane.call(None));
    one.enter(vec![row(1, 8), row(2, 8)]).await.expect("there is room");
    other.enter(vec![row(3, 8)]).await.expect("there is room");
    let batch = next(&lane).expect("rows wait");
    assert_eq!(batch.rows.len(), 3);
    answer(&lane, batch, Duration::from_millis(1));
    let first = |logits: Vec<RowLogits>| logits.iter().map(|row| row.pair[0]).collect::<Vec<_>>();
    assert_eq!(first(one.answers().await.expect("answered")), [1.0, 2.0]);
    assert_eq!(first(other.answers().await.expect("answered")), [3.0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_whose_caller_left_are_not_scored() {
    let lane = Lane::new(options(1), Shapes::Packed);
    let (mut leaves, mut stays) = (lane.call(None), lane.call(None));
    leaves.enter((0..20).map(|_| row(1, 8)).collect()).await.expect("there is room");
    stays.enter(vec![row(2, 8)]).await.expect("there is room");
    drop(leaves);
    let batch = next(&lane).expect("a row waits");
    assert_eq!(batch.rows.len(), 1);
    assert_eq!(batch.rows[0].encoded.ids[0], 2);
    answer(&lane, batch, Duration::from_millis(1));
    assert_eq!(lane.room.available_permits(), 64, "every row gave its room back");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_batch_is_prefetched_and_a_partial_one_is_left_for_more_rows() {
    let lane = Lane::new(options(1), Shapes::Packed);
    let mut replica = lane.batches();
    let mut call = lane.call(None);
    call.enter(vec![row(1, 8)]).await.expect("there is room");
    let running = block_in_place(|| replica.next()).expect("a row waits");
    call.enter((0..7).map(|_| row(2, 8)).collect()).await.expect("there is room");
    assert_eq!(lane.lock().waiting.tokens(), 56, "7 of 8 rows are no full batch");
    call.enter(vec![row(3, 8)]).await.expect("there is room");
    assert_eq!(lane.lock().waiting.tokens(), 0, "the next batch is the replica's while it runs one");
    call.enter(vec![row(4, 8); 8]).await.expect("there is room");
    assert_eq!(lane.lock().waiting.tokens(), 64, "and no other is");
    answer(&lane, running, Duration::from_millis(1));
    for rows in [8, 8] {
        let next = block_in_place(|| replica.next()).expect("rows wait");
        assert_eq!(next.rows.len(), rows);
        answer(&lane, next, Duration::from_millis(1));
    }
    assert_eq!(call.answers().await.expect("answered").len(), 17);
}

/// A batch that is planned for a place just then given up would be in nobody's hands.
#[tokio::test(flavor = "multi_thread")]
async fn a_replica_does_not_give_its_place_up_while_a_batch_is_planned() {
    let lane = Lane::new(options(1), Shapes::Packed);
    let mut call = lane.call(None);
    let (ask, place) = oneshot::channel();
    lane.with_open(|state| state.busy.push_back(ask));
    let mut busy = Batches { lane: Arc::clone(&lane), prefetched: Some(place) };
    let (begins, has_begun) = std::sync::mpsc::channel();
    let replica = {
        let mut planning = lane.lock();
        let replica = thread::spawn(move || {
            begins.send(()).expect("the test waits");
            busy.next()
        });
        has_begun.recv().expect("the replica begins");
        // That nothing happens cannot be awaited.
        let looks_until = Instant::now() + Duration::from_millis(50);
        while Instant::now() < looks_until {
            assert!(!planning.busy[0].is_closed());
        }
        planning.is_closed = true;
        replica
    };
    assert!(block_in_place(|| replica.join()).expect("the thread does not panic").is_none());
    assert_eq!(call.enter(vec![row(1, 8)]).await, Err(RunError::Stopped));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idle_replica_goes_before_a_busy_one() {
    let lane = Lane::new(options(2), Shapes::Packed);
    let mut call = lane.call(None);
    call.enter(vec![row(1, 8)]).await.expect("there is room");
    let mut busy = lane.batches();
    let running = block_in_place(|| busy.next()).expect("a row waits");
    let idle = {
        let lane = Arc::clone(&lane);
        thread::spawn(move || next(&lane).map(|batch| answer(&lane, batch, Duration::from_millis(1))))
    };
    while lane.lock().idle.is_empty() {
        tokio::task::yield_now().await;
    }
    call.enter((0..8).map(|_| row(2, 8)).collect()).await.expect("there is room");
    assert!(idle.join().expect("the thread does not panic").is_some());
    assert!(busy.take_prefetched().is_none());
    answer(&lane, running, Duration::from_millis(1));
    assert_eq!(call.answers().await.expect("answered").len(), 9);
}

/// At a measured 1,000 tokens a second, 40 tokens ahead and 8 of its own take 48 ms.
#[tokio::test(flavor = "multi_thread")]
async fn a_deadline_that_cannot_be_kept_is_refused_with_the_time_to_wait() {
    let lane = Lane::new(options(1), Shapes::Packed);
    let mut first = lane.call(None);
    first.enter(vec![row(1, 8)]).await.expect("there is room");
    let batch = next(&lane).expect("a row waits");
    answer(&lane, batch, Duration::from_millis(8));
    first.enter((0..5).map(|_| row(2, 8)).collect()).await.expect("there is room");

    let refused = lane.call(soon(Duration::from_millis(20))).enter(vec![row(3, 8)]).await;
    let Err(RunError::Overloaded { retry_after }) = refused else { panic!("20 ms are too few: {refused:?}") };
    assert!(retry_after >= Duration::from_millis(28) && retry_after <= Duration::from_millis(48), "{retry_after:?}");
    let mut patient = lane.call(soon(Duration::from_secs(5)));
    assert_eq!(patient.enter(vec![row(3, 8)]).await, Ok(()));
    assert_eq!(lane.lock().waiting.tokens(), 48, "the refused row did not enter");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idle_lane_tries_whatever_the_deadline() {
    let lane = Lane::new(options(1), Shapes::Packed);
    let mut slow = lane.call(None);
    slow.enter(vec![row(1, 8)]).await.expect("there is room");
    let batch = next(&lane).expect("a row waits");
    answer(&lane, batch, Duration::from_secs(8));
    let mut call = lane.call(soon(Duration::from_millis(1)));
    assert_eq!(call.enter(vec![row(2, 8)]).await, Ok(()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_lane_refuses_calls_with_a_deadline_and_holds_up_others() {
    let lane = Lane::new(options(1), Shapes::Packed);
    let mut filling = lane.call(None);
    filling.enter((0..64).map(|_| row(1, 8)).collect()).await.expect("there is room");
    let refused = lane.call(soon(Duration::from_secs(60))).enter(vec![row(2, 8)]).await;
    assert!(matches!(refused, Err(RunError::Overloaded { .. })), "{refused:?}");

    let mut waiting = lane.call(None);
    let mut entering = std::pin::pin!(waiting.enter(vec![row(3, 8)]));
    assert!(futures_poll(entering.as_mut()).await.is_none(), "there is no room");
    let batch = next(&lane).expect("rows wait");
    answer(&lane, batch, Duration::from_millis(1));
    assert_eq!(entering.await, Ok(()));
}

/// One poll of a future: its output if it is ready.
async fn futures_poll<F: Future>(future: std::pin::Pin<&mut F>) -> Option<F::Output> {
    let mut future = Some(future);
    std::future::poll_fn(|context| {
        let polled = future.take().expect("it is polled once").poll(context);
        std::task::Poll::Ready(match polled {
            std::task::Poll::Ready(output) => Some(output),
            std::task::Poll::Pending => None,
        })
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_row_that_does_not_fit_fails_its_batch_alone() {
    let lane = Lane::new(options(1), Shapes::Packed);
    let mut call = lane.call(None);
    call.enter(vec![row(1, 8)]).await.expect("there is room");
    let batch = next(&lane).expect("a row waits");
    let error = EngineError { reason: "lost".to_owned() };
    lane.finished(batch.tokens(), Duration::from_millis(1));
    batch.rows.into_iter().for_each(|row| row.answer(Err(error.clone())));
    assert_eq!(call.answers().await, Err(RunError::Engine(error)));
}

#[tokio::test(flavor = "multi_thread")]
async fn without_replicas_callers_hear_of_it() {
    let lane = Lane::new(options(2), Shapes::Packed);
    let mut waits = lane.call(None);
    waits.enter(vec![row(1, 8)]).await.expect("there is room");
    let in_hand = next(&lane).expect("a row waits");
    let mut left = lane.call(None);
    left.enter(vec![row(2, 8)]).await.expect("there is room");
    drop(in_hand);
    assert_eq!(waits.answers().await, Err(RunError::Lost));
    lane.replica_ended();
    assert!(!lane.lock().is_closed, "one replica is left");
    lane.replica_ended();
    assert_eq!(left.answers().await, Err(RunError::Lost));
    assert_eq!(lane.call(None).enter(vec![row(3, 8)]).await, Err(RunError::Stopped));
    assert!(next(&lane).is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn replicas_end_with_their_handle() {
    let replicas = replicas(2, options(2));
    let lane = Arc::clone(&replicas.lane);
    assert_eq!(summed(&lane, vec![row(4, 3)]).await, Ok(vec![12.0]));
    drop(replicas);
    assert_eq!(lane.lock().replicas_ended, 2);
    assert_eq!(summed(&lane, vec![row(4, 3)]).await, Err(RunError::Stopped));
}

/// Linux keeps the priority of each thread: the lowest one gets what the others leave.
#[tokio::test(flavor = "multi_thread")]
async fn replicas_of_a_lane_that_yields_have_the_lowest_priority() {
    // Everybody's who was not told to yield; `make test` itself may run at a low priority.
    let own = rustix::process::getpriority_process(None).expect("Linux has it");
    let online = replicas(1, options(1));
    let bulk = replicas_that(true, 2, options(2));
    for replicas in [&online, &bulk] {
        assert_eq!(summed(&replicas.lane, vec![row(4, 3)]).await, Ok(vec![12.0]));
    }
    // A replica lowers its priority before it takes its first batch; the other one may not be there yet.
    while niceness_of_replicas().iter().filter(|&&niceness| niceness == 19).count() < 2 {
        tokio::task::yield_now().await;
    }
    drop(bulk);
    assert!(niceness_of_replicas().contains(&own), "the online one has kept its own");
    assert!(own == 19 || !niceness_of_replicas().contains(&19), "no other one gives way");
}

/// Field 19 of proc(5)'s stat, of each replica's thread in this process.
fn niceness_of_replicas() -> Vec<i32> {
    let tasks = std::fs::read_dir("/proc/self/task").expect("Linux has it").flatten();
    // A thread may end while its file is read.
    let stats = tasks.filter_map(|task| std::fs::read_to_string(task.path().join("stat")).ok());
    let niceness = |stat: String| {
        let (name, fields) = stat.rsplit_once(')')?;
        name.contains("(replica-").then(|| fields.split_whitespace().nth(16)?.parse().ok())?
    };
    stats.filter_map(niceness).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_that_never_ends_is_a_device_that_hangs() {
    let time_max = Duration::from_millis(20);
    let lane = Lane::new(LaneOptions { run_time_max: time_max, ..options(2) }, Shapes::Packed);
    let mut call = lane.call(None);
    call.enter(vec![row(1, 8)]).await.expect("there is room");
    let batch = next(&lane).expect("a row waits");
    let ended = lane.begin();
    lane.begin();
    lane.end(ended);
    assert_eq!(call.answers().await, Err(RunError::Hung { time_max }));
    drop(batch);
}

#[tokio::test(start_paused = true)]
async fn a_batch_that_ends_after_a_pause_of_the_process_does_not_hang() {
    let time_max = Duration::from_secs(1);
    let lane = Lane::new(LaneOptions { run_time_max: time_max, ..options(2) }, Shapes::Packed);
    let mut call = lane.call(None);
    call.enter(vec![row(1, 8)]).await.expect("there is room");
    // A paused clock is of a runtime with one thread, which may not be blocked.
    let batch = thread::spawn({
        let lane = Arc::clone(&lane);
        move || lane.batches().next()
    });
    let batch = batch.join().expect("the thread ends well").expect("a row waits");
    let before_the_pause = Instant::now().checked_sub(2 * time_max).expect("the machine runs for longer");
    lane.lock().running.push(before_the_pause);
    let mut answers = Box::pin(call.answers());
    // One look, which finds that the batch began long ago.
    let look = tokio::time::timeout(time_max / LOOKS + Duration::from_millis(1), &mut answers).await;
    assert!(look.is_err(), "{look:?}");
    lane.end(before_the_pause);
    batch.rows.into_iter().for_each(|row| row.answer(Ok(RowLogits::default())));
    assert_eq!(answers.await, Ok(vec![RowLogits::default()]));
}
