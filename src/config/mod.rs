//! Settings: defaults, then a TOML file, then `ALLUVIUM__SECTION__KEY` variables, then flags; checked once, then resolved.
//!
//! [`Settings`] is what people write, declared with its documentation and defaults in one list (`settings.rs`), from which
//! the reference file is generated. [`load()`] puts the sources together and refuses what is not a setting, naming the file
//! and line, variable or flag, and the nearest setting that exists. [`resolve`] checks what the settings mean together and
//! gives a [`Config`], which the rest of the process takes as true. Nothing here reads the environment or the machine by
//! itself: both are passed in, so that a test sees only what it gives.

mod directories;
mod error;
mod host;
mod listeners;
mod load;
mod peers;
mod reference;
mod resolved;
mod secret;
mod settings;
mod store;
mod units;

pub use error::{ConfigError, Problem};
pub use host::Machine;
pub use listeners::{HostPort, Listener};
pub use load::{Assignment, Loaded, Sources, VARIABLE_PREFIX, load};
pub use peers::PeerConfig;
pub use reference::{print, print_json, reference};
pub use resolved::{Config, DEFAULT_LISTENER, DataConfig, MemoryConfig, resolve, resolve_directories, resolve_store};
pub use secret::Secret;
pub use settings::{
    ArchiveSettings, ClusterSettings, DataSettings, GroupsSettings, ListenerSettings, ListenersSettings,
    MemorySettings, NetworkSettings, ProducersSettings, Settings, TelemetrySettings, TopicsSettings,
};
pub use store::StoreConfig;
pub use units::{ByteSize, Interval};
