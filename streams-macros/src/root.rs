//! The crate that an expansion names: ours, or the name that the user's manifest gives it (`package = "streams-runtime"`).
//!
//! Only the lines of dependencies are read, in the forms that cargo's own documentation shows. `crate = path` is for
//! everything else.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::{cell::RefCell, env, fs};

use proc_macro2::{Ident, Span, TokenStream};
use quote::quote;

thread_local! {
    static FOUND: RefCell<HashMap<&'static str, String>> = RefCell::default();
}

/// The absolute path of this package's crate.
pub(crate) fn of(package: &'static str) -> TokenStream {
    let name = FOUND.with_borrow_mut(|found| found.entry(package).or_insert_with(|| name_of(package)).clone());
    let ident = Ident::new(&name, Span::call_site());
    quote!(::#ident)
}

fn name_of(package: &str) -> String {
    let manifest = env::var("CARGO_MANIFEST_DIR").ok().map(|directory| PathBuf::from(directory).join("Cargo.toml"));
    let renamed = manifest.and_then(|manifest| {
        let read = |path: &Path| fs::read_to_string(path).ok();
        match named(&read(&manifest)?, package) {
            Named::Renamed(name) => Some(name),
            Named::Inherited(names) => {
                let above = manifest.parent()?.ancestors().skip(1).map(|directory| directory.join("Cargo.toml"));
                let workspace = above.filter_map(|path| read(&path)).find(|text| text.contains("[workspace"))?;
                match named(&workspace, package) {
                    Named::Renamed(name) if names.contains(&name) => Some(name),
                    _ => None,
                }
            }
            Named::Plain => None,
        }
    });
    let name = renamed.unwrap_or_else(|| package.to_owned()).replace('-', "_");
    if syn::parse_str::<Ident>(&name).is_ok() { name } else { package.replace('-', "_") }
}

/// The name of a package among the dependencies of a manifest.
#[derive(Debug, PartialEq)]
enum Named {
    Plain,
    Renamed(String),
    /// It is not here; these dependencies are described in the workspace.
    Inherited(Vec<String>),
}

fn named(manifest: &str, package: &str) -> Named {
    let is_package = |value: &str| {
        let mut rest = value.split("package").skip(1);
        rest.any(|rest| {
            rest.trim_start().strip_prefix('=').is_some_and(|it| it.trim_start().starts_with(&format!("\"{package}\"")))
        })
    };
    let mut renamed = None;
    let mut inherited = Vec::new();
    let mut section = String::new();
    for line in manifest.lines().map(str::trim) {
        if let Some(header) = line.strip_prefix('[') {
            section = header.split(']').next().unwrap_or_default().to_owned();
            if section.ends_with(&format!("dependencies.{package}")) {
                return Named::Plain;
            }
            continue;
        }
        let Some((key, value)) = line.split_once('=') else { continue };
        let (key, value) = (key.trim().replace('"', ""), value.trim());
        // `name = { .. }`, `name.package = ..`, or a section with the name.
        let (name, is_it, inherits) = if section.ends_with("dependencies") {
            let (name, option) = key.split_once('.').unwrap_or((&key, ""));
            let is_it = is_package(value) || option == "package" && is_package(line);
            (name.to_owned(), is_it, option == "workspace" || value.contains("workspace"))
        } else if let Some((_, name)) = section.rsplit_once("dependencies.") {
            (name.to_owned(), key == "package" && is_package(line), key == "workspace")
        } else {
            continue;
        };
        if is_it {
            renamed = Some(name);
        } else if name == package {
            return Named::Plain;
        } else if inherits {
            inherited.push(name);
        }
    }
    renamed.map_or(Named::Inherited(inherited), Named::Renamed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_of_a_dependency_is_read_in_each_form() {
        let renamed = Named::Renamed("streams".to_owned());
        for lines in [
            "[dependencies]\nstreams = { version = \"1\", package = \"streams-runtime\" }",
            "[target.'cfg(unix)'.dependencies]\nstreams={package=\"streams-runtime\"}",
            "[dependencies.streams]\nversion = \"1\"\npackage = \"streams-runtime\"",
            "[workspace.dependencies]\nstreams.package = \"streams-runtime\"",
        ] {
            assert_eq!(named(lines, "streams-runtime"), renamed, "{lines}");
            assert_eq!(named(&lines.replace("runtime", "core"), "streams-runtime"), Named::Inherited(Vec::new()));
        }
        for lines in [
            "[dependencies]\nstreams-runtime = \"1\"\nold = { package = \"streams-runtime\", version = \"0.1\" }",
            "[dev-dependencies.streams-runtime]\npath = \"..\"",
            "[dependencies]\nstreams-runtime.workspace = true",
        ] {
            assert_eq!(named(lines, "streams-runtime"), Named::Plain, "{lines}");
        }
        let inherited = Named::Inherited(vec!["streams".to_owned(), "serde".to_owned()]);
        let lines = "[package]\nname = \"streams\"\n[dependencies]\nstreams = { workspace = true }\nserde.workspace = true\nsyn = \"3\"";
        assert_eq!(named(lines, "streams-runtime"), inherited);
    }
}
