//! Reads the pickle inside a checkpoint as data: nothing in it is executed.
//!
//! A pickle is a program for a stack machine, and Python's own machine calls whatever function the program names. This one
//! has the opcodes that protocols 2 to 5 write, and knows a closed list of names ([`Known`]): those that build tensors,
//! and those of plain values that training scripts save. Any other name ends the reading. What a known name would build
//! is written down as a [`Value`], or as [`Value::Opaque`] where nothing here needs it.
//!
//! Values lie in one list and name each other by index, so that what a pickle shares is stored once, a value that holds
//! itself is harmless, and dropping a deeply nested one takes no stack. Both the bytes and the values are bounded.

use super::names::{Known, known};
use std::collections::HashMap;

/// Most values that are kept: a checkpoint of the largest published model, with its optimizer, has some hundred thousand.
const MOST_VALUES: usize = 1 << 22;
/// Most references between values that calls copy, and most values put aside: each takes a byte or two of the pickle, and could
/// otherwise copy a million others.
const MOST_COPIES: usize = 1 << 22;
/// Most marks that are open at once, which is how deep containers are nested while they are written.
const MOST_MARKS: usize = 1 << 16;

/// The number of a value in [`Pickle::values`].
pub(super) type Id = u32;

/// Something that a pickle holds.
#[derive(Debug)]
pub(super) enum Value<'a> {
    None,
    Bool(bool),
    Int(i64),
    Float(f64),
    Text(&'a str),
    List(Vec<Id>),
    Tuple(Vec<Id>),
    /// Entries in their order; a key that is set twice stands twice.
    Dict(Vec<(Id, Id)>),
    /// An object of which only the fields matter, as `Dict` has them; also the name of its class.
    Record(Vec<(Id, Id)>),
    Name(Known),
    Storage(Box<Storage<'a>>),
    Tensor(Box<TensorRef>),
    /// A value of a kind that a model needs nothing of, by the name of the kind.
    Opaque(&'static str),
}

impl Value<'_> {
    /// What messages call it.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::None => "None",
            Self::Bool(_) => "a bool",
            Self::Int(_) => "an integer",
            Self::Float(_) => "a float",
            Self::Text(_) => "a string",
            Self::List(_) => "a list",
            Self::Tuple(_) => "a tuple",
            Self::Dict(_) => "a dict",
            Self::Record(_) => "a record of fields",
            Self::Name(_) => "the name of a class or function",
            Self::Storage(_) => "a storage",
            Self::Tensor(_) => "a tensor",
            Self::Opaque(kind) => kind,
        }
    }
}

/// One block of numbers, an entry of the archive.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Storage<'a> {
    /// The name of its numbers' dtype in safetensors; `None` for bytes of no dtype.
    pub dtype: Option<&'static str>,
    /// The entry is `NAME/data/KEY`.
    pub key: &'a str,
    /// Numbers in it, or bytes where it has no dtype.
    pub count: i64,
}

/// A tensor as the pickle has it: any number in it may lie.
#[derive(Clone, Debug)]
pub(super) struct TensorRef {
    pub storage: Id,
    /// The dtype where the storage has none.
    pub dtype: Option<&'static str>,
    pub offset: i64,
    pub shape: Vec<i64>,
    pub strides: Vec<i64>,
    /// Whether what is stored is to be negated or conjugated to give its numbers.
    pub lazy: bool,
}

/// Why a pickle was not read.
#[derive(Debug, PartialEq)]
pub(super) enum Fault {
    /// It names something that is not on the list, `module.name`.
    Name(String),
    /// It is damaged, or beyond the bounds; what was expected, what was found.
    Damaged(String, String),
}

pub(super) type Result<T> = std::result::Result<T, Fault>;

pub(super) fn damaged<T>(expected: impl Into<String>, found: impl Into<String>) -> Result<T> {
    Err(Fault::Damaged(expected.into(), found.into()))
}

/// A pickle that was read.
#[derive(Debug)]
pub(super) struct Pickle<'a> {
    values: Vec<Value<'a>>,
    top: Id,
}

