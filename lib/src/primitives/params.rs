//! The parameters that name a lock, and the key that they make.
//!
//! A key is `uuid5(uuid5(NAMESPACE_DNS, namespace), text)`, where the text is the parameters as JSON. Two forms of the
//! text exist, which differ only in the order of names. Everything else is as in RFC 8259.
//!
//! - Members are separated by `", "`, names from values by `": "`. Nothing else is blank.
//! - Everything but the characters from space to `~` is escaped, and `"` and `\` are: `\"`, `\\`, `\n`, `\r`, `\t`, `\f`,
//!   `\b`, otherwise `\u` and four lower-case hexadecimal digits, beyond U+FFFF as a surrogate pair. `/` is not escaped.
//! - Whole numbers and decimals keep their digits: `1`, `1.0` and `1.00` are three different parameters.
//! - Floating point numbers have the fewest digits that read back as the same number, and a `.0` if they are whole. Below
//!   10⁻⁴, and from 10¹⁶ on, they have an exponent with a sign and at least two digits: `1e-05`, `1e+16`.
//! - *Canonical*: names are sorted by code point, in every object. NaN and infinities are refused.
//! - *Superset*: names stay in the order in which they were given. NaN and infinities are `null`.
//!
//! In Python the canonical key is `uuid5(uuid5(NAMESPACE_DNS, namespace), json.dumps(params, sort_keys=True))`.

use std::fmt::Write;

use uuid::Uuid;

use crate::Error;

/// The parameters of a [`KeyedLock`](crate::KeyedLock): names and values, from which its key is made.
///
/// Two ways to make a key exist. [`Params::new`] is *canonical*: the order of names makes no difference.
/// [`Params::superset`] makes the same key, byte for byte, as Apache Superset (4.1 to 6.1) makes of the same parameters
/// in the same order. If the names are in sorted order, both make the same key.
///
/// [`params!`](crate::params!) makes canonical parameters of values of different types in one expression.
///
/// ```
/// use tenure::Params;
///
/// let one = Params::new().with("user_id", 42).with("database_id", 3);
/// let other = Params::new().with("database_id", 3).with("user_id", 42);
/// assert_eq!(one.key("refresh_oauth2_token")?, other.key("refresh_oauth2_token")?);
///
/// let superset = Params::superset().with("user_id", 42).with("database_id", 3);
/// assert_eq!(superset.key("refresh_oauth2_token")?.to_string(), "f20b6c99-39e6-592a-a977-a51b6da602b4");
/// # Ok::<(), tenure::Error>(())
/// ```
#[derive(Debug, Clone, Default)]
#[must_use = "parameters do nothing until a lock uses them"]
pub struct Params {
    form: Form,
    members: Vec<(String, ParamValue)>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Form {
    #[default]
    Canonical,
    Superset,
}

impl Params {
    /// No parameters yet; the order in which they are given will make no difference.
    ///
    /// ```
    /// let params = tenure::Params::new().with("year", 2024);
    /// ```
    pub fn new() -> Self {
        Self::default()
    }

    /// No parameters yet; the order in which they are given makes a difference, as it does for Superset.
    ///
    /// The key is Superset's, but the lock is not: a Superset process writes its own entry and does not look at
    /// Tenure's. Values that Superset turns into text must be given as that text: dates and times as `isoformat()`
    /// writes them, a `timedelta` like `0:01:30`, bytes as UTF-8.
    ///
    /// ```
    /// let params = tenure::Params::superset().with("key", "dedup-17");
    /// assert_eq!(params.to_json()?, r#"{"key": "dedup-17"}"#);
    /// # Ok::<(), tenure::Error>(())
    /// ```
    pub fn superset() -> Self {
        Self {
            form: Form::Superset,
            members: Vec::new(),
        }
    }

