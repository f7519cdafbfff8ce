//! The facts of `inspect` as one JSON object. What only files can tell is null where there are none.

use serde_json::{Map, Value, json};

use super::{Facts, shortest};
use crate::error::{Error, Remedy};

pub(super) fn value(facts: &Facts) -> Value {
    let (config, needs, parameters) = (&facts.config, &facts.needs, facts.config.parameters());
    let object = |fields: Vec<(&str, Value)>| Value::Object(fields.into_iter().map(|(key, value)| (key.into(), value)).collect());
    let files = facts.files.as_ref();
    let adapter = facts.device.adapter.as_ref();
    json!({
        "model": files.map(|_| facts.name),
        "published": files.is_none().then_some(facts.name),
        "config": object(config.fields()),
        "defaults": object(facts.set_defaults()),
        "tensors": tensors(facts),
        "checked": files.map(|files| if files.checked { "every number" } else { "headers" }),
        "notes": files.map(|files| &files.notes),
        "parameters": {
            "total": parameters.total + parameters.buffers,
            "trained": parameters.total,
            "active": parameters.active,
        },
        "cache": {
            "slots": config.cache_slots(needs.loops),
            "numbers": config.cache_width(),
            "bytes_per_token": config.cache_bytes_per_token(needs.loops),
            "loops": needs.loops,
            "context": needs.context,
            "sequences": needs.sequences,
            "bytes": needs.cache,
        },
        "state": { "numbers": 2 * config.dim, "bytes_per_token": config.state_bytes_per_token(), "bytes": needs.states },
        "spectral_radius": files.map(|files| shortest(files.radius)),
        "tokenizer": files.and_then(|files| files.vocabulary).map(|words| json!({ "vocab_size": words })),
        "device": {
            "name": facts.device.name,
            "max_binding_bytes": adapter.map(|adapter| adapter.max_binding),
            "memory_bytes": facts.memory,
            "matrices_bytes": needs.matrices.iter().map(|(p, bytes)| (p.name().into(), (*bytes).into())).collect::<Map<_, _>>(),
            "tables_bytes": needs.tables,
            "weights_bytes": needs.weights(),
            "cache_bytes": needs.cache,
            "state_bytes": needs.states,
            "work_bytes": needs.work,
            "total_bytes": needs.total(),
            "fits": facts.fault.is_none(),
            "reason": facts.fault.as_ref().map(ToString::to_string),
            "would_fit_with": match &facts.fault {
                Some(Error::Memory { advice, .. }) => advice.iter().map(remedy).collect(),
                _ => Value::Null,
            },
        },
    })
}

/// The options of one way to make it fit, all of which it takes.
fn remedy(remedy: &Remedy) -> Value {
    let options: [(&str, Option<Value>); 4] = [
        ("dtype", remedy.dtype.map(|dtype| dtype.name().into())),
        ("context", remedy.context.map(Into::into)),
        ("loops", remedy.loops.map(Into::into)),
        ("sequences", remedy.sequences.map(Into::into)),
    ];
    options.into_iter().filter_map(|(key, value)| Some((key.to_string(), value?))).collect::<Map<_, _>>().into()
}

fn tensors(facts: &Facts) -> Value {
    let listed = facts.tensors();
    let mut tensors = json!({ "count": listed.len() });
    if let Some(files) = &facts.files {
        let each = files.dtypes().into_iter().map(|(dtype, (tensors, bytes))| (dtype, json!({ "tensors": tensors, "bytes": bytes })));
        tensors["dtypes"] = Value::Object(each.collect());
    }
    if facts.list {
        let list = listed.iter().map(|t| json!({ "name": t.name, "dtype": t.dtype, "shape": t.shape, "bytes": t.bytes }));
        tensors["list"] = list.collect();
    }
    tensors
}
