//! Who accepts whom on the simulated network, whose certificates are text: `issuer: name name`.

use ring::digest;

use super::Offer;
use crate::runtime::peers::{ExpectedPeer, PeerError, PeerIdentity, PeerProtocol};

/// Who issued the first certificate, and its names.
fn shown(identity: &PeerIdentity) -> Option<(Vec<u8>, Vec<String>)> {
    let text = std::str::from_utf8(identity.certificates.first()?).ok()?;
    let (issuer, names) = text.split_once(": ")?;
    Some((issuer.as_bytes().to_vec(), names.split(' ').map(str::to_owned).collect()))
}

/// Whether both sides accept each other: as what, and the names of who dialled and of who was dialled.
pub(super) fn judge(
    offer: &Offer,
    dialled: &PeerIdentity,
) -> Result<(PeerProtocol, Vec<String>, Vec<String>), PeerError> {
    let refused = |reason: &str| PeerError::Refused { reason: reason.to_owned() };
    let (issuer, names) = shown(dialled).ok_or_else(|| refused("the peer shows no certificate"))?;
    let name = match &offer.expected {
        ExpectedPeer::Authority(authority) => {
            let is_right = digest::digest(&digest::SHA256, &issuer).as_ref() == authority.as_slice();
            let joined = (PeerProtocol::Join, Vec::new(), names);
            return if is_right { Ok(joined) } else { Err(refused("the peer is not of the token's cluster")) };
        }
        ExpectedPeer::Named(name) => name,
        ExpectedPeer::HostOfAddress => &offer.host,
    };
    if !offer.identity.authorities.contains(&issuer) || !names.contains(name) {
        return Err(refused("the peer is not the expected one"));
    }
    let (issuer, own_names) = shown(&offer.identity).ok_or_else(|| refused("a member has to show its certificate"))?;
    if !dialled.authorities.contains(&issuer) {
        return Err(refused("the certificate is of an authority that the peer does not know"));
    }
    Ok((PeerProtocol::Member, own_names, names))
}
