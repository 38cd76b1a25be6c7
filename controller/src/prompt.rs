//! Questions to a person at a terminal.
//!
//! Ctrl-C at a question ends the program at once with a message that nothing was done. The thread
//! that asks is blocked in a read and cannot be woken, so another thread listens for the signal.

use crate::escaping::shell_word;
use crate::failure::{Exit, Failure};
use rustix::termios::{OptionalActions, Termios, tcgetattr, tcsetattr};
use std::io::IsTerminal;
use std::time::Duration;
use tokio::runtime::Builder;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::oneshot;

/// How long the listening thread may take to end the program.
const HAND_OVER: Duration = Duration::from_secs(2);

/// Whether a person can be asked.
pub(crate) fn is_possible() -> bool {
    std::io::stdin().is_terminal()
}

/// Reads one line, without its end; `None` at the end of input. `nothing` names what was not done
/// if Ctrl-C is pressed.
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

/// Reads a secret without echo.
///
/// # Errors
/// When there is no terminal.
pub(crate) fn secret(question: &str, nothing: &'static str) -> Result<String, Failure> {
    let _listening = Listening::begin(nothing);
    let typed = rpassword::prompt_password(question);
    if typed.as_ref().is_err_and(|error| error.kind() == std::io::ErrorKind::Interrupted) {
        // The signal interrupts this thread too; wait while the other one ends the program.
        std::thread::sleep(HAND_OVER);
    }
    Ok(typed?)
}

/// A confirmation: what will be done, and the word to type.
pub(crate) struct Confirm<'a> {
    /// What will be done: `to retire it`.
    pub(crate) to: &'a str,
    /// The word to be typed, or given with `--yes`.
    pub(crate) word: &'a str,
    /// What was given with `--yes`.
    pub(crate) yes: Option<&'a str>,
    /// What was not done if nobody confirms: `nothing was changed`.
    pub(crate) nothing: &'static str,
}

impl Confirm<'_> {
    /// Asks for the confirmation.
    ///
    /// # Errors
    /// When it is not given, or nobody can be asked.
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

/// Listens for Ctrl-C until dropped.
struct Listening {
    over: Option<oneshot::Sender<()>>,
}

impl Listening {
    fn begin(nothing: &'static str) -> Self {
        let (over, is_over) = oneshot::channel::<()>();
        let Ok(runtime) = Builder::new_current_thread().enable_all().build() else { return Self { over: None } };
        // Register the handler now, not only when the thread runs.
        let interrupts = {
            let _inside = runtime.enter();
            signal(SignalKind::interrupt())
        };
        let Ok(mut interrupts) = interrupts else { return Self { over: None } };
        let modes = tcgetattr(std::io::stdin()).ok();
        std::thread::spawn(move || {
            let is_stopped = runtime.block_on(async {
                tokio::select! {
                    biased;
                    _ = is_over => false,
                    signal = interrupts.recv() => signal.is_some(),
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
        // The thread may have ended already.
        let _ = self.over.take().map(|over| over.send(()));
    }
}

fn stop(modes: Option<&Termios>, nothing: &str) -> ! {
    // Turn echo on again.
    if let Some(modes) = modes {
        let _ = tcsetattr(std::io::stdin(), OptionalActions::Now, modes);
    }
    note!();
    let failure = Failure::new(Exit::Stopped, "FW-CLI-15", format!("stopped; {nothing}"));
    failure.print();
    std::process::exit(failure.exit.number().into())
}
