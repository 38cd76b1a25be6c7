//! Linux, with systemd where there is one.

pub mod accounts;
pub mod cage;
pub mod clock;
pub mod facts;
pub mod memory;
pub(crate) mod notice;
pub(crate) mod opened;
pub(crate) mod paths;
pub mod service;
pub(crate) mod watch;
