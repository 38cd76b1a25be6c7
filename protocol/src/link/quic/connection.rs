//! One QUIC connection and its streams, with the interface of [`crate::link::transport`].

use super::tuning::{Side, Windows};
use crate::code::Goodbye;
use crate::link::LinkError;
use crate::link::transport::StreamEnd;
use bytes::Bytes;
use quinn::{ReadError, ReadExactError, VarInt, WriteError};
use rustls::pki_types::CertificateDer;
use std::net::SocketAddr;
use std::time::Duration;

/// Clones are the same connection.
#[derive(Debug, Clone)]
pub(in crate::link) struct Connection {
    quic: quinn::Connection,
    side: Side,
}

impl Connection {
    pub(super) fn new(quic: quinn::Connection, side: Side) -> Self {
        Self { quic, side }
    }

    /// The negotiated ALPN token.
    pub(in crate::link) fn alpn(&self) -> Option<Vec<u8>> {
        let data = self.quic.handshake_data()?.downcast::<quinn::crypto::rustls::HandshakeData>().ok()?;
        data.protocol
    }

    /// The peer's certificates, leaf first; empty if it presented none.
    pub(in crate::link) fn peer_certificates(&self) -> Vec<CertificateDer<'static>> {
        let chain = self.quic.peer_identity().and_then(|any| any.downcast::<Vec<CertificateDer<'static>>>().ok());
        chain.map(|chain| *chain).unwrap_or_default()
    }

    /// Bytes that only the two ends know (RFC 8446, 7.5).
    pub(in crate::link) fn export_keying_material(&self, out: &mut [u8], label: &[u8]) -> Result<(), LinkError> {
        self.quic.export_keying_material(out, label, b"").map_err(|_| LinkError::Transport)
    }

    /// Opens a bidirectional stream; waits while the peer's stream limit is reached. Cancel safe.
    pub(in crate::link) async fn open(&self) -> Result<(SendStream, ReceiveStream), LinkError> {
        let (send, receive) = self.quic.open_bi().await?;
        Ok((SendStream(send), ReceiveStream(receive)))
    }

    /// The next stream that the peer opens. Cancel safe.
    pub(in crate::link) async fn accept(&self) -> Result<(SendStream, ReceiveStream), LinkError> {
        let (send, receive) = self.quic.accept_bi().await?;
        Ok((SendStream(send), ReceiveStream(receive)))
    }

    /// Closes it with this number.
    pub(in crate::link) fn close(&self, number: u32) {
        self.quic.close(VarInt::from_u32(number), b"");
    }

    /// Waits for its end. Cancel safe.
    pub(in crate::link) async fn closed(&self) -> LinkError {
        self.quic.closed().await.into()
    }

    /// How it has ended, if it has.
    pub(in crate::link) fn end(&self) -> Option<LinkError> {
        self.quic.close_reason().map(LinkError::from)
    }

    /// Packets handed to the system so far.
    pub(in crate::link) fn packets_sent(&self) -> u64 {
        self.quic.stats().udp_tx.datagrams
    }

    pub(in crate::link) fn remote_address(&self) -> SocketAddr {
        self.quic.remote_address()
    }

    pub(in crate::link) fn rtt(&self) -> Duration {
        self.quic.rtt()
    }

    /// Sets the receive window of the connection: the window of this side's role, plus one stream's
    /// window for each of `streams`.
    pub(in crate::link) fn widen_by_streams(&self, streams: u32) {
        let Windows { link, stream } = Windows::of(self.side);
        self.quic.set_receive_window(VarInt::from_u32(link.saturating_add(streams.saturating_mul(stream))));
    }

    /// Sets how many streams the peer may open, and the send window.
    pub(in crate::link) fn set_limits(&self, streams: u32, send_window_bytes: u32) {
        self.quic.set_max_concurrent_bi_streams(VarInt::from_u32(streams));
        self.quic.set_send_window(u64::from(send_window_bytes));
    }
}