    /// One parameter more. A name that is there already keeps its place and gets the new value.
    ///
    /// ```
    /// let params = tenure::Params::new().with("b", 1).with("a", 2).with("b", vec![3, 4]);
    /// assert_eq!(params.to_json()?, r#"{"a": 2, "b": [3, 4]}"#);
    /// # Ok::<(), tenure::Error>(())
    /// ```
    pub fn with(mut self, name: impl Into<String>, value: impl Into<ParamValue>) -> Self {
        let (name, value) = (name.into(), value.into());
        match self.members.iter_mut().find(|(known, _)| *known == name) {
            Some((_, known)) => *known = value,
            None => self.members.push((name, value)),
        }
        self
    }

    /// The key that these parameters make in a namespace, which may be any text.
    ///
    /// # Errors
    /// [`Error::InvalidInput`] on `params`: NaN or an infinity in the canonical form; in Superset's form a parameter
    /// called `namespace`, which Superset cannot take either.
    ///
    /// ```
    /// let key = tenure::Params::superset().with("user_id", 1).key("token_refresh")?;
    /// assert_eq!(key.to_string(), "d1d2e585-4845-5f83-9ef5-902d7f4d5e8e");
    /// # Ok::<(), tenure::Error>(())
    /// ```
    pub fn key(&self, namespace: &str) -> Result<Uuid, Error> {
        let space = Uuid::new_v5(&Uuid::NAMESPACE_DNS, namespace.as_bytes());
        Ok(Uuid::new_v5(&space, self.to_json()?.as_bytes()))
    }

    /// The text from which the key is made, for programs that compute keys in another language.
    ///
    /// # Errors
    /// As [`Params::key`].
    ///
    /// ```
    /// let params = tenure::Params::new().with("year", 2024).with("region", "eu");
    /// assert_eq!(params.to_json()?, r#"{"region": "eu", "year": 2024}"#);
    /// # Ok::<(), tenure::Error>(())
    /// ```
    pub fn to_json(&self) -> Result<String, Error> {
        if self.form == Form::Superset && self.members.iter().any(|(name, _)| name == "namespace") {
            return Err(Error::invalid(
                "params",
                "have one called \"namespace\", which Superset takes for the namespace itself",
                "use another name, or Params::new",
            ));
        }
        let mut out = String::new();
        write_map(&mut out, &self.members, self.form)?;
        Ok(out)
    }
}

/// The canonical form.
impl<K: Into<String>, V: Into<ParamValue>, const N: usize> From<[(K, V); N]> for Params {
    fn from(members: [(K, V); N]) -> Self {
        members
            .into_iter()
            .fold(Self::new(), |params, (name, value)| params.with(name, value))
    }
}

/// Makes canonical [`Params`] of names and values of different types.
///
/// ```
/// let params = tenure::params! { "user_id" => 42, "region" => "eu" };
/// assert_eq!(params.to_json()?, r#"{"region": "eu", "user_id": 42}"#);
/// # Ok::<(), tenure::Error>(())
/// ```
#[macro_export]
macro_rules! params {
    ($($name:expr => $value:expr),* $(,)?) => {
        $crate::Params::new()$(.with($name, $value))*
    };
}

/// A parameter's value: null, a truth value, a number of any size, a text, a list, or [`Params`] of its own.
///
/// ```
/// use tenure::{ParamValue, Params};
///
/// let params = Params::new()
///     .with("region", "eu")
///     .with("shard", 7_u64)
///     .with("ratio", 0.5)
///     .with("price", ParamValue::number("1.10")?)
///     .with("owner", None::<String>)
///     .with("tags", ["a", "b"])
///     .with("range", Params::new().with("from", 1).with("to", 9));
/// assert_eq!(
///     params.to_json()?,
///     r#"{"owner": null, "price": 1.10, "range": {"from": 1, "to": 9}, "ratio": 0.5, "region": "eu", "shard": 7, "tags": ["a", "b"]}"#
/// );
/// # Ok::<(), tenure::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct ParamValue(Repr);

#[derive(Debug, Clone)]
enum Repr {
    Null,
    Bool(bool),
    /// Digits, as JSON has them.
    Number(String),
    Float(f64),
    Text(String),
    List(Vec<ParamValue>),
    Map(Vec<(String, ParamValue)>),
}

impl ParamValue {
    /// Nothing. `None` is the same.
    ///
    /// ```
    /// use tenure::{ParamValue, Params};
    ///
    /// let params = Params::new().with("until", ParamValue::NULL);
    /// assert_eq!(params.to_json()?, r#"{"until": null}"#);
    /// # Ok::<(), tenure::Error>(())
    /// ```
    pub const NULL: Self = Self(Repr::Null);

