//! A broker's endpoint for its peers, and what it shows of itself there: a certificate of the cluster's own authority, which it has renewed
//! long before its end, or one of the operator's, whose files are looked at again now and then.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use super::join::Joiner;
use super::welcome::Doorkeeper;
use crate::archive::bucket::Bucket;
use crate::archive::store::Store;
use crate::broker::error::StartError;
use crate::broker::settings::{BrokerSettings, ClusterSettings};
use crate::metadata::controller::machine::ControllerSettings;
use crate::metadata::image::ClusterAuthority;
use crate::metadata::{Command, Metadata, MetadataStore, PeerPlane};
use crate::peer::authority::{Authority, AuthorityError, renewal_due};
use crate::peer::identity_files::{IdentityError, IdentityFiles, OperatorFiles};
use crate::peer::rpc::{Answers, Handlers, Naming, Peers, TakesStreams, kind, serve};
use crate::peer::token::JOIN_SECRET_BYTES;
use crate::runtime::Runtime;
use crate::runtime::peers::{PeerEndpoint, PeerIdentity, PeerSettings, Secret};
use crate::runtime::watch;
use crate::types::{ClusterId, NodeId};

/// How often certificates are looked at.
const LOOK_INTERVAL: Duration = Duration::from_secs(60);

/// See the module.
pub(in crate::broker) struct Plane {
    runtime: Runtime,
    node_id: NodeId,
    endpoint: Arc<dyn PeerEndpoint>,
    address: String,
    files: IdentityFiles,
    pki: Option<OperatorFiles>,
    peers: Arc<Peers>,
    handlers: Arc<watch::Sender<Handlers>>,
    controller: ControllerSettings,
    has_identity: bool,
}

/// Of a node that is no member yet: it only dials.
const fn nobody() -> PeerIdentity {
    PeerIdentity { certificates: Vec::new(), key: Secret::new(Vec::new()), authorities: Vec::new() }
}

fn address_of(settings: &ClusterSettings, bound: SocketAddr) -> String {
    let (host, port) = match &settings.advertised {
        Some((host, 0)) => (host.clone(), bound.port()),
        Some((host, port)) => (host.clone(), *port),
        None => (bound.ip().to_string(), bound.port()),
    };
    if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
}

/// Issues a certificate for a node of a cluster, and shows it from now on.
fn renew(
    runtime: &Runtime,
    files: &IdentityFiles,
    authority: &Authority,
    endpoint: &Arc<dyn PeerEndpoint>,
    (cluster_id, node_id): (ClusterId, NodeId),
) -> Result<(), StartError> {
    let (disk, now) = (&*runtime.disk, runtime.clock.wall());
    let request = files.node_key(disk)?.certificate_request()?;
    let certificate = authority.issue(cluster_id, node_id, &request, runtime.entropy.identity(), now)?;
    let stored = files.store(disk, &certificate, std::slice::from_ref(&authority.certificate))?;
    endpoint.set_identity(stored).map_err(|error| StartError::PeerIdentity { error })?;
    tracing::info!("this broker has a new certificate for its peers");
    Ok(())
}

/// Renews a certificate that is near its end, or beyond, before the metadata is there: after a long rest nobody else may take it, and
/// the quorum would never come together.
fn renew_alone(
    runtime: &Runtime,
    files: &IdentityFiles,
    shown: &PeerIdentity,
    endpoint: &Arc<dyn PeerEndpoint>,
    node: (ClusterId, NodeId),
) -> Result<(), StartError> {
    let is_due = |certificate: &Vec<u8>| renewal_due(certificate, runtime.clock.wall());
    let (Some(_), [authority]) = (shown.certificates.first().filter(|shown| is_due(shown)), &shown.authorities[..])
    else {
        return Ok(());
    };
    let Some(key) = files.authority_key(&*runtime.disk)? else { return Ok(()) };
    renew(runtime, files, &Authority { certificate: authority.clone(), key }, endpoint, node)
}

