//! A network in which datagrams are lost, doubled, late and out of order, by reproducible random numbers.

use crate::story::Story;
use fernwart_protocol::link::{Datagrams, Peers};
use fernwart_tests::swarm::Chance;
use quinn::congestion::{Controller, ControllerFactory};
use quinn::udp::{RecvMeta, Transmit};
use quinn::{AsyncUdpSocket, EndpointConfig, TransportConfig, UdpPoller};
use std::any::Any;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io::{self, IoSliceMut};
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

/// How reliable and fast the network is.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Weather {
    /// How many datagrams in a thousand are lost.
    pub(crate) lost: u64,
    /// How many datagrams in a thousand are doubled.
    pub(crate) doubled: u64,
    /// Minimum delay, milliseconds.
    pub(crate) soonest: u64,
    /// Maximum delay; a datagram that is sent later may overtake.
    pub(crate) latest: u64,
}

impl Weather {
    pub(crate) const FAIR: Self = Self { lost: 0, doubled: 0, soonest: 1, latest: 2 };

    /// Random weather.
    pub(crate) fn some(chance: &mut Chance) -> Self {
        let soonest = chance.between(1, 60);
        let spread = if chance.per_mille(200) { 1500 } else { 100 };
        Self { lost: chance.below(300), doubled: chance.below(200), soonest, latest: soonest + chance.below(spread) }
    }
}

/// Counts of what became of datagrams.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Traffic {
    pub(crate) sent: u64,
    pub(crate) lost: u64,
    pub(crate) doubled: u64,
}

/// The network. Clones are the same one.
#[derive(Debug, Clone)]
pub(crate) struct Network {
    sea: Arc<Mutex<Sea>>,
    story: Story,
}

#[derive(Debug)]
struct Sea {
    chance: Chance,
    weather: Weather,
    cut: BTreeSet<IpAddr>,
    boxes: BTreeMap<SocketAddr, Arc<Inbox>>,
    last_port: u16,
    traffic: Traffic,
}

#[derive(Debug, Default)]
struct Inbox(Mutex<Letters>);

/// Received datagrams with their senders, and the task that waits for one.
#[derive(Debug, Default)]
struct Letters {
    come: VecDeque<(SocketAddr, Vec<u8>)>,
    waits: Option<Waker>,
}

impl Inbox {
    fn open(&self) -> MutexGuard<'_, Letters> {
        self.0.lock().expect("nobody panics here")
    }
}

impl Network {
    pub(crate) fn new(chance: Chance, story: Story) -> Self {
        let sea = Sea {
            chance,
            weather: Weather::FAIR,
            cut: BTreeSet::new(),
            boxes: BTreeMap::new(),
            last_port: 40_000,
            traffic: Traffic::default(),
        };
        Self { sea: Arc::new(Mutex::new(sea)), story }
    }

    fn sea(&self) -> MutexGuard<'_, Sea> {
        self.sea.lock().expect("nobody panics here")
    }

    pub(crate) fn set(&self, weather: Weather) {
        self.sea().weather = weather;
    }

    pub(crate) fn traffic(&self) -> Traffic {
        self.sea().traffic
    }

    /// Nothing reaches this computer, and nothing leaves it.
    pub(crate) fn cut(&self, computer: IpAddr) {
        self.sea().cut.insert(computer);
    }

    pub(crate) fn mend_all(&self) {
        self.sea().cut.clear();
    }

    /// Removes all sockets of a computer, even if they are still held.
    pub(crate) fn unplug(&self, computer: IpAddr) {
        self.sea().boxes.retain(|address, _| address.ip() != computer);
    }

    /// A computer's own view, with the seed of QUIC's random numbers there.
    pub(crate) fn at(&self, computer: IpAddr, seed: [u8; 32]) -> Arc<dyn Datagrams> {
        Arc::new(Computer { network: self.clone(), ip: computer, seed })
    }
}

#[derive(Debug)]
struct Computer {
    network: Network,
    ip: IpAddr,
    seed: [u8; 32],
}

impl Datagrams for Computer {
    fn bind(&self, address: SocketAddr, _: Peers) -> io::Result<Arc<dyn AsyncUdpSocket>> {
        let mut sea = self.network.sea();
        let port = match address.port() {
            0 => {
                sea.last_port = sea.last_port.checked_add(1).unwrap_or(10_000);
                sea.last_port
            }
            port => port,
        };
        let address = SocketAddr::new(self.ip, port);
        let inbox = Arc::new(Inbox::default());
        sea.boxes.insert(address, inbox.clone());
        drop(sea);
        Ok(Arc::new(Socket { network: self.network.clone(), address, inbox }))
    }

