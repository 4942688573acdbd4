//! A [`Node`] as serde reads it: numbers and words from the text as it was written, problems with their key paths.

use serde::de::{DeserializeSeed, Deserializer, EnumAccess, MapAccess, SeqAccess, VariantAccess, Visitor};
use serde::forward_to_deserialize_any;

use super::problem::{DecodeError, Decoder, SECTION_OR_NONE, unknown_key};
use crate::config::document::{Entry, KeyPath, Node, Place, Problem, Spot, Value};
use crate::config::error::Fix;

/// A node that is being read.
pub(super) struct Cursor<'a> {
    pub(super) node: &'a Node,
    pub(super) path: KeyPath,
    pub(super) decoder: &'a Decoder,
}

impl<'a> Cursor<'a> {
    fn fail<T>(&self, problem: impl Into<String>, fix: Fix) -> Result<T, DecodeError> {
        Err(DecodeError::wrong(problem, fix).at(&self.path))
    }

    /// What stands here, without the value itself where it is not a single word: it could be a secret in the wrong place.
    fn found(&self) -> &'static str {
        match self.node.value {
            Value::Null => "nothing",
            Value::Scalar(_) => "a single value",
            Value::Sequence(_) => "a list",
            Value::Mapping(_) => "a section with keys",
        }
    }

    fn text(&self) -> Result<&'a str, DecodeError> {
        match &self.node.value {
            Value::Scalar(text) => Ok(text),
            Value::Null => self.fail(
                "nothing stands here, but the key needs a value",
                Fix::advice("give a value, or remove the key"),
            ),
            Value::Sequence(_) | Value::Mapping(_) => self.fail(
                format!("{} stands where a single value belongs", self.found()),
                Fix::write("one value, without brackets"),
            ),
        }
    }

    fn number<T: std::str::FromStr>(&self) -> Result<T, DecodeError> {
        let text = self.text()?;
        match text.parse() {
            Ok(number) => Ok(number),
            Err(_) if text.bytes().all(|byte| byte.is_ascii_digit()) => {
                self.fail(format!("the number {text} is too large"), Fix::write("a smaller number"))
            }
            Err(_) => self.fail(
                format!("{text:?} is not a whole number"),
                Fix::write("a number without unit and quotes, such as 10"),
            ),
        }
    }

    /// The entries of a section, each once, without those that are already reported.
    fn entries(&self, known: Option<&[&str]>) -> Result<Vec<&'a Entry>, DecodeError> {
        let entries = match &self.node.value {
            Value::Mapping(entries) => entries,
            Value::Null => return Ok(Vec::new()),
            Value::Scalar(_) | Value::Sequence(_) => {
                let keys = known.map_or_else(
                    || "key: value".to_owned(),
                    |known| format!("a section with the keys {}", known.join(", ")),
                );
                return self.fail(
                    format!("{} stands where a section with keys belongs", self.found()),
                    Fix::write(keys),
                );
            }
        };
        let mut first: Vec<&Entry> = Vec::new();
        for entry in entries {
            let path = self.path.key(&entry.key);
            if let Some(before) = first.iter().find(|before| before.key == entry.key) {
                self.decoder.report(repeated_key(path, before.key_place, entry));
            } else if known.is_some_and(|known| !known.contains(&entry.key.as_str())) {
                self.decoder.report(unknown_key(path, &entry.key, known.unwrap_or_default()));
                first.push(entry);
            } else {
                first.push(entry);
            }
        }
        first.retain(|entry| {
            known.is_none_or(|known| known.contains(&entry.key.as_str()))
                && !self.decoder.is_skipped(&self.path.key(&entry.key))
        });
        Ok(first)
    }
}

fn repeated_key(path: KeyPath, before: Place, entry: &Entry) -> Problem {
    let problem = format!(
        "the key `{}` stands here for the second time; the first is in line {}",
        entry.key.escape_debug(),
        before.line
    );
    Problem {
        path,
        spot: Spot::Repeated(entry.key_place),
        problem,
        fix: Fix::advice("remove one of the two"),
    }
}

