//! Encoding for a peer of an older version: a serializer that wraps another one and checks each
//! enum variant before it is written.

use super::CodecError;
use crate::code::{Denial, Refusal};
use crate::version::{Version, variants};
use serde::ser::{self, Error, Serialize, Serializer};
use std::cell::RefCell;

/// Writes a message if the peer's version knows everything in it.
pub(super) fn write<T, S>(message: &T, to: S, peer: Version) -> Result<(), CodecError>
where
    T: Serialize,
    S: Serializer<Error = bincode::Error>,
{
    let unknown = RefCell::new(None);
    let written = message.serialize(Older { to, peer: Peer { version: peer, unknown: &unknown } });
    match (written, unknown.into_inner()) {
        (Ok(_), _) => Ok(()),
        (Err(_), Some(what)) => Err(CodecError::Newer { what, peer }),
        (Err(error), None) => Err(CodecError::Encode(error)),
    }
}

/// The peer's version, and the first thing found that it does not know.
#[derive(Clone, Copy)]
struct Peer<'a> {
    version: Version,
    unknown: &'a RefCell<Option<String>>,
}

impl Peer<'_> {
    /// The number under which the peer knows a variant without content.
    fn number<E: Error>(self, name: &'static str, index: u32, variant: &'static str) -> Result<u32, E> {
        let index = match name {
            Refusal::NAME => Refusal::number_for(index, self.version),
            Denial::NAME => Denial::number_for(index, self.version),
            _ => index,
        };
        self.knows(name, index, variant).map(|()| index)
    }

    fn knows<E: Error>(self, name: &'static str, index: u32, variant: &'static str) -> Result<(), E> {
        if variants::known(name, self.version).is_some_and(|count| index < count) {
            return Ok(());
        }
        *self.unknown.borrow_mut() = Some(format!("{name}::{variant}"));
        Err(E::custom("not known to the peer"))
    }
}

/// A serializer, or a part of one, together with the peer it writes for.
struct Older<'a, S> {
    to: S,
    peer: Peer<'a>,
}

/// A value to be passed to the inner serializer.
struct Value<'a, T: ?Sized> {
    value: &'a T,
    peer: Peer<'a>,
}

impl<T: Serialize + ?Sized> Serialize for Value<'_, T> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        self.value.serialize(Older { to, peer: self.peer })
    }
}

impl<'a, S> Older<'a, S> {
    fn value<'v, T: ?Sized>(&self, value: &'v T) -> Value<'v, T>
    where
        'a: 'v,
    {
        Value { value, peer: self.peer }
    }
}

/// Methods that pass one plain value on.
macro_rules! plain {
    ($($method:ident($type:ty);)*) => {
        $(fn $method(self, value: $type) -> Result<S::Ok, S::Error> { self.to.$method(value) })*
    };
}

impl<'a, S: Serializer> Serializer for Older<'a, S> {
    type Ok = S::Ok;
    type Error = S::Error;
    type SerializeSeq = Older<'a, S::SerializeSeq>;
    type SerializeTuple = Older<'a, S::SerializeTuple>;
    type SerializeTupleStruct = Older<'a, S::SerializeTupleStruct>;
    type SerializeTupleVariant = Older<'a, S::SerializeTupleVariant>;
    type SerializeMap = Older<'a, S::SerializeMap>;
    type SerializeStruct = Older<'a, S::SerializeStruct>;
    type SerializeStructVariant = Older<'a, S::SerializeStructVariant>;