impl From<quinn::ConnectionError> for LinkError {
    fn from(error: quinn::ConnectionError) -> Self {
        use quinn::ConnectionError as E;
        match error {
            E::ApplicationClosed(close) => {
                let number = u32::try_from(close.error_code.into_inner()).unwrap_or(u32::MAX);
                Self::Closed(Goodbye::from_number(number))
            }
            E::ConnectionClosed(close) => of_transport_code(u64::from(close.error_code)),
            E::TransportError(error) => match of_transport_code(u64::from(error.code)) {
                Self::Handshake(alert) => Self::HandshakeHere(alert),
                other => other,
            },
            E::TimedOut => Self::Silent,
            E::Reset => Self::Forgotten,
            // quinn does not keep the number; the link inserts it.
            E::LocallyClosed => Self::ClosedHere(Goodbye::Done),
            E::VersionMismatch | E::CidsExhausted => Self::Transport,
        }
    }
}

/// RFC 9000, 20.1: codes 0x100 to 0x1ff carry a TLS alert; 0x2 refuses.
fn of_transport_code(code: u64) -> LinkError {
    match code {
        0x2 => LinkError::Closed(Goodbye::Overloaded),
        0x100..=0x1ff => LinkError::Handshake((code & 0xff) as u8),
        _ => LinkError::Transport,
    }
}

/// A QUIC error code as a `u32`; codes that are too large become `u32::MAX`.
fn number(code: VarInt) -> u32 {
    u32::try_from(code.into_inner()).unwrap_or(u32::MAX)
}

/// The sending half of a stream.
#[derive(Debug)]
pub(in crate::link) struct SendStream(quinn::SendStream);

impl SendStream {
    /// Hands all bytes to the transport; waits for the peer's window. Not cancel safe.
    pub(in crate::link) async fn write_all(&mut self, bytes: &[u8]) -> Result<(), StreamEnd> {
        self.0.write_all(bytes).await.map_err(|error| match error {
            WriteError::Stopped(code) => StreamEnd::Stopped(number(code)),
            WriteError::ConnectionLost(_) | WriteError::ClosedStream | WriteError::ZeroRttRejected => StreamEnd::Gone,
        })
    }

    /// Ends it regularly.
    pub(in crate::link) fn finish(&mut self) {
        // Fails only on a stream that the peer has already stopped.
        let _ = self.0.finish();
    }

    /// Aborts it with this number.
    pub(in crate::link) fn reset(&mut self, number: u32) {
        let _ = self.0.reset(VarInt::from_u32(number));
    }

    /// Waits until the peer has received all of a finished stream, or the stream is gone.
    pub(in crate::link) async fn acknowledged(&mut self) {
        let _ = self.0.stopped().await;
    }
}

/// The receiving half of a stream.
#[derive(Debug)]
pub(in crate::link) struct ReceiveStream(quinn::RecvStream);

impl ReceiveStream {
    /// Fills the buffer; `false` if the peer finished the stream before the first byte. Not cancel
    /// safe.
    pub(in crate::link) async fn read_exact(&mut self, buffer: &mut [u8]) -> Result<bool, StreamEnd> {
        match self.0.read_exact(buffer).await {
            Ok(()) => Ok(true),
            Err(ReadExactError::FinishedEarly(0)) => Ok(false),
            Err(ReadExactError::ReadError(ReadError::Reset(code))) => Err(StreamEnd::Stopped(number(code))),
            Err(ReadExactError::FinishedEarly(_) | ReadExactError::ReadError(_)) => Err(StreamEnd::Gone),
        }
    }

    /// The next bytes, at most `most`; `None` if the peer has finished. Cancel safe.
    pub(in crate::link) async fn read_chunk(&mut self, most: usize) -> Result<Option<Bytes>, StreamEnd> {
        match self.0.read_chunk(most, true).await {
            Ok(chunk) => Ok(chunk.map(|chunk| chunk.bytes)),
            Err(ReadError::Reset(code)) => Err(StreamEnd::Stopped(number(code))),
            Err(_) => Err(StreamEnd::Gone),
        }
    }

    /// Asks the peer to send no more, with this number.
    pub(in crate::link) fn stop(&mut self, number: u32) {
        let _ = self.0.stop(VarInt::from_u32(number));
    }
}
