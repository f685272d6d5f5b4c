//! Zero-copy reading and appending of the protobuf wire format.
//!
//! The gateway and the reader walk messages with [`Fields`] and never build message objects.
//! Invariant: no input makes these functions panic, recurse or allocate.

/// What is wrong with a message's bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    /// The bytes end inside a field.
    #[error("truncated message")]
    Truncated,
    /// A varint is longer than ten bytes or overflows 64 bits.
    #[error("varint overflows 64 bits")]
    VarintOverflow,
    /// Field number 0, or above 2^29 - 1.
    #[error("bad field number")]
    BadFieldNumber,
    /// A group or reserved wire type.
    #[error("unsupported wire type {0}")]
    BadWireType(u8),
    /// A known field has another wire type than its schema says.
    #[error("field {0} has the wrong wire type")]
    WrongType(u32),
}

/// One field's value, borrowed from the message.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Value<'a> {
    /// Wire type 0.
    Varint(u64),
    /// Wire type 1.
    Fixed64(u64),
    /// Wire type 2.
    Bytes(&'a [u8]),
    /// Wire type 5.
    Fixed32(u32),
}

/// One field of a message.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Field<'a> {
    /// Field number.
    pub number: u32,
    /// Value.
    pub value: Value<'a>,
    /// The field as it stands in the message, tag included.
    pub raw: &'a [u8],
}

impl<'a> Field<'a> {
    /// The value as bytes.
    ///
    /// # Errors
    /// [`WireError::WrongType`] when the field is not length-delimited.
    #[inline]
    pub fn bytes(&self) -> Result<&'a [u8], WireError> {
        match self.value {
            Value::Bytes(bytes) => Ok(bytes),
            _ => Err(WireError::WrongType(self.number)),
        }
    }

    /// The value as a varint.
    ///
    /// # Errors
    /// [`WireError::WrongType`] when it is not one.
    #[inline]
    pub fn varint(&self) -> Result<u64, WireError> {
        match self.value {
            Value::Varint(value) => Ok(value),
            _ => Err(WireError::WrongType(self.number)),
        }
    }

    /// The value as a little-endian 64-bit word.
    ///
    /// # Errors
    /// [`WireError::WrongType`] when it is not one.
    #[inline]
    pub fn fixed64(&self) -> Result<u64, WireError> {
        match self.value {
            Value::Fixed64(value) => Ok(value),
            _ => Err(WireError::WrongType(self.number)),
        }
    }

    /// The value as a little-endian 32-bit word.
    ///
    /// # Errors
    /// [`WireError::WrongType`] when it is not one.
    #[inline]
    pub fn fixed32(&self) -> Result<u32, WireError> {
        match self.value {
            Value::Fixed32(value) => Ok(value),
            _ => Err(WireError::WrongType(self.number)),
        }
    }
}

/// Iterates over the fields of one message, without descending.
#[derive(Clone, Debug)]
pub struct Fields<'a> {
    rest: &'a [u8],
}

impl<'a> Fields<'a> {
    /// Walks `message`.
    #[must_use]
    #[inline]
    pub const fn new(message: &'a [u8]) -> Self {
        Self { rest: message }
    }

    /// What has not been walked yet.
    #[must_use]
    #[inline]
    pub const fn rest(&self) -> &'a [u8] {
        self.rest
    }
}

impl<'a> Iterator for Fields<'a> {
    type Item = Result<Field<'a>, WireError>;

    // A `Field` that travels through memory costs more than reading it: always inlined, it stays in registers.
    #[inline(always)]
    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let field = read_field(&mut self.rest);
        if field.is_err() {
            self.rest = &[];
        }
        Some(field)
    }
}

#[inline(always)]
fn read_field<'a>(rest: &mut &'a [u8]) -> Result<Field<'a>, WireError> {
    let start = *rest;
    let key = read_varint(rest)?;
    let number = key >> 3;
    if number == 0 || number > 0x1fff_ffff {
        return Err(WireError::BadFieldNumber);
    }
    let value = match (key & 7) as u8 {
        0 => Value::Varint(read_varint(rest)?),
        1 => Value::Fixed64(u64::from_le_bytes(*read_array::<8>(rest)?)),
        2 => {
            let length = read_varint(rest)?;
            let length = usize::try_from(length).map_err(|_| WireError::Truncated)?;
            if length > rest.len() {
                return Err(WireError::Truncated);
            }
            let (bytes, tail) = rest.split_at(length);
            *rest = tail;
            Value::Bytes(bytes)
        }
        5 => Value::Fixed32(u32::from_le_bytes(*read_array::<4>(rest)?)),
        other => return Err(WireError::BadWireType(other)),
    };
    let raw = &start[..start.len() - rest.len()];
    Ok(Field { number: number as u32, value, raw })
}