impl Plane {
    /// Binds the endpoint, joins a cluster if that is wanted and this node belongs to none, and opens the metadata's storage.
    ///
    /// # Errors
    /// [`StartError`].
    pub(in crate::broker) async fn open(
        runtime: &Runtime,
        settings: &BrokerSettings,
        cluster: &ClusterSettings,
        metadata: &Path,
        store: &Store,
    ) -> Result<(Self, MetadataStore), StartError> {
        let unusable = |error| StartError::Metadata { path: metadata.to_owned(), error };
        let (disk, now) = (&*runtime.disk, runtime.clock.wall());
        let files = IdentityFiles::of(&settings.directories[0]);
        let is_member = MetadataStore::exists(runtime, metadata).map_err(unusable)?;
        let mut identity = match &cluster.pki {
            Some(pki) => Some(pki.load(disk, now)?),
            None => files.load(disk)?,
        };
        let shown = identity.clone().unwrap_or_else(nobody);
        let bound = runtime.peers.bind(cluster.listen, shown, PeerSettings::default()).await;
        let not_bound = |error| StartError::PeerListen { address: cluster.listen, error };
        let endpoint = bound.map_err(not_bound)?;
        let address = address_of(cluster, endpoint.local_address().map_err(not_bound)?);
        let mut joined = None;
        if !is_member && !cluster.join.is_empty() {
            let key = files.node_key(disk)?;
            let (endpoint, address, node_id) = (&endpoint, address.as_str(), settings.node_id);
            let joiner = Joiner { runtime, endpoint, settings: cluster, node_id, key: &key, address, store };
            let welcome = joiner.join().await?;
            if let Some((certificate, authority)) = &welcome.certificates {
                let stored = files.store(disk, certificate, &[authority.to_vec()])?;
                endpoint.set_identity(stored.clone()).map_err(not_bound)?;
                identity = Some(stored);
            }
            joined = Some(welcome);
        }
        let cluster_id = joined.as_ref().map(|joined| joined.cluster_id);
        let storage = MetadataStore::open(runtime, metadata, settings.node_id, cluster_id).await.map_err(unusable)?;
        if let (Some(shown), None) = (&identity, &cluster.pki) {
            renew_alone(runtime, &files, shown, &endpoint, (storage.cluster_id(), settings.node_id))?;
        }
        let naming = if cluster.pki.is_some() { Naming::ByHost } else { Naming::ByNode };
        let (of_peers, cluster_id) = (Arc::clone(&endpoint), storage.cluster_id());
        let peers = Arc::new(Peers::new(runtime.clone(), of_peers, cluster_id, settings.node_id, naming));
        for (node_id, address) in joined.into_iter().flat_map(|joined| joined.members) {
            peers.set_address(node_id, &address);
        }
        let handlers = Arc::new(watch::Sender::new(Handlers::default()));
        runtime.watch.spawn(serve(Arc::clone(&peers), handlers.subscribe()));
        let controller = ControllerSettings {
            session: cluster.session_timeout,
            voters: cluster.voters,
            ..ControllerSettings::default()
        };
        let plane = Self {
            runtime: runtime.clone(),
            node_id: settings.node_id,
            endpoint,
            address,
            files,
            pki: cluster.pki.clone(),
            peers,
            handlers,
            controller,
            has_identity: identity.is_some(),
        };
        Ok((plane, storage))
    }

    /// The machine.
    pub(in crate::broker) const fn runtime(&self) -> &Runtime {
        &self.runtime
    }

    /// Where peers reach this broker.
    pub(in crate::broker) fn address(&self) -> &str {
        &self.address
    }

    /// How long a broker may be silent.
    pub(super) const fn session(&self) -> Duration {
        self.controller.session
    }

    /// The other brokers.
    pub(in crate::broker) const fn peers(&self) -> &Arc<Peers> {
        &self.peers
    }

    /// Has leaders' records taken from now on.
    pub(in crate::broker) fn take_records(&self, streams: Arc<dyn TakesStreams>) {
        self.handlers.send_modify(|handlers| handlers.take(kind::REPLICATION, streams));
    }

    /// The plane as the metadata quorum sees it.
    pub(in crate::broker) fn for_quorum(&self) -> PeerPlane {
        PeerPlane {
            peers: Arc::clone(&self.peers),
            handlers: Arc::clone(&self.handlers),
            address: self.address.clone(),
            controller: self.controller.clone(),
            has_identity: self.has_identity,
        }
    }

