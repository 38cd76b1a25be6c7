//! Whole-system tests with a real hub, real agents and real QUIC. One module per promise.

#![allow(clippy::expect_used, clippy::indexing_slicing, clippy::print_stdout, reason = "a test may fail loudly")]

mod absence;
mod architecture;
mod asking;
mod booted;
mod cage;
mod ceremony;
mod consent;
mod crashes;
mod demonstration;
mod failures;
mod findings;
mod fleet;
mod hostile;
mod jobs;
mod logs;
mod mounts;
mod moving;
mod notices;
mod oddities;
mod packages;
mod parting;
mod prompts;
mod results;
mod scripts;
mod sentences;
mod shell;
mod silence;
mod swarm;
mod transcripts;
mod upkeep;
mod versions;
mod watching;
