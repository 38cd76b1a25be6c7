//! Signs documents, and verifies them.
//!
//! The envelope's key id only selects the key. A document is accepted if the key that its own text
//! names has signed exactly these bytes.

use crate::identity::{SigningKey, verify};
use fernwart_protocol::document::{BadDocument, Document, Envelope};
use fernwart_protocol::id::PublicKey;
use fernwart_protocol::text::Blob;
use fernwart_protocol::version::Version;

/// A signed document is not accepted.
#[derive(Debug, thiserror::Error)]
pub enum EnvelopeError {
    /// The signature does not fit the bytes.
    #[error("checking the signature of a document")]
    Signature,
    /// The bytes are no such document.
    #[error("reading a signed document")]
    Document(#[source] BadDocument),
    /// The reader's version does not know something in the document.
    #[error("{what} needs protocol version {needs}, and its reader knows {reads}")]
    Newer {
        /// What needs a newer version.
        what: &'static str,
        /// The version it needs.
        needs: Version,
        /// The version that the reader knows.
        reads: Version,
    },
    /// The envelope names another key than the document.
    #[error("the envelope and its document name different keys")]
    Signer,
}

impl EnvelopeError {
    /// Whether the signature is good, and only the document's version is too new for this program.
    pub fn is_newer(&self) -> bool {
        matches!(self, Self::Document(BadDocument::Newer { .. }))
    }
}

/// Signs a document for readers of this version. The key must be the one the
/// document names.
///
/// # Errors
/// When the document is too long, or needs a newer version than its readers know.
pub fn seal<D: Document>(document: &D, key: &SigningKey, reads: Version) -> Result<Envelope, EnvelopeError> {
    let needs = document.needs();
    if needs.version > reads {
        return Err(EnvelopeError::Newer { what: needs.what, needs: needs.version, reads });
    }
    let bytes = document.to_bytes().map_err(EnvelopeError::Document)?;
    let signature = key.sign(&bytes);
    let bytes = Blob::try_from(bytes).map_err(|_| EnvelopeError::Document(BadDocument::TooLong))?;
    Ok(Envelope { key: document.signer(), signature, bytes })
}

/// Checks an envelope against the key it must be signed with.
///
/// # Errors
/// When it is not signed by that key, or is no such document.
pub fn open<D: Document>(envelope: &Envelope, key: &PublicKey) -> Result<D, EnvelopeError> {
    let bytes = envelope.bytes.as_bytes();
    if !verify(key, bytes, &envelope.signature) {
        return Err(EnvelopeError::Signature);
    }
    let document = D::from_bytes(bytes).map_err(EnvelopeError::Document)?;
    if document.signer() == envelope.key { Ok(document) } else { Err(EnvelopeError::Signer) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::key_id;
    use fernwart_protocol::document::Cancel;
    use fernwart_protocol::id::{KeyId, MachineId, RunId};

    fn cancel(key: KeyId) -> Cancel {
        Cancel { run: RunId::from_bytes([1; 16]), machine: MachineId::from_bytes([2; 16]), key, at: 4 }
    }

    #[test]
    fn each_bit_of_an_envelope_matters() {
        let key = SigningKey::generate().expect("a key");
        let sealed = seal(&cancel(key_id(&key.public())), &key, Version::OLDEST).expect("sealed");
        assert!(open::<Cancel>(&sealed, &key.public()).is_ok());
        let wire = fernwart_protocol::codec::encode(&sealed).expect("encoded");
        for bit in 0..wire.len() * 8 {
            let mut flipped = wire.clone();
            if let Some(byte) = flipped.get_mut(bit / 8) {
                *byte ^= 1 << (bit % 8);
            }
            let Ok(envelope) = fernwart_protocol::codec::decode::<Envelope>(&flipped) else { continue };
            assert!(open::<Cancel>(&envelope, &key.public()).is_err(), "bit {bit} could be flipped");
        }
    }

    #[test]
    fn nothing_is_signed_that_the_reader_is_too_old_to_understand() {
        let key = SigningKey::generate().expect("a key");
        let nobody = seal(&cancel(key_id(&key.public())), &key, Version::of_peer(0));
        assert!(matches!(nobody, Err(EnvelopeError::Newer { .. })));
    }

    #[test]
    fn a_document_that_names_another_key_is_rejected() {
        let (mine, other) = (SigningKey::generate().expect("a key"), SigningKey::generate().expect("a key"));
        let sealed = seal(&cancel(key_id(&other.public())), &mine, Version::OLDEST).expect("sealed");
        assert!(open::<Cancel>(&sealed, &other.public()).is_err());
        let renamed = Envelope { key: key_id(&mine.public()), ..sealed };
        assert!(matches!(open::<Cancel>(&renamed, &mine.public()), Err(EnvelopeError::Signer)));
    }
}
