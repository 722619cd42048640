//! What the tests share: real engines, the real worker, events and items.

pub mod events;
pub mod fleet;
pub mod items;
pub mod ministack;
pub mod stage;
pub mod table_model;
pub mod table_stub;
pub mod worker;
