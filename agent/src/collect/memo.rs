//! A cache for answers of slow programs. They stay valid while the files they depend on are
//! unchanged, but for at most ten minutes, since not all such files are known here.

use super::locked;
use fernwart_protocol::diagnosis::Cause;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Mutex;
use std::time::{Duration, Instant, SystemTime};

const HOLDS: Duration = Duration::from_secs(600);

/// When each path, and the files in it, were last changed.
type State = Vec<Option<SystemTime>>;

static KNOWN: Mutex<BTreeMap<&'static str, (Instant, State, String)>> = Mutex::new(BTreeMap::new());

fn state(places: &[&str]) -> State {
    let changed = |path: &Path| std::fs::metadata(path).ok()?.modified().ok();
    let newest = |place: &&str| {
        let within = std::fs::read_dir(place).into_iter().flatten().flatten();
        within.filter_map(|entry| changed(&entry.path())).chain(changed(Path::new(place))).max()
    };
    places.iter().map(newest).collect()
}

/// The cached answer for the same state of the files, else that of `ask`. Failures are not
/// cached.
///
/// # Errors
/// Those of `ask`.
pub(crate) fn holds(
    name: &'static str,
    places: &[&str],
    ask: impl FnOnce() -> Result<String, Cause>,
) -> Result<String, Cause> {
    let state = state(places);
    let known = || locked(&KNOWN);
    if let Some((at, before, answer)) = known().get(name)
        && *before == state
        && at.elapsed() < HOLDS
    {
        return Ok(answer.clone());
    }
    let answer = ask()?;
    known().insert(name, (Instant::now(), state, answer.clone()));
    Ok(answer)
}

#[cfg(test)]
mod tests {
    use super::*;
    use fernwart_protocol::diagnosis::Reason;

    #[test]
    fn an_answer_is_cached_until_its_files_change_and_a_failure_never() {
        let place = tempfile::tempdir().expect("a folder");
        let path = place.path().to_str().expect("text");
        let ask = |answer: &str| holds("test", &[path], || Ok(answer.to_owned()));
        assert!(holds("test", &[path], || Err(Reason::TimedOut.into())).is_err());
        assert_eq!(ask("one").as_deref(), Ok("one"));
        assert_eq!(ask("two").as_deref(), Ok("one"));
        std::fs::write(place.path().join("new"), "x").expect("written");
        let later = SystemTime::now() + Duration::from_secs(5);
        std::fs::File::options()
            .write(true)
            .open(place.path().join("new"))
            .and_then(|f| f.set_modified(later))
            .expect("set");
        assert_eq!(ask("three").as_deref(), Ok("three"));
    }
}