macro_rules! deserialize_numbers {
    ($($method:ident => $visit:ident,)*) => {
        $(fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
            visitor.$visit(self.number()?).map_err(|error: DecodeError| error.at(&self.path))
        })*
    };
}

impl<'de> Deserializer<'de> for Cursor<'_> {
    type Error = DecodeError;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        match &self.node.value {
            Value::Null => visitor.visit_unit().map_err(|error: DecodeError| error.at(&self.path)),
            Value::Scalar(text) => visitor.visit_str(text).map_err(|error: DecodeError| error.at(&self.path)),
            Value::Sequence(_) => self.deserialize_seq(visitor),
            Value::Mapping(_) => self.deserialize_map(visitor),
        }
    }

    fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        let answer = match self.text()? {
            "true" => true,
            "false" => false,
            text => {
                let yes = matches!(text.to_ascii_lowercase().as_str(), "yes" | "on" | "1" | "true" | "y");
                let no = matches!(text.to_ascii_lowercase().as_str(), "no" | "off" | "0" | "false" | "n");
                let fix = if yes {
                    "true"
                } else if no {
                    "false"
                } else {
                    "true | false"
                };
                return self.fail(format!("{text:?} is neither true nor false"), Fix::write(fix));
            }
        };
        visitor.visit_bool(answer).map_err(|error: DecodeError| error.at(&self.path))
    }

    deserialize_numbers! {
        deserialize_u8 => visit_u8,
        deserialize_u16 => visit_u16,
        deserialize_u32 => visit_u32,
        deserialize_u64 => visit_u64,
        deserialize_i64 => visit_i64,
    }

    fn deserialize_str<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        visitor.visit_str(self.text()?).map_err(|error: DecodeError| error.at(&self.path))
    }

    fn deserialize_string<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        self.deserialize_str(visitor)
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        if matches!(self.node.value, Value::Null) { visitor.visit_none() } else { visitor.visit_some(self) }
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, DecodeError> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        let items: &[Node] = match &self.node.value {
            Value::Sequence(items) => items,
            Value::Null => &[],
            Value::Scalar(text) => {
                return self.fail(
                    "a single value stands where a list belongs",
                    Fix::Write(format!("[{}]", text.escape_debug())),
                );
            }
            Value::Mapping(_) => {
                return self.fail(
                    "a section with keys stands where a list belongs",
                    Fix::write("the same with `- ` in front, once per entry"),
                );
            }
        };
        let path = self.path.clone();
        visitor
            .visit_seq(Items { items, next: 0, holder: self })
            .map_err(|error: DecodeError| error.at(&path))
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        let (path, entries) = (self.path.clone(), self.entries(None)?);
        visitor
            .visit_map(Entries { entries: entries.into_iter(), value: None, holder: self })
            .map_err(|error| error.at(&path))
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, DecodeError> {
        if let (SECTION_OR_NONE, Value::Scalar(text)) = (name, &self.node.value)
            && text == "none"
        {
            return visitor.visit_str(text).map_err(|error: DecodeError| error.at(&self.path));
        }
        let (path, entries) = (self.path.clone(), self.entries(Some(fields))?);
        visitor
            .visit_map(Entries { entries: entries.into_iter(), value: None, holder: self })
            .map_err(|error| error.at(&path))
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, DecodeError> {
        let path = self.path.clone();
        let choice = match &self.node.value {
            Value::Scalar(text) => Choice { word: text, content: None, holder: self },
            Value::Mapping(entries) => match entries.as_slice() {
                [entry] => Choice { word: &entry.key, content: Some(&entry.value), holder: self },
                _ => {
                    let problem = format!("{} keys stand where exactly one belongs", entries.len());
                    return self.fail(problem, Fix::Write(format!("one of {}", variants.join(", "))));
                }
            },
            Value::Null | Value::Sequence(_) => {
                let problem =
                    format!("{} stands where a word or a section with one key belongs", self.found());
                return self.fail(problem, Fix::Write(variants.join(" | ")));
            }
        };
        visitor.visit_enum(choice).map_err(|error: DecodeError| error.at(&path))
    }

    fn deserialize_ignored_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        visitor.visit_unit()
    }

    forward_to_deserialize_any! {
        i8 i16 i32 i128 u128 f32 f64 char bytes byte_buf unit unit_struct tuple tuple_struct identifier
    }
}

