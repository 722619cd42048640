//! Queues: receive, lease, settle, drain.
