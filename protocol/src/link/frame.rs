//! Frames on a stream: four bytes of length, then that many of body.
//!
//! The length is checked before a byte is allocated. Length 0 is no frame.

use crate::codec::{self, CodecError};
use crate::limits::FRAME_BYTES;
use quinn::{ReadExactError, RecvStream, SendStream, VarInt};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// A frame could not be sent or read.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    /// The stream or link ended where a frame should have been.
    #[error("the stream was cut")]
    Cut,
    /// The length is zero or more than allowed.
    #[error("a frame of {bytes} bytes, where 1 to {max} are allowed")]
    Length {
        /// What the peer announced.
        bytes: usize,
        /// The bound here.
        max: usize,
    },
    /// The body is no message of the type.
    #[error("a frame that is no such message")]
    Body(#[source] CodecError),
}

impl FrameError {
    /// Whether the peer broke the rules, rather than the network.
    pub fn is_misbehaviour(&self) -> bool {
        match self {
            Self::Cut => false,
            Self::Length { .. } | Self::Body(_) => true,
        }
    }
}

/// The sending half of a stream. Dropping it without [`Sender::finish`]
/// resets the stream.
#[derive(Debug)]
pub struct Sender {
    stream: SendStream,
    finished: bool,
}

impl Sender {
    pub(super) fn new(stream: SendStream) -> Self {
        Self { stream, finished: false }
    }

    /// Sends one message. Not cancel safe: a cancelled send cuts a frame.
    ///
    /// # Errors
    /// When the message is too large or the stream is gone.
    pub async fn send<T: Serialize>(&mut self, message: &T) -> Result<(), FrameError> {
        let body = codec::encode(message).map_err(FrameError::Body)?;
        self.send_body(&body).await
    }

    /// Sends one frame with this body.
    ///
    /// # Errors
    /// When the body is empty or too long, or the stream is gone.
    pub async fn send_body(&mut self, body: &[u8]) -> Result<(), FrameError> {
        let length = match u32::try_from(body.len()) {
            Ok(length) if length > 0 && body.len() <= FRAME_BYTES => length,
            _ => return Err(FrameError::Length { bytes: body.len(), max: FRAME_BYTES }),
        };
        let mut frame = Vec::with_capacity(4 + body.len());
        frame.extend_from_slice(&length.to_be_bytes());
        frame.extend_from_slice(body);
        self.stream.write_all(&frame).await.map_err(|_| FrameError::Cut)
    }

    /// Says that nothing more comes.
    pub fn finish(&mut self) {
        self.finished = true;
        // Fails only on a stream that the peer has already stopped.
        let _ = self.stream.finish();
    }

    /// Waits until the peer has all of it, or the stream or link is gone.
    pub async fn delivered(&mut self) {
        self.finish();
        let _ = self.stream.stopped().await;
    }
}

impl Drop for Sender {
    fn drop(&mut self) {
        if !self.finished {
            let _ = self.stream.reset(VarInt::from_u32(0));
        }
    }
}

/// The receiving half of a stream.
#[derive(Debug)]
pub struct Receiver {
    stream: RecvStream,
    max: usize,
}

impl Receiver {
    pub(super) fn new(stream: RecvStream) -> Self {
        Self { stream, max: FRAME_BYTES }
    }

    /// Allows only shorter frames from here on.
    pub fn limit(&mut self, max: usize) {
        self.max = max.min(FRAME_BYTES);
    }

    /// The next message, or nothing where the peer has ended the stream
    /// between two frames. Not cancel safe.
    ///
    /// # Errors
    /// When the stream is cut, or the frame breaks the rules.
    pub async fn next<T: DeserializeOwned>(&mut self) -> Result<Option<T>, FrameError> {
        match self.next_body().await? {
            Some(body) => codec::decode(&body).map(Some).map_err(FrameError::Body),
            None => Ok(None),
        }
    }

    /// The next message, which must be there.
    ///
    /// # Errors
    /// As [`Receiver::next`], and [`FrameError::Cut`] at the stream's end.
    pub async fn expect<T: DeserializeOwned>(&mut self) -> Result<T, FrameError> {
        self.next().await?.ok_or(FrameError::Cut)
    }

    async fn next_body(&mut self) -> Result<Option<Vec<u8>>, FrameError> {
        let mut length = [0u8; 4];
        match self.stream.read_exact(&mut length).await {
            Ok(()) => {}
            Err(ReadExactError::FinishedEarly(0)) => return Ok(None),
            Err(_) => return Err(FrameError::Cut),
        }
        let bytes = u32::from_be_bytes(length) as usize;
        if bytes == 0 || bytes > self.max {
            return Err(FrameError::Length { bytes, max: self.max });
        }
        let mut body = vec![0u8; bytes];
        self.stream.read_exact(&mut body).await.map_err(|_| FrameError::Cut)?;
        Ok(Some(body))
    }
}
