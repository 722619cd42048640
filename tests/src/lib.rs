//! What the tests share: real engines, the real worker, events and items.

pub mod converged;
pub mod deliveries;
pub mod events;
pub mod faulty;
pub mod faulty_queue;
pub mod fleet;
pub mod function;
pub mod history;
pub mod http;
pub mod http_server;
pub mod items;
pub mod load;
pub mod ministack;
pub mod page;
pub mod proxy;
pub mod recorded;
pub mod report;
pub mod runtime_api;
pub mod server;
pub mod soak;
pub mod stage;
pub mod steps;
pub mod table_model;
pub mod table_stub;
pub mod trial;
pub mod worker;
