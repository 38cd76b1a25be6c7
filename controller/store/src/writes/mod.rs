//! The writes that the store accepts.

mod join;
mod machine;
mod shop;

pub use join::{Admit, JoinMachine, JoinStaff, Joined};
pub use machine::{
    Acknowledge, Group, KeepSealedTo, Label, NoteJournal, Quarantine, RaiseAlarm, Rename, Retire, Seen, SeenAs,
    SetStanding, SetTlsKey,
};
pub use shop::{AddCustomer, Draft, KeepLock, RejectStaff, Resume, Suspend};

pub(crate) fn json<T: serde::Serialize>(value: &T) -> Result<String, sqlx::Error> {
    serde_json::to_string(value).map_err(|error| sqlx::Error::Encode(error.into()))
}
