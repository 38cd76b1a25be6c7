//! One link to the hub, and requests over it.

use crate::home::{ClientHomeError, StaffHome};
use crate::now;
use crate::order::{OlderAgent, SignedOrder};
use fernwart_certs::approve::Draft;
use fernwart_certs::catalogue::{Catalogue, CatalogueError, Files, Trusted, advance};
use fernwart_certs::envelope::{EnvelopeError, seal};
use fernwart_certs::peer::{Name, may_issue, read_certificate};
use fernwart_certs::tls::{self, Clock, TlsError};
use fernwart_certs::{CertificateDer, sealed, sha256};
use fernwart_protocol::code::{Denial, Goodbye};
use fernwart_protocol::document::{Action, Document, Envelope, Order};
use fernwart_protocol::id::{Digest, JobId, KeyId, RunId};
use fernwart_protocol::limits::{OFFER_FILES, ORDER_EARLY, ORDERS_PER_FRAME};
use fernwart_protocol::link::{
    DialError, Dialer, Door, FrameError, Link, LinkError, NotReached, Receiver, Sender, dial_any,
};
use fernwart_protocol::row::Row;
use fernwart_protocol::staff::{
    CustomerRow, Health, JobHead, JobRow, MachineRow, Orders, PendingMachine, PendingStaff, Reply, Request, RunRow,
};
use fernwart_protocol::text::{Blob, List, MachineName, Text};
use fernwart_protocol::version::{Hello, NoCommonVersion, Version, tag};
use std::net::SocketAddr;
use std::time::Duration;

