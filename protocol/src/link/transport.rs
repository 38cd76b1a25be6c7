//! The transport under a link: today QUIC, later perhaps others.
//!
//! [`Link`](super::Link), [`Sender`](super::Sender) and [`Receiver`](super::Receiver) only know
//! this enum, so a further transport is one more variant here and a folder beside `quic`. A
//! transport must offer: streams with their own flow control, a TLS 1.3 channel from which both
//! ends can derive keys, and error numbers for ending a stream or the connection.

use super::LinkError;
use super::quic;
use bytes::Bytes;
use rustls::pki_types::CertificateDer;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Distinguishes a link from all others of this process, including earlier ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct LinkId(u64);

impl LinkId {
    /// An id that no link of this process has had.
    pub fn next() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        Self(NEXT.fetch_add(1, Ordering::Relaxed))
    }
}

/// Why a stream carries no more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum StreamEnd {
    /// The peer aborted it with this number.
    Stopped(u32),
    /// It, or its link, is gone.
    Gone,
}

/// The channel to one peer. Clones are the same channel.
#[derive(Debug, Clone)]
pub(super) enum Transport {
    /// RFC 9000.
    Quic(quic::Connection),
}

/// The sending half of a stream.
#[derive(Debug)]
pub(super) enum SendStream {
    /// Of a QUIC connection.
    Quic(quic::SendStream),
}

/// The receiving half of a stream.
#[derive(Debug)]
pub(super) enum ReceiveStream {
    /// Of a QUIC connection.
    Quic(quic::ReceiveStream),
}

impl Transport {
    pub(super) fn alpn(&self) -> Option<Vec<u8>> {
        match self {
            Self::Quic(connection) => connection.alpn(),
        }
    }

    pub(super) fn peer_certificates(&self) -> Vec<CertificateDer<'static>> {
        match self {
            Self::Quic(connection) => connection.peer_certificates(),
        }
    }

    pub(super) fn export_keying_material(&self, out: &mut [u8], label: &[u8]) -> Result<(), LinkError> {
        match self {
            Self::Quic(connection) => connection.export_keying_material(out, label),
        }
    }

    pub(super) async fn open(&self) -> Result<(SendStream, ReceiveStream), LinkError> {
        match self {
            Self::Quic(connection) => {
                let (send, receive) = connection.open().await?;
                Ok((SendStream::Quic(send), ReceiveStream::Quic(receive)))
            }
        }
    }

    pub(super) async fn accept(&self) -> Result<(SendStream, ReceiveStream), LinkError> {
        match self {
            Self::Quic(connection) => {
                let (send, receive) = connection.accept().await?;
                Ok((SendStream::Quic(send), ReceiveStream::Quic(receive)))
            }
        }
    }

    pub(super) fn close(&self, number: u32) {
        match self {
            Self::Quic(connection) => connection.close(number),
        }
    }

    pub(super) async fn closed(&self) -> LinkError {
        match self {
            Self::Quic(connection) => connection.closed().await,
        }
    }

    pub(super) fn end(&self) -> Option<LinkError> {
        match self {
            Self::Quic(connection) => connection.end(),
        }
    }

    pub(super) fn packets_sent(&self) -> u64 {
        match self {
            Self::Quic(connection) => connection.packets_sent(),
        }
    }

    pub(super) fn remote_address(&self) -> SocketAddr {
        match self {
            Self::Quic(connection) => connection.remote_address(),
        }
    }

    pub(super) fn rtt(&self) -> Duration {
        match self {
            Self::Quic(connection) => connection.rtt(),
        }
    }

    pub(super) fn widen_by_streams(&self, streams: u32) {
        match self {
            Self::Quic(connection) => connection.widen_by_streams(streams),
        }
    }

    pub(super) fn set_limits(&self, streams: u32, send_window_bytes: u32) {
        match self {
            Self::Quic(connection) => connection.set_limits(streams, send_window_bytes),
        }
    }
}

impl SendStream {
    pub(super) async fn write_all(&mut self, bytes: &[u8]) -> Result<(), StreamEnd> {
        match self {
            Self::Quic(stream) => stream.write_all(bytes).await,
        }
    }

    pub(super) fn finish(&mut self) {
        match self {
            Self::Quic(stream) => stream.finish(),
        }
    }

    pub(super) fn reset(&mut self, number: u32) {
        match self {
            Self::Quic(stream) => stream.reset(number),
        }
    }

    pub(super) async fn acknowledged(&mut self) {
        match self {
            Self::Quic(stream) => stream.acknowledged().await,
        }
    }
}

impl ReceiveStream {
    pub(super) async fn read_exact(&mut self, buffer: &mut [u8]) -> Result<bool, StreamEnd> {
        match self {
            Self::Quic(stream) => stream.read_exact(buffer).await,
        }
    }

    pub(super) async fn read_chunk(&mut self, most: usize) -> Result<Option<Bytes>, StreamEnd> {
        match self {
            Self::Quic(stream) => stream.read_chunk(most).await,
        }
    }

    pub(super) fn stop(&mut self, number: u32) {
        match self {
            Self::Quic(stream) => stream.stop(number),
        }
    }
}