    /// A number with just these digits, for what no type of Rust has: decimals and very large whole numbers.
    ///
    /// # Errors
    /// [`Error::InvalidInput`] when it is not a number as JSON has them.
    ///
    /// ```
    /// use tenure::ParamValue;
    ///
    /// assert!(ParamValue::number("100000000000000000000000000000000000000007").is_ok());
    /// assert!(ParamValue::number("01").is_err());
    /// ```
    pub fn number(digits: &str) -> Result<Self, Error> {
        if is_number(digits) {
            return Ok(Self(Repr::Number(digits.to_owned())));
        }
        Err(Error::invalid(
            "number",
            format!("{digits:?} is not a JSON number"),
            "use digits as in -12, 1.10 or 1E+22",
        ))
    }
}

/// `-? (0 | [1-9][0-9]*) ('.' [0-9]+)? ([eE] [+-]? [0-9]+)?`
fn is_number(text: &str) -> bool {
    let all_digits = |s: &str| !s.is_empty() && s.bytes().all(|b| b.is_ascii_digit());
    let (mantissa, exponent) = text
        .split_once(['e', 'E'])
        .map_or((text, None), |(m, e)| (m, Some(e)));
    let (whole, fraction) = mantissa
        .split_once('.')
        .map_or((mantissa, None), |(w, f)| (w, Some(f)));
    let whole = whole.strip_prefix('-').unwrap_or(whole);
    all_digits(whole)
        && (whole == "0" || !whole.starts_with('0'))
        && fraction.is_none_or(all_digits)
        && exponent.is_none_or(|e| all_digits(e.strip_prefix(['+', '-']).unwrap_or(e)))
}

macro_rules! from_whole_numbers {
    ($($number:ty)*) => {
        $(impl From<$number> for ParamValue {
            fn from(number: $number) -> Self {
                Self(Repr::Number(number.to_string()))
            }
        })*
    };
}

from_whole_numbers! { i8 i16 i32 i64 i128 isize u8 u16 u32 u64 u128 usize }

impl From<bool> for ParamValue {
    fn from(value: bool) -> Self {
        Self(Repr::Bool(value))
    }
}

impl From<f64> for ParamValue {
    fn from(number: f64) -> Self {
        Self(Repr::Float(number))
    }
}

impl From<&str> for ParamValue {
    fn from(text: &str) -> Self {
        Self(Repr::Text(text.to_owned()))
    }
}

impl From<String> for ParamValue {
    fn from(text: String) -> Self {
        Self(Repr::Text(text))
    }
}

/// The text with hyphens.
impl From<Uuid> for ParamValue {
    fn from(id: Uuid) -> Self {
        Self(Repr::Text(id.to_string()))
    }
}

impl<T: Into<ParamValue>> From<Option<T>> for ParamValue {
    fn from(value: Option<T>) -> Self {
        value.map_or(Self::NULL, Into::into)
    }
}

impl<T: Into<ParamValue>> From<Vec<T>> for ParamValue {
    fn from(values: Vec<T>) -> Self {
        Self(Repr::List(values.into_iter().map(Into::into).collect()))
    }
}

impl<T: Into<ParamValue>, const N: usize> From<[T; N]> for ParamValue {
    fn from(values: [T; N]) -> Self {
        Self(Repr::List(values.into_iter().map(Into::into).collect()))
    }
}

/// An object in an object. The outer one's form is that of both.
impl From<Params> for ParamValue {
    fn from(params: Params) -> Self {
        Self(Repr::Map(params.members))
    }
}

fn write_map(out: &mut String, members: &[(String, ParamValue)], form: Form) -> Result<(), Error> {
    let mut members: Vec<_> = members.iter().collect();
    if form == Form::Canonical {
        members.sort_by(|one, other| one.0.cmp(&other.0));
    }
    out.push('{');
    for (i, (name, value)) in members.into_iter().enumerate() {
        if i > 0 {
            out.push_str(", ");
        }
        write_text(out, name);
        out.push_str(": ");
        write_value(out, name, value, form)?;
    }
    out.push('}');
    Ok(())
}

fn write_value(out: &mut String, name: &str, value: &ParamValue, form: Form) -> Result<(), Error> {
    match &value.0 {
        Repr::Null => out.push_str("null"),
        Repr::Bool(value) => out.push_str(if *value { "true" } else { "false" }),
        Repr::Number(digits) => out.push_str(digits),
        Repr::Float(number) if number.is_finite() => write_float(out, *number),
        Repr::Float(_) if form == Form::Superset => out.push_str("null"),
        Repr::Float(number) => {
            return Err(Error::invalid(
                "params",
                format!("have {number} in {name:?}, which would be the same as null"),
                "use a finite number, a text, or null",
            ));
        }
        Repr::Text(text) => write_text(out, text),
        Repr::List(values) => {
            out.push('[');
            for (i, value) in values.iter().enumerate() {
                if i > 0 {
                    out.push_str(", ");
                }
                write_value(out, name, value, form)?;
            }
            out.push(']');
        }
        Repr::Map(members) => write_map(out, members, form)?,
    }
    Ok(())
}

fn write_text(out: &mut String, text: &str) {
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\u{c}' => out.push_str("\\f"),
            '\u{8}' => out.push_str("\\b"),
            ' '..='~' => out.push(c),
            _ => {
                for unit in c.encode_utf16(&mut [0; 2]) {
                    // Writing to a string cannot fail.
                    let _ = write!(out, "\\u{unit:04x}");
                }
            }
        }
    }
    out.push('"');
}