/// Reads one base-128 varint off the front of `rest`.
///
/// # Errors
/// [`WireError::Truncated`] or [`WireError::VarintOverflow`].
#[inline]
pub fn read_varint(rest: &mut &[u8]) -> Result<u64, WireError> {
    let bytes: &[u8] = rest;
    match bytes {
        [first @ 0..=0x7f, tail @ ..] => {
            *rest = tail;
            Ok(u64::from(*first))
        }
        [first, second @ 0..=0x7f, tail @ ..] => {
            *rest = tail;
            Ok(u64::from(first & 0x7f) | u64::from(*second) << 7)
        }
        _ => read_long_varint(rest),
    }
}

fn read_long_varint(rest: &mut &[u8]) -> Result<u64, WireError> {
    let mut value = 0u64;
    for (index, &byte) in rest.iter().enumerate().take(10) {
        if index == 9 && byte > 1 {
            return Err(WireError::VarintOverflow);
        }
        value |= u64::from(byte & 0x7f) << (7 * index);
        if byte < 0x80 {
            *rest = &rest[index + 1..];
            return Ok(value);
        }
    }
    Err(if rest.len() >= 10 { WireError::VarintOverflow } else { WireError::Truncated })
}

/// Reads a length and the bytes it announces off the front of `rest`.
///
/// # Errors
/// [`WireError::Truncated`] or [`WireError::VarintOverflow`].
#[inline(always)]
pub fn read_bytes<'a>(rest: &mut &'a [u8]) -> Result<&'a [u8], WireError> {
    let length = read_varint(rest)?;
    if length > rest.len() as u64 {
        return Err(WireError::Truncated);
    }
    let (bytes, tail) = rest.split_at(length as usize);
    *rest = tail;
    Ok(bytes)
}

#[inline(always)]
fn read_array<'a, const N: usize>(rest: &mut &'a [u8]) -> Result<&'a [u8; N], WireError> {
    let (head, tail) = rest.split_first_chunk::<N>().ok_or(WireError::Truncated)?;
    *rest = tail;
    Ok(head)
}

/// Appends a varint.
#[inline]
pub fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// Bytes that [`put_varint`] writes for `value`.
#[must_use]
#[inline]
pub const fn varint_len(value: u64) -> usize {
    let bits = 64 - (value | 1).leading_zeros() as usize;
    bits.div_ceil(7)
}

/// Appends a varint field; proto3 writers leave zero out, callers decide.
#[inline]
pub fn put_varint_field(out: &mut Vec<u8>, number: u32, value: u64) {
    put_varint(out, u64::from(number) << 3);
    put_varint(out, value);
}

/// Appends a length-delimited field.
#[inline]
pub fn put_bytes_field(out: &mut Vec<u8>, number: u32, bytes: &[u8]) {
    put_varint(out, u64::from(number) << 3 | 2);
    put_varint(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

/// Appends a fixed64 field.
#[inline]
pub fn put_fixed64_field(out: &mut Vec<u8>, number: u32, value: u64) {
    put_varint(out, u64::from(number) << 3 | 1);
    out.extend_from_slice(&value.to_le_bytes());
}

/// Appends a fixed32 field.
#[inline]
pub fn put_fixed32_field(out: &mut Vec<u8>, number: u32, value: u32) {
    put_varint(out, u64::from(number) << 3 | 5);
    out.extend_from_slice(&value.to_le_bytes());
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Scenario: any bytes. Guarantee: walking them ends without a panic and never yields more bytes than there are.
        #[test]
        fn any_bytes_are_walked_safely(bytes in proptest::collection::vec(any::<u8>(), 0..256)) {
            let total: usize = Fields::new(&bytes).map_while(Result::ok).map(|field| field.raw.len()).sum();
            prop_assert!(total <= bytes.len());
        }

        /// Scenario: fields written here. Guarantee: they are read back unchanged, with their raw bytes.
        #[test]
        fn fields_round_trip(number in 1u32..0x1fff_ffff, value: u64, word: u32, bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let mut out = Vec::new();
            put_varint_field(&mut out, number, value);
            put_bytes_field(&mut out, number, &bytes);
            put_fixed64_field(&mut out, number, value);
            put_fixed32_field(&mut out, number, word);
            let fields: Vec<_> = Fields::new(&out).collect::<Result<_, _>>().expect("own encoding");
            let values: Vec<_> = fields.iter().map(|field| field.value).collect();
            prop_assert_eq!(values, vec![Value::Varint(value), Value::Bytes(&bytes), Value::Fixed64(value), Value::Fixed32(word)]);
            prop_assert!(fields.iter().all(|field| field.number == number));
            let raw: Vec<u8> = fields.iter().flat_map(|field| field.raw.iter().copied()).collect();
            prop_assert_eq!(raw, out);
            let mut varint = Vec::new();
            put_varint(&mut varint, value);
            prop_assert_eq!(varint.len(), varint_len(value));
        }
    }
}
