//! Time from the start of `catalog-labels lambda` to its first question for an event: model
//! loaded and checked, tables found. Lambda adds the fetch of the image and the start of
//! its machine.
//!
//! ```sh
//! cargo build --release --locked --workspace --bins --examples
//! target/release/examples/cold_start 7
//! ```

use std::time::{Duration, Instant};

use consumer::aws::{AwsOptions, dynamo, sdk_config};
use consumer::store::Store;
use tests::function::Function;
use tests::ministack::Ministack;
use tests::runtime_api::RuntimeApi;

#[tokio::main]
#[expect(clippy::print_stdout, reason = "its result")]
async fn main() {
    let starts: usize = std::env::args().nth(1).map_or(5, |given| given.parse().expect("a number of starts"));
    let engine = Ministack::start();
    let options = AwsOptions { region: None, endpoint_url: Some(engine.endpoint_url()) };
    let sdk = sdk_config(&options).await;
    let store = Store::new(dynamo::client(&sdk, &dynamo::Limits::default()), Function::TABLE_PREFIX);
    store.create_tables().await.expect("a fresh engine takes the tables");
    let mut times = Vec::with_capacity(starts);
    for _ in 0..starts {
        let mut api = RuntimeApi::start().await;
        let began_at = Instant::now();
        let _function = Function::start(&engine, &api, &[]);
        api.is_asked().await;
        times.push(began_at.elapsed());
    }
    times.sort();
    let at = |index: usize| times.get(index).copied().unwrap_or(Duration::ZERO);
    let (least, median, most) = (at(0), at(starts / 2), at(starts.saturating_sub(1)));
    println!("cold start, {starts} times: median {median:.2?}, from {least:.2?} to {most:.2?}");
}