impl<'a> Pickle<'a> {
    /// The value that the whole pickle stands for.
    pub fn top(&self) -> &Value<'a> {
        self.get(self.top)
    }

    /// A value by its number.
    pub fn get(&self, id: Id) -> &Value<'a> {
        self.values.get(id as usize).unwrap_or(&Value::None)
    }

    /// Entry `key` of a dict or a record; the last, where there are several.
    pub fn entry(&self, value: &Value<'a>, key: &str) -> Option<&Value<'a>> {
        let (Value::Dict(entries) | Value::Record(entries)) = value else { return None };
        let found = entries.iter().rev().find(|(name, _)| matches!(self.get(*name), Value::Text(text) if *text == key))?;
        Some(self.get(found.1))
    }

    /// Reads a pickle of protocol 2 to 5.
    pub fn read(bytes: &'a [u8]) -> Result<Self> {
        let mut machine = Machine { rest: bytes, length: bytes.len(), ..Machine::default() };
        match (machine.byte()?, machine.byte()?) {
            (0x80, 2..=5) => {}
            (0x80, protocol) => return damaged("a pickle of protocol 2 to 5", format!("protocol {protocol}")),
            (first, _) => return damaged("a pickle of protocol 2 to 5, which starts with byte 0x80", format!("byte {first:#04x}")),
        }
        loop {
            let opcode = machine.byte()?;
            if opcode == b'.' {
                let top = machine.pop()?;
                return Ok(Self { values: machine.values, top });
            }
            machine.step(opcode)?;
        }
    }
}

/// The stack machine.
#[derive(Default)]
pub(super) struct Machine<'a> {
    rest: &'a [u8],
    length: usize,
    pub(super) values: Vec<Value<'a>>,
    pub(super) stack: Vec<Id>,
    /// Heights of the stack where a MARK stands.
    marks: Vec<usize>,
    memo: HashMap<u32, Id>,
    copies: usize,
}

impl<'a> Machine<'a> {
    fn step(&mut self, opcode: u8) -> Result<()> {
        match opcode {
            // FRAME: how far the next frame reaches, which only a reader of streams needs.
            0x95 => self.size(8).map(|_| ()),
            // MARK, POP, POP_MARK, DUP
            b'(' if self.marks.len() >= MOST_MARKS => damaged(format!("at most {MOST_MARKS} containers in one another"), "more"),
            b'(' => {
                self.marks.push(self.stack.len());
                Ok(())
            }
            b'0' if self.marks.last() == Some(&self.stack.len()) => self.pop_mark().map(|_| ()),
            b'0' => self.pop().map(|_| ()),
            b'1' => self.pop_mark().map(|_| ()),
            b'2' => self.top().map(|id| self.stack.push(id)),
            // BINPUT, LONG_BINPUT, MEMOIZE, BINGET, LONG_BINGET
            b'q' => self.byte().and_then(|at| self.put(at.into())),
            b'r' => self.u32().and_then(|at| self.put(at)),
            0x94 => self.put(self.memo.len() as u32),
            b'h' => self.byte().and_then(|at| self.recall(at.into())),
            b'j' => self.u32().and_then(|at| self.recall(at)),
            // NONE, NEWTRUE, NEWFALSE, BININT, BININT1, BININT2, BINFLOAT, LONG1, LONG4
            b'N' => self.push(Value::None),
            0x88 => self.push(Value::Bool(true)),
            0x89 => self.push(Value::Bool(false)),
            b'J' => self.u32().and_then(|bits| self.push(Value::Int((bits as i32).into()))),
            b'K' => self.byte().and_then(|n| self.push(Value::Int(n.into()))),
            b'M' => self.size(2).and_then(|n| self.push(Value::Int(n as i64))),
            b'G' => self.array::<8>().and_then(|bytes| self.push(Value::Float(f64::from_be_bytes(bytes)))),
            0x8a => self.size(1).and_then(|size| self.long(size)),
            0x8b => self.size(4).and_then(|size| self.long(size)),
            // SHORT_BINUNICODE, BINUNICODE, BINUNICODE8
            0x8c => self.size(1).and_then(|size| self.text(size)),
            b'X' => self.size(4).and_then(|size| self.text(size)),
            0x8d => self.size(8).and_then(|size| self.text(size)),
            // SHORT_BINSTRING, BINSTRING: what Python 2 wrote for text and bytes alike.
            b'U' => self.size(1).and_then(|size| self.string(size)),
            b'T' => self.size(4).and_then(|size| self.string(size)),
            // SHORT_BINBYTES, BINBYTES, BINBYTES8, BYTEARRAY8
            b'C' => self.size(1).and_then(|size| self.bytes(size)),
            b'B' => self.size(4).and_then(|size| self.bytes(size)),
            0x8e | 0x96 => self.size(8).and_then(|size| self.bytes(size)),
            _ => self.step_containers(opcode),
        }
    }