    fn tune_endpoint(&self, endpoint: &mut EndpointConfig) {
        endpoint.rng_seed(Some(self.seed));
    }

    fn tune_link(&self, link: &mut TransportConfig) {
        link.congestion_controller_factory(Arc::new(Unhurried));
    }
}

/// A congestion controller without a limit. Signatures of P-256 differ in length from one run to the next;
/// if bytes in flight were counted, the same seed would sometimes give another story.
#[derive(Debug, Clone)]
struct Unhurried;

impl ControllerFactory for Unhurried {
    fn build(self: Arc<Self>, _: std::time::Instant, _: u16) -> Box<dyn Controller> {
        Box::new(Self)
    }
}

impl Controller for Unhurried {
    fn on_congestion_event(&mut self, _: std::time::Instant, _: std::time::Instant, _: bool, _: u64) {}

    fn on_mtu_update(&mut self, _: u16) {}

    fn window(&self) -> u64 {
        u64::MAX / 4
    }

    fn clone_box(&self) -> Box<dyn Controller> {
        Box::new(self.clone())
    }

    fn initial_window(&self) -> u64 {
        self.window()
    }

    fn into_any(self: Box<Self>) -> Box<dyn Any> {
        self
    }
}

#[derive(Debug)]
struct Socket {
    network: Network,
    address: SocketAddr,
    inbox: Arc<Inbox>,
}

impl Drop for Socket {
    fn drop(&mut self) {
        let mut sea = self.network.sea();
        if sea.boxes.get(&self.address).is_some_and(|inbox| Arc::ptr_eq(inbox, &self.inbox)) {
            sea.boxes.remove(&self.address);
        }
    }
}

impl Socket {
    fn send(&self, to: SocketAddr, datagram: &[u8]) {
        let mut sea = self.network.sea();
        // A socket from before a restart sends nothing.
        if !sea.boxes.get(&self.address).is_some_and(|inbox| Arc::ptr_eq(inbox, &self.inbox)) {
            return;
        }
        let weather = sea.weather;
        sea.traffic.sent += 1;
        let lost = sea.chance.per_mille(weather.lost);
        let copies = if sea.chance.per_mille(weather.doubled) { 2 } else { 1 };
        let in_transit = |sea: &mut Sea| sea.chance.between(weather.soonest, weather.latest);
        let delays: Vec<u64> = (0..copies).map(|_| in_transit(&mut sea)).collect();
        if lost || sea.cut.contains(&self.address.ip()) || sea.cut.contains(&to.ip()) {
            sea.traffic.lost += 1;
            return;
        }
        sea.traffic.doubled += copies - 1;
        drop(sea);
        for delay in delays {
            self.network.story.datagram(self.address.ip(), to.ip(), delay);
            let (network, from, datagram) = (self.network.clone(), self.address, datagram.to_vec());
            tokio::spawn(async move {
                tokio::time::sleep(Duration::from_millis(delay)).await;
                let inbox = {
                    let sea = network.sea();
                    if sea.cut.contains(&from.ip()) || sea.cut.contains(&to.ip()) {
                        None
                    } else {
                        sea.boxes.get(&to).cloned()
                    }
                };
                let Some(inbox) = inbox else { return };
                let mut inbox = inbox.open();
                inbox.come.push_back((from, datagram));
                if let Some(waker) = inbox.waits.take() {
                    waker.wake();
                }
            });
        }
    }
}

impl AsyncUdpSocket for Socket {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        Box::pin(Ready)
    }

    fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        let size = transmit.segment_size.unwrap_or(transmit.contents.len()).max(1);
        for datagram in transmit.contents.chunks(size) {
            self.send(transmit.destination, datagram);
        }
        Ok(())
    }

    fn poll_recv(
        &self,
        context: &mut Context<'_>,
        buffers: &mut [IoSliceMut<'_>],
        meta: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        let mut inbox = self.inbox.open();
        let mut count = 0;
        for (buffer, meta) in buffers.iter_mut().zip(meta.iter_mut()) {
            let Some((from, datagram)) = inbox.come.pop_front() else { break };
            buffer[..datagram.len()].copy_from_slice(&datagram);
            *meta = RecvMeta { addr: from, len: datagram.len(), stride: datagram.len(), ecn: None, dst_ip: None };
            count += 1;
        }
        if count == 0 {
            inbox.waits = Some(context.waker().clone());
            return Poll::Pending;
        }
        Poll::Ready(Ok(count))
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(self.address)
    }
}

#[derive(Debug)]
struct Ready;

impl UdpPoller for Ready {
    fn poll_writable(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