    /// Once the metadata can be written: makes the cluster's authority if there is none, shows a certificate of it, and lets others in.
    ///
    /// # Errors
    /// [`StartError`].
    pub(in crate::broker) async fn settle(&self, metadata: &Arc<Metadata>, store: &Store) -> Result<(), StartError> {
        if self.pki.is_none() {
            if metadata.image().authority().is_none() {
                let authority = Authority::new(metadata.cluster_id(), self.runtime.clock.wall())?;
                let mut join_secret = vec![0; JOIN_SECRET_BYTES];
                self.runtime.entropy.fill(&mut join_secret);
                let (certificate, key) = (authority.certificate, authority.key.expose().clone());
                let command = Command::SetAuthority(ClusterAuthority { certificate, key, join_secret });
                metadata.submit(command).await.map_err(StartError::Registration)?;
            }
            self.show_certificate(metadata)?;
        }
        let bucket = Bucket::new(store.clone(), self.runtime.clone(), metadata.cluster_id());
        let (runtime, metadata) = (self.runtime.clone(), Arc::clone(metadata));
        let doorkeeper: Arc<dyn Answers> =
            Arc::new(Doorkeeper { runtime, metadata, bucket, trusts_operator: self.pki.is_some() });
        self.handlers.send_modify(|handlers| handlers.answer(&[kind::JOIN], &doorkeeper));
        Ok(())
    }

    /// Issues a certificate for this node, if it has none of the cluster's present authority or not for long any more. Every member can.
    fn show_certificate(&self, metadata: &Metadata) -> Result<(), StartError> {
        let image = metadata.image();
        let Some(known) = image.authority() else { return Ok(()) };
        let (disk, now) = (&*self.runtime.disk, self.runtime.clock.wall());
        self.files.store_join_secret(disk, &Secret::new(known.join_secret.clone()))?;
        let authority = Authority { certificate: known.certificate.clone(), key: Secret::new(known.key.clone()) };
        self.files.store_authority_key(disk, &authority.key)?;
        let shown = self.files.load(disk)?;
        let is_good = |shown: &PeerIdentity| {
            shown.authorities.contains(&known.certificate)
                && shown.certificates.first().is_some_and(|certificate| !renewal_due(certificate, now))
        };
        if shown.as_ref().is_some_and(is_good) {
            return Ok(());
        }
        renew(&self.runtime, &self.files, &authority, &self.endpoint, (metadata.cluster_id(), self.node_id))
    }

    /// Renews certificates, or takes the operator's new ones, for as long as the broker runs.
    pub(in crate::broker) async fn renew_forever(self: Arc<Self>, metadata: Arc<Metadata>) {
        let mut shown = None;
        loop {
            self.runtime.clock.sleep(LOOK_INTERVAL).await;
            let renewed = match &self.pki {
                None => self.show_certificate(&metadata),
                Some(pki) => self.reload(pki, &mut shown),
            };
            if let Err(error) = renewed {
                tracing::error!(%error, "the certificate for peers is not renewed: the one that is shown ends some day");
            }
        }
    }

    fn reload(&self, pki: &OperatorFiles, shown: &mut Option<Vec<Vec<u8>>>) -> Result<(), StartError> {
        let identity = pki.load(&*self.runtime.disk, self.runtime.clock.wall())?;
        let newest = [identity.certificates.clone(), identity.authorities.clone()].concat();
        if shown.as_ref().is_none_or(|shown| *shown != newest) {
            self.endpoint.set_identity(identity).map_err(|error| StartError::PeerIdentity { error })?;
            *shown = Some(newest);
        }
        Ok(())
    }

    /// Tells peers that this broker goes.
    pub(in crate::broker) async fn close(&self) {
        self.endpoint.close().await;
    }
}

impl From<IdentityError> for StartError {
    fn from(error: IdentityError) -> Self {
        Self::Identity(error)
    }
}

impl From<AuthorityError> for StartError {
    fn from(error: AuthorityError) -> Self {
        Self::Identity(error.into())
    }
}