/// A request could not be made or answered.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// A machine has not published its sealing key.
    #[error("{0} has not said yet which key opens secrets for it; it does so once it is linked with a newer agent")]
    NoSealingKey(MachineName),
    /// Secrets cannot be encrypted for a machine.
    #[error("sealing secrets for a machine")]
    Sealing(#[source] sealed::SealError),
    /// The home cannot be used.
    #[error("using this home")]
    Home(#[source] ClientHomeError),
    /// This home has no certificate yet.
    #[error("this home has joined but nobody has put it on the staff list yet")]
    NotAdmitted,
    /// This home's organisation has no catalogue yet.
    #[error("nothing is published yet")]
    NothingPublished,
    /// TLS cannot be configured.
    #[error("configuring the link")]
    Tls(#[source] TlsError),
    /// The hub cannot be reached.
    #[error("the hub at {address} does not answer")]
    Dial {
        /// Where it should be.
        address: String,
        /// What happened.
        #[source]
        source: DialError,
    },
    /// None of the hub's names has an address.
    #[error("the hub's name {0} has no address")]
    NoAddress(String),
    /// The link has ended.
    #[error("the link to the hub has ended")]
    Link(#[source] LinkError),
    /// The hub violates the protocol.
    #[error("speaking with the hub")]
    Frame(#[source] FrameError),
    /// The hub denies the request.
    #[error("{0}")]
    Denied(Denial),
    /// The hub speaks another version.
    #[error("the hub speaks another version")]
    Version(#[source] NoCommonVersion),
    /// The hub is too old for the request; nothing was sent.
    #[error("the hub runs an older version, which knows no {what}")]
    OlderHub {
        /// What it does not know.
        what: &'static str,
    },
    /// A machine's agent is too old for the order; nothing was signed.
    #[error("{machine}: {why}")]
    OlderAgent {
        /// The machine.
        machine: MachineName,
        /// Its program, and what that does not know.
        why: OlderAgent,
    },
    /// The hub's catalogue fails verification.
    #[error("verifying the hub's catalogue")]
    Catalogue(#[source] CatalogueError),
    /// The hub has an older catalogue than this home and refuses the newer one.
    #[error("the hub has catalogue {hub}, this home {home}, which the hub does not take back ({denial})")]
    FellBack {
        /// The version the hub has.
        hub: u64,
        /// The version known here.
        home: u64,
        /// The hub's denial.
        denial: Denial,
    },
    /// An order cannot be signed.
    #[error("signing an order")]
    Sign(#[source] EnvelopeError),
    /// The hub answered something else than was asked.
    #[error("the hub answered something else than was asked")]
    Unexpected,
    /// More than a job can hold.
    #[error("too many machines for one job")]
    TooMany,
}

impl From<NotReached> for ClientError {
    fn from(error: NotReached) -> Self {
        match error {
            NotReached::NoAddress(name) => Self::NoAddress(name),
            NotReached::Dial { name, source } => Self::Dial { address: name, source },
        }
    }
}

impl ClientError {
    /// Whether the hub or the network is down.
    pub fn is_no_answer(&self) -> bool {
        match self {
            Self::Dial { source: DialError::Link { source, .. }, .. } | Self::Link(source) => !matches!(
                source,
                LinkError::Closed(Goodbye::Revoked | Goodbye::NotAdmitted | Goodbye::CertificateExpired)
                    | LinkError::Handshake(_)
                    | LinkError::HandshakeHere(_)
            ),
            Self::NoAddress(_) | Self::Frame(FrameError::Cut) => true,
            _ => false,
        }
    }
}

/// One request in progress.
pub struct Stream {
    link: Link,
    send: Sender,
    receive: Receiver,
    hello: Option<Hello>,
}

impl Stream {
    /// Waits for the hub's greeting, with which every answer begins.
    ///
    /// # Errors
    /// When the link breaks, or the hub speaks another version.
    pub async fn greeted(&mut self) -> Result<(), ClientError> {
        if self.hello.is_none() {
            let hello: Hello = self.receive.expect().await.map_err(ClientError::Frame)?;
            self.link.settle(&hello).map_err(ClientError::Version)?;
            self.hello = Some(hello);
        }
        Ok(())
    }

    /// The next reply; `None` after the last one.
    ///
    /// # Errors
    /// When the hub denies the request, or the link breaks.
    pub async fn next(&mut self) -> Result<Option<Reply>, ClientError> {
        self.greeted().await?;
        match self.receive.expect::<Reply>().await.map_err(ClientError::Frame)? {
            Reply::Done => Ok(None),
            Reply::Denied(denial) => Err(ClientError::Denied(denial)),
            reply => Ok(Some(reply)),
        }
    }
}

/// A link to the hub.
pub struct Session {
    home: StaffHome,
    link: Link,
    trusted: Trusted,
    /// The catalogue, as verified here.
    pub catalogue: Catalogue,
}

impl Session {
    /// Dials the hub this home belongs to; each address within `timeout`.
    ///
    /// # Errors
    /// When the hub does not answer, or is not the expected one.
    pub async fn open(home: StaffHome, timeout: Duration) -> Result<Self, ClientError> {
        Self::open_over(home, timeout, Dialer::new).await
    }

    /// The same with the caller's sockets.
    ///
    /// # Errors
    /// As [`Session::open`].
    pub async fn open_over(
        home: StaffHome,
        timeout: Duration,
        socket: impl Fn(SocketAddr) -> Result<Dialer, DialError>,
    ) -> Result<Self, ClientError> {
        if home.identity.chain.is_empty() {
            return Err(ClientError::NotAdmitted);
        }
        let trusted = home.trusted().map_err(ClientError::Home)?.ok_or(ClientError::NothingPublished)?;
        let catalogue = trusted.view().map_err(ClientError::Catalogue)?;
        let link = dial(&home, &catalogue, timeout, socket).await?;
        Ok(Self { home, link, trusted, catalogue })
    }

    /// Dials anew, in the place of a link that has ended.
    ///
    /// # Errors
    /// As [`Session::open`].
    pub async fn dial_again(&mut self, timeout: Duration) -> Result<(), ClientError> {
        self.link = dial(&self.home, &self.catalogue, timeout, Dialer::new).await?;
        Ok(())
    }

    /// The id of this home's pair of keys.
    pub fn key_id(&self) -> KeyId {
        self.home.key_id()
    }

    /// The home.
    pub fn home(&self) -> &StaffHome {
        &self.home
    }

    /// Round-trip time of the link.
    pub fn rtt(&self) -> Duration {
        self.link.rtt()
    }

    /// Whether the hub has a newer CA than the one that issued our certificate.
    pub fn hub_has_newer_ca(&self) -> bool {
        self.home.identity.is_outdated_by(&self.link.peer_certificates(), &self.catalogue.hub.ca)
    }

    /// Closes the link with a goodbye, so that the hub need not time out.
    pub async fn close(self) {
        self.link.close_aloud(Goodbye::Done).await;
    }

    /// Begins a request. Hello and request are sent together, unless the request needs a version
    /// that the hub has not yet shown to support.
    ///
    /// # Errors
    /// When the link is gone, or the hub is too old for it.
    pub async fn ask(&self, request: &Request) -> Result<Stream, ClientError> {
        let (mut send, receive) = match self.link.open().await {
            Ok(stream) => stream,
            Err(error) => return Err(ClientError::Link(error)),
        };
        let versions = self.catalogue.versions;
        let hello = Hello::new(&[(tag::TARGETS, versions.targets), (tag::TIMESTAMP, versions.timestamp)]);
        send.send(&hello).await.map_err(ClientError::Frame)?;
        let mut stream = Stream { link: self.link.clone(), send, receive, hello: None };
        match stream.send.send(request).await {
            Err(FrameError::PeerIsOlder(_)) if self.link.version().is_none() => {
                stream.greeted().await?;
                stream.send.send(request).await
            }
            sent => sent,
        }
        .map_err(|error| match error {
            FrameError::PeerIsOlder(_) => ClientError::OlderHub { what: "such request" },
            error => ClientError::Frame(error),
        })?;
        if !matches!(request, Request::Submit(_) | Request::Queue(_)) {
            stream.send.finish();
        }
        Ok(stream)
    }

    /// A request that is answered with yes or no.
    ///
    /// # Errors
    /// When the answer is no, or the link breaks.
    pub async fn request(&self, request: &Request) -> Result<(), ClientError> {
        let mut stream = self.ask(request).await.map_err(|error| self.why(error))?;
        match stream.next().await.map_err(|error| self.why(error))? {
            None => Ok(()),
            Some(_) => Err(ClientError::Unexpected),
        }
    }

    /// A request with all its replies.
    ///
    /// # Errors
    /// When the hub says no, or the link breaks.
    pub async fn collect(&mut self, request: &Request) -> Result<Vec<Reply>, ClientError> {
        let mut stream = self.ask(request).await.map_err(|error| self.why(error))?;
        let mut replies = Vec::new();
        while let Some(reply) = stream.next().await.map_err(|error| self.why(error))? {
            replies.push(reply);
        }
        let hubs = |tag| stream.hello.as_ref().and_then(|hello| hello.number(tag));
        let ours = self.catalogue.versions;
        let differs = |tag, ours| hubs(tag).is_some_and(|hubs| hubs != ours);
        if (differs(tag::TIMESTAMP, ours.timestamp) || differs(tag::TARGETS, ours.targets))
            && !matches!(request, Request::Catalogue)
        {
            self.sync().await?;
        }
        Ok(replies)
    }

    /// If a stream was cut because the link ended, returns why the link ended.
    pub fn why(&self, error: ClientError) -> ClientError {
        match error {
            ClientError::Frame(FrameError::Cut) if self.link.is_closed() => ClientError::Link(self.link_end()),
            other => other,
        }
    }

    fn link_end(&self) -> LinkError {
        // The link has ended, so this is ready at once.
        let closed = self.link.closed();
        let mut closed = std::pin::pin!(closed);
        let mut context = std::task::Context::from_waker(std::task::Waker::noop());
        match std::future::Future::poll(closed.as_mut(), &mut context) {
            std::task::Poll::Ready(error) => error,
            std::task::Poll::Pending => LinkError::Transport,
        }
    }

    /// Gets a new certificate for the same key, and stores it.
    ///
    /// # Errors
    /// When the hub denies it, returns one for another key, or it cannot be stored.
    pub async fn renew(&mut self) -> Result<(), ClientError> {
        let replies = self.collect(&Request::Renew).await?;
        let Some(Reply::Certificate(chain)) = replies.into_iter().next() else { return Err(ClientError::Unexpected) };
        let chain: Vec<_> = chain.into_iter().map(|der| CertificateDer::from(der.into_bytes())).collect();
        let [leaf, ca] = chain.as_slice() else { return Err(ClientError::Unexpected) };
        let statement = read_certificate(leaf, ca).map_err(|_| ClientError::Unexpected)?;
        let ours = statement.name == Name::Staff(self.key_id()) && statement.tls_key == self.home.identity.key.digest();
        if !ours || !may_issue(ca, &self.catalogue.hub.ca, &self.link.peer_certificates()) {
            return Err(ClientError::Unexpected);
        }
        self.home.identity.chain = chain;
        self.home.keep_identity().map_err(ClientError::Home)
    }

    /// Fetches a newer catalogue, verifies it and stores it.
    ///
    /// # Errors
    /// When it fails verification, or cannot be stored.
    pub async fn sync(&mut self) -> Result<(), ClientError> {
        let mut files = self.offered().await?;
        // The newest version offered, by file name.
        let newest = |files: &Files, role: &str| {
            let number = |name: &String| name.strip_suffix(role)?.parse::<u64>().ok();
            files.iter().filter_map(|(name, _)| number(name)).max()
        };
        let ours = self.catalogue.versions;
        if let Some(hubs) = newest(&files, ".targets.json").filter(|targets| *targets < ours.targets) {
            let given = self.give_back(newest(&files, ".root.json").unwrap_or(ours.root)).await;
            given.map_err(|error| match error {
                ClientError::Denied(denial) => ClientError::FellBack { hub: hubs, home: ours.targets, denial },
                error => error,
            })?;
            files = self.offered().await?;
        }
        // Ignore roots that are known here, whatever their bytes.
        let is_known = |name: &str| {
            let root = name.strip_suffix(".root.json").and_then(|number| number.parse::<u64>().ok());
            root.is_some_and(|root| root <= ours.root)
        };
        let mut newer = Files::default();
        for (name, bytes) in files.iter().filter(|(name, _)| !is_known(name)) {
            newer.insert(name, bytes.clone());
        }
        let (trusted, catalogue) = advance(&self.trusted, &newer).await.map_err(ClientError::Catalogue)?;
        self.home.keep(&trusted).map_err(ClientError::Home)?;
        self.trusted = trusted;
        self.catalogue = catalogue;
        Ok(())
    }

    /// Returns the newer catalogue to a hub that fell back, such as after a restore. Approvers
    /// signed it, so it may come from anybody.
    async fn give_back(&mut self, hubs_root: u64) -> Result<(), ClientError> {
        let draft = Draft::given_back(&self.trusted.files, hubs_root).map_err(ClientError::Catalogue)?;
        let id = draft.id().map_err(|_| ClientError::Unexpected)?;
        let bytes = serde_json::to_vec(&draft).map_err(|_| ClientError::Unexpected)?;
        let bytes = Blob::try_from(bytes).map_err(|_| ClientError::Unexpected)?;
        let given = match self.request(&Request::PutDraft(bytes)).await {
            Ok(()) => self.request(&Request::Publish(id)).await,
            refused => refused,
        };
        match given {
            // Another peer has returned it already.
            Err(ClientError::Denied(Denial::CatalogueStale | Denial::NoSuchDraft)) => Ok(()),
            given => given,
        }
    }

    /// The hub's published files, unverified.
    async fn offered(&mut self) -> Result<Files, ClientError> {
        let replies = Box::pin(self.collect(&Request::Catalogue)).await?;
        let mut files = Files::default();
        for reply in replies.into_iter().take(OFFER_FILES) {
            if let Reply::File(file) = reply {
                files.insert(file.name.as_raw(), file.bytes.into_bytes());
            }
        }
        Ok(files)
    }

    /// A file of an approved script, verified by its hash.
    ///
    /// # Errors
    /// When the hub does not have it, or hands out another.
    pub async fn blob(&mut self, hash: &Digest) -> Result<Vec<u8>, ClientError> {
        let replies = self.collect(&Request::Blob(*hash)).await?;
        match replies.into_iter().next() {
            Some(Reply::Blob(bytes)) if sha256(bytes.as_bytes()) == *hash => Ok(bytes.into_bytes()),
            _ => Err(ClientError::Unexpected),
        }
    }

    /// Returns a script file to a hub that has lost it. Returns whether the hub had lost it.
    ///
    /// # Errors
    /// When the hub refuses it, or is too old.
    pub async fn give_file_back(&mut self, bytes: &[u8]) -> Result<bool, ClientError> {
        match self.blob(&sha256(bytes)).await {
            Ok(_) => Ok(false),
            Err(ClientError::Denied(Denial::NoSuchBlob)) => {
                let file = Blob::try_from(bytes.to_vec()).map_err(|_| ClientError::Unexpected)?;
                self.request(&Request::PutFile(file)).await.map(|()| true)
            }
            Err(error) => Err(error),
        }
    }

    /// A document of the catalogue, verified by its hash.
    ///
    /// # Errors
    /// When the hub does not have it, or hands out another.
    pub async fn document<T: Document>(&mut self, hash: &Digest) -> Result<T, ClientError> {
        let bytes = self.blob(hash).await?;
        T::from_bytes(&bytes).map_err(|_| ClientError::Unexpected)
    }

    /// All machines within reach.
    ///
    /// # Errors
    /// When the hub says no, or the link breaks.
    pub async fn machines(&mut self) -> Result<Vec<Row<MachineRow>>, ClientError> {
        let mut machines = Vec::new();
        for reply in self.collect(&Request::Machines).await? {
            match reply {
                Reply::MachineRows(rows) => machines.extend(rows),
                Reply::Machines(rows) => machines.extend(rows.into_iter().map(Row::from)),
                _ => return Err(ClientError::Unexpected),
            }
        }
        Ok(machines)
    }

    /// All customers.
    ///
    /// # Errors
    /// When the hub says no, or the link breaks.
    pub async fn customers(&mut self) -> Result<Vec<CustomerRow>, ClientError> {
        let mut customers = Vec::new();
        for reply in self.collect(&Request::Customers).await? {
            match reply {
                Reply::CustomerRows(rows) => customers.extend(rows.into_iter().map(Row::into_base)),
                Reply::Customers(rows) => customers.extend(rows),
                _ => return Err(ClientError::Unexpected),
            }
        }
        Ok(customers)
    }

    /// Machines and people who wait to be admitted.
    ///
    /// # Errors
    /// When the hub says no, or the link breaks.
    pub async fn pending(&mut self) -> Result<(Vec<PendingMachine>, Vec<PendingStaff>), ClientError> {
        let (mut machines, mut staff) = (Vec::new(), Vec::new());
        for reply in self.collect(&Request::Pending).await? {
            match reply {
                Reply::PendingRows(some_machines, some_staff) => {
                    machines.extend(some_machines.into_iter().map(Row::into_base));
                    staff.extend(some_staff.into_iter().map(Row::into_base));
                }
                Reply::Pending(some_machines, some_staff) => {
                    machines.extend(some_machines);
                    staff.extend(some_staff);
                }
                _ => return Err(ClientError::Unexpected),
            }
        }
        Ok((machines, staff))
    }

    /// The newest jobs.
    ///
    /// # Errors
    /// When the hub says no, or the link breaks.
    pub async fn jobs(&mut self) -> Result<Vec<JobRow>, ClientError> {
        Ok(self.jobs_and_runs(&Request::Jobs).await?.0)
    }

    /// One job with its runs.
    ///
    /// # Errors
    /// When the hub says no, or the link breaks.
    pub async fn job(&mut self, job: JobId) -> Result<(Option<JobRow>, Vec<RunRow>), ClientError> {
        let (jobs, runs) = self.jobs_and_runs(&Request::Job(job)).await?;
        Ok((jobs.into_iter().next(), runs))
    }

    async fn jobs_and_runs(&mut self, request: &Request) -> Result<(Vec<JobRow>, Vec<RunRow>), ClientError> {
        let (mut jobs, mut runs) = (Vec::new(), Vec::new());
        for reply in self.collect(request).await? {
            match reply {
                Reply::JobRows(rows) => jobs.extend(rows.into_iter().map(Row::into_base)),
                Reply::Jobs(rows) => jobs.extend(rows),
                Reply::RunRows(rows) => runs.extend(rows.into_iter().map(Row::into_base)),
                Reply::Runs(rows) => runs.extend(rows),
                _ => return Err(ClientError::Unexpected),
            }
        }
        Ok((jobs, runs))
    }

    /// The hub's health.
    ///
    /// # Errors
    /// When the hub says no, or the link breaks.
    pub async fn health(&mut self) -> Result<Row<Health>, ClientError> {
        match self.collect(&Request::Health).await?.into_iter().next() {
            Some(Reply::HubHealth(health)) => Ok(health),
            Some(Reply::Health(health)) => Ok(health.into()),
            _ => Err(ClientError::Unexpected),
        }
    }

    /// Signs an order for one machine.
    ///
    /// # Errors
    /// When it would be too long.
    pub fn order(
        &self,
        machine: &Row<MachineRow>,
        action: Action,
        reason: &Text<500>,
        life: Duration,
    ) -> Result<SignedOrder, ClientError> {
        let run = RunId::from_bytes(fernwart_certs::random());
        self.order_with(run, machine, action, reason, life, None)
    }

    /// The same with secret parameters, encrypted for the machine.
    ///
    /// # Errors
    /// When the machine has not published its sealing key, or the order cannot be signed.
    pub async fn sealed_order(
        &mut self,
        machine: &Row<MachineRow>,
        action: Action,
        reason: &Text<500>,
        life: Duration,
        secrets: &str,
    ) -> Result<SignedOrder, ClientError> {
        let mut replies = self.collect(&Request::SealedTo(machine.id)).await?.into_iter();
        let (Some(Reply::EvidenceKey(evidence)), Some(Reply::SealedTo(statement))) = (replies.next(), replies.next())
        else {
            return Err(ClientError::NoSealingKey(machine.name.clone()));
        };
        let key = sealed::believe(&statement, &evidence, &machine.id).map_err(ClientError::Sealing)?;
        let run = RunId::from_bytes(fernwart_certs::random());
        let sealed = sealed::seal(&key, &run, &machine.id, secrets).map_err(ClientError::Sealing)?;
        let sealed = sealed.parse().map_err(|_| ClientError::TooMany)?;
        self.order_with(run, machine, action, reason, life, Some(sealed))
    }

    fn order_with(
        &self,
        run: RunId,
        machine: &Row<MachineRow>,
        action: Action,
        reason: &Text<500>,
        life: Duration,
        sealed: Option<Text<16384>>,
    ) -> Result<SignedOrder, ClientError> {
        let (now, ms) = (now(), |duration: Duration| i64::try_from(duration.as_millis()).unwrap_or(i64::MAX));
        let order = Order {
            run,
            machine: machine.id,
            machine_name: machine.name.clone(),
            customer: machine.customer,
            action,
            key: self.key_id(),
            reason: reason.clone(),
            targets_version: self.catalogue.versions.targets,
            not_before: now.saturating_sub(ms(ORDER_EARLY)),
            not_after: now.saturating_add(ms(life)),
            sealed,
            session_key: None,
        };
        let envelope = self.sign_for(machine, &order)?;
        Ok(SignedOrder { run, envelope })
    }

    /// Signs a document that both the hub and a machine must be able to read.
    ///
    /// # Errors
    /// When one of them is too old to read it.
    pub fn sign_for<D: Document>(&self, machine: &Row<MachineRow>, document: &D) -> Result<Envelope, ClientError> {
        let needs = document.needs();
        if self.link.version().is_some_and(|hub| hub < needs.version) {
            return Err(ClientError::OlderHub { what: needs.what });
        }
        seal(document, &self.home.order_key, Version::of_peer(machine.protocol())).map_err(|error| match error {
            EnvelopeError::Newer { what, .. } => ClientError::OlderAgent {
                machine: machine.name.clone(),
                why: OlderAgent {
                    agent: machine.agent.clone(),
                    what: if what.is_empty() { "orders of this version" } else { what },
                },
            },
            error => ClientError::Sign(error),
        })
    }

    /// Submits a job; its updates arrive on the stream.
    ///
    /// # Errors
    /// When the link breaks.
    pub async fn submit(&self, head: JobHead, orders: &[Envelope]) -> Result<Stream, ClientError> {
        self.send_job(Request::Submit(head), orders).await
    }

    /// The same, but acts for machines that are away are held.
    ///
    /// # Errors
    /// When the hub says no, or the link breaks.
    pub async fn queue(&self, head: JobHead, orders: &[Envelope]) -> Result<Stream, ClientError> {
        self.send_job(Request::Queue(head), orders).await
    }

    async fn send_job(&self, job: Request, orders: &[Envelope]) -> Result<Stream, ClientError> {
        let mut stream = self.ask(&job).await?;
        // Limit each frame by number and by size: an order may be long.
        let most = fernwart_protocol::limits::FRAME_BYTES / 2;
        let mut batch = Vec::new();
        let mut bytes = 0;
        for order in orders {
            if batch.len() == ORDERS_PER_FRAME || (bytes + order.bytes.as_bytes().len() > most && !batch.is_empty()) {
                send_batch(&mut stream, std::mem::take(&mut batch)).await?;
                bytes = 0;
            }
            bytes += order.bytes.as_bytes().len() + 128;
            batch.push(order.clone());
        }
        if !batch.is_empty() {
            send_batch(&mut stream, batch).await?;
        }
        stream.send.finish();
        Ok(stream)
    }
}

async fn dial(
    home: &StaffHome,
    catalogue: &Catalogue,
    timeout: Duration,
    socket: impl Fn(SocketAddr) -> Result<Dialer, DialError>,
) -> Result<Link, ClientError> {
    let pins = catalogue.hub.ca.clone();
    let tls = tls::member(pins, Clock::MustBeRight, home.identity.chain.clone(), &home.identity.key);
    let tls = tls.map_err(ClientError::Tls)?;
    Ok(dial_any(&catalogue.hub.addresses, Door::Staff, &tls, timeout, socket).await?.0)
}

async fn send_batch(stream: &mut Stream, batch: Vec<Envelope>) -> Result<(), ClientError> {
    let orders = Orders(List::try_from(batch).map_err(|_| ClientError::TooMany)?);
    stream.send.send(&orders).await.map_err(ClientError::Frame)
}
