//! The Kafka wire: frames, the one table of APIs and versions, error codes, and the messages the protocol crate lacks.
