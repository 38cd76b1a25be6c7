//! SQL queries over machines' reports.

pub(crate) mod index_queue;
pub(crate) mod service;
