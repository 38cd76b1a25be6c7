//! Time limits for single items: an item that hangs is named, and the others are still asked. It
//! is not asked again before its thread has returned.

use super::locked;
use fernwart_protocol::diagnosis::Reason;
use std::collections::{BTreeMap, HashSet, VecDeque};
use std::sync::{Arc, Mutex, mpsc};
use std::time::{Duration, Instant};

/// Names of items whose threads have not returned.
static HANGS: Mutex<Option<HashSet<String>>> = Mutex::new(None);

/// Whether an earlier question about this item has not returned.
pub(crate) fn hangs(name: &str) -> bool {
    locked(&HANGS).as_ref().is_some_and(|names| names.contains(name))
}

/// A message from a worker thread.
enum News<R> {
    Begun(usize),
    Done(usize, R),
}

struct Queue<T>(Mutex<VecDeque<(usize, String, T)>>);

/// Asks about each item, `at_once` at a time, and returns the answers in order.
///
/// `budget` limits a single item; nothing is started after `deadline`. An item that takes longer
/// is [`Reason::Hangs`]; an item not reached is [`Reason::TimedOut`].
pub(crate) fn each<T: Send + 'static, R: Send + 'static>(
    things: Vec<(String, T)>,
    at_once: usize,
    budget: Duration,
    deadline: Instant,
    ask: fn(T) -> R,
) -> Vec<Result<R, Reason>> {
    let mut answers: Vec<Option<Result<R, Reason>>> = Vec::new();
    let mut names = Vec::new();
    let mut queue = VecDeque::new();
    for (index, (name, thing)) in things.into_iter().enumerate() {
        let known = hangs(&name);
        answers.push(known.then_some(Err(Reason::Hangs)));
        names.push(name.clone());
        if !known {
            queue.push_back((index, name, thing));
        }
    }
    let threads = at_once.min(queue.len());
    let queue = Arc::new(Queue(Mutex::new(queue)));
    let (results_in, results) = mpsc::channel();
    for _ in 0..threads {
        work(&queue, &results_in, ask);
    }
    let mut begun: BTreeMap<usize, Instant> = BTreeMap::new();
    let take = |news: News<R>, begun: &mut BTreeMap<usize, Instant>, answers: &mut Vec<Option<Result<R, Reason>>>| {
        match news {
            News::Begun(index) => drop(begun.insert(index, Instant::now())),
            News::Done(index, answer) => {
                // It may have been given up in the meantime.
                if begun.remove(&index).is_some()
                    && let Some(place) = answers.get_mut(index)
                {
                    *place = Some(Ok(answer));
                }
            }
        }
    };
    while answers.iter().any(Option::is_none) {
        let now = Instant::now();
        let next = begun.values().map(|at| *at + budget).min().unwrap_or(deadline).min(deadline);
        match results.recv_timeout(next.saturating_duration_since(now)) {
            Ok(news) => take(news, &mut begun, &mut answers),
            Err(_) => {
                // The lock keeps workers from returning now; those that returned have sent their
                // message before.
                let mut hangs = locked(&HANGS);
                results.try_iter().for_each(|news| take(news, &mut begun, &mut answers));
                let now = Instant::now();
                let is_over = now >= deadline;
                let late: Vec<(usize, bool)> = begun
                    .iter()
                    .map(|(index, at)| (*index, now >= *at + budget))
                    .filter(|(_, is_late)| is_over || *is_late)
                    .collect();
                for (index, is_late) in late {
                    begun.remove(&index);
                    // An item started a moment ago may still answer.
                    let reason = if is_late { Reason::Hangs } else { Reason::TimedOut };
                    if let (Some(place), Some(name)) = (answers.get_mut(index), names.get(index)) {
                        *place = Some(Err(reason));
                        if is_late {
                            hangs.get_or_insert_default().insert(name.clone());
                        }
                    }
                    if !is_over {
                        work(&queue, &results_in, ask);
                    }
                }
                if is_over {
                    locked(&queue.0).clear();
                    break;
                }
            }
        }
    }
    answers.into_iter().map(|answer| answer.unwrap_or(Err(Reason::TimedOut))).collect()
}

/// Starts a thread that asks until the queue is empty or one of its items was given up.
fn work<T: Send + 'static, R: Send + 'static>(
    queue: &Arc<Queue<T>>,
    results_in: &mpsc::Sender<News<R>>,
    ask: fn(T) -> R,
) {
    let (queue, results_in) = (queue.clone(), results_in.clone());
    let job = move || {
        loop {
            let Some((index, name, thing)) = locked(&queue.0).pop_front() else { return };
            // Fails when the look is over.
            if results_in.send(News::Begun(index)).is_err() {
                return;
            }
            let answer = ask(thing);
            let mut hangs = locked(&HANGS);
            let was_given_up = hangs.as_mut().is_some_and(|names| names.remove(&name));
            let answer = results_in.send(News::Done(index, answer));
            drop(hangs);
            if answer.is_err() || was_given_up {
                return;
            }
        }
    };
    // If no thread can be started, the remaining items are reported as timed out.
    let _ = std::thread::Builder::new().name("item".into()).stack_size(128 * 1024).spawn(job);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn things(of: &str, spans: &[u64]) -> Vec<(String, u64)> {
        spans.iter().enumerate().map(|(index, ms)| (format!("{of}{index}"), *ms)).collect()
    }

    fn wait(ms: u64) -> u64 {
        std::thread::sleep(Duration::from_millis(ms));
        ms
    }

    #[test]
    fn a_hanging_item_is_named_and_the_others_answer() {
        let (budget, deadline) = (Duration::from_millis(200), Instant::now() + Duration::from_secs(5));
        let answers = each(things("a", &[0, 1500, 1, 1500, 2]), 1, budget, deadline, wait);
        assert_eq!(answers, [Ok(0), Err(Reason::Hangs), Ok(1), Err(Reason::Hangs), Ok(2)]);
        // It is not asked again before its thread has returned.
        let begun = Instant::now();
        let answers = each(things("a", &[0, 0]), 1, budget, deadline, wait);
        assert_eq!((answers[0], answers[1]), (Ok(0), Err(Reason::Hangs)));
        assert!(begun.elapsed() < budget);
        let until = Instant::now() + Duration::from_secs(10);
        while hangs("a1") || hangs("a3") {
            assert!(Instant::now() < until, "what came back is asked again");
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    #[test]
    fn an_item_not_reached_is_distinguished_from_a_hanging_one() {
        let deadline = Instant::now() + Duration::from_millis(150);
        let answers = each(things("b", &[2000, 2000, 0]), 1, Duration::from_millis(100), deadline, wait);
        assert_eq!(answers, [Err(Reason::Hangs), Err(Reason::TimedOut), Err(Reason::TimedOut)]);
        assert!(hangs("b0") && !hangs("b1"), "what was begun a moment ago is asked again");
    }
}
