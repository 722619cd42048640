//! What the tests share: real engines and the reference model.

pub mod items;
pub mod ministack;
pub mod table_stub;
