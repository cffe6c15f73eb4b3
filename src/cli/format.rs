//! Records as text: templates, and JSON that reads back as what was written.
//!
//! In JSON a key, a value or a header's value is text, `null`, or `{"base64": "…"}` where its bytes are not UTF-8.

use std::fmt::Write;
use std::str::Chars;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde_json::{Map, Value, json};

use super::Failure;
use super::client::{NewHeader, NewRecord};
use crate::record::Record;
use crate::types::Timestamp;

/// What `--help` says about templates.
pub(super) const TEMPLATE_HELP: &str = "Text for each record: %s value, %k key, %o offset, %p partition, %t topic, %T timestamp in ms, %D timestamp as date, \
     %h headers (of null, NULL), %S value length, %K key length, %% percent; \\n, \\r, \\t, \\0, \\xHH and \\\\ as usual";

/// A record with its place, ready to be shown.
#[derive(Clone, Copy, Debug)]
pub(super) struct Placed<'a> {
    pub(super) topic: &'a str,
    pub(super) partition: i32,
    pub(super) record: Record<'a>,
}

/// One piece of a template.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Piece {
    Literal(Vec<u8>),
    Field(char),
}

/// A parsed template.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Template {
    pieces: Vec<Piece>,
    /// What stands for a null key or value.
    null: &'static str,
}

/// What stands for null where it must not pass for nothing, as in kcat.
const NULL: &str = "NULL";

impl Template {
    /// Reads a template.
    pub(super) fn parse(text: &str) -> Result<Self, Failure> {
        let mut pieces = Vec::new();
        let mut literal = Vec::new();
        let mut letters = text.chars();
        while let Some(letter) = letters.next() {
            match (letter, letter == '%' || letter == '\\') {
                (_, false) => literal.extend_from_slice(letter.encode_utf8(&mut [0; 4]).as_bytes()),
                ('%', _) => match letters.next() {
                    Some('%') => literal.push(b'%'),
                    Some(field) if "skoptTDhSK".contains(field) => {
                        pieces.push(Piece::Literal(std::mem::take(&mut literal)));
                        pieces.push(Piece::Field(field));
                    }
                    other => {
                        let field = other.map(String::from).unwrap_or_default();
                        return Err(Failure::usage(format!("--format: %{field} is not a field. {TEMPLATE_HELP}")));
                    }
                },
                _ => literal.push(escaped(&mut letters).map_err(|what| Failure::usage(format!("--format: {what}")))?),
            }
        }
        pieces.push(Piece::Literal(literal));
        Ok(Self { pieces, null: "" })
    }

    /// Tells a null key or value from an empty one.
    pub(super) fn with_nulls(self) -> Self {
        Self { null: NULL, ..self }
    }

    /// Appends a record. A null key or value is shown as nothing, unless nulls are to be told apart.
    pub(super) fn render(&self, placed: &Placed<'_>, out: &mut Vec<u8>) {
        let record = &placed.record;
        for piece in &self.pieces {
            match piece {
                Piece::Literal(bytes) => out.extend_from_slice(bytes),
                Piece::Field('s') => out.extend_from_slice(record.value.unwrap_or(self.null.as_bytes())),
                Piece::Field('k') => out.extend_from_slice(record.key.unwrap_or(self.null.as_bytes())),
                Piece::Field(field) => out.extend_from_slice(text_field(*field, placed).as_bytes()),
            }
        }
    }
}

/// Text with its escapes replaced by what they stand for.
pub(super) fn unescape(text: &str) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::new();
    let mut letters = text.chars();
    while let Some(letter) = letters.next() {
        match letter {
            '\\' => bytes.push(escaped(&mut letters)?),
            _ => bytes.extend_from_slice(letter.encode_utf8(&mut [0; 4]).as_bytes()),
        }
    }
    Ok(bytes)
}

/// The byte that is meant by what follows a backslash.
fn escaped(letters: &mut Chars<'_>) -> Result<u8, String> {
    match letters.next() {
        Some('n') => Ok(b'\n'),
        Some('r') => Ok(b'\r'),
        Some('t') => Ok(b'\t'),
        Some('0') => Ok(0),
        Some('\\') => Ok(b'\\'),
        Some('x') => {
            let mut digit = || letters.next().and_then(|letter| letter.to_digit(16));
            let byte = digit().zip(digit()).and_then(|(high, low)| u8::try_from(high * 16 + low).ok());
            byte.ok_or_else(|| r"\x needs two hexadecimal digits, as \x01".to_owned())
        }
        other => {
            let letter = other.map(String::from).unwrap_or_default();
            Err(format!(r"\{letter} is not an escape; there are \n, \r, \t, \0, \xHH and \\"))
        }
    }
}

