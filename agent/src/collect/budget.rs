//! One thing that hangs costs only itself: each has a time of its own, is named,
//! and the list goes on without it. What has not come back is not asked again.

use super::locked;
use fernwart_protocol::diagnosis::Reason;
use std::collections::{BTreeMap, HashSet, VecDeque};
use std::sync::{Arc, Mutex, mpsc};
use std::time::{Duration, Instant};

/// What was asked once and has not come back since.
static HANGS: Mutex<Option<HashSet<String>>> = Mutex::new(None);

/// Whether something has not come back from an earlier asking.
pub(super) fn hangs(name: &str) -> bool {
    locked(&HANGS).as_ref().is_some_and(|names| names.contains(name))
}

/// What becomes known of one thing.
enum News<R> {
    Begun(usize),
    Done(usize, R),
}

struct Queue<T>(Mutex<VecDeque<(usize, String, T)>>);

/// Asks each thing, a few at once, and answers in their order.
///
/// `budget` is for one thing; nothing is begun after `deadline`. A thing that
/// takes longer is [`Reason::Hangs`]; one that nobody came to, [`Reason::TimedOut`].
pub(super) fn each<T: Send + 'static, R: Send + 'static>(
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
    let (tell, told) = mpsc::channel();
    for _ in 0..threads {
        work(&queue, &tell, ask);
    }
    let mut begun: BTreeMap<usize, Instant> = BTreeMap::new();
    let hear = |news: News<R>, begun: &mut BTreeMap<usize, Instant>, answers: &mut Vec<Option<Result<R, Reason>>>| {
        match news {
            News::Begun(index) => drop(begun.insert(index, Instant::now())),
            News::Done(index, answer) => {
                // It may have been given up meanwhile.
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
        match told.recv_timeout(next.saturating_duration_since(now)) {
            Ok(news) => hear(news, &mut begun, &mut answers),
            Err(_) => {
                // Nobody comes back while this is held: who has come back has said so.
                let mut hangs = locked(&HANGS);
                told.try_iter().for_each(|news| hear(news, &mut begun, &mut answers));
                let now = Instant::now();
                let is_over = now >= deadline;
                let late: Vec<(usize, bool)> = begun
                    .iter()
                    .map(|(index, at)| (*index, now >= *at + budget))
                    .filter(|(_, is_late)| is_over || *is_late)
                    .collect();
                for (index, is_late) in late {
                    begun.remove(&index);
                    // What was begun a moment ago may well answer.
                    let reason = if is_late { Reason::Hangs } else { Reason::TimedOut };
                    if let (Some(place), Some(name)) = (answers.get_mut(index), names.get(index)) {
                        *place = Some(Err(reason));
                        if is_late {
                            hangs.get_or_insert_default().insert(name.clone());
                        }
                    }
                    if !is_over {
                        work(&queue, &tell, ask);
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

/// A thread that asks until nothing is left, or until it was given up.
fn work<T: Send + 'static, R: Send + 'static>(queue: &Arc<Queue<T>>, tell: &mpsc::Sender<News<R>>, ask: fn(T) -> R) {
    let (queue, tell) = (queue.clone(), tell.clone());
    let job = move || {
        loop {
            let Some((index, name, thing)) = locked(&queue.0).pop_front() else { return };
            // Fails when the whole look is over.
            if tell.send(News::Begun(index)).is_err() {
                return;
            }
            let answer = ask(thing);
            let mut hangs = locked(&HANGS);
            let was_given_up = hangs.as_mut().is_some_and(|names| names.remove(&name));
            let answer = tell.send(News::Done(index, answer));
            drop(hangs);
            if answer.is_err() || was_given_up {
                return;
            }
        }
    };
    // Without a thread what is left is not asked, and told so.
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
    fn what_hangs_is_named_and_the_others_answer() {
        let (budget, deadline) = (Duration::from_millis(200), Instant::now() + Duration::from_secs(5));
        let answers = each(things("a", &[0, 1500, 1, 1500, 2]), 1, budget, deadline, wait);
        assert_eq!(answers, [Ok(0), Err(Reason::Hangs), Ok(1), Err(Reason::Hangs), Ok(2)]);
        // It is not asked again before it has come back.
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
    fn what_nobody_came_to_is_told_apart_from_what_hangs() {
        let deadline = Instant::now() + Duration::from_millis(150);
        let answers = each(things("b", &[2000, 2000, 0]), 1, Duration::from_millis(100), deadline, wait);
        assert_eq!(answers, [Err(Reason::Hangs), Err(Reason::TimedOut), Err(Reason::TimedOut)]);
        assert!(hangs("b0") && !hangs("b1"), "what was begun a moment ago is asked again");
    }
}
