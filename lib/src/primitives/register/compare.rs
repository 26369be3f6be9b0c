//! The condition under which a register changes.

use crate::{primitives::register::RegisterValue, protocol::calls::Condition};

/// The condition under which a [`Register`](crate::Register) changes: how an argument compares with the stored value.
///
/// Read from left to right: `gt(7)` holds where 7 is greater than the stored value. If no value is stored, no
/// comparison holds, except with [`Compare::or_missing`].
///
/// ```
/// use tenure::Compare;
///
/// let compare = Compare::gt(7).or_missing(); // nothing is stored, or less than 7
/// ```
#[derive(Debug, Clone, PartialEq)]
#[must_use = "a comparison does nothing until a register uses it"]
pub struct Compare {
    pub(super) condition: Condition,
    pub(super) argument: Option<RegisterValue>,
    pub(super) or_missing: bool,
}

impl Compare {
    fn with_argument(condition: Condition, argument: impl Into<RegisterValue>) -> Self {
        Self {
            condition,
            argument: Some(argument.into()),
            or_missing: false,
        }
    }

    pub(super) fn always() -> Self {
        Self {
            condition: Condition::Always,
            argument: None,
            or_missing: false,
        }
    }

    /// The argument is greater than what is stored.
    ///
    /// ```
    /// let less_is_stored = tenure::Compare::gt(7);
    /// ```
    pub fn gt(argument: impl Into<RegisterValue>) -> Self {
        Self::with_argument(Condition::Gt, argument)
    }

    /// The argument is less than what is stored.
    ///
    /// ```
    /// let more_is_stored = tenure::Compare::lt(7);
    /// ```
    pub fn lt(argument: impl Into<RegisterValue>) -> Self {
        Self::with_argument(Condition::Lt, argument)
    }

    /// The argument is greater than what is stored, or equal to it. Not for texts.
    ///
    /// ```
    /// let at_most_7_is_stored = tenure::Compare::ge(7);
    /// ```
    pub fn ge(argument: impl Into<RegisterValue>) -> Self {
        Self::with_argument(Condition::Ge, argument)
    }

    /// The argument is less than what is stored, or equal to it. Not for texts.
    ///
    /// ```
    /// let at_least_7_is_stored = tenure::Compare::le(7);
    /// ```
    pub fn le(argument: impl Into<RegisterValue>) -> Self {
        Self::with_argument(Condition::Le, argument)
    }

    /// The argument is equal to what is stored.
    ///
    /// ```
    /// let ready_is_stored = tenure::Compare::eq("ready");
    /// ```
    pub fn eq(argument: impl Into<RegisterValue>) -> Self {
        Self::with_argument(Condition::Eq, argument)
    }

    /// The argument is not equal to what is stored: another number, another text, or a text to a number.
    ///
    /// ```
    /// let another_is_stored = tenure::Compare::ne("done");
    /// ```
    pub fn ne(argument: impl Into<RegisterValue>) -> Self {
        Self::with_argument(Condition::Ne, argument)
    }

    /// Nothing is stored.
    ///
    /// ```
    /// let nothing_is_stored = tenure::Compare::missing();
    /// ```
    pub fn missing() -> Self {
        Self {
            condition: Condition::Missing,
            argument: None,
            or_missing: false,
        }
    }

    /// The same, and it also holds where nothing is stored.
    ///
    /// ```
    /// let ready_or_nothing = tenure::Compare::eq("ready").or_missing();
    /// ```
    pub fn or_missing(mut self) -> Self {
        self.or_missing = true;
        self
    }
}
