//! `refrain devices`: the GPUs of this machine with their limits, and which device would be chosen.

use pollster::block_on;
use serde_json::json;

use super::common::{self, Common, Report};
use crate::backend::{AdapterInfo, DeviceInfo, adapters, choose};
use crate::error::Result;

/// Options of `devices`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// How to write it
    #[arg(long, value_enum, default_value_t = Report::Text, value_name = "FORMAT")]
    format: Report,
}

/// Lists the devices.
pub(super) fn main(args: &Args, common: &Common) -> Result<()> {
    let found = block_on(adapters());
    // The list first: who asked for a device that is not there wants to see which are.
    let chosen = choose(&common.device(), &found);
    let index = chosen.as_ref().ok().copied();
    common::print(&match args.format {
        Report::Text => text(&found, index),
        Report::Json => json(&found, index),
    })?;
    chosen.map(|_| ())
}

fn text(found: &[AdapterInfo], chosen: Option<Option<usize>>) -> String {
    let mark = |this: Option<usize>| if chosen == Some(this) { '*' } else { ' ' };
    let mut text = String::new();
    if found.is_empty() {
        text.push_str("No GPU was found; `refrain doctor` says what to do.\n\n");
    } else {
        text.push_str(&format!("  #  {:10}  {:6}  {:>10}  {:8}  f16  GPU\n", "kind", "API", "binding", "subgroup"));
    }
    for (i, adapter) in found.iter().enumerate() {
        let binding = format!("{} MiB", common::thousands(adapter.max_binding >> 20));
        let (subgroups, f16) = (subgroups(adapter), if adapter.f16 { "yes" } else { "no" });
        let facts = format!("{:10}  {:6}  {binding:>10}  {subgroups:8}  {f16:3}", adapter.kind, adapter.api);
        text.push_str(&format!("{} {i}  {facts}  {}\n     {}\n", mark(Some(i)), adapter.name, adapter.driver));
    }
    text.push_str(&format!("{} cpu  {}, needs no GPU\n", mark(None), DeviceInfo::cpu().name));
    if chosen.is_some() {
        text.push_str("\n* what these options choose. A GPU that is simulated on the CPU is only chosen\n");
        text.push_str("  where --device names it, or with --allow-software.\n");
    }
    text
}

/// "8", "8-32", "none", "unknown".
fn subgroups(adapter: &AdapterInfo) -> String {
    match adapter.subgroup {
        _ if !adapter.subgroups => "none".into(),
        (0, _) => "unknown".into(),
        (least, most) if least == most => least.to_string(),
        (least, most) => format!("{least}-{most}"),
    }
}

fn json(found: &[AdapterInfo], chosen: Option<Option<usize>>) -> String {
    let adapters: Vec<serde_json::Value> = found
        .iter()
        .enumerate()
        .map(|(index, adapter)| {
            json!({
                "index": index,
                "name": adapter.name,
                "driver": adapter.driver,
                "api": adapter.api,
                "kind": adapter.kind.to_string(),
                "max_binding_bytes": adapter.max_binding,
                "storage_buffers": adapter.storage_buffers,
                "workgroup_threads": adapter.workgroup_threads,
                "shared_memory_bytes": adapter.shared_memory,
                "subgroups": adapter.subgroups,
                "subgroup_sizes": [adapter.subgroup.0, adapter.subgroup.1],
                "f16": adapter.f16,
            })
        })
        .collect();
    let chosen = match chosen {
        None => serde_json::Value::Null,
        Some(None) => "cpu".into(),
        Some(Some(index)) => index.into(),
    };
    format!("{:#}\n", json!({ "adapters": adapters, "cpu": { "name": DeviceInfo::cpu().name }, "chosen": chosen }))
}
