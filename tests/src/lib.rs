//! What the tests share: real engines, the real worker, events and items.

pub mod events;
pub mod faulty;
pub mod fleet;
pub mod function;
pub mod http;
pub mod items;
pub mod load;
pub mod ministack;
pub mod report;
pub mod runtime_api;
pub mod server;
pub mod stage;
pub mod table_model;
pub mod table_stub;
pub mod worker;
