//! The data plane composed: partitions, purgatory, the fetch plan, quotas, administration.
