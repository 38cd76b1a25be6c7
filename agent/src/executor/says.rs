//! What the owner says at the terminal: yes, no, yes to all for a while, stop.

use super::Executor;
use super::waits::Why;
use crate::local::{self, Asked};
use fernwart_protocol::code::Refusal;
use fernwart_protocol::document::UnixMs;
use fernwart_protocol::id::RunId;
use fernwart_protocol::text::{Text, chain};
use fernwart_protocol::to_hub::{Delivered, Note};
use serde::{Deserialize, Serialize};
use serde_json::json;
use tracing::warn;

/// The owner's standing word. Kept in a file: a pause outlives a restart.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Says {
    /// Repairs are allowed until then.
    #[serde(default)]
    pub(super) allows_until: UnixMs,
    /// Nothing is answered until then.
    #[serde(default)]
    pub(super) paused_until: UnixMs,
}

impl Says {
    pub(super) fn paused(&self, now: UnixMs) -> bool {
        self.paused_until > now
    }

    /// Reads it. What cannot be read was meant to stop: paused.
    pub(super) fn read(path: &std::path::Path) -> Self {
        match std::fs::read_to_string(path) {
            Ok(text) => serde_json::from_str(&text).unwrap_or(Self { allows_until: 0, paused_until: UnixMs::MAX }),
            Err(_) => Self::default(),
        }
    }

    fn write(&self, path: &std::path::Path) -> std::io::Result<()> {
        let beside = path.with_extension("new");
        std::fs::write(&beside, serde_json::to_vec(self)?)?;
        std::fs::rename(beside, path)
    }
}

impl Executor {
    /// All that the owner is asked now.
    pub(super) fn asked(&self) -> Vec<Asked> {
        let mut all: Vec<Asked> = self
            .waits
            .values()
            .filter_map(|wait| match wait.why {
                Why::Owner(number, until) => Some(Asked {
                    number,
                    until,
                    staff: wait.staff.clone(),
                    reason: wait.order.reason.clone(),
                    action: wait.order.action.clone(),
                    title: self.title_of(&wait.order.action),
                }),
                Why::Content(_) | Why::Window(_) | Why::Turn => None,
            })
            .collect();
        all.sort_by_key(|asked| asked.number);
        all
    }

    fn question(&self, number: u32) -> Option<RunId> {
        let asks = |why: &Why| matches!(why, Why::Owner(asked, _) if *asked == number);
        self.waits.iter().find(|(_, wait)| asks(&wait.why)).map(|(run, _)| *run)
    }

    /// What the owner wants, in the books first.
    pub(super) fn handle_word(&mut self, word: local::Word, by: &Text<64>) -> local::Answer {
        let now = crate::now();
        let run = match word {
            local::Word::Allow(number, _) | local::Word::Deny(number) => match self.question(number) {
                Some(run) => Some(run),
                None => return local::Answer::NoSuchQuestion,
            },
            local::Word::AllowAll(_) | local::Word::Pause(_) | local::Word::Resume | local::Word::TrustClock => None,
        };
        let body = json!({"by": by, "word": word, "run": run});
        if let Err(error) = self.note("owner_said", &body) {
            return local::Answer::Failed(chain(&error));
        }
        let until = |span: Option<u64>| {
            span.map_or(UnixMs::MAX, |ms| now.saturating_add(i64::try_from(ms).unwrap_or(i64::MAX)))
        };
        match word {
            local::Word::Allow(_, span) => {
                if span.is_some() {
                    self.says.allows_until = until(span);
                }
            }
            local::Word::AllowAll(span) => self.says.allows_until = until(Some(span)),
            local::Word::Deny(_) => {}
            local::Word::TrustClock => {
                let moment = super::clocks::moment(self.boot);
                if let Err(error) = self.books.write(moment, |page| page.trust_clock(now)) {
                    return local::Answer::Failed(chain(&error));
                }
            }
            local::Word::Pause(span) => self.says.paused_until = until(span),
            local::Word::Resume => self.says.paused_until = 0,
        }
        if let Err(error) = self.says.write(&self.home.says()) {
            return local::Answer::Failed(error.to_string());
        }
        match (word, run) {
            (local::Word::Allow(..), Some(run)) => {
                if let Some(wait) = self.waits.get_mut(&run) {
                    wait.yes = true;
                }
                self.tell_watchers(run, Delivered::Told(Note::Allowed(by.clone(), now)));
                self.reconsider(run);
            }
            (local::Word::Deny(_), Some(run)) => self.refuse_waiting(run, Refusal::OwnerDeclined),
            (local::Word::AllowAll(_), _) => {
                for asked in self.asked() {
                    if let Some(run) = self.question(asked.number) {
                        self.tell_watchers(run, Delivered::Told(Note::Allowed(by.clone(), now)));
                        self.reconsider(run);
                    }
                }
            }
            (local::Word::Pause(_), _) => {
                for run in self.waits.keys().copied().collect::<Vec<_>>() {
                    self.refuse_waiting(run, Refusal::Paused);
                }
                self.cancel_acting(None);
            }
            (local::Word::Resume | local::Word::Allow(..) | local::Word::Deny(_) | local::Word::TrustClock, _) => {}
        }
        local::Answer::Done
    }

    /// Tells whoever sits at this computer that there is a question.
    pub(super) fn notify_owner(&self) {
        let Some(asked) = self.asked().into_iter().next_back() else { return };
        let shop = self.catalogue.shop.name.to_string();
        let accounts = self.policy().asked().to_vec();
        if let Err(error) = local::open_to(&self.home, &accounts) {
            warn!(%error, "those who are asked cannot reach the agent");
        }
        self.runtime.spawn_blocking(move || crate::notice::show(&shop, &asked, &accounts));
    }
}
