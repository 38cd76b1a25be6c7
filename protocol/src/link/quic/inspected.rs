//! A UDP socket whose datagrams are inspected before QUIC receives them.

use quinn::udp::{RecvMeta, Transmit};
use quinn::{AsyncUdpSocket, UdpPoller};
use std::fmt::Debug;
use std::io::{self, IoSliceMut};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

/// Inspects received datagrams, and may remove some.
pub(super) trait Inspect: Debug + Send + Sync + 'static {
    /// Inspects one receive buffer: datagrams of one sender, all `meta.stride` bytes long except
    /// the last. Removing some shortens `meta.len`.
    fn inspect(&self, received: &mut [u8], meta: &mut RecvMeta);
}

/// The socket.
#[derive(Debug)]
pub(super) struct Inspected<I> {
    inner: Arc<dyn AsyncUdpSocket>,
    /// The inspector.
    pub(super) by: I,
}

impl<I: Inspect> Inspected<I> {
    pub(super) fn new(inner: Arc<dyn AsyncUdpSocket>, by: I) -> Arc<Self> {
        Arc::new(Self { inner, by })
    }
}

impl<I: Inspect> AsyncUdpSocket for Inspected<I> {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        self.inner.clone().create_io_poller()
    }
    fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        self.inner.try_send(transmit)
    }
    fn poll_recv(
        &self,
        cx: &mut Context<'_>,
        bufs: &mut [IoSliceMut<'_>],
        meta: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        let polled = self.inner.poll_recv(cx, bufs, meta);
        if let Poll::Ready(Ok(count)) = &polled {
            for (buffer, meta) in bufs.iter_mut().zip(meta.iter_mut()).take(*count) {
                if let Some(received) = buffer.get_mut(..meta.len) {
                    self.by.inspect(received, meta);
                }
            }
        }
        polled
    }
    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.inner.local_addr()
    }
    fn max_transmit_segments(&self) -> usize {
        self.inner.max_transmit_segments()
    }
    fn max_receive_segments(&self) -> usize {
        self.inner.max_receive_segments()
    }
    fn may_fragment(&self) -> bool {
        self.inner.may_fragment()
    }
}