    plain! {
        serialize_bool(bool);
        serialize_i8(i8);
        serialize_i16(i16);
        serialize_i32(i32);
        serialize_i64(i64);
        serialize_i128(i128);
        serialize_u8(u8);
        serialize_u16(u16);
        serialize_u32(u32);
        serialize_u64(u64);
        serialize_u128(u128);
        serialize_f32(f32);
        serialize_f64(f64);
        serialize_char(char);
        serialize_str(&str);
        serialize_bytes(&[u8]);
        serialize_unit_struct(&'static str);
    }

    fn is_human_readable(&self) -> bool {
        self.to.is_human_readable()
    }

    fn serialize_none(self) -> Result<S::Ok, S::Error> {
        self.to.serialize_none()
    }

    fn serialize_unit(self) -> Result<S::Ok, S::Error> {
        self.to.serialize_unit()
    }

    fn serialize_some<T: Serialize + ?Sized>(self, value: &T) -> Result<S::Ok, S::Error> {
        let value = self.value(value);
        self.to.serialize_some(&value)
    }

    fn serialize_newtype_struct<T: Serialize + ?Sized>(self, name: &'static str, value: &T) -> Result<S::Ok, S::Error> {
        let value = self.value(value);
        self.to.serialize_newtype_struct(name, &value)
    }

    fn serialize_unit_variant(self, name: &'static str, index: u32, variant: &'static str) -> Result<S::Ok, S::Error> {
        let index = self.peer.number(name, index, variant)?;
        self.to.serialize_unit_variant(name, index, variant)
    }

    fn serialize_newtype_variant<T: Serialize + ?Sized>(
        self,
        name: &'static str,
        index: u32,
        variant: &'static str,
        value: &T,
    ) -> Result<S::Ok, S::Error> {
        self.peer.knows(name, index, variant)?;
        let value = self.value(value);
        self.to.serialize_newtype_variant(name, index, variant, &value)
    }

    fn serialize_seq(self, length: Option<usize>) -> Result<Self::SerializeSeq, S::Error> {
        Ok(Older { to: self.to.serialize_seq(length)?, peer: self.peer })
    }

    fn serialize_tuple(self, length: usize) -> Result<Self::SerializeTuple, S::Error> {
        Ok(Older { to: self.to.serialize_tuple(length)?, peer: self.peer })
    }

    fn serialize_tuple_struct(self, name: &'static str, length: usize) -> Result<Self::SerializeTupleStruct, S::Error> {
        Ok(Older { to: self.to.serialize_tuple_struct(name, length)?, peer: self.peer })
    }

    fn serialize_tuple_variant(
        self,
        name: &'static str,
        index: u32,
        variant: &'static str,
        length: usize,
    ) -> Result<Self::SerializeTupleVariant, S::Error> {
        self.peer.knows(name, index, variant)?;
        Ok(Older { to: self.to.serialize_tuple_variant(name, index, variant, length)?, peer: self.peer })
    }

    fn serialize_map(self, length: Option<usize>) -> Result<Self::SerializeMap, S::Error> {
        Ok(Older { to: self.to.serialize_map(length)?, peer: self.peer })
    }

    fn serialize_struct(self, name: &'static str, length: usize) -> Result<Self::SerializeStruct, S::Error> {
        Ok(Older { to: self.to.serialize_struct(name, length)?, peer: self.peer })
    }

    fn serialize_struct_variant(
        self,
        name: &'static str,
        index: u32,
        variant: &'static str,
        length: usize,
    ) -> Result<Self::SerializeStructVariant, S::Error> {
        self.peer.knows(name, index, variant)?;
        Ok(Older { to: self.to.serialize_struct_variant(name, index, variant, length)?, peer: self.peer })
    }
}

/// Compound values: each part is wrapped in [`Value`], so that it is checked, too.
macro_rules! compound {
    ($($trait:ident { $($method:ident($($key:ident)?))+ })*) => {$(
        impl<S: ser::$trait> ser::$trait for Older<'_, S> {
            type Ok = S::Ok;
            type Error = S::Error;
            $(fn $method<T: Serialize + ?Sized>(
                &mut self,
                $($key: &'static str,)?
                value: &T,
            ) -> Result<(), S::Error> {
                self.to.$method($($key,)? &Value { value, peer: self.peer })
            })+
            fn end(self) -> Result<S::Ok, S::Error> {
                self.to.end()
            }
        }
    )*};
}

compound! {
    SerializeSeq { serialize_element() }
    SerializeTuple { serialize_element() }
    SerializeTupleStruct { serialize_field() }
    SerializeTupleVariant { serialize_field() }
    SerializeMap { serialize_key() serialize_value() }
    SerializeStruct { serialize_field(key) }
    SerializeStructVariant { serialize_field(key) }
}
