//! The published catalogue, its files, its history, and drafts of the next one.

use super::Session;
use crate::error::ClientError;
use fernwart_certs::approve::Draft;
use fernwart_certs::catalogue::{Files, advance};
use fernwart_certs::sha256;
use fernwart_protocol::code::Denial;
use fernwart_protocol::document::Document;
use fernwart_protocol::id::Digest;
use fernwart_protocol::limits::OFFER_FILES;
use fernwart_protocol::staff::{Reply, Request};
use fernwart_protocol::text::Blob;

impl Session {
    /// Fetches a newer catalogue, verifies it and stores it.
    ///
    /// # Errors
    /// When it fails verification, or cannot be stored.
    pub async fn sync(&mut self) -> Result<(), ClientError> {
        let mut files = self.offered().await?;
        // The newest version offered, by file name.
        let newest = |files: &Files, role: &str| {
            let number = |name: &String| name.strip_suffix(role)?.parse::<u64>().ok();
            files.iter().filter_map(|(name, _)| number(name)).max()
        };
        let ours = self.catalogue.versions;
        if let Some(hubs) = newest(&files, ".targets.json").filter(|targets| *targets < ours.targets) {
            let given = self.give_back(newest(&files, ".root.json").unwrap_or(ours.root)).await;
            given.map_err(|error| match error {
                ClientError::Denied(denial) => ClientError::FellBack { hub: hubs, home: ours.targets, denial },
                error => error,
            })?;
            files = self.offered().await?;
        }
        // Ignore roots that are known here, whatever their bytes.
        let is_known = |name: &str| {
            let root = name.strip_suffix(".root.json").and_then(|number| number.parse::<u64>().ok());
            root.is_some_and(|root| root <= ours.root)
        };
        let mut newer = Files::default();
        for (name, bytes) in files.iter().filter(|(name, _)| !is_known(name)) {
            newer.insert(name, bytes.clone());
        }
        let (trusted, catalogue) = advance(&self.trusted, &newer).await.map_err(ClientError::Catalogue)?;
        self.home.keep(&trusted).map_err(ClientError::Home)?;
        self.trusted = trusted;
        self.catalogue = catalogue;
        Ok(())
    }

    /// Returns the newer catalogue to a hub that fell back, such as after a restore. Approvers
    /// signed it, so it may come from anybody.
    async fn give_back(&mut self, hubs_root: u64) -> Result<(), ClientError> {
        let draft = Draft::given_back(&self.trusted.files, hubs_root).map_err(ClientError::Catalogue)?;
        let id = draft.id().map_err(|_| ClientError::Unexpected)?;
        let bytes = serde_json::to_vec(&draft).map_err(|_| ClientError::Unexpected)?;
        let bytes = Blob::try_from(bytes).map_err(|_| ClientError::Unexpected)?;
        let given = match self.request(&Request::PutDraft(bytes)).await {
            Ok(()) => self.request(&Request::Publish(id)).await,
            refused => refused,
        };
        match given {
            // Another peer has returned it already.
            Err(ClientError::Denied(Denial::CatalogueStale | Denial::NoSuchDraft)) => Ok(()),
            given => given,
        }
    }

    /// The hub's published files, unverified.
    async fn offered(&mut self) -> Result<Files, ClientError> {
        let replies = Box::pin(self.collect(&Request::Catalogue)).await?;
        let mut files = Files::default();
        for reply in replies.into_iter().take(OFFER_FILES) {
            if let Reply::File(file) = reply {
                files.insert(file.name.as_raw(), file.bytes.into_bytes());
            }
        }
        Ok(files)
    }

    /// A file of an approved script, verified by its hash.
    ///
    /// # Errors
    /// When the hub does not have it, or hands out another.
    pub async fn blob(&mut self, hash: &Digest) -> Result<Vec<u8>, ClientError> {
        let replies = self.collect(&Request::Blob(*hash)).await?;
        match replies.into_iter().next() {
            Some(Reply::Blob(bytes)) if sha256(bytes.as_bytes()) == *hash => Ok(bytes.into_bytes()),
            _ => Err(ClientError::Unexpected),
        }
    }

    /// Returns a script file to a hub that has lost it. Returns whether the hub had lost it.
    ///
    /// # Errors
    /// When the hub refuses it, or is too old.
    pub async fn give_file_back(&mut self, bytes: &[u8]) -> Result<bool, ClientError> {
        match self.blob(&sha256(bytes)).await {
            Ok(_) => Ok(false),
            Err(ClientError::Denied(Denial::NoSuchBlob)) => {
                let file = Blob::try_from(bytes.to_vec()).map_err(|_| ClientError::Unexpected)?;
                self.request(&Request::PutFile(file)).await.map(|()| true)
            }
            Err(error) => Err(error),
        }
    }

    /// A document of the catalogue, verified by its hash.
    ///
    /// # Errors
    /// When the hub does not have it, or hands out another.
    pub async fn document<T: Document>(&mut self, hash: &Digest) -> Result<T, ClientError> {
        let bytes = self.blob(hash).await?;
        T::from_bytes(&bytes).map_err(|_| ClientError::Unexpected)
    }

    /// The newest targets that were published, oldest first: signed files, unverified.
    ///
    /// # Errors
    /// When the hub says no, or the link breaks.
    pub async fn history(&mut self) -> Result<Vec<Vec<u8>>, ClientError> {
        let replies = self.collect(&Request::History).await?;
        let file = |reply| if let Reply::File(file) = reply { Some(file.bytes.into_bytes()) } else { None };
        Ok(replies.into_iter().filter_map(file).collect())
    }

    /// The drafts that wait for signatures, as JSON; unverified.
    ///
    /// # Errors
    /// When the hub says no, or the link breaks.
    pub async fn drafts(&mut self) -> Result<Vec<Vec<u8>>, ClientError> {
        let replies = self.collect(&Request::Drafts).await?;
        let draft = |reply| if let Reply::Draft(bytes) = reply { Some(bytes.into_bytes()) } else { None };
        Ok(replies.into_iter().filter_map(draft).collect())
    }

    /// Gives the hub a draft, with the signatures it has.
    ///
    /// # Errors
    /// When it is too long, the hub says no, or the link breaks.
    pub async fn put_draft(&self, draft: &Draft) -> Result<(), ClientError> {
        let bytes = serde_json::to_vec(draft).map_err(|_| ClientError::Unexpected)?;
        let bytes = Blob::try_from(bytes).map_err(|_| ClientError::DraftTooLong)?;
        self.request(&Request::PutDraft(bytes)).await
    }

    /// Publishes a draft that the hub has, and takes over the new catalogue.
    ///
    /// # Errors
    /// When signatures are missing, the hub says no, or the link breaks.
    pub async fn publish(&mut self, draft: &Draft) -> Result<(), ClientError> {
        let id = draft.id().map_err(|_| ClientError::Unexpected)?;
        self.request(&Request::Publish(id)).await?;
        self.sync().await
    }
}
