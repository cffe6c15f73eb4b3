//! What a configuration is: a name, a type, a rule, a default and what it does here. Topics and brokers share it.
//!
//! Values travel and are stored as text. [`ConfigDefinition::normalize`] checks one by Kafka's rules and gives the text that
//! Kafka would give back, so that `TRUE` reads as `true` everywhere. Messages are those of Apache Kafka 4.3
//! (`org.apache.kafka.common.config.ConfigDef`), because tools show them to people who search for them.

use thiserror::Error;

/// Longest value that can be set, in UTF-16 units, as Kafka's controller counts it.
pub const MAX_CONFIG_VALUE_UNITS: usize = 32_767;
/// So much of a value is told in a message about it.
const SHOWN_CHARS: usize = 1_000;

/// Most configurations that are set on one topic or broker; a multiple of all that exist.
pub const MAX_CONFIGS: usize = 1_000;

/// Type of a configuration's value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConfigType {
    /// `true` or `false`.
    Boolean,
    /// Text.
    String,
    /// 32-bit number.
    Int,
    /// 16-bit number.
    Short,
    /// 64-bit number.
    Long,
    /// Floating-point number.
    Double,
    /// Texts separated by commas.
    List,
}

impl ConfigType {
    /// Number of the type in DescribeConfigs (KIP-569).
    pub const fn kafka_code(self) -> i8 {
        match self {
            Self::Boolean => 1,
            Self::String => 2,
            Self::Int => 3,
            Self::Short => 4,
            Self::Long => 5,
            Self::Double => 6,
            Self::List => 7,
        }
    }

    /// Name of the type in Kafka's messages.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Boolean => "BOOLEAN",
            Self::String => "STRING",
            Self::Int => "INT",
            Self::Short => "SHORT",
            Self::Long => "LONG",
            Self::Double => "DOUBLE",
            Self::List => "LIST",
        }
    }
}

/// What a value must keep beyond its type.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Rule {
    /// Nothing.
    Any,
    /// A number from this on.
    AtLeast(i64),
    /// A number within these, both included.
    Between(i64, i64),
    /// A number within these, or −1 for the codec's own choice.
    LevelOrDefault(i64, i64),
    /// One of these texts (separated as in Kafka's message), or a list of such.
    OneOf(&'static str),
    /// `*`, or partition:broker pairs.
    ThrottledReplicas,
}

/// Whether a configuration changes what alluvium does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// It does.
    Active,
    /// It is checked, stored and described, so that scripts and tools work, and changes nothing.
    Stored,
}

/// One configuration.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ConfigDefinition {
    /// Kafka's name, or ours where Kafka has none.
    pub name: &'static str,
    /// Type of the value.
    pub kind: ConfigType,
    /// What the value must keep.
    pub rule: Rule,
    /// Value when nothing is set; none for unset.
    pub default: Option<&'static str>,
    /// Whether it changes what alluvium does.
    pub effect: Effect,
    /// What it means, for DescribeConfigs.
    pub documentation: &'static str,
}

