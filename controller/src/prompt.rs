//! Questions to a person at a terminal.
//!
//! Ctrl-C at a question ends the program at once and says that nothing was done. The
//! thread that asks waits for a line and cannot be woken, so another listens for the
//! signal meanwhile.

use crate::failure::{Exit, Failure};
use crate::writing::shell_word;
use rustix::termios::{OptionalActions, Termios, tcgetattr, tcsetattr};
use std::io::IsTerminal;
use std::time::Duration;
use tokio::runtime::Builder;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::oneshot;

/// How long the thread that listens may take to end the program.
const HAND_OVER: Duration = Duration::from_secs(2);

/// Whether anybody can be asked.
pub(crate) fn is_possible() -> bool {
    std::io::stdin().is_terminal()
}

/// One line, without its end; nothing where the input ends. `nothing` says what was not
/// done when it is left with Ctrl-C.
///
/// # Errors
/// When standard input cannot be read.
pub(crate) fn line(question: &str, nothing: &'static str) -> Result<Option<String>, Failure> {
    note_text!("{question}");
    let _listening = Listening::begin(nothing);
    let mut answer = String::new();
    let length = std::io::stdin().read_line(&mut answer)?;
    Ok((length > 0).then(|| answer.trim_end_matches(['\n', '\r']).to_owned()))
}

/// Something secret, which is not shown while it is typed.
///
/// # Errors
/// When there is no terminal.
pub(crate) fn secret(question: &str, nothing: &'static str) -> Result<String, Failure> {
    let _listening = Listening::begin(nothing);
    let typed = rpassword::prompt_password(question);
    if typed.as_ref().is_err_and(|error| error.kind() == std::io::ErrorKind::Interrupted) {
        // The signal wakes this thread, too. The other one ends the program meanwhile.
        std::thread::sleep(HAND_OVER);
    }
    Ok(typed?)
}

/// What is to be done, and by which word a person agrees to it.
pub(crate) struct Confirm<'a> {
    /// What is done then: `to retire it`.
    pub(crate) to: &'a str,
    /// The word to be typed, or given with `--yes`.
    pub(crate) word: &'a str,
    /// What was given with `--yes`.
    pub(crate) yes: Option<&'a str>,
    /// What was not done where nobody agrees: `nothing was changed`.
    pub(crate) nothing: &'static str,
}

impl Confirm<'_> {
    /// Has a person agree.
    ///
    /// # Errors
    /// When nobody does, or nobody can be asked.
    pub(crate) fn ask(&self) -> Result<(), Failure> {
        let Self { to, word, yes, nothing } = *self;
        let usage = |what: String| {
            Err(Failure::new(Exit::Usage, "FW-CLI-14", what).now(format!("read it, then: --yes={}", shell_word(word))))
        };
        match yes {
            Some(yes) if yes == word => return Ok(()),
            Some(yes) => return usage(format!("--yes={yes}, but {word} is meant; {nothing}")),
            None if !is_possible() => {
                return usage(format!("without a terminal this must be confirmed; {nothing}"));
            }
            None => {}
        }
        match line(&format!("Type {word} {to}: "), nothing)? {
            Some(typed) if typed.trim() == word => Ok(()),
            _ => Err(Failure::new(Exit::Stopped, "FW-CLI-14", format!("it was not confirmed; {nothing}"))),
        }
    }
}

/// Somebody listens for Ctrl-C until this goes.
struct Listening {
    over: Option<oneshot::Sender<()>>,
}

impl Listening {
    fn begin(nothing: &'static str) -> Self {
        let (over, is_over) = oneshot::channel::<()>();
        let Ok(runtime) = Builder::new_current_thread().enable_all().build() else { return Self { over: None } };
        // Heard from here on, not only once the thread has begun.
        let heard = {
            let _inside = runtime.enter();
            signal(SignalKind::interrupt())
        };
        let Ok(mut heard) = heard else { return Self { over: None } };
        let modes = tcgetattr(std::io::stdin()).ok();
        std::thread::spawn(move || {
            let is_stopped = runtime.block_on(async {
                tokio::select! {
                    biased;
                    _ = is_over => false,
                    signal = heard.recv() => signal.is_some(),
                }
            });
            if is_stopped {
                stop(modes.as_ref(), nothing);
            }
        });
        Self { over: Some(over) }
    }
}

impl Drop for Listening {
    fn drop(&mut self) {
        // A thread that has gone needs no word.
        let _ = self.over.take().map(|over| over.send(()));
    }
}

fn stop(modes: Option<&Termios>, nothing: &str) -> ! {
    // What is typed next is shown again.
    if let Some(modes) = modes {
        let _ = tcsetattr(std::io::stdin(), OptionalActions::Now, modes);
    }
    note!();
    let failure = Failure::new(Exit::Stopped, "FW-CLI-15", format!("stopped; {nothing}"));
    failure.print();
    std::process::exit(failure.exit.number().into())
}
