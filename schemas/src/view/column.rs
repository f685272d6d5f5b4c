//! Typed columns of a span batch: downcast once, read by row.

use std::fmt;

use arrow::{
    array::{
        Array, ArrowPrimitiveType, BooleanArray, DictionaryArray, FixedSizeBinaryArray, Int32Array,
        PrimitiveArray, StringArray,
    },
    datatypes::Int32Type,
};

/// A column that can be read by row.
pub trait Column<'a>: Sized {
    /// What a row holds.
    type Item;
    /// Downcasts; `None` when the array has another type.
    fn open(array: &'a dyn Array) -> Option<Self>;
    /// The value in `row`.
    fn get(&self, row: usize) -> Self::Item;
}

fn downcast<T: 'static>(array: &dyn Array) -> Option<&T> {
    array.as_any().downcast_ref::<T>()
}

/// Ids of `N` bytes, never null.
#[derive(Clone, Copy)]
pub struct Id<'a, const N: usize>(&'a FixedSizeBinaryArray);

impl<'a, const N: usize> Column<'a> for Id<'a, N> {
    type Item = &'a [u8; N];

    fn open(array: &'a dyn Array) -> Option<Self> {
        let array = downcast::<FixedSizeBinaryArray>(array)?;
        (array.value_length() == N as i32).then_some(Self(array))
    }

    #[inline]
    fn get(&self, row: usize) -> Self::Item {
        self.0.value(row).first_chunk::<N>().expect("the column's width was checked")
    }
}

/// Ids of `N` bytes that may be absent.
#[derive(Clone, Copy)]
pub struct OptionalId<'a, const N: usize>(Id<'a, N>);

impl<'a, const N: usize> Column<'a> for OptionalId<'a, N> {
    type Item = Option<&'a [u8; N]>;

    fn open(array: &'a dyn Array) -> Option<Self> {
        Id::open(array).map(Self)
    }

    #[inline]
    fn get(&self, row: usize) -> Self::Item {
        self.0.0.is_valid(row).then(|| self.0.get(row))
    }
}

/// Dictionary-coded text that may be absent.
#[derive(Clone, Copy)]
pub struct OptionalTerm<'a> {
    keys: &'a Int32Array,
    values: &'a StringArray,
}

impl<'a> OptionalTerm<'a> {
    /// The dictionary key of `row`, for callers that group by it.
    #[inline]
    #[must_use]
    pub fn key(&self, row: usize) -> Option<usize> {
        self.keys.is_valid(row).then(|| self.keys.value(row) as usize)
    }

    /// The dictionary.
    #[inline]
    #[must_use]
    pub const fn values(&self) -> &'a StringArray {
        self.values
    }
}

impl<'a> Column<'a> for OptionalTerm<'a> {
    type Item = Option<&'a str>;

    fn open(array: &'a dyn Array) -> Option<Self> {
        let array = downcast::<DictionaryArray<Int32Type>>(array)?;
        let values = array.values().as_any().downcast_ref::<StringArray>()?;
        Some(Self { keys: array.keys(), values })
    }

    #[inline]
    fn get(&self, row: usize) -> Self::Item {
        self.key(row).map(|key| self.values.value(key))
    }
}

/// Dictionary-coded text, never null.
#[derive(Clone, Copy)]
pub struct Term<'a>(OptionalTerm<'a>);

impl<'a> Term<'a> {
    /// The dictionary key of `row`, for callers that group by it.
    #[inline]
    #[must_use]
    pub fn key(&self, row: usize) -> usize {
        self.0.key(row).unwrap_or(0)
    }

    /// The dictionary.
    #[inline]
    #[must_use]
    pub const fn values(&self) -> &'a StringArray {
        self.0.values()
    }
}

impl<'a> Column<'a> for Term<'a> {
    type Item = &'a str;

    fn open(array: &'a dyn Array) -> Option<Self> {
        OptionalTerm::open(array).map(Self)
    }

    #[inline]
    fn get(&self, row: usize) -> Self::Item {
        self.0.get(row).unwrap_or_default()
    }
}

/// Text that may be absent.
#[derive(Clone, Copy)]
pub struct OptionalText<'a>(&'a StringArray);

impl<'a> Column<'a> for OptionalText<'a> {
    type Item = Option<&'a str>;

    fn open(array: &'a dyn Array) -> Option<Self> {
        downcast(array).map(Self)
    }

    #[inline]
    fn get(&self, row: usize) -> Self::Item {
        self.0.is_valid(row).then(|| self.0.value(row))
    }
}

/// Numbers, never null.
pub struct Number<'a, T: ArrowPrimitiveType>(&'a PrimitiveArray<T>);

impl<T: ArrowPrimitiveType> Clone for Number<'_, T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T: ArrowPrimitiveType> Copy for Number<'_, T> {}

impl<'a, T: ArrowPrimitiveType> Column<'a> for Number<'a, T> {
    type Item = T::Native;

    fn open(array: &'a dyn Array) -> Option<Self> {
        downcast(array).map(Self)
    }

    #[inline]
    fn get(&self, row: usize) -> Self::Item {
        self.0.value(row)
    }
}

/// Numbers that may be absent.
pub struct OptionalNumber<'a, T: ArrowPrimitiveType>(&'a PrimitiveArray<T>);

impl<T: ArrowPrimitiveType> Clone for OptionalNumber<'_, T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T: ArrowPrimitiveType> Copy for OptionalNumber<'_, T> {}

impl<'a, T: ArrowPrimitiveType> Column<'a> for OptionalNumber<'a, T> {
    type Item = Option<T::Native>;

    fn open(array: &'a dyn Array) -> Option<Self> {
        downcast(array).map(Self)
    }

    #[inline]
    fn get(&self, row: usize) -> Self::Item {
        self.0.is_valid(row).then(|| self.0.value(row))
    }
}

/// Truth values that may be absent.
#[derive(Clone, Copy)]
pub struct OptionalFlag<'a>(&'a BooleanArray);

impl<'a> Column<'a> for OptionalFlag<'a> {
    type Item = Option<bool>;

    fn open(array: &'a dyn Array) -> Option<Self> {
        downcast(array).map(Self)
    }

    #[inline]
    fn get(&self, row: usize) -> Self::Item {
        self.0.is_valid(row).then(|| self.0.value(row))
    }
}

/// A batch whose column is not what the schema says.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct ViewError {
    /// Name of the column.
    pub column: &'static str,
}

impl fmt::Display for ViewError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "column {} is missing or has another type than the span schema", self.column)
    }
}