fn text_field(field: char, placed: &Placed<'_>) -> String {
    let record = &placed.record;
    let length = |bytes: Option<&[u8]>| bytes.map_or(-1, |bytes| i64::try_from(bytes.len()).unwrap_or(i64::MAX));
    match field {
        'o' => record.offset.to_string(),
        'p' => placed.partition.to_string(),
        't' => placed.topic.to_owned(),
        'T' => record.timestamp.to_string(),
        'D' => date(record.timestamp),
        'S' => length(record.value).to_string(),
        'K' => length(record.key).to_string(),
        _ => {
            let mut text = String::new();
            for header in record.headers {
                let gap = if text.is_empty() { "" } else { "," };
                let (key, value) = (String::from_utf8_lossy(header.key), header.value.map(String::from_utf8_lossy));
                write!(text, "{gap}{key}={}", value.unwrap_or(NULL.into())).expect("writing to a string does not fail");
            }
            text
        }
    }
}

/// A record as a JSON object.
pub(super) fn to_json(placed: &Placed<'_>) -> Value {
    let record = &placed.record;
    let header = |header: crate::record::HeaderView<'_>| {
        json!([String::from_utf8_lossy(header.key), bytes_to_json(header.value)])
    };
    json!({
        "topic": placed.topic,
        "partition": placed.partition,
        "offset": record.offset.get(),
        "timestamp": record.timestamp.get(),
        "key": bytes_to_json(record.key),
        "value": bytes_to_json(record.value),
        "headers": record.headers.map(header).collect::<Vec<_>>(),
    })
}

fn bytes_to_json(bytes: Option<&[u8]>) -> Value {
    match bytes.map(|bytes| (bytes, std::str::from_utf8(bytes))) {
        None => Value::Null,
        Some((_, Ok(text))) => Value::from(text),
        Some((bytes, Err(_))) => json!({ "base64": BASE64.encode(bytes) }),
    }
}

/// Reads a record from a JSON object as [`to_json`] writes it. Topic and offset are passed over, everything else that is
/// not part of a record is refused, so that a mistyped name is not lost.
pub(super) fn from_json(line: &[u8]) -> Result<NewRecord, String> {
    let object: Map<String, Value> =
        serde_json::from_slice(line).map_err(|error| format!("not a JSON object ({error})"))?;
    let mut record = NewRecord::default();
    for (name, value) in object {
        match name.as_str() {
            "key" => record.key = bytes_from_json(&name, value)?,
            "value" => record.value = bytes_from_json(&name, value)?,
            "partition" => record.partition = Some(number(&name, &value)?),
            "timestamp" => record.timestamp = Some(Timestamp(number(&name, &value)?)),
            "headers" => record.headers = headers_from_json(value)?,
            "topic" | "offset" => {}
            _ => {
                return Err(format!(
                    "{name} is not part of a record; there are key, value, headers, timestamp and partition"
                ));
            }
        }
    }
    Ok(record)
}

fn number<T: TryFrom<i64>>(name: &str, value: &Value) -> Result<T, String> {
    value
        .as_i64()
        .and_then(|number| T::try_from(number).ok())
        .ok_or_else(|| format!("{name} is not a whole number that fits"))
}

fn headers_from_json(value: Value) -> Result<Vec<NewHeader>, String> {
    let wrong = || "headers is not an object, or a list of [key, value]".to_owned();
    match value {
        Value::Object(pairs) => {
            pairs.into_iter().map(|(key, value)| Ok((key, bytes_from_json("a header", value)?))).collect()
        }
        Value::Array(pairs) => pairs
            .into_iter()
            .map(|pair| match pair {
                Value::Array(pair) => match <[Value; 2]>::try_from(pair) {
                    Ok([Value::String(key), value]) => Ok((key, bytes_from_json("a header", value)?)),
                    _ => Err(wrong()),
                },
                _ => Err(wrong()),
            })
            .collect(),
        _ => Err(wrong()),
    }
}

