//! Health, metrics and the administration endpoints over HTTP.
