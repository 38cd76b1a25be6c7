//! Records the journal heads that machines report, and alarms about them.

use crate::records::Records;
use fernwart_protocol::event::Happened;
use fernwart_protocol::id::{Digest, MachineId};
use fernwart_protocol::text::Text;
use fernwart_store::{NoteJournal, RaiseAlarm};
use tracing::warn;

/// Stores the head of a machine's journal, and an alarm if there is one.
pub(crate) async fn note(records: &Records, machine: MachineId, (seq, head): (u64, Digest), alarm: Option<String>) {
    if let Some(alarm) = &alarm {
        warn!(%machine, alarm, "this machine was restored from a backup, or its records were altered");
    }
    let alarm = alarm.map(|alarm| Text::clipped(&alarm));
    if let Some(alarm) = &alarm {
        records.happened_on(&machine, |machine| Happened::Alarm(machine, alarm.clone()));
    }
    if let Err(error) = records.store.write(NoteJournal { machine, seq, head, alarm }).await {
        warn!(%machine, %error, "a journal's head could not be stored");
    }
}

/// Stores an alarm for a machine until somebody acknowledges it, and publishes an event. Returns
/// whether it is stored.
pub(crate) async fn raise(records: &Records, machine: MachineId, alarm: &'static str) -> bool {
    let alarm = Text::clipped(alarm);
    if let Err(error) = records.store.write(RaiseAlarm { machine, alarm: alarm.clone() }).await {
        // This logs the error and publishes an event at a limited rate.
        records.denial(&error);
        return false;
    }
    records.happened_on(&machine, |machine| Happened::Alarm(machine, alarm));
    true
}
