//! The closed list of classes and functions that a checkpoint may name. Nothing on it is called: each entry only says what
//! value its call would give. What is not on it is refused.

/// What a name on the list stands for.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Known {
    /// A dict: `OrderedDict`, `defaultdict`.
    Dict,
    /// A record of fields: the model's configuration, the arguments of a script.
    Record,
    /// `torch.Size`, a tuple.
    Size,
    /// (storage, offset, shape, strides, …) → tensor.
    RebuildTensor,
    /// The same with a dtype, for dtypes whose storage has none.
    RebuildTensor3,
    /// (tensor, …) → parameter.
    RebuildParameter,
    /// (function, class, arguments, attributes) → tensor.
    RebuildFromType,
    /// The class of a storage, with the dtype of its numbers in safetensors.
    Storage(Option<&'static str>),
    /// A dtype: its name in PyTorch and in safetensors.
    Dtype { torch: &'static str, safetensors: &'static str },
    /// What a model needs nothing of, by its kind.
    Opaque(&'static str),
}

/// Every dtype: its name in PyTorch, the class of its storages, its name in safetensors.
const DTYPES: [(&str, &str, &str); 18] = [
    ("float32", "FloatStorage", "F32"),
    ("float16", "HalfStorage", "F16"),
    ("bfloat16", "BFloat16Storage", "BF16"),
    ("float64", "DoubleStorage", "F64"),
    ("int64", "LongStorage", "I64"),
    ("int32", "IntStorage", "I32"),
    ("int16", "ShortStorage", "I16"),
    ("int8", "CharStorage", "I8"),
    ("uint8", "ByteStorage", "U8"),
    ("bool", "BoolStorage", "BOOL"),
    ("complex64", "ComplexFloatStorage", "C64"),
    ("complex128", "ComplexDoubleStorage", "C128"),
    ("uint16", "", "U16"),
    ("uint32", "", "U32"),
    ("uint64", "", "U64"),
    ("float8_e4m3fn", "", "F8_E4M3"),
    ("float8_e5m2", "", "F8_E5M2"),
    ("float8_e8m0fnu", "", "F8_E8M0"),
];

/// The entry of a name; `None` where it is not on the list.
pub(super) fn known(module: &str, name: &str) -> Option<Known> {
    // A dataclass, wherever the script that trained the model keeps it.
    if name == "MythosConfig" {
        return Some(Known::Record);
    }
    Some(match (module, name) {
        ("torch", _) => return torch(name),
        ("torch._utils", "_rebuild_tensor" | "_rebuild_tensor_v2") => Known::RebuildTensor,
        ("torch._utils", "_rebuild_tensor_v3") => Known::RebuildTensor3,
        ("torch._utils", "_rebuild_parameter" | "_rebuild_parameter_with_state") => Known::RebuildParameter,
        ("torch._tensor", "_rebuild_from_type_v2") => Known::RebuildFromType,
        ("torch._tensor", "Tensor") | ("torch.nn.parameter", "Parameter" | "Buffer") => Known::Opaque("a class of tensors"),
        ("torch.storage", "UntypedStorage") => Known::Storage(None),
        ("torch.torch_version", "TorchVersion") => Known::Opaque("a version"),
        ("torch.serialization", "_get_layout") => Known::Opaque("a layout"),
        ("collections", "OrderedDict" | "defaultdict") => Known::Dict,
        ("collections", "Counter") => Known::Opaque("a Counter"),
        ("collections", "deque") => Known::Opaque("a deque"),
        ("argparse", "Namespace") | ("types", "SimpleNamespace") => Known::Record,
        // Random states, losses and their like hold NumPy's arrays and numbers; in protocol 2 bytes are text in Latin-1.
        ("numpy", "ndarray" | "dtype") => Known::Opaque("a NumPy array"),
        ("numpy.core.multiarray" | "numpy._core.multiarray", "_reconstruct") => Known::Opaque("a NumPy array"),
        ("numpy.core.multiarray" | "numpy._core.multiarray", "scalar") => Known::Opaque("a NumPy number"),
        ("numpy.core.numeric" | "numpy._core.numeric", "_frombuffer") => Known::Opaque("a NumPy array"),
        ("_codecs", "encode") => Known::Opaque("bytes"),
        ("builtins" | "__builtin__", _) => Known::Opaque(builtin(name)?),
        ("pathlib" | "pathlib._local", "Path" | "PosixPath" | "WindowsPath" | "PurePosixPath" | "PureWindowsPath") => {
            Known::Opaque("a path")
        }
        ("datetime", "datetime" | "date" | "time" | "timedelta" | "timezone") => Known::Opaque("a date or time"),
        _ => return None,
    })
}

fn torch(name: &str) -> Option<Known> {
    match name {
        "Size" => return Some(Known::Size),
        "device" => return Some(Known::Opaque("a device")),
        "Tensor" => return Some(Known::Opaque("a class of tensors")),
        _ => {}
    }
    DTYPES.iter().find_map(|&(torch, storage, safetensors)| match name {
        _ if name == torch => Some(Known::Dtype { torch, safetensors }),
        _ if name == storage && !storage.is_empty() => Some(Known::Storage(Some(safetensors))),
        _ => None,
    })
}

/// Types of plain values; none of Python's functions.
fn builtin(name: &str) -> Option<&'static str> {
    Some(match name {
        "int" | "long" => "an integer",
        "float" => "a float",
        "complex" => "a complex number",
        "bool" => "a bool",
        "str" | "unicode" => "a string",
        "bytes" | "bytearray" => "bytes",
        "list" => "a list",
        "tuple" => "a tuple",
        "dict" => "a dict",
        "set" => "a set",
        "frozenset" => "a frozenset",
        "slice" => "a slice",
        "range" | "xrange" => "a range",
        _ => return None,
    })
}