/// A configuration that can't be set so. The message is for the client.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum ConfigError {
    /// INVALID_CONFIG: no topic configuration has this name.
    #[error("Unknown topic config name: {name}")]
    UnknownTopicConfig {
        /// The name.
        name: String,
    },
    /// INVALID_REQUEST: this broker configuration can't change while the broker runs.
    #[error("Cannot update these configs dynamically: [{name}]")]
    NotDynamic {
        /// The name.
        name: String,
    },
    /// INVALID_CONFIG: the value breaks its type or rule.
    #[error("Invalid value {value} for configuration {name}: {reason}")]
    InvalidValue {
        /// The name.
        name: String,
        /// The value.
        value: String,
        /// The rule.
        reason: String,
    },
    /// INVALID_CONFIG: an element of a list is empty.
    #[error("Configuration '{name}' values must not be empty.")]
    EmptyElement {
        /// The name.
        name: String,
    },
    /// INVALID_CONFIG: only lists can be appended to and subtracted from.
    #[error("Can't {operation} to key {name} because its type is not LIST.")]
    NotAList {
        /// What was asked for.
        operation: &'static str,
        /// The name.
        name: String,
    },
    /// INVALID_CONFIG: two values contradict each other.
    #[error("Invalid value {value} for configuration {name}: {reason}")]
    Contradiction {
        /// The configuration at fault.
        name: &'static str,
        /// Its value.
        value: String,
        /// What it contradicts.
        reason: String,
    },
    /// INVALID_CONFIG: tiering is switched off without saying what becomes of the archive.
    #[error(
        "It is invalid to disable remote storage without deleting remote data. If you want to keep the remote data \
         and turn to read only, please set `remote.storage.enable=true,remote.log.copy.disable=true`. If you want to \
         disable remote storage and delete all remote data, please set \
         `remote.storage.enable=false,remote.log.delete.on.disable=true`."
    )]
    DisableWithoutDelete,
    /// INVALID_CONFIG: records would have to be compacted later than they may be.
    #[error(
        "conflict topic config setting min.compaction.lag.ms ({min_lag_ms}) > max.compaction.lag.ms ({max_lag_ms})"
    )]
    CompactionLag {
        /// `min.compaction.lag.ms`.
        min_lag_ms: i64,
        /// `max.compaction.lag.ms`.
        max_lag_ms: i64,
    },
    /// INVALID_REQUEST: more configurations than [`MAX_CONFIGS`] for one topic or broker.
    #[error("Too many configurations are set, at most {MAX_CONFIGS} can be.")]
    TooMany,
    /// INVALID_CONFIG: longer than [`MAX_CONFIG_VALUE_UNITS`].
    #[error("The configuration value cannot be added because it exceeds the maximum value size of 32767 bytes.")]
    TooLong,
    /// INVALID_CONFIG: every broker has to go by the same value.
    #[error("min.insync.replicas can't be altered for one broker; set it for all brokers, or for a topic.")]
    MinInsyncOfOneBroker,
    /// INVALID_CONFIG: what all brokers go by stays set.
    #[error("min.insync.replicas of all brokers can't be removed; set it to another value.")]
    MinInsyncRemoved,
    /// INVALID_REQUEST: what would be INVALID_CONFIG on a topic; on a broker Kafka says so.
    #[error(transparent)]
    OnBroker(Box<Self>),
    /// INVALID_REQUEST: the same name twice.
    #[error("Error due to duplicate config keys : {name}")]
    Duplicate {
        /// The name.
        name: String,
    },
}

impl ConfigError {
    /// The number of the Kafka error that this stands for: INVALID_CONFIG or INVALID_REQUEST.
    pub const fn kafka_error_code(&self) -> i16 {
        match self {
            Self::NotDynamic { .. } | Self::TooMany | Self::OnBroker(_) | Self::Duplicate { .. } => 42,
            _ => 40,
        }
    }
}

impl ConfigDefinition {
    /// Checks a value that is to be set, and gives its normal form.
    ///
    /// # Errors
    /// As [`Self::normalize`], and [`ConfigError::TooLong`].
    pub fn accept(&self, value: &str) -> Result<String, ConfigError> {
        // There are no more units than bytes.
        if value.len() > MAX_CONFIG_VALUE_UNITS && value.encode_utf16().count() > MAX_CONFIG_VALUE_UNITS {
            return Err(ConfigError::TooLong);
        }
        self.normalize(value)
    }

    /// Checks a value and gives its normal form.
    ///
    /// # Errors
    /// [`ConfigError::InvalidValue`] or [`ConfigError::EmptyElement`], with Kafka's message.
    pub fn normalize(&self, value: &str) -> Result<String, ConfigError> {
        let trimmed = value.trim();
        match self.kind {
            ConfigType::Boolean => match trimmed.to_ascii_lowercase() {
                normal if normal == "true" || normal == "false" => Ok(normal),
                _ => Err(self.invalid(value, "Expected value to be either true or false")),
            },
            ConfigType::Int => self.integer(value, trimmed, i32::MIN.into(), i32::MAX.into()),
            ConfigType::Short => self.integer(value, trimmed, i16::MIN.into(), i16::MAX.into()),
            ConfigType::Long => self.integer(value, trimmed, i64::MIN, i64::MAX),
            ConfigType::Double => self.double(value, trimmed),
            ConfigType::String => self.one_of(trimmed).map(|()| trimmed.to_owned()),
            ConfigType::List => self.list(trimmed),
        }
    }

