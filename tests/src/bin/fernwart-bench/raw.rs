//! Raw quinn with the same certificates and the same key exchange: what QUIC
//! itself costs on this machine.

use fernwart_certs::identity::TlsKey;
use fernwart_certs::issue::Authority;
use fernwart_certs::peer::Name;
use fernwart_certs::tls::{self, Clock};
use fernwart_certs::{CertificateDer, sha256};
use fernwart_protocol::id::MachineId;
use fernwart_protocol::link::{Door, HUB_SERVER_NAME};
use fernwart_tests::{free_port, wait_until};
use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use std::io::{BufRead, Write};
use std::net::{SocketAddr, UdpSocket};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::task::JoinSet;

/// UDP sockets of a swarm: one carries a few hundred links.
const SOCKETS: usize = 16;

/// Concurrent handshakes in a swarm.
const AT_ONCE: usize = 32;

/// Buffers of every socket, bytes.
const SOCKET_BYTES: usize = fernwart_protocol::limits::SOCKET_BYTES;

fn raw_keys(folder: &Path) {
    let now = SystemTime::now();
    let ca_key = TlsKey::generate().expect("a key");
    let ca = Authority::create(&ca_key, now).expect("a CA");
    let authority = Authority::new(&ca_key, ca.clone()).expect("an authority");
    std::fs::write(folder.join("ca.der"), &ca).expect("written");
    for (name, id) in [("server", None), ("client", Some(MachineId::from_bytes([1; 16])))] {
        let key = TlsKey::generate().expect("a key");
        key.create(&folder.join(format!("{name}.key"))).expect("written");
        let chain = match id {
            None => authority.issue_hub(key.spki(), now),
            Some(id) => authority.issue_member(Name::Machine(id), key.spki(), now),
        };
        std::fs::write(folder.join(format!("{name}.der")), &chain.expect("issued")[0]).expect("written");
    }
}

fn raw_pair(folder: &Path, name: &str) -> (Vec<CertificateDer<'static>>, TlsKey) {
    let read = |file: &str| CertificateDer::from(std::fs::read(folder.join(file)).expect("read"));
    let key = TlsKey::read(&folder.join(format!("{name}.key"))).expect("a key");
    (vec![read(&format!("{name}.der")), read("ca.der")], key)
}

/// The smallest parameters that were measured to save memory.
fn raw_transport(client: bool) -> Arc<quinn::TransportConfig> {
    let mut transport = quinn::TransportConfig::default();
    transport
        .max_idle_timeout(Some(Duration::from_secs(90).try_into().expect("short")))
        .keep_alive_interval(client.then(|| Duration::from_secs(20)))
        .stream_receive_window(65_536u32.into())
        .receive_window(262_144u32.into())
        .send_window(262_144)
        .max_concurrent_bidi_streams(8u32.into())
        .max_concurrent_uni_streams(2u32.into())
        .datagram_receive_buffer_size(None)
        .mtu_discovery_config(None)
        .crypto_buffer_size(16_384);
    Arc::new(transport)
}

fn raw_client(folder: &Path) -> quinn::ClientConfig {
    let (chain, key) = raw_pair(folder, "client");
    let pin = sha256(&chain[1]);
    let mut tls = tls::member(vec![pin], Clock::MustBeRight, chain, &key).expect("TLS");
    tls.alpn_protocols = vec![Door::Agent.alpn().to_vec()];
    tls.resumption = rustls::client::Resumption::disabled();
    let mut config = quinn::ClientConfig::new(Arc::new(QuicClientConfig::try_from(tls).expect("QUIC")));
    config.transport_config(raw_transport(true));
    config
}

/// A server that keeps every link and, for each line on its standard input, sends a request on all of them:
/// `fan IN-FLIGHT REQUEST-BYTES REPLY-BYTES`.
pub(crate) fn server(port: u16, folder: &Path) {
    crate::runtime().block_on(async {
        let (chain, key) = raw_pair(folder, "server");
        let tls = tls::hub(chain.clone(), &key, &chain[1..2]).expect("TLS");
        let mut config = quinn::ServerConfig::with_crypto(Arc::new(QuicServerConfig::try_from(tls).expect("QUIC")));
        config.transport_config(raw_transport(false));
        let socket = large_socket(SocketAddr::from(([127, 0, 0, 1], port)));
        let runtime = Arc::new(quinn::TokioRuntime);
        let endpoint = quinn::Endpoint::new(quinn::EndpointConfig::default(), Some(config), socket, runtime);
        let endpoint = endpoint.expect("the port");
        let kept = Arc::new(Mutex::new(Vec::new()));
        let all = kept.clone();
        tokio::spawn(async move {
            let mut lines = BufReader::new(tokio::io::stdin()).lines();
            while let Ok(Some(line)) = lines.next_line().await {
                let numbers: Vec<usize> = line.split_whitespace().filter_map(|word| word.parse().ok()).collect();
                let links: Vec<quinn::Connection> = all.lock().expect("not poisoned").clone();
                println!("{:.3}", fan(&links, numbers[0], numbers[1], numbers[2]).await.as_secs_f64() * 1000.0);
            }
        });
        while let Some(incoming) = endpoint.accept().await {
            let kept = kept.clone();
            tokio::spawn(async move {
                if let Ok(connection) = incoming.await {
                    kept.lock().expect("not poisoned").push(connection);
                }
            });
        }
    });
}

