//! One link to the hub, and requests over it.

mod catalogue;
mod keys;
mod machines;
mod orders;
pub(crate) mod records;

use crate::error::ClientError;
use crate::home::StaffHome;
use fernwart_certs::CertificateDer;
use fernwart_certs::catalogue::{Catalogue, Trusted};
use fernwart_certs::peer::{Name, may_issue, read_certificate};
use fernwart_certs::tls::{self, Clock};
use fernwart_protocol::code::Goodbye;
use fernwart_protocol::id::KeyId;
use fernwart_protocol::link::{DialError, Dialer, Door, FrameError, Link, LinkError, Receiver, Sender, dial_any};
use fernwart_protocol::staff::{Reply, Request};
use fernwart_protocol::version::{Hello, tag};
use std::net::SocketAddr;
use std::time::Duration;

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
    pub(crate) async fn dial_again(&mut self, timeout: Duration) -> Result<(), ClientError> {
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
