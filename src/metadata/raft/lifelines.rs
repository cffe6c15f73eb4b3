//! Whether the processes of other nodes are still there, as their machines tell: much sooner than by waiting for what does not come.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use futures_util::future::join_all;

use crate::runtime::Runtime;
use crate::runtime::peers::Lifeline;
use crate::runtime::watch;
use crate::types::NodeId;

/// How often each is looked at.
const INTERVAL: Duration = Duration::from_millis(100);
/// Pause before the second look that has to say the same.
const SECOND_LOOK: Duration = Duration::from_millis(20);

/// One node's, at the address that it was opened for.
struct Line {
    address: String,
    lifeline: Box<dyn Lifeline>,
}

/// Tells of nodes whose process is gone, again and again as long as it is; `watched` says whom to look at and where. Ends with its sender.
pub(super) async fn watch_over(
    runtime: Runtime,
    watched: watch::Receiver<BTreeMap<NodeId, String>>,
    mut gone: impl FnMut(BTreeSet<NodeId>) + Send + 'static,
) {
    let mut lines: BTreeMap<NodeId, Line> = BTreeMap::new();
    while watched.has_changed().is_ok() {
        runtime.clock.sleep(INTERVAL).await;
        let wanted = watched.borrow().clone();
        lines.retain(|node_id, line| wanted.get(node_id) == Some(&line.address));
        for (node_id, address) in wanted {
            if lines.contains_key(&node_id) {
                continue;
            }
            match runtime.peers.lifeline(&address).await {
                Ok(lifeline) => drop(lines.insert(node_id, Line { address, lifeline })),
                Err(error) => tracing::debug!(%error, %node_id, address, "no lifeline to this node"),
            }
        }
        let first = look(&mut lines, None).await;
        if first.is_empty() {
            continue;
        }
        runtime.clock.sleep(SECOND_LOOK).await;
        let both = look(&mut lines, Some(&first)).await;
        if !both.is_empty() {
            gone(both);
        }
    }
}

/// Who is gone, of all or of some.
async fn look(lines: &mut BTreeMap<NodeId, Line>, only: Option<&BTreeSet<NodeId>>) -> BTreeSet<NodeId> {
    let looked_at = lines.iter_mut().filter(|(node_id, _)| only.is_none_or(|only| only.contains(node_id)));
    let looks = looked_at.map(|(node_id, line)| async { line.lifeline.is_gone().await.then_some(*node_id) });
    join_all(looks).await.into_iter().flatten().collect()
}