    fn step_containers(&mut self, opcode: u8) -> Result<()> {
        match opcode {
            // EMPTY_LIST, LIST, APPEND, APPENDS
            b']' => self.push(Value::List(Vec::new())),
            b'l' => self.pop_mark().and_then(|items| self.push(Value::List(items))),
            b'a' => self.pop().and_then(|item| self.append(vec![item])),
            b'e' => self.pop_mark().and_then(|items| self.append(items)),
            // EMPTY_TUPLE, TUPLE, TUPLE1, TUPLE2, TUPLE3
            b')' => self.push(Value::Tuple(Vec::new())),
            b't' => self.pop_mark().and_then(|items| self.push(Value::Tuple(items))),
            0x85..=0x87 => {
                let mut items = Vec::new();
                for _ in 0x85..=opcode {
                    items.push(self.pop()?);
                }
                items.reverse();
                self.push(Value::Tuple(items))
            }
            // EMPTY_DICT, DICT, SETITEM, SETITEMS
            b'}' => self.push(Value::Dict(Vec::new())),
            b'd' => self.pop_mark().and_then(|items| pairs(&items)).and_then(|entries| self.push(Value::Dict(entries))),
            b's' => {
                let (value, key) = (self.pop()?, self.pop()?);
                self.set(vec![(key, value)])
            }
            b'u' => self.pop_mark().and_then(|items| pairs(&items)).and_then(|entries| self.set(entries)),
            // EMPTY_SET, ADDITEMS, FROZENSET: no model has one.
            0x8f => self.push(Value::Opaque("a set")),
            0x90 => self.pop_mark().map(|_| ()),
            0x91 => self.pop_mark().and_then(|_| self.push(Value::Opaque("a frozenset"))),
            // GLOBAL, STACK_GLOBAL
            b'c' => {
                let (module, name) = (self.line()?, self.line()?);
                self.name(module, name)
            }
            0x93 => {
                let (name, module) = (self.pop()?, self.pop()?);
                match (self.value(module), self.value(name)) {
                    (&Value::Text(module), &Value::Text(name)) => self.name(module, name),
                    (module, name) => damaged("the name of a class or function", format!("{} and {}", module.kind(), name.kind())),
                }
            }
            // INST: a name and a call at once, as protocol 0 has it. Nothing that saves tensors writes it.
            b'i' => {
                let (module, name) = (self.line()?, self.line()?);
                Err(Fault::Name(full_name(module, name)))
            }
            // REDUCE, NEWOBJ, NEWOBJ_EX, BUILD, BINPERSID
            b'R' | 0x81 => {
                let (arguments, callee) = (self.pop()?, self.pop()?);
                self.call(callee, arguments)
            }
            0x92 => {
                let (_, arguments, callee) = (self.pop()?, self.pop()?, self.pop()?);
                self.call(callee, arguments)
            }
            b'b' => {
                let state = self.pop()?;
                self.build(state)
            }
            b'Q' => {
                let id = self.pop()?;
                let storage = self.storage(id)?;
                self.push(Value::Storage(Box::new(storage)))
            }
            other => damaged("an opcode that a checkpoint of tensors has", format!("opcode {other:#04x} at byte {}", self.at() - 1)),
        }
    }

    /// How many bytes were read.
    fn at(&self) -> usize {
        self.length - self.rest.len()
    }

