//! Questions in SQL over what machines have reported.

pub(crate) mod index_queue;
pub(crate) mod service;
