//! What the tests share: real engines and the reference model.

pub mod ministack;
