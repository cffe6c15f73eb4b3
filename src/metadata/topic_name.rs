//! Which topic names are legal (Kafka's `org.apache.kafka.common.internals.Topic`).

use super::error::Rejection;

/// Longest topic name in bytes: file names of the log add a suffix and have 255.
pub const MAX_TOPIC_NAME_BYTES: usize = 249;

/// Checks a name by Kafka's rules.
///
/// # Errors
/// [`Rejection::InvalidTopicName`] names the rule.
pub fn validate(name: &str) -> Result<(), Rejection> {
    let reason = match name {
        "" => "the empty string is not allowed",
        "." => "'.' is not allowed",
        ".." => "'..' is not allowed",
        _ if name.len() > MAX_TOPIC_NAME_BYTES => "the name is longer than 249 characters",
        _ if !name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte)) => {
            "only ASCII letters, digits, '.', '_' and '-' are allowed"
        }
        _ => return Ok(()),
    };
    // The name may be hostile: what goes into logs and answers is bounded.
    let name = name.chars().take(MAX_TOPIC_NAME_BYTES).collect();
    Err(Rejection::InvalidTopicName { name, reason: reason.to_owned() })
}

/// Whether Kafka counts topics of this name as internal, also where there is none.
pub fn is_internal(name: &str) -> bool {
    ["__consumer_offsets", "__transaction_state", "__share_group_state"].contains(&name)
}

/// What two names that collide have in common, or none for a name that can't collide. Metric names write '_' for '.',
/// so Kafka allows only one of `a.b` and `a_b`.
pub(super) fn collision_key(name: &str) -> Option<String> {
    name.contains(['.', '_']).then(|| name.replace('.', "_"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kafkas_rules_decide_which_names_are_legal() {
        for name in ["a", "a.b", "__consumer_offsets", "...", "A-1_b.C", &"x".repeat(249)] {
            assert_eq!(validate(name), Ok(()), "{name}");
        }
        for name in ["", ".", "..", "a b", "a/b", "é", "a\n", &"x".repeat(250)] {
            assert!(matches!(validate(name), Err(Rejection::InvalidTopicName { .. })), "{name}");
        }
    }

    #[test]
    fn names_collide_only_in_dots_and_underscores() {
        assert_eq!(collision_key("a.b"), collision_key("a_b"));
        assert_ne!(collision_key("a.b"), collision_key("a-b"));
        assert_eq!(collision_key("ab"), None);
    }
}
