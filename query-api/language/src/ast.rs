//! A query as a tree. Comparisons and aggregates are made by checked constructors only, so a tree is well-typed.

use crate::{
    check::{self, TypeError},
    field::Field,
    pattern::Pattern,
};

/// A query: which spans of a trace, and what must hold for them together.
#[derive(Clone, Debug, PartialEq)]
pub struct Query {
    /// Which spans.
    pub spanset: Spanset,
    /// What is done with them, in order.
    pub stages: Vec<Stage>,
}

/// Spans of one trace.
#[derive(Clone, Debug, PartialEq)]
pub enum Spanset {
    /// Those that satisfy an expression: `{ … }`.
    Filter(Expr),
    /// Two sets together.
    Binary {
        /// How.
        operator: SpansetOperator,
        /// Left of the operator.
        left: Box<Spanset>,
        /// Right of it.
        right: Box<Spanset>,
    },
}

/// How two sets of spans of one trace are taken together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SpansetOperator {
    /// `&&`: the spans of both, if neither is empty.
    And,
    /// `||`: the spans of both.
    Or,
    /// `>`: spans of the right whose parent is in the left.
    Child,
    /// `>>`: spans of the right with an ancestor in the left.
    Descendant,
    /// `<`: spans of the right that are the parent of one in the left.
    Parent,
    /// `<<`: spans of the right that are an ancestor of one in the left.
    Ancestor,
    /// `~`: spans of the right that share their parent with another in the left.
    Sibling,
}

/// A condition on one span.
#[derive(Clone, Debug, PartialEq)]
pub enum Expr {
    /// Always, or never.
    Constant(bool),
    /// A field compared with a value.
    Compare(Comparison),
    /// Whatever does not satisfy the other.
    Not(Box<Expr>),
    /// Two conditions together.
    Binary {
        /// How.
        connective: Connective,
        /// Left of it.
        left: Box<Expr>,
        /// Right of it.
        right: Box<Expr>,
    },
}

/// How two conditions are taken together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Connective {
    /// `&&`
    And,
    /// `||`
    Or,
}

/// How a field is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operator {
    /// `=`
    Equal,
    /// `!=`
    NotEqual,
    /// `<`
    Less,
    /// `<=`
    LessOrEqual,
    /// `>`
    Greater,
    /// `>=`
    GreaterOrEqual,
    /// `=~`: the whole text matches a regular expression.
    Matches,
    /// `!~`: it does not.
    NotMatches,
}

impl Operator {
    /// All of them.
    pub const ALL: [Self; 8] = [
        Self::Equal,
        Self::NotEqual,
        Self::Less,
        Self::LessOrEqual,
        Self::Greater,
        Self::GreaterOrEqual,
        Self::Matches,
        Self::NotMatches,
    ];

    /// As it is written.
    #[must_use]
    pub const fn symbol(self) -> &'static str {
        match self {
            Self::Equal => "=",
            Self::NotEqual => "!=",
            Self::Less => "<",
            Self::LessOrEqual => "<=",
            Self::Greater => ">",
            Self::GreaterOrEqual => ">=",
            Self::Matches => "=~",
            Self::NotMatches => "!~",
        }
    }

    /// The operator with its sides exchanged; `None` for regular expressions.
    #[must_use]
    pub const fn flipped(self) -> Option<Self> {
        Some(match self {
            Self::Equal | Self::NotEqual => self,
            Self::Less => Self::Greater,
            Self::LessOrEqual => Self::GreaterOrEqual,
            Self::Greater => Self::Less,
            Self::GreaterOrEqual => Self::LessOrEqual,
            Self::Matches | Self::NotMatches => return None,
        })
    }

    /// Whether it asks for more or less.
    #[must_use]
    pub const fn is_order(self) -> bool {
        matches!(self, Self::Less | Self::LessOrEqual | Self::Greater | Self::GreaterOrEqual)
    }
}

/// How a span ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Status {
    /// Nothing was said.
    Unset = 0,
    /// Declared a success.
    Ok = 1,
    /// Failed.
    Error = 2,
}

/// OTLP's kinds of spans, with their numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
#[allow(missing_docs)]
pub enum Kind {
    Unspecified = 0,
    Internal = 1,
    Server = 2,
    Client = 3,
    Producer = 4,
    Consumer = 5,
}

macro_rules! words {
    ($type:ident: $($variant:ident = $word:literal),*) => {
        impl $type {
            /// All of them.
            pub const ALL: &[Self] = &[$(Self::$variant),*];

            /// As it is written.
            #[must_use]
            pub const fn word(self) -> &'static str {
                match self { $(Self::$variant => $word),* }
            }

            /// The one with this OTLP number.
            #[must_use]
            pub fn from_number(number: u8) -> Option<Self> {
                Self::ALL.iter().copied().find(|known| *known as u8 == number)
            }

            /// The one written so.
            #[must_use]
            pub fn from_word(word: &str) -> Option<Self> {
                Self::ALL.iter().copied().find(|known| known.word() == word)
            }
        }
    };
}

words!(Status: Unset = "unset", Ok = "ok", Error = "error");
words!(Kind: Unspecified = "unspecified", Internal = "internal", Server = "server", Client = "client",
    Producer = "producer", Consumer = "consumer");