/// The digits are Rust's, which are the fewest that read back; their form is Python's.
fn write_float(out: &mut String, number: f64) {
    let scientific = format!("{number:e}");
    let exponent = scientific
        .split_once('e')
        .and_then(|(mantissa, exponent)| Some((mantissa, exponent.parse::<i32>().ok()?)));
    // Writing to a string cannot fail.
    let _ = match exponent {
        Some((mantissa, exponent)) if !(-4..16).contains(&exponent) => {
            let sign = if exponent < 0 { '-' } else { '+' };
            write!(out, "{mantissa}e{sign}{:02}", exponent.abs())
        }
        _ if number.fract() == 0.0 => write!(out, "{number:.1}"),
        _ => write!(out, "{number}"),
    };
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;

    /// Reads what `testdata/lock_keys.py` has typed.
    fn value(typed: &Value) -> ParamValue {
        let text = || typed[1].as_str().unwrap();
        match typed[0].as_str().unwrap() {
            "null" => ParamValue::NULL,
            "bool" => typed[1].as_bool().unwrap().into(),
            "int" => match (text().parse::<i128>(), text().parse::<u128>()) {
                (Ok(number), _) => number.into(),
                (_, Ok(number)) => number.into(),
                _ => ParamValue::number(text()).unwrap(),
            },
            "decimal" => ParamValue::number(text()).unwrap(),
            "float" => f64::from_bits(u64::from_str_radix(text(), 16).unwrap()).into(),
            "text" => text().into(),
            "uuid" => text().parse::<Uuid>().unwrap().into(),
            "list" => typed[1]
                .as_array()
                .unwrap()
                .iter()
                .map(value)
                .collect::<Vec<_>>()
                .into(),
            "map" => members(Params::new(), &typed[1]).into(),
            other => panic!("{other}"),
        }
    }

    fn members(start: Params, typed: &Value) -> Params {
        let members = typed.as_array().unwrap().iter();
        members.fold(start, |params, member| {
            params.with(member[0].as_str().unwrap(), value(&member[1]))
        })
    }

    #[test]
    fn k2_to_k6_both_forms_are_what_python_makes_byte_for_byte() {
        let vectors: Vec<Value> =
            serde_json::from_str(include_str!("../../testdata/lock_keys.json")).unwrap();
        assert_eq!(vectors.len(), 30);
        for vector in &vectors {
            let namespace = vector["namespace"].as_str().unwrap();
            for (form, start) in [("superset", Params::superset()), ("canonical", Params::new())] {
                let params = members(start, &vector["params"]);
                if vector[form].is_null() {
                    assert!(params.key(namespace).is_err(), "{vector}");
                    continue;
                }
                assert_eq!(params.to_json().unwrap(), vector[form][0], "{form}");
                assert_eq!(
                    params.key(namespace).unwrap().to_string(),
                    vector[form][1].as_str().unwrap()
                );
            }
        }
    }

    #[test]
    fn k3_order_makes_a_difference_to_superset_alone() {
        let both = |start: fn() -> Params| {
            let one = start().with("a", 1).with("b", start().with("x", 1).with("y", 2));
            let other = start().with("b", start().with("y", 2).with("x", 1)).with("a", 1);
            (one.key("ns").unwrap(), other.key("ns").unwrap())
        };
        let (one, other) = both(Params::superset);
        assert_ne!(one, other);
        let (one, other) = both(Params::new);
        assert_eq!(one, other);
        assert_eq!(one, both(Params::superset).0, "sorted, both are the same");
    }

    #[test]
    fn k4_what_has_no_canonical_form_is_refused_with_the_parameters_name() {
        for bad in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
            let error = Params::new()
                .with("list", vec![Params::new().with("ratio", bad)])
                .key("ns")
                .unwrap_err()
                .to_string();
            assert!(
                error.starts_with("params ") && error.contains("\"ratio\""),
                "{error}"
            );
            assert_eq!(
                Params::superset().with("v", bad).to_json().unwrap(),
                r#"{"v": null}"#
            );
        }
    }

    #[test]
    fn k5_decimals_have_to_be_numbers() {
        for good in [
            "0",
            "-0",
            "1.10",
            "1E+22",
            "1e5",
            "0.5e-7",
            "12345678901234567890123",
        ] {
            assert!(ParamValue::number(good).is_ok(), "{good}");
        }
        for bad in [
            "", "-", "01", "1.", ".5", "+1", "1e", "1e+", "NaN", "Infinity", "1 ", "1_0", "0x1", "1,2",
        ] {
            let error = ParamValue::number(bad).unwrap_err().to_string();
            assert!(error.starts_with("number "), "{error}");
        }
    }

    #[test]
    fn k7_superset_takes_no_parameter_called_namespace() {
        let params = Params::superset().with("namespace", "x");
        assert!(params.key("ns").unwrap_err().to_string().starts_with("params "));
        let inner = Params::superset().with("v", Params::superset().with("namespace", "x"));
        assert!(inner.key("ns").is_ok());
        assert!(Params::new().with("namespace", "x").key("ns").is_ok());
    }

    #[test]
    fn a_name_given_twice_keeps_its_place_and_gets_the_new_value() {
        let params = Params::superset().with("a", 1).with("b", 2).with("a", 3);
        assert_eq!(params.to_json().unwrap(), r#"{"a": 3, "b": 2}"#);
        assert_eq!(
            Params::from([("a", 3), ("b", 2)]).key("ns").unwrap(),
            params.key("ns").unwrap()
        );
    }
}
