//! Layers: a module imports only what lies below it.

use super::imports;
use super::source::{Tree, Violation};

/// One module, and the neighbours in its own layer that it may import.
type Module = (&'static str, &'static [&'static str]);

/// The layers from the bottom up. Modules of one layer do not import each other unless it says so here.
const LAYERS: [&[Module]; 7] = [
    // `sim` is the simulated machine: another twin of `runtime`, for tests.
    &[("runtime", &["types"]), ("sim", &["runtime", "types"]), ("telemetry", &["types"]), ("types", &[])],
    &[("peer", &[]), ("protocol", &[]), ("record", &[])],
    &[("log", &[]), ("metadata", &[])],
    &[("archive", &[]), ("group", &[]), ("replication", &[])],
    &[("broker", &[])],
    &[("http", &[]), ("server", &[])],
    &[("cli", &["config"]), ("config", &[]), ("main", &["cli", "config"])],
];

fn layer_of(module: &str) -> Option<(usize, &'static Module)> {
    LAYERS
        .iter()
        .enumerate()
        .find_map(|(layer, modules)| modules.iter().find(|(name, _)| *name == module).map(|module| (layer, module)))
}

/// Holds the arrows of the architecture: `crate::x` is named only from above `x`.
pub fn imports_point_downwards(tree: &Tree, found: &mut Vec<Violation>) {
    for source in tree.rust() {
        let Some(module) = source.module().filter(|module| *module != "docs") else { continue };
        let Some((layer, (_, neighbours))) = layer_of(module) else {
            found.push(Violation::new(
                &source.path,
                0,
                format!("module `{module}` has no layer in tests/tidy/layers.rs"),
            ));
            continue;
        };
        for named in imports::paths(source) {
            let mut segments = named.path.split("::");
            if !matches!(segments.next(), Some("crate" | "alluvium")) {
                continue;
            }
            let target = segments.next().unwrap_or_default();
            let Some((target_layer, _)) = layer_of(target).filter(|_| target != module) else { continue };
            if target_layer > layer || (target_layer == layer && !neighbours.contains(&target)) {
                let message = format!("`{module}` (layer {layer}) may not import `{target}` (layer {target_layer})");
                found.push(Violation::new(&source.path, named.line, message));
            }
        }
    }
}

/// Keeps `lib.rs` a map: it declares exactly the modules that exist, lower layers first.
pub fn the_library_lists_its_modules_in_layer_order(tree: &Tree, found: &mut Vec<Violation>) {
    let Some(library) = tree.get("src/lib.rs") else { return };
    let mut highest = 0;
    let mut declared = Vec::new();
    for (index, line) in library.code.iter().enumerate() {
        let Some(name) = line.strip_prefix("pub mod ").or(line.strip_prefix("mod ")) else { continue };
        let name = name.trim_end_matches(';').trim();
        declared.push(name);
        let Some((layer, _)) = layer_of(name) else { continue };
        if layer < highest {
            let message = format!("`{name}` is of layer {layer} but stands after layer {highest}");
            found.push(Violation::new(&library.path, index + 1, message));
        }
        highest = highest.max(layer);
    }
    for module in tree.rust().filter_map(|source| source.module()).filter(|module| *module != "main") {
        if layer_of(module).is_some() && !declared.contains(&module) {
            declared.push(module);
            found.push(Violation::new(&library.path, 0, format!("module `{module}` is not declared")));
        }
    }
}