/// Sends one request on each link and waits for all replies.
async fn fan(links: &[quinn::Connection], in_flight: usize, request: usize, reply: usize) -> Duration {
    let begun = Instant::now();
    let mut asked = JoinSet::new();
    for link in links {
        while asked.len() >= in_flight {
            asked.join_next().await.expect("one").expect("answered");
        }
        let link = link.clone();
        asked.spawn(async move {
            let (mut send, mut receive) = link.open_bi().await.expect("a stream");
            let mut body = vec![0u8; request.max(8)];
            body[..8].copy_from_slice(&(reply as u64).to_be_bytes());
            send.write_all(&body).await.expect("sent");
            send.finish().expect("sent");
            assert_eq!(receive.read_to_end(1 << 20).await.expect("a reply").len(), reply);
        });
    }
    while let Some(done) = asked.join_next().await {
        done.expect("answered");
    }
    begun.elapsed()
}

/// Answers each request with as many bytes as it asks for.
async fn answer(connection: quinn::Connection) {
    while let Ok((mut send, mut receive)) = connection.accept_bi().await {
        let Ok(asked) = receive.read_to_end(1 << 20).await else { return };
        let reply = u64::from_be_bytes(asked[..8].try_into().expect("eight"));
        let _ = send.write_all(&vec![7; reply as usize]).await;
        let _ = send.finish();
    }
}

/// Both sides have large buffers, as the hub has.
fn large_socket(address: SocketAddr) -> UdpSocket {
    use rustix::net::sockopt::{set_socket_recv_buffer_size, set_socket_send_buffer_size};
    let socket = UdpSocket::bind(address).expect("the port");
    set_socket_recv_buffer_size(&socket, SOCKET_BYTES).expect("a buffer");
    set_socket_send_buffer_size(&socket, SOCKET_BYTES).expect("a buffer");
    socket
}

/// Opens one link and holds it.
pub(crate) fn idle(port: u16, folder: &Path) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let endpoint = quinn::Endpoint::client("127.0.0.1:0".parse().expect("an address")).expect("a socket");
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        let linked = endpoint.connect_with(raw_client(folder), address, HUB_SERVER_NAME).expect("dialled").await;
        let connection = linked.expect("linked");
        while connection.accept_bi().await.is_ok() {}
    });
}

/// A raw server as a process of its own.
pub(crate) struct Raw {
    pub(crate) server: Child,
    pub(crate) port: u16,
    pub(crate) folder: tempfile::TempDir,
    answers: std::io::BufReader<std::process::ChildStdout>,
}

impl Raw {
    pub(crate) fn start() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        raw_keys(folder.path());
        let port = free_port();
        let mut server = process("raw-server", port, folder.path());
        let answers = std::io::BufReader::new(server.stdout.take().expect("piped"));
        // It listens once nobody else can bind the port.
        wait_until("the raw server listens", || UdpSocket::bind(("127.0.0.1", port)).is_err());
        Self { server, port, folder, answers }
    }

    /// Sends a request on all links; returns the milliseconds until all have replied.
    pub(crate) fn fan(&mut self, in_flight: usize, request: usize, reply: usize) -> f64 {
        let input = self.server.stdin.as_mut().expect("piped");
        writeln!(input, "{in_flight} {request} {reply}").expect("asked");
        let mut line = String::new();
        self.answers.read_line(&mut line).expect("answered");
        line.trim().parse().expect("a number")
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        let _ = self.server.kill();
        let _ = self.server.wait();
    }
}

/// Starts this program in one of its raw roles.
pub(crate) fn process(what: &str, port: u16, folder: &Path) -> Child {
    let mut command = Command::new(std::env::current_exe().expect("a path"));
    let command = command.args([what, &port.to_string()]).arg(folder);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("started")
}

/// Opens `n` links that answer requests.
pub(crate) async fn swarm(raw: &Raw, n: usize) -> Vec<(quinn::Endpoint, quinn::Connection)> {
    let config = raw_client(raw.folder.path());
    let address = SocketAddr::from(([127, 0, 0, 1], raw.port));
    let endpoints: Vec<_> = (0..SOCKETS)
        .map(|_| {
            let socket = large_socket(SocketAddr::from(([127, 0, 0, 1], 0)));
            let runtime = Arc::new(quinn::TokioRuntime);
            quinn::Endpoint::new(quinn::EndpointConfig::default(), None, socket, runtime).expect("a socket")
        })
        .collect();
    let mut tasks = JoinSet::new();
    let mut held = Vec::with_capacity(n);
    for index in 0..n {
        let (endpoint, config) = (endpoints[index % SOCKETS].clone(), config.clone());
        tasks.spawn(async move {
            let connection =
                endpoint.connect_with(config, address, HUB_SERVER_NAME).expect("dialled").await.expect("linked");
            tokio::spawn(answer(connection.clone()));
            (endpoint, connection)
        });
        if tasks.len() >= AT_ONCE {
            held.push(tasks.join_next().await.expect("one").expect("linked"));
        }
    }
    while let Some(done) = tasks.join_next().await {
        held.push(done.expect("linked"));
    }
    held
}