/// What a field is compared with.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// Text; an id as hexadecimal digits; a regular expression's pattern.
    Text(String),
    /// Whole number.
    Integer(i64),
    /// Number, finite.
    Float(f64),
    /// Nanoseconds.
    Duration(i64),
    /// Truth value.
    Bool(bool),
    /// How a span ended.
    Status(Status),
    /// Kind of span.
    Kind(Kind),
    /// No value at all.
    Nil,
}

/// A field compared with a value, of types that can be compared.
#[derive(Clone, Debug, PartialEq)]
pub struct Comparison {
    field: Field,
    operator: Operator,
    value: Value,
    pattern: Option<Pattern>,
}

impl Comparison {
    /// Compares `field` with `value`. Ids are taken with fewer digits, and completed with leading zeros.
    ///
    /// # Errors
    /// [`TypeError`], when they cannot be compared so.
    pub fn new(field: Field, operator: Operator, value: Value) -> Result<Self, TypeError> {
        let (value, pattern) = check::comparison(&field, operator, value)?;
        Ok(Self { field, operator, value, pattern })
    }

    /// What is compared.
    #[must_use]
    pub const fn field(&self) -> &Field {
        &self.field
    }

    /// How.
    #[must_use]
    pub const fn operator(&self) -> Operator {
        self.operator
    }

    /// With what.
    #[must_use]
    pub const fn value(&self) -> &Value {
        &self.value
    }

    /// The compiled pattern of `=~` and `!~`.
    #[must_use]
    pub const fn pattern(&self) -> Option<&Pattern> {
        self.pattern.as_ref()
    }
}

/// What is done with the spans of a trace that were found.
#[derive(Clone, Debug, PartialEq)]
pub enum Stage {
    /// `count() > 2`: goes on with those groups only for which it holds.
    Aggregate(Aggregate),
    /// `by(field)`: a group for each value of the field; spans without one are a group too.
    By(Field),
    /// `select(field, …)`: fields to show.
    Select(Vec<Field>),
}

/// A function of a group's spans.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Function {
    Count,
    Avg,
    Min,
    Max,
    Sum,
}

words!(Function: Count = "count", Avg = "avg", Min = "min", Max = "max", Sum = "sum");

/// A function of a group's spans compared with a number or duration.
#[derive(Clone, Debug, PartialEq)]
pub struct Aggregate {
    function: Function,
    field: Option<Field>,
    operator: Operator,
    value: Value,
}

impl Aggregate {
    /// `function(field) operator value`; `count` has no field, every other function has one.
    ///
    /// # Errors
    /// [`TypeError`].
    pub fn new(
        function: Function,
        field: Option<Field>,
        operator: Operator,
        value: Value,
    ) -> Result<Self, TypeError> {
        check::aggregate(function, field.as_ref(), operator, &value)?;
        Ok(Self { function, field, operator, value })
    }

    /// Which function.
    #[must_use]
    pub const fn function(&self) -> Function {
        self.function
    }

    /// Of what; `None` for `count`.
    #[must_use]
    pub const fn field(&self) -> Option<&Field> {
        self.field.as_ref()
    }

    /// How it is compared.
    #[must_use]
    pub const fn operator(&self) -> Operator {
        self.operator
    }

    /// With what.
    #[must_use]
    pub const fn value(&self) -> &Value {
        &self.value
    }
}

/// A query whose spans are counted over time: `{ … } | rate() by(field, …)`.
#[derive(Clone, Debug, PartialEq)]
pub struct MetricsQuery {
    /// Which spans.
    pub query: Query,
    /// What is counted of them, in each interval of time.
    pub measure: Measure,
    /// A series for each combination of these fields' values.
    pub by: Vec<Field>,
}

/// What is told of the spans that start in an interval of time.
#[derive(Clone, Debug, PartialEq)]
pub enum Measure {
    /// `rate()`: spans a second.
    Rate,
    /// `count_over_time()`: spans.
    Count,
    /// A function of a field's numbers: `min_over_time(field)` and so on; [`Function::Count`] is [`Self::Count`]
    /// instead.
    Of(Function, Field),
    /// `quantile_over_time(field, 0.9, …)`, each from 0 to 1.
    Quantile(Field, Vec<f64>),
    /// `histogram_over_time(field)`: spans by powers of two of the field's number.
    Histogram(Field),
}

impl Measure {
    /// The function, as it is written.
    #[must_use]
    pub const fn word(&self) -> &'static str {
        match self {
            Self::Rate => "rate",
            Self::Count | Self::Of(Function::Count, _) => "count_over_time",
            Self::Of(Function::Avg, _) => "avg_over_time",
            Self::Of(Function::Min, _) => "min_over_time",
            Self::Of(Function::Max, _) => "max_over_time",
            Self::Of(Function::Sum, _) => "sum_over_time",
            Self::Quantile(..) => "quantile_over_time",
            Self::Histogram(_) => "histogram_over_time",
        }
    }

    /// The field whose numbers it is of.
    #[must_use]
    pub const fn field(&self) -> Option<&Field> {
        match self {
            Self::Rate | Self::Count => None,
            Self::Of(_, field) | Self::Quantile(field, _) | Self::Histogram(field) => Some(field),
        }
    }
}