    fn take(&mut self, count: usize) -> Result<&'a [u8]> {
        let Some((head, rest)) = self.rest.split_at_checked(count) else {
            return damaged(format!("{count} more bytes at byte {}", self.at()), format!("{}: it is cut short", self.rest.len()));
        };
        self.rest = rest;
        Ok(head)
    }

    fn byte(&mut self) -> Result<u8> {
        self.array::<1>().map(|[byte]| byte)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        let mut array = [0; N];
        array.copy_from_slice(self.take(N)?);
        Ok(array)
    }

    fn u32(&mut self) -> Result<u32> {
        self.array().map(u32::from_le_bytes)
    }

    /// A size of `bytes` bytes, at most 8, that bytes in the pickle follow.
    fn size(&mut self, bytes: usize) -> Result<usize> {
        let mut wide = [0; 8];
        wide[..bytes].copy_from_slice(self.take(bytes)?);
        // One that does not fit is longer than any file.
        Ok(usize::try_from(u64::from_le_bytes(wide)).unwrap_or(usize::MAX))
    }

    /// Text up to the end of the line.
    fn line(&mut self) -> Result<&'a str> {
        let end = self.rest.iter().position(|&byte| byte == b'\n').unwrap_or(self.rest.len());
        let line = self.take(end)?;
        self.take(1)?;
        utf8(line)
    }

    fn text(&mut self, size: usize) -> Result<()> {
        let text = utf8(self.take(size)?)?;
        self.push(Value::Text(text))
    }

    fn string(&mut self, size: usize) -> Result<()> {
        let bytes = self.take(size)?;
        self.push(std::str::from_utf8(bytes).map_or(Value::Opaque("bytes"), Value::Text))
    }

    fn bytes(&mut self, size: usize) -> Result<()> {
        self.take(size)?;
        self.push(Value::Opaque("bytes"))
    }

    /// An integer of `size` bytes in two's complement.
    fn long(&mut self, size: usize) -> Result<()> {
        let bytes = self.take(size)?;
        // Seeds of random generators can be longer; nothing that a model needs is.
        if size > 8 {
            return self.push(Value::Opaque("an integer of more than 64 bits"));
        }
        let negative = bytes.last().is_some_and(|byte| byte & 0x80 != 0);
        let mut wide = [if negative { 0xff } else { 0 }; 8];
        wide[..size].copy_from_slice(bytes);
        self.push(Value::Int(i64::from_le_bytes(wide)))
    }

    pub(super) fn push(&mut self, value: Value<'a>) -> Result<()> {
        if self.values.len() >= MOST_VALUES {
            return damaged(format!("at most {MOST_VALUES} values"), "more");
        }
        self.stack.push(self.values.len() as Id);
        self.values.push(value);
        Ok(())
    }

    pub(super) fn value(&self, id: Id) -> &Value<'a> {
        self.values.get(id as usize).unwrap_or(&Value::None)
    }

    /// The topmost value above the last mark.
    pub(super) fn top(&self) -> Result<Id> {
        match self.stack.last() {
            Some(&id) if self.stack.len() > self.marks.last().copied().unwrap_or(0) => Ok(id),
            _ => damaged("a value on the stack", format!("none at byte {}", self.at())),
        }
    }

    fn pop(&mut self) -> Result<Id> {
        let id = self.top()?;
        self.stack.pop();
        Ok(id)
    }

    /// All values above the last mark, and the mark.
    fn pop_mark(&mut self) -> Result<Vec<Id>> {
        match self.marks.pop() {
            Some(height) => Ok(self.stack.split_off(height)),
            None => damaged("a mark on the stack", format!("none at byte {}", self.at())),
        }
    }

    fn put(&mut self, at: u32) -> Result<()> {
        let id = self.top()?;
        self.charge(1)?;
        self.memo.insert(at, id);
        Ok(())
    }

    fn recall(&mut self, at: u32) -> Result<()> {
        match self.memo.get(&at) {
            Some(&id) => {
                self.stack.push(id);
                Ok(())
            }
            None => damaged("a value that was put aside before", format!("number {at} at byte {}, which was not", self.at())),
        }
    }

    /// Counts what is copied.
    pub(super) fn charge(&mut self, copies: usize) -> Result<()> {
        self.copies = self.copies.saturating_add(copies);
        if self.copies > MOST_COPIES {
            return damaged(format!("at most {MOST_COPIES} copies of values"), "more");
        }
        Ok(())
    }

    fn append(&mut self, items: Vec<Id>) -> Result<()> {
        let list = self.top()?;
        match self.values.get_mut(list as usize) {
            Some(Value::List(list)) => list.extend(items),
            Some(Value::Opaque(_)) => {}
            other => return damaged("a list to append to", other.map_or("nothing", |value| value.kind())),
        }
        Ok(())
    }

    fn set(&mut self, new: Vec<(Id, Id)>) -> Result<()> {
        let dict = self.top()?;
        match self.values.get_mut(dict as usize) {
            Some(Value::Dict(entries)) => entries.extend(new),
            Some(Value::Opaque(_)) => {}
            other => return damaged("a dict to put entries into", other.map_or("nothing", |value| value.kind())),
        }
        Ok(())
    }

    fn name(&mut self, module: &str, name: &str) -> Result<()> {
        match known(module, name) {
            Some(known) => self.push(Value::Name(known)),
            None => Err(Fault::Name(full_name(module, name))),
        }
    }
}

fn utf8(bytes: &[u8]) -> Result<&str> {
    std::str::from_utf8(bytes).or_else(|_| damaged("text in UTF-8", "other bytes"))
}

fn pairs(items: &[Id]) -> Result<Vec<(Id, Id)>> {
    if !items.len().is_multiple_of(2) {
        return damaged("keys with their values", format!("{} of both together", items.len()));
    }
    Ok(items.chunks_exact(2).map(|pair| (pair[0], pair[1])).collect())
}

/// "posix.system". Lines that a file invents must not fill the screen.
fn full_name(module: &str, name: &str) -> String {
    let clean = |text: &str| super::shorten(text).escape_debug().to_string();
    format!("{}.{}", clean(module), clean(name))
}
