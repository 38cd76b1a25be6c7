//! A hub that is killed again and again under load.

use crate::measure::{Paper, Takes};
use fernwart_tests::endure::{Plan, endure as endured};
use std::time::Duration;

/// Runs it for `minutes` and prints the results; exits with 1 if anything was lost.
pub(crate) fn endure(minutes: usize, (machines, runs_per_second): (usize, usize), paper: &Paper) {
    let plan = Plan {
        machines,
        runs_per_second,
        time: Duration::from_secs(60) * u32::try_from(minutes).expect("few"),
        lives: (Duration::from_secs(5), Duration::from_secs(30)),
    };
    let came = endured(plan, 1, |word| eprintln!("{word}"));
    let serving = came.serving_after.iter().map(|took| took.as_secs_f64() * 1000.0).collect();
    let count = |number: usize| Takes(vec![number as f64]);
    paper.title(&format!("{machines} machines, {runs_per_second} runs a second, {minutes} minutes"));
    paper.alone("times the hub was killed", "", &count(came.deaths));
    paper.alone("serving again after", "ms", &Takes(serving));
    paper.alone("runs acknowledged", "", &count(came.acknowledged));
    paper.alone("lost", "", &count(came.lost));
    paper.alone("done twice", "", &count(came.twice));
    paper.alone("told and not done", "", &count(came.only_reported));
    paper.alone("done and told otherwise", "", &count(came.denied));
    paper.alone("not done, and told so", "", &count(came.not_done.len()));
    came.not_done.iter().for_each(|why| eprintln!("{why}"));
    paper.alone("databases damaged", "", &count(came.damaged));
    if came.lost + came.twice + came.only_reported + came.denied + came.damaged > 0 {
        std::process::exit(1);
    }
}
