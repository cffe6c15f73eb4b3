//! One partition's hot log: journal, memory tail, segments, indexes, producer state, recovery.
