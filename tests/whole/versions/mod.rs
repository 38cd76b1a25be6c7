//! Programs of other versions: an older peer is sent nothing that it does not know;
//! a newer peer is answered, and its link stays.

mod matrix;
mod newer;
mod older;
mod records;

use fernwart_agent::home::Home;
use fernwart_certs::identity::{SigningKey, TlsIdentity};
use fernwart_certs::sha256;
use fernwart_protocol::codec::{decode, encode, encode_for};
use fernwart_protocol::document::{Document, Envelope, Order, Outcome};
use fernwart_protocol::link::Door;
use fernwart_protocol::text::Blob;
use fernwart_protocol::to_agent::Deliver;
use fernwart_protocol::to_hub::{Delivered, SignedOutcome};
use fernwart_protocol::version::Version;
use fernwart_tests::rogues::{Target, dial, frame, receipt};
use fernwart_tests::{Machine, World};
use quinn::{Connection, Endpoint, ReadError, ReadExactError, RecvStream, SendStream};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::process::{Child, Stdio};
use std::time::Duration;

/// How long a script waits for the next frame.
const WAIT: Duration = Duration::from_secs(10);

/// The reset number of a stream whose frames are of a newer version.
const INCOMPATIBLE: u64 = 7;

/// A frame that no program of today knows.
const UNKNOWN: [u8; 8] = [77, 0, 0, 0, 1, 2, 3, 4];

/// What comes next on a stream.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Next {
    Frame(Vec<u8>),
    Ended,
    Reset(u64),
}

/// A stream below the types: frames as bytes.
struct Stream {
    send: SendStream,
    receive: RecvStream,
}

impl Stream {
    async fn open(link: &Connection) -> Self {
        let (send, receive) = link.open_bi().await.expect("a stream");
        Self { send, receive }
    }

    async fn put(&mut self, body: &[u8]) {
        self.send.write_all(&frame(body)).await.expect("sent");
    }

    async fn say<T: Serialize>(&mut self, message: &T) {
        self.put(&encode(message).expect("encoded")).await;
    }

    async fn next(&mut self) -> Next {
        tokio::time::timeout(WAIT, self.read()).await.expect("something comes")
    }

    async fn read(&mut self) -> Next {
        let mut length = [0; 4];
        let how = |error| match error {
            ReadExactError::FinishedEarly(0) => Next::Ended,
            ReadExactError::ReadError(ReadError::Reset(code)) => Next::Reset(code.into_inner()),
            other => panic!("{other}"),
        };
        if let Err(error) = self.receive.read_exact(&mut length).await {
            return how(error);
        }
        let mut body = vec![0; u32::from_be_bytes(length) as usize];
        match self.receive.read_exact(&mut body).await {
            Ok(()) => Next::Frame(body),
            Err(error) => how(error),
        }
    }

    async fn body(&mut self) -> Vec<u8> {
        match self.next().await {
            Next::Frame(body) => body,
            other => panic!("{other:?}"),
        }
    }

    async fn receive<T: DeserializeOwned>(&mut self) -> T {
        decode(&self.body().await).expect("a message")
    }

    /// The same, and asserts that version 1 knows the message.
    async fn receive_old<T: DeserializeOwned + Serialize>(&mut self) -> T {
        let body = self.body().await;
        let message: T = decode(&body).expect("a message");
        assert_eq!(encode_for(&message, Version::OLDEST).expect("known to version 1"), body);
        message
    }
}

/// A scripted machine: the test plays its agent, with the keys of a real one.
struct Scripted {
    _endpoint: Endpoint,
    link: Connection,
    control: Stream,
    evidence: SigningKey,
}

impl Scripted {
    /// Replaces a machine's agent, and sends `first` on the control stream.
    async fn in_place_of(world: &World, machine: &mut Machine, first: &[u8]) -> Self {
        // It says goodbye, so that the hub does not suspect a clone.
        assert_eq!(machine.agent.stop(), Some(0));
        let home = Home::at(&machine.home);
        let identity = TlsIdentity::read(&home.tls_identity()).expect("an identity");
        let evidence = SigningKey::read(&home.evidence_key()).expect("a key");
        let pin = sha256(&std::fs::read(world.shop().join("hub/ca.der")).expect("the CA"));
        let hub = Target { address: world.address, pin };
        let (endpoint, link) = dial(hub, Some(&identity), Door::Agent, 64 * 1024).await;
        let mut control = Stream::open(&link).await;
        control.put(first).await;
        Self { _endpoint: endpoint, link, control, evidence }
    }

    /// The next stream on which the hub sends something other than an echo, and its first frame.
    async fn delivery(&self) -> (Stream, Deliver) {
        loop {
            let accepted = tokio::time::timeout(WAIT, self.link.accept_bi()).await.expect("a stream comes");
            let (send, receive) = accepted.expect("the link stands");
            let mut stream = Stream { send, receive };
            match stream.receive_old::<Deliver>().await {
                Deliver::Echo(number) => {
                    stream.say(&Deliver::Echo(number)).await;
                    stream.send.finish().expect("ended");
                }
                other => return (stream, other),
            }
        }
    }

    /// Its signed outcome; `alter` changes the receipt's text before it is signed.
    fn outcome(&self, envelope: &Envelope, outcome: Outcome, alter: impl Fn(String) -> String) -> Delivered {
        let order = Order::from_bytes(envelope.bytes.as_bytes()).expect("an order");
        let receipt = receipt(&order, envelope, outcome);
        let bytes = receipt.to_bytes().expect("written");
        let bytes = alter(String::from_utf8(bytes).expect("text")).into_bytes();
        let signature = self.evidence.sign(&bytes);
        let key = order.machine.key_id();
        let receipt = Envelope { key, signature, bytes: Blob::try_from(bytes).expect("short") };
        Delivered::Outcome(Box::new(SignedOutcome { order: envelope.clone(), receipt, body: Blob::default() }))
    }

    /// Whether the link still stands a moment later.
    async fn stays(&self) -> bool {
        tokio::time::timeout(Duration::from_millis(300), self.link.closed()).await.is_err()
    }
}

/// Starts a technician's command, which a script of the test then answers.
fn command(world: &World, words: &[&str]) -> Child {
    let mut command = world.command(words);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("started")
}

/// Waits for the command; returns its output and exit code.
fn printed(child: Child) -> (String, i32) {
    let output = child.wait_with_output().expect("ended");
    let text = [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).concat();
    (text, output.status.code().unwrap_or(-1))
}

/// Recorded frames of one type that a program of 0.2.0 really sent.
fn recorded(program: &str, kind: &str) -> Vec<Vec<u8>> {
    let all = include_str!("../../../protocol/tests/data/frames-0.2.0.txt");
    let frames = all.lines().filter_map(|line| {
        let mut words = line.split(' ');
        let is_it = words.next() == Some(program) && words.next() == Some(kind);
        let hex = words.next().filter(|_| is_it)?;
        let digits: Vec<u32> = hex.chars().map(|c| c.to_digit(16).expect("hex")).collect();
        Some(digits.chunks(2).map(|pair| u8::try_from(pair[0] * 16 + pair[1]).expect("a byte")).collect())
    });
    let frames: Vec<Vec<u8>> = frames.collect();
    assert!(!frames.is_empty(), "{program} {kind}");
    frames
}

/// A runtime for a script.
fn play<T>(script: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
    runtime.expect("a runtime").block_on(script)
}