/// Text, null, `{"base64": …}`; any other JSON is taken as its own text, so that a value can be given as JSON.
fn bytes_from_json(name: &str, value: Value) -> Result<Option<Vec<u8>>, String> {
    match value {
        Value::Null => Ok(None),
        Value::String(text) => Ok(Some(text.into_bytes())),
        Value::Object(object) if object.len() == 1 && object.contains_key("base64") => {
            let text = object["base64"].as_str().ok_or_else(|| format!("{name}: base64 is not text"))?;
            BASE64.decode(text).map(Some).map_err(|error| format!("{name}: base64 does not decode ({error})"))
        }
        other => Ok(Some(other.to_string().into_bytes())),
    }
}

/// Days from 1970-01-01 to a date of the Gregorian calendar (Hinnant, "chrono-compatible low-level date algorithms").
const fn days_from_civil(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    era * 146_097 + year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year - 719_468
}

/// The date that so many days after 1970-01-01 have.
const fn civil_from_days(days: i64) -> (i64, i64, i64) {
    let days = days + 719_468;
    let era = days.div_euclid(146_097);
    let day_of_era = days.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    (year_of_era + era * 400 + (month <= 2) as i64, month, day)
}

/// A timestamp as `2013-01-01T05:00:00.000Z`, and `none` where a record has none.
pub(super) fn date(timestamp: Timestamp) -> String {
    if timestamp == Timestamp::NONE {
        return "none".to_owned();
    }
    let (days, millis) = (timestamp.0.div_euclid(86_400_000), timestamp.0.rem_euclid(86_400_000));
    let (year, month, day) = civil_from_days(days);
    let (hour, minute, second) = (millis / 3_600_000, millis / 60_000 % 60, millis / 1_000 % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{:03}Z", millis % 1_000)
}

/// Reads `2013-01-01`, `2013-01-01T05:00[:00[.000]][Z]` in UTC, or milliseconds since 1970.
pub(super) fn parse_date(text: &str) -> Option<Timestamp> {
    if let Ok(millis) = text.parse() {
        return Some(Timestamp(millis));
    }
    let (day, time) = text.split_once(['T', ' ']).unwrap_or((text, "00:00"));
    let mut numbers = day.splitn(3, '-').map(str::parse::<i64>);
    let (Some(Ok(year)), Some(Ok(month)), Some(Ok(day))) = (numbers.next(), numbers.next(), numbers.next()) else {
        return None;
    };
    let (clock, fraction) = time.trim_end_matches('Z').split_once('.').unwrap_or((time.trim_end_matches('Z'), "0"));
    let mut numbers = clock.splitn(3, ':').map(str::parse::<i64>);
    let (Some(Ok(hour)), Some(Ok(minute)), second) = (numbers.next(), numbers.next(), numbers.next()) else {
        return None;
    };
    let second = second.unwrap_or(Ok(0)).ok()?;
    let millis: i64 = format!("{fraction:0<3}").get(..3)?.parse().ok()?;
    let valid = (1..=12).contains(&month) && (1..=31).contains(&day) && (0..1_000_000).contains(&year);
    let valid = valid && (0..24).contains(&hour) && (0..60).contains(&minute) && (0..61).contains(&second);
    let seconds = days_from_civil(year, month, day) * 86_400 + hour * 3_600 + minute * 60 + second;
    valid.then_some(Timestamp(seconds * 1_000 + millis))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::{BatchBuilder, BatchOptions, HeaderView};
    use crate::types::{LeaderEpoch, Offset};

    fn with_record(key: Option<&[u8]>, value: Option<&[u8]>, check: impl Fn(&Placed<'_>)) {
        let headers = [HeaderView { key: b"a", value: Some(b"1") }, HeaderView { key: b"a", value: None }];
        let mut builder = BatchBuilder::new(BatchOptions::default());
        builder.append(Timestamp(1_357_016_400_000), key, value, headers.into_iter());
        let batch = builder.build(Offset(7), LeaderEpoch(0)).unwrap();
        let payload = batch.payload();
        let record = batch.header().records(&payload).next().unwrap().unwrap();
        check(&Placed { topic: "flights", partition: 2, record });
    }

    #[test]
    fn a_template_shows_every_field() {
        with_record(Some(b"UA"), Some(b"v%"), |placed| {
            let mut out = Vec::new();
            Template::parse(r"%t/%p@%o %k=%s %T %D [%h] %K %S 100%%\n").unwrap().render(placed, &mut out);
            let expected = "flights/2@7 UA=v% 1357016400000 2013-01-01T05:00:00.000Z [a=1,a=NULL] 2 2 100%\n";
            assert_eq!(String::from_utf8(out).unwrap(), expected);
        });
        assert!(Template::parse("%q").unwrap_err().to_string().starts_with("--format: %q is not a field."));
        assert!(Template::parse("%").is_err());
    }

    #[test]
    fn a_null_key_or_value_is_told_from_an_empty_one_where_that_is_asked_for() {
        for (bytes, plain, apart) in [(None, "[]", "[NULL]"), (Some(&b""[..]), "[]", "[]")] {
            with_record(bytes, bytes, |placed| {
                for field in ["[%k]", "[%s]"] {
                    let (mut out, mut told) = (Vec::new(), Vec::new());
                    Template::parse(field).unwrap().render(placed, &mut out);
                    Template::parse(field).unwrap().with_nulls().render(placed, &mut told);
                    assert_eq!((&out[..], &told[..]), (plain.as_bytes(), apart.as_bytes()), "{field}");
                }
            });
        }
    }

    #[test]
    fn escapes_stand_for_bytes_and_unknown_ones_are_refused() {
        let text = r"a\n\r\t\0\x01\xfF\\n";
        let bytes = b"a\n\r\t\0\x01\xff\\n";
        assert_eq!(unescape(text).unwrap(), bytes);
        with_record(None, None, |placed| {
            let mut out = Vec::new();
            Template::parse(text).unwrap().render(placed, &mut out);
            assert_eq!(out, bytes);
        });
        for (text, expected) in [
            (r"\q", r"\q is not an escape; there are \n, \r, \t, \0, \xHH and \\"),
            (r"a\", r"\ is not an escape"),
            (r"\x1", r"\x needs two hexadecimal digits, as \x01"),
            (r"\x+1", r"\x needs two"),
            (r"\xé", r"\x needs two"),
        ] {
            let error = unescape(text).unwrap_err();
            assert!(error.starts_with(expected), "{text}: {error}");
            assert_eq!(Template::parse(text).unwrap_err().to_string(), format!("--format: {error}"));
        }
    }

    #[test]
    fn json_reads_back_as_what_was_written() {
        for (key, value) in
            [(None, None), (Some(&b""[..]), Some(&b"{\"a\":1}"[..])), (Some(b"\xff\x00"), Some(b"text"))]
        {
            with_record(key, value, |placed| {
                let record = from_json(to_json(placed).to_string().as_bytes()).unwrap();
                assert_eq!((record.key.as_deref(), record.value.as_deref()), (key, value));
                assert_eq!((record.partition, record.timestamp), (Some(2), Some(Timestamp(1_357_016_400_000))));
                assert_eq!(record.headers, [("a".to_owned(), Some(b"1".to_vec())), ("a".to_owned(), None)]);
            });
        }
    }

    #[test]
    fn a_value_may_be_given_as_json_and_a_mistyped_name_is_refused() {
        let record = from_json(br#"{"key": 5, "value": {"carrier": "UA"}, "headers": {"h": "x"}}"#).unwrap();
        assert_eq!((record.key.unwrap(), record.value.unwrap()), (b"5".to_vec(), br#"{"carrier":"UA"}"#.to_vec()));
        for line in [&br#"{"vale": 1}"#[..], b"[]", b"text", br#"{"partition": 1.5}"#, br#"{"headers": [["a"]]}"#] {
            assert!(from_json(line).is_err(), "{}", String::from_utf8_lossy(line));
        }
    }

    #[test]
    fn dates_read_back_as_shown() {
        for millis in [0, 1_357_016_400_123, 951_782_400_000, 4_102_444_799_999, -2] {
            assert_eq!(parse_date(&date(Timestamp(millis))), Some(Timestamp(millis)));
        }
        assert_eq!(parse_date("2013-01-01"), Some(Timestamp(1_356_998_400_000)));
        assert_eq!(parse_date("2013-01-01T05:00"), Some(Timestamp(1_357_016_400_000)));
        assert_eq!(parse_date("1357016400000"), Some(Timestamp(1_357_016_400_000)));
        for text in ["", "yesterday", "2013-13-01", "2013-01-01T25:00", "2013-1"] {
            assert_eq!(parse_date(text), None, "{text}");
        }
    }
}
