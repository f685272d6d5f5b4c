//! The functions that are evaluated, and what they take.

/// What an expression is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Type {
    Scalar,
    Vector,
    Range,
}

impl Type {
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Scalar => "scalar",
            Self::Vector => "instant vector",
            Self::Range => "range vector",
        }
    }
}

macro_rules! functions {
    ($($variant:ident $name:literal ($($argument:ident),*) -> $result:ident;)*) => {
        /// A function.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub(in crate::http::prometheus) enum Function { $($variant),* }

        impl Function {
            /// Names of all.
            pub(super) const NAMES: &'static [&'static str] = &[$($name),*];

            pub(super) fn of_name(name: &str) -> Option<Self> {
                match name { $($name => Some(Self::$variant),)* _ => None }
            }

            pub(in crate::http::prometheus) const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name),* }
            }

            pub(super) const fn arguments(self) -> &'static [Type] {
                match self { $(Self::$variant => &[$(Type::$argument),*]),* }
            }

            pub(super) const fn result(self) -> Type {
                match self { $(Self::$variant => Type::$result),* }
            }
        }
    };
}

functions! {
    Rate "rate" (Range) -> Vector;
    Increase "increase" (Range) -> Vector;
    AvgOverTime "avg_over_time" (Range) -> Vector;
    MinOverTime "min_over_time" (Range) -> Vector;
    MaxOverTime "max_over_time" (Range) -> Vector;
    SumOverTime "sum_over_time" (Range) -> Vector;
    CountOverTime "count_over_time" (Range) -> Vector;
    LastOverTime "last_over_time" (Range) -> Vector;
    QuantileOverTime "quantile_over_time" (Scalar, Range) -> Vector;
    HistogramQuantile "histogram_quantile" (Scalar, Vector) -> Vector;
    HistogramFraction "histogram_fraction" (Scalar, Scalar, Vector) -> Vector;
    HistogramAvg "histogram_avg" (Vector) -> Vector;
    HistogramCount "histogram_count" (Vector) -> Vector;
    HistogramSum "histogram_sum" (Vector) -> Vector;
    Abs "abs" (Vector) -> Vector;
    Ceil "ceil" (Vector) -> Vector;
    Floor "floor" (Vector) -> Vector;
    Round "round" (Vector, Scalar) -> Vector;
    Sqrt "sqrt" (Vector) -> Vector;
    Exp "exp" (Vector) -> Vector;
    Ln "ln" (Vector) -> Vector;
    Log2 "log2" (Vector) -> Vector;
    Log10 "log10" (Vector) -> Vector;
    Clamp "clamp" (Vector, Scalar, Scalar) -> Vector;
    ClampMin "clamp_min" (Vector, Scalar) -> Vector;
    ClampMax "clamp_max" (Vector, Scalar) -> Vector;
    Sort "sort" (Vector) -> Vector;
    SortDesc "sort_desc" (Vector) -> Vector;
    Scalar "scalar" (Vector) -> Scalar;
    Vector "vector" (Scalar) -> Vector;
    Time "time" () -> Scalar;
}

impl Function {
    /// Arguments at the end that may be left out.
    pub(super) const fn optional(self) -> usize {
        matches!(self, Self::Round) as usize
    }

    /// Whether the result is a percentile where the argument need not be one.
    pub(super) const fn makes_percentiles(self) -> bool {
        matches!(self, Self::HistogramQuantile | Self::QuantileOverTime)
    }

    /// Whether a percentile stays one.
    pub(super) const fn keeps_percentiles(self) -> bool {
        matches!(
            self,
            Self::Abs
                | Self::Ceil
                | Self::Floor
                | Self::Round
                | Self::Clamp
                | Self::ClampMin
                | Self::ClampMax
                | Self::Sort
                | Self::SortDesc
        )
    }
}
