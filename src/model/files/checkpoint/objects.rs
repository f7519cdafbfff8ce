//! What the stack machine makes of calls: values, written down from their arguments. No call is made.

use super::names::Known;
use super::pickle::{Id, Machine, Result, Storage, TensorRef, Value, damaged};

/// More dimensions than any tensor of a model has.
const MOST_DIMENSIONS: usize = 8;

impl<'a> Machine<'a> {
    /// What a known function, or class, makes of its arguments.
    pub(super) fn call(&mut self, callee: Id, arguments: Id) -> Result<()> {
        let (Value::Name(known), Value::Tuple(arguments)) = (self.value(callee), self.value(arguments)) else {
            let found = format!("{} and {}", self.value(callee).kind(), self.value(arguments).kind());
            return damaged("a function and its arguments", found);
        };
        let (known, count) = (*known, arguments.len());
        // No function on the list looks at more.
        let arguments: Vec<Id> = arguments.iter().take(8).copied().collect();
        self.charge(8)?;
        let value = match (known, arguments.as_slice()) {
            (Known::Dict, [] | [_]) => Value::Dict(self.initial_entries(&arguments)?),
            (Known::Record, []) => Value::Record(Vec::new()),
            (Known::Size, &[sizes]) => Value::Tuple(self.sizes(sizes)?.to_vec()),
            (Known::RebuildTensor, &[storage, offset, shape, strides, ..]) => {
                self.tensor(storage, offset, shape, strides, None, arguments.get(6))?
            }
            (Known::RebuildTensor3, &[storage, offset, shape, strides, _, _, dtype, ..]) => {
                let Value::Name(Known::Dtype { safetensors, .. }) = *self.value(dtype) else {
                    return damaged("the dtype of a tensor", self.value(dtype).kind());
                };
                self.tensor(storage, offset, shape, strides, Some(safetensors), arguments.get(7))?
            }
            // A parameter is its tensor.
            (Known::RebuildParameter, &[tensor, ..]) => {
                self.stack.push(tensor);
                return Ok(());
            }
            // (function, class, its arguments, attributes): a tensor that something was attached to.
            (Known::RebuildFromType, &[function, _, arguments, ..]) => return self.call_inner(function, arguments),
            (Known::Opaque(kind), _) => Value::Opaque(kind),
            _ => return damaged(format!("arguments that {known:?} takes"), count.to_string()),
        };
        self.push(value)
    }

    /// A call within a call; no deeper, so that a pickle cannot exhaust the stack of this program.
    fn call_inner(&mut self, callee: Id, arguments: Id) -> Result<()> {
        match self.value(callee) {
            Value::Name(Known::RebuildFromType) => damaged("a function that makes a tensor", "a call in a call"),
            _ => self.call(callee, arguments),
        }
    }

    /// The entries that a dict is made with: none, a dict's or those of a list of pairs; the default of a `defaultdict`
    /// (a name or `None`) is none.
    fn initial_entries(&mut self, arguments: &[Id]) -> Result<Vec<(Id, Id)>> {
        let Some(&first) = arguments.first() else { return Ok(Vec::new()) };
        if let Value::Dict(entries) = self.value(first) {
            self.charge(entries.len())?;
        } else if let Value::List(items) = self.value(first) {
            self.charge(items.len())?;
        }
        match self.value(first) {
            Value::Dict(entries) => Ok(entries.clone()),
            Value::List(items) => {
                let pair = |item: &Id| match self.items(*item)? {
                    &[key, value] => Ok((key, value)),
                    other => damaged("pairs of a key and a value", format!("{} values", other.len())),
                };
                items.iter().map(pair).collect()
            }
            Value::Name(_) | Value::None => Ok(Vec::new()),
            other => damaged("the entries of a dict", other.kind()),
        }
    }

    fn items(&self, id: Id) -> Result<&[Id]> {
        match self.value(id) {
            Value::List(items) | Value::Tuple(items) => Ok(items),
            other => damaged("a tuple or a list", other.kind()),
        }
    }

    /// The sizes or strides of a tensor. Without a bound a pickle could repeat one long shape in tensor after tensor.
    fn sizes(&self, id: Id) -> Result<&[Id]> {
        match self.items(id)? {
            sizes if sizes.len() <= MOST_DIMENSIONS => Ok(sizes),
            sizes => damaged(format!("a tensor of at most {MOST_DIMENSIONS} dimensions"), sizes.len().to_string()),
        }
    }

    fn int(&self, id: Id) -> Result<i64> {
        match self.value(id) {
            Value::Int(n) => Ok(*n),
            other => damaged("an integer", other.kind()),
        }
    }

    fn tensor(
        &self,
        storage: Id,
        offset: Id,
        shape: Id,
        strides: Id,
        dtype: Option<&'static str>,
        metadata: Option<&Id>,
    ) -> Result<Value<'a>> {
        if !matches!(self.value(storage), Value::Storage(_)) {
            return damaged("the storage of a tensor", self.value(storage).kind());
        }
        let ints = |id| self.sizes(id)?.iter().map(|&n| self.int(n)).collect::<Result<Vec<i64>>>();
        // {"neg": True}, {"conj": True}: the bits of a lazy view.
        let lazy = metadata.is_some_and(|id| matches!(self.value(*id), Value::Dict(entries) if !entries.is_empty()));
        let tensor = TensorRef { storage, dtype, offset: self.int(offset)?, shape: ints(shape)?, strides: ints(strides)?, lazy };
        if tensor.shape.len() != tensor.strides.len() {
            return damaged(format!("{} strides", tensor.shape.len()), tensor.strides.len().to_string());
        }
        Ok(Value::Tensor(Box::new(tensor)))
    }

    /// The storage of a persistent id: ('storage', class, key, device, count).
    pub(super) fn storage(&self, id: Id) -> Result<Storage<'a>> {
        let Value::Tuple(parts) = self.value(id) else {
            return damaged("the tuple that names a storage", self.value(id).kind());
        };
        let parts: Vec<&Value<'a>> = parts.iter().take(6).map(|&part| self.value(part)).collect();
        match parts.as_slice() {
            &[Value::Text("storage"), Value::Name(Known::Storage(dtype)), &Value::Text(key), Value::Text(_), &Value::Int(count)] => {
                Ok(Storage { dtype: *dtype, key, count })
            }
            other => {
                let kinds: Vec<&str> = other.iter().map(|part| part.kind()).collect();
                damaged("('storage', class, key, device, count)", format!("({})", kinds.join(", ")))
            }
        }
    }

    /// Sets the fields of the topmost object.
    pub(super) fn build(&mut self, state: Id) -> Result<()> {
        let object = self.top()?;
        let fields = match (self.value(object), self.value(state)) {
            (Value::Record(_), Value::Dict(entries)) => Some(entries.clone()),
            _ => None,
        };
        self.charge(fields.as_ref().map_or(0, Vec::len))?;
        match (self.values.get_mut(object as usize), fields) {
            (Some(Value::Record(entries)), Some(fields)) => entries.extend(fields),
            // The attributes of a dict (`_metadata` of a state dict) or of a tensor are no part of a model.
            (Some(Value::Dict(_) | Value::Tensor(_) | Value::Opaque(_)), _) => {}
            (Some(Value::Record(_)), None) => return damaged("the fields of a record in a dict", self.value(state).kind()),
            (other, _) => return damaged("an object to set the fields of", other.map_or("nothing", |value| value.kind())),
        }
        Ok(())
    }
}
