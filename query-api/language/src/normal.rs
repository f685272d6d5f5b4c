//! Conditions in their normal form, in which every tier compiles them.

use crate::ast::{Comparison, Connective, Expr, Query, Spanset};

impl Query {
    /// The same query with every filter in normal form.
    #[must_use]
    pub fn normalised(&self) -> Self {
        Self { spanset: self.spanset.normalised(), stages: self.stages.clone() }
    }
}

impl Spanset {
    fn normalised(&self) -> Self {
        match self {
            Self::Filter(expression) => Self::Filter(expression.normalised()),
            Self::Binary { operator, left, right } => Self::Binary {
                operator: *operator,
                left: Box::new(left.normalised()),
                right: Box::new(right.normalised()),
            },
        }
    }
}

impl Expr {
    /// The condition with what `is_open` names taken to hold or not, and the other way round where it is negated: with
    /// `holds` it holds whenever this one may, without only where this one does whatever is open.
    #[must_use]
    pub fn assuming(&self, is_open: &dyn Fn(&Comparison) -> bool, holds: bool) -> Self {
        match self {
            Self::Compare(comparison) if is_open(comparison) => Self::Constant(holds),
            Self::Constant(_) | Self::Compare(_) => self.clone(),
            Self::Not(inner) => Self::Not(Box::new(inner.assuming(is_open, !holds))),
            Self::Binary { connective, left, right } => Self::Binary {
                connective: *connective,
                left: Box::new(left.assuming(is_open, holds)),
                right: Box::new(right.assuming(is_open, holds)),
            },
        }
    }

    /// The same condition, in which only comparisons are negated, and a constant stands alone or not at all.
    ///
    /// A negated comparison is not one with the opposite operator: that of a missing field is false either way.
    #[must_use]
    pub fn normalised(&self) -> Self {
        self.pushed(false)
    }

    fn pushed(&self, is_negated: bool) -> Self {
        match self {
            Self::Constant(value) => Self::Constant(value ^ is_negated),
            Self::Compare(_) if is_negated => Self::Not(Box::new(self.clone())),
            Self::Compare(_) => self.clone(),
            Self::Not(inner) => inner.pushed(!is_negated),
            Self::Binary { connective, left, right } => {
                let connective = match (connective, is_negated) {
                    (Connective::And, false) | (Connective::Or, true) => Connective::And,
                    (Connective::Or, false) | (Connective::And, true) => Connective::Or,
                };
                // What `false` is for `&&`, `true` is for `||`: it decides; the other constant says nothing.
                let decides = connective == Connective::Or;
                match (left.pushed(is_negated), right.pushed(is_negated)) {
                    (Self::Constant(value), other) | (other, Self::Constant(value)) => {
                        if value == decides {
                            Self::Constant(value)
                        } else {
                            other
                        }
                    }
                    (left, right) => {
                        Self::Binary { connective, left: Box::new(left), right: Box::new(right) }
                    }
                }
            }
        }
    }
}