/// The elements of a list.
struct Items<'a> {
    items: &'a [Node],
    next: usize,
    holder: Cursor<'a>,
}

impl<'de> SeqAccess<'de> for Items<'_> {
    type Error = DecodeError;

    fn next_element_seed<T: DeserializeSeed<'de>>(
        &mut self,
        seed: T,
    ) -> Result<Option<T::Value>, DecodeError> {
        while let Some(node) = self.items.get(self.next) {
            let path = self.holder.path.index(self.next);
            self.next += 1;
            if !self.holder.decoder.is_skipped(&path) {
                let cursor = Cursor { node, path: path.clone(), decoder: self.holder.decoder };
                return seed.deserialize(cursor).map(Some).map_err(|error| error.at(&path));
            }
        }
        Ok(None)
    }
}

/// The entries of a section.
struct Entries<'a> {
    entries: std::vec::IntoIter<&'a Entry>,
    value: Option<&'a Entry>,
    holder: Cursor<'a>,
}

impl<'de> MapAccess<'de> for Entries<'_> {
    type Error = DecodeError;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, DecodeError> {
        self.value = self.entries.next();
        self.value.map(|entry| seed.deserialize(Word(&entry.key))).transpose()
    }

    fn next_value_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<T::Value, DecodeError> {
        let Some(entry) = self.value.take() else {
            return self.holder.fail("a value without a key", Fix::advice("write `key: value`"));
        };
        let path = self.holder.path.key(&entry.key);
        let cursor = Cursor { node: &entry.value, path: path.clone(), decoder: self.holder.decoder };
        seed.deserialize(cursor).map_err(|error| error.at(&path))
    }
}

/// A key or a single word.
struct Word<'a>(&'a str);

impl<'de> Deserializer<'de> for Word<'_> {
    type Error = DecodeError;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        visitor.visit_str(self.0)
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option unit unit_struct
        newtype_struct seq tuple tuple_struct map struct enum identifier ignored_any
    }
}

/// A word of a fixed set, alone or as the only key of a section.
struct Choice<'a> {
    word: &'a str,
    content: Option<&'a Node>,
    holder: Cursor<'a>,
}

impl<'de, 'a> EnumAccess<'de> for Choice<'a> {
    type Error = DecodeError;
    type Variant = Self;

    fn variant_seed<T: DeserializeSeed<'de>>(self, seed: T) -> Result<(T::Value, Self), DecodeError> {
        Ok((seed.deserialize(Word(self.word))?, self))
    }
}

impl<'de> VariantAccess<'de> for Choice<'_> {
    type Error = DecodeError;

    fn unit_variant(self) -> Result<(), DecodeError> {
        match self.content.map(|node| &node.value) {
            None | Some(Value::Null) => Ok(()),
            Some(_) => self.holder.fail(format!("`{}` takes no keys", self.word), Fix::write(self.word)),
        }
    }

    fn newtype_variant_seed<T: DeserializeSeed<'de>>(self, seed: T) -> Result<T::Value, DecodeError> {
        let path = self.holder.path.key(self.word);
        let decoder = self.holder.decoder;
        // The word alone stands for its section without keys.
        let nothing = Node { place: self.holder.node.place, value: Value::Null };
        let cursor = Cursor { node: self.content.unwrap_or(&nothing), path: path.clone(), decoder };
        seed.deserialize(cursor).map_err(|error| error.at(&path))
    }

    fn tuple_variant<V: Visitor<'de>>(self, _: usize, _: V) -> Result<V::Value, DecodeError> {
        self.holder.fail("a list stands where a section belongs", Fix::advice("see docs/configuration.md"))
    }

    fn struct_variant<V: Visitor<'de>>(
        self,
        _: &'static [&'static str],
        _: V,
    ) -> Result<V::Value, DecodeError> {
        self.holder.fail("a section stands where a word belongs", Fix::advice("see docs/configuration.md"))
    }
}
