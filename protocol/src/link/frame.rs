//! Frames on a stream: four bytes of length, then that many of body.
//!
//! The length is checked before a byte is allocated. Length 0 is no frame.

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
    /// The peer left the stream before it had said anything.
    #[error("a stream on which nothing was said")]
    Empty,
    /// The length is zero or more than allowed.
    #[error("a frame of {bytes} bytes, where 1 to {max} are allowed")]
    Length {
        /// What the peer announced.
        bytes: usize,
        /// The bound here.
        max: usize,
    },
    /// The peer sends or reads slower than is waited for.
    #[error("a peer that is slower than is waited for")]
    TooSlow,
    /// The body is no message of the type, from a peer whose version this program
    /// knows.
    #[error("a frame that is no such message")]
    Body(#[source] CodecError),
    /// The peer is newer than this program, and has sent what it does not know.
    #[error("a frame of a newer version than this program's")]
    Newer,
    /// This program is newer than the peer, which does not know what it would be
    /// told; nothing was sent.
    #[error("a message that the peer's version does not know")]
    PeerIsOlder(#[source] CodecError),
    /// The peer does not know what it was sent: it has turned the stream away.
    #[error("the peer's version does not know what it was sent")]
    TurnedAway,
}

impl FrameError {
    /// What the link is closed with where the peer, rather than the network, is
    /// at fault.
    pub fn reproach(&self) -> Option<Goodbye> {
        match self {
            Self::Cut | Self::Empty | Self::Newer | Self::PeerIsOlder(_) | Self::TurnedAway => None,
            Self::TooSlow => Some(Goodbye::TooSlow),
            Self::Length { .. } | Self::Body(_) => Some(Goodbye::Misbehaved),
        }
    }
}

/// Room that is taken for a frame before anything of it has come, bytes: most are
/// shorter.
const FIRST_PIECE: usize = 4 * 1024;

/// How long a frame of this length is waited for.
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
    /// Whether a slow reader is not waited for.
    paced: bool,
    settled: Arc<Settled>,
}

/// The number with which a stream ends whose frames the other end does not know.
const INCOMPATIBLE: u32 = Goodbye::Incompatible.number();

impl Sender {
    pub(super) fn new(stream: SendStream, settled: Arc<Settled>) -> Self {
        Self { stream, finished: false, sent: 0, paced: false, settled }
    }

    /// The version in which this link speaks.
    pub fn version(&self) -> Version {
        self.settled.version()
    }

    /// What was sent so far, bytes.
    pub fn sent_bytes(&self) -> usize {
        self.sent
    }

    /// From here on waits for no peer that reads slower than
    /// [`SLOWEST_BYTES_PER_SECOND`].
    pub fn demand_rate(&mut self) {
        self.paced = true;
    }

    /// Sends one message. Not cancel safe: a cancelled send cuts a frame.
    ///
    /// # Errors
    /// When the message is too large, needs a newer version than the link's, the
    /// stream is gone or, on demand, the peer too slow.
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
            StreamEnd::Stopped(INCOMPATIBLE) => FrameError::TurnedAway,
            StreamEnd::Stopped(_) | StreamEnd::Gone => FrameError::Cut,
        })?;
        self.sent += frame.len();
        Ok(())
    }

    /// Says that nothing more comes.
    pub fn finish(&mut self) {
        self.finished = true;
        self.stream.finish();
    }

    /// Says that the peer's frames are of a version that this program does not know;
    /// the link stays.
    pub fn turn_away(mut self) {
        self.finished = true;
        self.stream.reset(INCOMPATIBLE);
    }

    /// Waits until the peer has all of it, or the stream or link is gone.
    ///
    /// # Errors
    /// [`FrameError::TooSlow`] on demand.
    pub async fn delivered(&mut self) -> Result<(), FrameError> {
        self.finish();
        let acknowledged = self.stream.acknowledged();
        if self.paced {
            // What waits is at most what the link may have under way.
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

    /// The rest of the stream is of a version that this program does not know.
    pub fn turn_away(mut self) {
        self.stream.stop(INCOMPATIBLE);
    }

    fn read<T: DeserializeOwned>(&self, body: &[u8]) -> Result<T, FrameError> {
        codec::decode(body)
            .map_err(|error| if self.settled.is_peer_newer() { FrameError::Newer } else { FrameError::Body(error) })
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
            Some(body) => self.read(&body).map(Some),
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

    /// The first message of a stream, which must begin within
    /// [`FIRST_FRAME_TIMEOUT`] and come no slower than
    /// [`SLOWEST_BYTES_PER_SECOND`].
    ///
    /// # Errors
    /// [`FrameError::Empty`] where it does not come, else as [`Receiver::expect`], and
    /// [`FrameError::TooSlow`].
    pub async fn first<T: DeserializeOwned>(&mut self) -> Result<T, FrameError> {
        let body = async {
            let length = tokio::time::timeout(FIRST_FRAME_TIMEOUT, self.next_length()).await;
            let bytes = length.map_err(|_| FrameError::TooSlow)??.ok_or(FrameError::Cut)?;
            self.body(bytes).await
        };
        // The peer that opens a stream has received nothing on it that it could reject.
        let nothing = |error: &FrameError| matches!(error, FrameError::Cut | FrameError::TurnedAway);
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
            Err(StreamEnd::Stopped(INCOMPATIBLE)) => return Err(FrameError::TurnedAway),
            Err(StreamEnd::Stopped(_) | StreamEnd::Gone) => return Err(FrameError::Cut),
        }
        let bytes = u32::from_be_bytes(length) as usize;
        if bytes == 0 || bytes > self.max {
            return Err(FrameError::Length { bytes, max: self.max });
        }
        Ok(Some(bytes))
    }

    /// The body of a frame of this length. Memory is taken for what has come, and only
    /// while there is room for the whole; one that stands still or trickles is not waited
    /// for. That others are before it is not its fault, and a short one waits for nobody.
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
                    // As it grows it is moved into twice the room, but never into more than all of it.
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
