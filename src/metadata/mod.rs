//! The cluster's truth: commands, the immutable image, the pure machine, and its Raft quorum.
