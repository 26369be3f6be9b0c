//! The value of a register.

use std::fmt;

use crate::Error;

const LONGEST_TEXT: usize = 4096;

/// The value of a [`Register`](crate::Register).
///
/// Numbers compare by their value, exactly, an `Int` with a `Float` too. A text equals the same text; there is no order
/// between texts, nor between texts and numbers.
///
/// ```
/// use tenure::RegisterValue;
///
/// assert_eq!(RegisterValue::from(7), RegisterValue::Int(7));
/// assert_eq!(RegisterValue::from("seven").to_string(), "seven");
/// ```
#[derive(Debug, Clone, PartialEq)]
pub enum RegisterValue {
    /// A whole number.
    Int(i64),
    /// A floating point number. Infinities are numbers, NaN is refused.
    Float(f64),
    /// A text of at most 4096 bytes.
    Text(String),
}

impl RegisterValue {
    pub(super) fn encode(&self, field: &'static str) -> Result<String, Error> {
        match self {
            Self::Float(number) if number.is_nan() => Err(Error::invalid(
                field,
                "is NaN, which compares with nothing",
                "use a number",
            )),
            Self::Text(text) if text.len() > LONGEST_TEXT => Err(Error::invalid(
                field,
                format!("has {} bytes", text.len()),
                format!("use at most {LONGEST_TEXT}"),
            )),
            Self::Int(number) => Ok(format!("int {number}")),
            // The fewest digits that read back as the same number.
            Self::Float(number) => Ok(format!("float {number:?}")),
            Self::Text(text) => Ok(format!("text {text}")),
        }
    }

    pub(super) fn decode(stored: &str) -> Option<Self> {
        match stored.split_once(' ')? {
            ("int", digits) => digits.parse().ok().map(Self::Int),
            ("float", digits) => digits.parse().ok().map(Self::Float),
            ("text", text) => Some(Self::Text(text.to_owned())),
            _ => None,
        }
    }
}

impl fmt::Display for RegisterValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Int(number) => write!(f, "{number}"),
            Self::Float(number) => write!(f, "{number:?}"),
            Self::Text(text) => f.write_str(text),
        }
    }
}

macro_rules! from {
    ($($given:ty => $variant:ident),*) => {
        $(impl From<$given> for RegisterValue {
            fn from(value: $given) -> Self {
                Self::$variant(value.into())
            }
        })*
    };
}

from! { i8 => Int, i16 => Int, i32 => Int, i64 => Int, u8 => Int, u16 => Int, u32 => Int, f64 => Float, &str => Text, String => Text }