    fn invalid(&self, value: &str, reason: &str) -> ConfigError {
        // The message must fit its place in an answer.
        let value = match value.char_indices().nth(SHOWN_CHARS) {
            Some((end, _)) => format!("{}...", &value[..end]),
            None => value.to_owned(),
        };
        ConfigError::InvalidValue { name: self.name.to_owned(), value, reason: reason.to_owned() }
    }

    fn integer(&self, value: &str, trimmed: &str, lowest: i64, highest: i64) -> Result<String, ConfigError> {
        let Some(number) = trimmed.parse().ok().filter(|number: &i64| (lowest..=highest).contains(number)) else {
            return Err(self.invalid(value, &format!("Not a number of type {}", self.kind.name())));
        };
        let shown = number.to_string();
        match self.rule {
            Rule::AtLeast(least) | Rule::Between(least, _) if number < least => {
                Err(self.invalid(&shown, &format!("Value must be at least {least}")))
            }
            Rule::Between(_, most) if number > most => {
                Err(self.invalid(&shown, &format!("Value must be no more than {most}")))
            }
            Rule::LevelOrDefault(least, most) if number != -1 && !(least..=most).contains(&number) => {
                Err(self.invalid(&shown, &format!("Value must be between {least} and {most} or equal to -1")))
            }
            _ => Ok(shown),
        }
    }

    fn double(&self, value: &str, trimmed: &str) -> Result<String, ConfigError> {
        let Some(number) = trimmed.parse().ok().filter(|number: &f64| number.is_finite()) else {
            return Err(self.invalid(value, "Not a number of type DOUBLE"));
        };
        let shown = format!("{number:?}");
        #[expect(clippy::cast_precision_loss, reason = "bounds are small")]
        match self.rule {
            Rule::Between(least, _) if number < least as f64 => {
                Err(self.invalid(&shown, &format!("Value must be at least {least}")))
            }
            Rule::Between(_, most) if number > most as f64 => {
                Err(self.invalid(&shown, &format!("Value must be no more than {most}")))
            }
            _ => Ok(shown),
        }
    }

    fn one_of(&self, text: &str) -> Result<(), ConfigError> {
        match self.rule {
            Rule::OneOf(allowed) if !allowed.split(", ").any(|one| one == text) => {
                Err(self.invalid(text, &format!("String must be one of: {allowed}")))
            }
            _ => Ok(()),
        }
    }

    fn list(&self, text: &str) -> Result<String, ConfigError> {
        let mut elements = Vec::new();
        for element in list_elements(text) {
            if element.is_empty() {
                return Err(ConfigError::EmptyElement { name: self.name.to_owned() });
            }
            self.one_of(element)?;
            if !elements.contains(&element) {
                elements.push(element);
            }
        }
        if self.rule == Rule::ThrottledReplicas && !throttled_replicas(&elements) {
            let reason = format!(
                "{} must be the literal '*' or a list of replicas in the following format: \
                 [partitionId]:[brokerId],[partitionId]:[brokerId],...",
                self.name
            );
            return Err(self.invalid(&format!("[{}]", elements.join(", ")), &reason));
        }
        Ok(elements.join(","))
    }
}

/// The elements of a list value; none for the empty text.
pub(super) fn list_elements(text: &str) -> impl Iterator<Item = &str> {
    text.split(',').map(str::trim).filter(move |_| !text.trim().is_empty())
}

fn throttled_replicas(elements: &[&str]) -> bool {
    let number = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let pair = |element: &&str| element.split_once(':').is_some_and(|(left, right)| number(left) && number(right));
    elements == ["*"] || elements.iter().all(pair)
}
