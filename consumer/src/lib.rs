//! Keeps duplicate and intent labels fresh: takes events from queues, finds the affected
//! pairs, scores them, and writes the labels. `flow` shows the stages in order.

pub mod app;
pub mod aws;
pub mod decide;
pub mod fault;
pub mod flow;
pub mod lane;
pub mod metric;
pub mod source;
pub mod store;
