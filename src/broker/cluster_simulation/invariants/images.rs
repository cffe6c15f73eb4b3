//! Images of the metadata of one version are equal, on whichever broker, and whether it came by commands or in a snapshot.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::{Check, ensure};
use crate::metadata::Image;

/// Versions that are remembered: brokers that are further behind than this come by a snapshot, or are compared again later.
const REMEMBERED: usize = 300;

/// The first image that was seen of each version.
#[derive(Debug, Default)]
pub(in super::super) struct Images {
    seen: BTreeMap<u64, Arc<Image>>,
}

impl Images {
    /// A broker has an image.
    pub(in super::super) fn observe(&mut self, image: &Arc<Image>) -> Check {
        let known = self.seen.entry(image.version()).or_insert_with(|| Arc::clone(image));
        ensure!(Arc::ptr_eq(known, image) || *known == *image, "two images of version {}", image.version());
        while self.seen.len() > REMEMBERED {
            self.seen.pop_first();
        }
        Ok(())
    }

    /// The newest version.
    pub(in super::super) fn newest(&self) -> Option<u64> {
        self.seen.last_key_value().map(|(version, _)| *version)
    }
}
