//! Staff keys: suspended, resumed, locked, turned away.

use super::Session;
use crate::error::ClientError;
use fernwart_protocol::code::Denial;
use fernwart_protocol::document::Envelope;
use fernwart_protocol::id::KeyId;
use fernwart_protocol::staff::{Reply, Request, Suspension};

impl Session {
    /// Cuts a staff key off at this hub.
    ///
    /// # Errors
    /// When the hub says no, or the link breaks.
    pub async fn suspend(&self, key: KeyId) -> Result<(), ClientError> {
        self.request(&Request::Suspend(key)).await
    }

    /// Lets a suspended key in again.
    ///
    /// # Errors
    /// When the hub says no, or the link breaks.
    pub async fn resume(&self, key: KeyId) -> Result<(), ClientError> {
        self.request(&Request::Resume(key)).await
    }

    /// The suspended keys; `None` if the hub refuses to report them or is too old.
    ///
    /// # Errors
    /// When the link breaks.
    pub async fn suspensions(&mut self) -> Result<Option<Vec<Suspension>>, ClientError> {
        let replies = match self.collect(&Request::Suspensions).await {
            Err(ClientError::OlderHub { .. } | ClientError::Denied(Denial::BeyondRole)) => return Ok(None),
            replies => replies?,
        };
        let some = |reply| if let Reply::Suspensions(some) = reply { some.into_vec() } else { Vec::new() };
        Ok(Some(replies.into_iter().flat_map(some).collect()))
    }

    /// Hands in a lock that an approver has signed.
    ///
    /// # Errors
    /// When the hub says no, or the link breaks.
    pub async fn lock(&self, lock: Envelope) -> Result<(), ClientError> {
        self.request(&Request::Lock(lock)).await
    }

    /// Rejects a person who waits for the staff list.
    ///
    /// # Errors
    /// When the hub says no, or the link breaks.
    pub async fn reject_staff(&self, key: KeyId) -> Result<(), ClientError> {
        self.request(&Request::RejectStaff(key)).await
    }
}
