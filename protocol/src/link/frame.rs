//! Frames on a stream: four bytes of length, then that many of body.
//!
//! The length is checked before memory is allocated. Length 0 is invalid.

use super::assembly::Assembly;
use super::settled::Settled;
use super::transport::{ReceiveStream, SendStream, StreamEnd};
use crate::code::Goodbye;
use crate::codec::{self, CodecError};
use crate::limits::{FIRST_FRAME_TIMEOUT, FRAME_BYTES, LINK_WINDOW_BYTES, SLOWEST_BYTES_PER_SECOND, STALL_TIMEOUT};
use crate::version::Version;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::sync::Arc;
use std::time::Duration;

/// A frame could not be sent or read.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    /// The stream or link ended where a frame should have been.
    #[error("the stream was cut")]
    Cut,
    /// The peer dropped the stream before it sent anything.
    #[error("a stream on which nothing was said")]
    Empty,
    /// The length is zero or more than allowed.
    #[error("a frame of {bytes} bytes, where 1 to {max} are allowed")]
    Length {
        /// What the peer announced.
        bytes: usize,
        /// The limit here.
        max: usize,
    },
    /// The peer sends or reads slower than the minimum rate.
    #[error("a peer that is slower than is waited for")]
    TooSlow,
    /// The body is no message of the type, from a peer whose version this program
    /// knows.
    #[error("a frame that is no such message")]
    Body(#[source] CodecError),
    /// The peer is newer than this program and sent something that this program does not know.
    #[error("a frame of a newer version than this program's")]
    Newer,
    /// This program is newer than the peer, and the peer does not know the message; nothing was
    /// sent.
    #[error("a message that the peer's version does not know")]
    PeerIsOlder(#[source] CodecError),
    /// The peer rejected the stream, because its version does not know what it received.
    #[error("the peer's version does not know what it was sent")]
    Rejected,
}

impl FrameError {
    /// The reason with which to close the link; `None` if the network or a version is at fault, not
    /// the peer.
    pub fn reproach(&self) -> Option<Goodbye> {
        match self {
            Self::Cut | Self::Empty | Self::Newer | Self::PeerIsOlder(_) | Self::Rejected => None,
            Self::TooSlow => Some(Goodbye::TooSlow),
            Self::Length { .. } | Self::Body(_) => Some(Goodbye::Misbehaved),
        }
    }
}

/// Memory allocated for a frame before any of it has arrived, bytes: most frames are shorter.
const FIRST_PIECE: usize = 4 * 1024;

/// Time limit for a frame of this length.
fn timeout(bytes: usize) -> Duration {
    FIRST_FRAME_TIMEOUT + Duration::from_secs(bytes as u64 / SLOWEST_BYTES_PER_SECOND)
}

/// The sending half of a stream. Dropping it without [`Sender::finish`]
/// resets the stream.
#[derive(Debug)]
pub struct Sender {
    stream: SendStream,
    finished: bool,
    sent: usize,
    /// Whether sending to a slow reader times out.
    paced: bool,
    settled: Arc<Settled>,
}

/// The code with which a stream is reset or stopped if its frames are of an unknown version.
const INCOMPATIBLE: u32 = Goodbye::Incompatible.number();

impl Sender {
    pub(super) fn new(stream: SendStream, settled: Arc<Settled>) -> Self {
        Self { stream, finished: false, sent: 0, paced: false, settled }
    }

    /// The version in which this link speaks.
    pub fn version(&self) -> Version {
        self.settled.version()
    }

    /// Bytes sent so far.
    pub fn sent_bytes(&self) -> usize {
        self.sent
    }

    /// From here on, sending fails if the peer reads slower than [`SLOWEST_BYTES_PER_SECOND`].
    pub fn demand_rate(&mut self) {
        self.paced = true;
    }

    /// Sends one message. Not cancel safe: a cancelled send cuts a frame.
    ///
    /// # Errors
    /// When the message is too large, needs a newer version than the link's, the stream is gone or,
    /// after [`Sender::demand_rate`], the peer is too slow.
    pub async fn send<T: Serialize>(&mut self, message: &T) -> Result<(), FrameError> {
        let body = codec::encode_for(message, self.version()).map_err(|error| match error {
            CodecError::Newer { .. } => FrameError::PeerIsOlder(error),
            CodecError::Encode(_) | CodecError::Decode { .. } => FrameError::Body(error),
        })?;
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
        let written = self.stream.write_all(&frame);
        let written = match self.paced {
            true => tokio::time::timeout(timeout(body.len()), written).await.map_err(|_| FrameError::TooSlow)?,
            false => written.await,
        };
        written.map_err(|error| match error {
            StreamEnd::Stopped(INCOMPATIBLE) => FrameError::Rejected,
            StreamEnd::Stopped(_) | StreamEnd::Gone => FrameError::Cut,
        })?;
        self.sent += frame.len();
        Ok(())
    }

    /// Ends the stream: nothing more is sent.
    pub fn finish(&mut self) {
        self.finished = true;
        self.stream.finish();
    }

    /// Rejects the stream: the peer's frames are of a version that this program does not know. The
    /// link stays.
    pub fn reject(&mut self) {
        self.finished = true;
        self.stream.reset(INCOMPATIBLE);
    }

    /// Waits until the peer has acknowledged everything, or the stream or link is gone.
    ///
    /// # Errors
    /// [`FrameError::TooSlow`], only after [`Sender::demand_rate`].
    pub async fn delivered(&mut self) -> Result<(), FrameError> {
        self.finish();
        let acknowledged = self.stream.acknowledged();
        if self.paced {
            // At most the link's window is still unacknowledged.
            let most = timeout(LINK_WINDOW_BYTES as usize);
            tokio::time::timeout(most, acknowledged).await.map_err(|_| FrameError::TooSlow)?;
        } else {
            acknowledged.await;
        }
        Ok(())
    }
}

impl Drop for Sender {
    fn drop(&mut self) {
        if !self.finished {
            self.stream.reset(0);
        }
    }
}

/// The receiving half of a stream.
#[derive(Debug)]
pub struct Receiver {
    stream: ReceiveStream,
    max: usize,
    settled: Arc<Settled>,
    assembly: Arc<Assembly>,
}

impl Receiver {
    pub(super) fn new(stream: ReceiveStream, settled: Arc<Settled>, assembly: Arc<Assembly>) -> Self {
        Self { stream, max: FRAME_BYTES, settled, assembly }
    }

    /// Rejects the rest of the stream: it is of a version that this program does not know.
    pub fn reject(&mut self) {
        self.stream.stop(INCOMPATIBLE);
    }

    fn read<T: DeserializeOwned>(&self, body: &[u8]) -> Result<T, FrameError> {
        codec::decode(body)
            .map_err(|error| if self.settled.is_peer_newer() { FrameError::Newer } else { FrameError::Body(error) })
    }

    /// Lowers the maximum frame length from here on.
    pub fn limit(&mut self, max: usize) {
        self.max = max.min(FRAME_BYTES);
    }

    /// The next message, or `None` if the peer has ended the stream between two frames. Not cancel
    /// safe.
    ///
    /// # Errors
    /// When the stream is cut, or the frame breaks the rules.
    pub async fn next<T: DeserializeOwned>(&mut self) -> Result<Option<T>, FrameError> {
        match self.next_body().await? {
            Some(body) => self.read(&body).map(Some),
            None => Ok(None),
        }
    }

    /// The next message; the end of the stream is an error.
    ///
    /// # Errors
    /// As [`Receiver::next`], and [`FrameError::Cut`] at the stream's end.
    pub async fn expect<T: DeserializeOwned>(&mut self) -> Result<T, FrameError> {
        self.next().await?.ok_or(FrameError::Cut)
    }

    /// The first message of a stream, which must begin within
    /// [`FIRST_FRAME_TIMEOUT`] and come no slower than
    /// [`SLOWEST_BYTES_PER_SECOND`].
    ///
    /// # Errors
    /// [`FrameError::Empty`] if the stream ends before it, [`FrameError::TooSlow`], else as
    /// [`Receiver::expect`].
    pub async fn first<T: DeserializeOwned>(&mut self) -> Result<T, FrameError> {
        let body = async {
            let length = tokio::time::timeout(FIRST_FRAME_TIMEOUT, self.next_length()).await;
            let bytes = length.map_err(|_| FrameError::TooSlow)??.ok_or(FrameError::Cut)?;
            self.body(bytes).await
        };
        // The peer that opens a stream has received nothing on it yet that it could reject.
        let nothing = |error: &FrameError| matches!(error, FrameError::Cut | FrameError::Rejected);
        let body = body.await.map_err(|error| if nothing(&error) { FrameError::Empty } else { error })?;
        self.read(&body)
    }

    async fn next_body(&mut self) -> Result<Option<Vec<u8>>, FrameError> {
        match self.next_length().await? {
            Some(bytes) => self.body(bytes).await.map(Some),
            None => Ok(None),
        }
    }

    async fn next_length(&mut self) -> Result<Option<usize>, FrameError> {
        let mut length = [0u8; 4];
        match self.stream.read_exact(&mut length).await {
            Ok(true) => {}
            Ok(false) => return Ok(None),
            Err(StreamEnd::Stopped(INCOMPATIBLE)) => return Err(FrameError::Rejected),
            Err(StreamEnd::Stopped(_) | StreamEnd::Gone) => return Err(FrameError::Cut),
        }
        let bytes = u32::from_be_bytes(length) as usize;
        if bytes == 0 || bytes > self.max {
            return Err(FrameError::Length { bytes, max: self.max });
        }
        Ok(Some(bytes))
    }

    /// Reads the body of a frame of this length. A long frame first waits until there is room for
    /// all of it; that wait does not count against its time limit, since other frames cause it.
    /// Memory is allocated only for bytes that have arrived. A frame that stalls or trickles fails.
    async fn body(&mut self, bytes: usize) -> Result<Vec<u8>, FrameError> {
        let _room = match bytes > FIRST_PIECE {
            true => Some(self.assembly.room(bytes).await.ok_or(FrameError::Cut)?),
            false => None,
        };
        tokio::time::timeout(timeout(bytes), self.gather(bytes)).await.map_err(|_| FrameError::TooSlow)?
    }

    async fn gather(&mut self, bytes: usize) -> Result<Vec<u8>, FrameError> {
        let mut body = Vec::with_capacity(bytes.min(FIRST_PIECE));
        while body.len() < bytes {
            let next = self.stream.read_chunk(bytes - body.len());
            let next = tokio::time::timeout(STALL_TIMEOUT, next).await.map_err(|_| FrameError::TooSlow)?;
            match next {
                Ok(Some(piece)) => {
                    // The capacity about doubles as the body grows, but never exceeds the frame's
                    // length.
                    if body.capacity() - body.len() < piece.len() {
                        let more = body.len().max(piece.len()).min(bytes - body.len());
                        body.reserve_exact(more);
                    }
                    body.extend_from_slice(&piece);
                }
                Ok(None) | Err(_) => return Err(FrameError::Cut),
            }
        }
        Ok(body)
    }
}
