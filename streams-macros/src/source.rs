//! The source file around an attribute, for mistakes that the tokens of one item do not show: rustc would report them in
//! its own words, or many times.
//!
//! Everything here is a guess that must not be wrong. Where the file cannot be read, or has two items of the name, nothing is
//! said.

use std::cell::RefCell;
use std::collections::HashMap;
use std::fs;
use std::path::PathBuf;
use std::rc::Rc;

use proc_macro2::{Ident, Span};
use quote::ToTokens;
use syn::ext::IdentExt;
use syn::punctuated::Punctuated;
use syn::{Attribute, ImplItem, Item, Path, Token, TraitItem};

/// The outline of a file. It holds no tokens, which live for one expansion only.
pub(crate) struct Source {
    text: String,
    modules: Vec<Module>,
}

/// The items of one module.
#[derive(Default)]
struct Module {
    functions: Vec<String>,
    /// The functions in its `impl`s and `trait`s.
    associated: Vec<String>,
    types: Vec<Named>,
    /// The arguments of macros, which may implement anything.
    in_macros: String,
    /// Whether it imports our `Context`.
    imports_context: bool,
}

/// An item that has its name among types.
struct Named {
    keyword: &'static str,
    name: String,
    /// Whether no attribute of it can implement a trait of ours.
    is_bare: bool,
}

thread_local! {
    /// The files of the crate being compiled, each read once.
    static READ: RefCell<HashMap<PathBuf, Option<Rc<Source>>>> = RefCell::default();
}

/// The file of the attribute that is being expanded.
pub(crate) fn around() -> Option<Rc<Source>> {
    if !proc_macro::is_available() {
        return None;
    }
    let path = Span::call_site().unwrap().local_file()?;
    let read = || Source::parse(fs::read_to_string(&path).ok()?).map(Rc::new);
    READ.with_borrow_mut(|files| files.entry(path.clone()).or_insert_with(read).clone())
}

impl Source {
    fn parse(text: String) -> Option<Self> {
        let file = syn::parse_file(&text).ok()?;
        let mut modules = Vec::new();
        outline(file.items, &mut modules);
        Some(Self { text, modules })
    }

    /// Whether this function stands in an `impl` or a `trait`.
    pub(crate) fn is_associated(&self, function: &Ident) -> bool {
        let name = function.unraw().to_string();
        self.occurs_once("fn", &name) && self.modules.iter().any(|module| module.associated.contains(&name))
    }

    /// An item beside this function that has its name, too, such as `mod check`.
    pub(crate) fn namesake(&self, function: &Ident) -> Option<String> {
        let name = function.unraw().to_string();
        if !self.occurs_once("fn", &name) {
            return None;
        }
        let module = self.modules.iter().find(|module| module.functions.contains(&name))?;
        let namesake = module.types.iter().find(|named| named.name == name)?;
        Some(format!("{} {name}", namesake.keyword))
    }

    /// Whether `Context` in the signature of this function is ours.
    pub(crate) fn knows_context(&self, function: &Ident) -> bool {
        let name = function.unraw().to_string();
        let is_it = |module: &Module| module.functions.contains(&name) && module.imports_context;
        self.occurs_once("fn", &name) && self.modules.iter().any(is_it)
    }

    /// Whether a type beside the type `of` has none of our attributes, so that it has no schema.
    pub(crate) fn is_undeclared(&self, of: &Ident, ty: &Ident) -> bool {
        let (of, name) = (of.unraw().to_string(), ty.unraw().to_string());
        let declared_once = |name: &str| self.occurs_once("struct", name) != self.occurs_once("enum", name);
        if !declared_once(&of) || !declared_once(&name) || self.text.contains(&format!("SchemaType for {name}")) {
            return false;
        }
        let has = |module: &&Module| module.types.iter().any(|named| named.name == of);
        let Some(module) = self.modules.iter().find(has) else { return false };
        let bare = |named: &Named| named.name == name && named.is_bare && matches!(named.keyword, "struct" | "enum");
        module.types.iter().any(bare) && !module.in_macros.contains(&name)
    }

    /// Whether the text has a declaration of this name once, wherever it stands.
    fn occurs_once(&self, keyword: &str, name: &str) -> bool {
        let declared = format!("{keyword} {name}");
        let whole = self.text.match_indices(&declared).filter(|(at, _)| {
            !self.text[..*at].ends_with(is_part) && !self.text[at + declared.len()..].starts_with(is_part)
        });
        whole.count() == 1
    }
}

fn is_part(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// Adds the module of these items, and those inside it.
fn outline(items: Vec<Item>, modules: &mut Vec<Module>) {
    let mut module = Module::default();
    for item in items {
        let mut named = |keyword, ident: &Ident, attrs: &[Attribute]| {
            let is_bare = attrs.iter().all(is_harmless);
            module.types.push(Named { keyword, name: ident.unraw().to_string(), is_bare });
        };
        match item {
            Item::Enum(item) => named("enum", &item.ident, &item.attrs),
            Item::Struct(item) => named("struct", &item.ident, &item.attrs),
            Item::Trait(item) => {
                named("trait", &item.ident, &item.attrs);
                module.associated.extend(item.items.iter().filter_map(|item| match item {
                    TraitItem::Fn(function) => Some(function.sig.ident.unraw().to_string()),
                    _ => None,
                }));
            }
            Item::Type(item) => named("type", &item.ident, &item.attrs),
            Item::Union(item) => named("union", &item.ident, &item.attrs),
            Item::Mod(item) => {
                named("mod", &item.ident, &item.attrs);
                if let Some((_, items)) = item.content {
                    outline(items, modules);
                }
            }
            Item::Fn(item) => module.functions.push(item.sig.ident.unraw().to_string()),
            Item::Impl(block) => module.associated.extend(block.items.iter().filter_map(|item| match item {
                ImplItem::Fn(function) => Some(function.sig.ident.unraw().to_string()),
                _ => None,
            })),
            Item::Use(item) => {
                let imports = item.tree.to_token_stream().to_string();
                let ours = imports.starts_with("streams")
                    && imports.split(|c: char| !is_part(c)).any(|word| word == "Context");
                module.imports_context |= ours;
            }
            Item::Macro(item) => module.in_macros += &item.mac.tokens.to_string(),
            _ => {}
        }
    }
    modules.push(module);
}

/// Whether an attribute implements no trait of ours, because it is one of Rust or of serde.
fn is_harmless(attribute: &Attribute) -> bool {
    const ATTRIBUTES: &[&str] =
        &["allow", "deny", "deprecated", "doc", "expect", "must_use", "non_exhaustive", "repr", "serde", "warn"];
    const DERIVES: &[&str] = &[
        "Clone",
        "Copy",
        "Debug",
        "Default",
        "Deserialize",
        "Eq",
        "Hash",
        "Ord",
        "PartialEq",
        "PartialOrd",
        "Serialize",
    ];
    let is_one_of = |path: &Path, names: &[&str]| {
        path.segments.last().is_some_and(|last| names.contains(&last.ident.to_string().as_str()))
    };
    if attribute.path().is_ident("derive") {
        let derives = attribute.parse_args_with(Punctuated::<Path, Token![,]>::parse_terminated);
        return derives.is_ok_and(|derives| derives.iter().all(|derive| is_one_of(derive, DERIVES)));
    }
    attribute.path().get_ident().is_some() && is_one_of(attribute.path(), ATTRIBUTES)
}

#[cfg(test)]
mod tests {
    use quote::format_ident;

    use super::*;

    const TEXT: &str = "
        struct Leg { a: u8 }
        #[event_type] struct Side;
        #[other::attribute] enum Odd {}
        struct Own; impl SchemaType for Own {}
        #[derive(Clone, my::Schema)] struct Derived;
        struct Macro; schemas!(Macro);
        struct Trade { leg: Leg }
        mod inner { struct Deep; struct Twice; fn beside() {} mod beside {} }
        struct Twice;
        impl Risk { fn check(trade: Trade) {} fn both() {} }
        fn both() {}
        fn checked() {}
        mod with { use streams_core::{Context, Message}; fn with_context() {} }
        mod of_another { use events::Context; fn with_another() {} }
    ";

    #[test]
    fn only_what_is_certain_is_said() {
        let source = Source::parse(TEXT.to_owned()).unwrap();
        let undeclared = |name: &str| source.is_undeclared(&format_ident!("Trade"), &format_ident!("{name}"));
        assert!(undeclared("Leg"));
        for name in ["Side", "Odd", "Own", "Derived", "Macro", "Deep", "Twice", "Elsewhere"] {
            assert!(!undeclared(name), "{name}");
        }
        let associated = |name: &str| source.is_associated(&format_ident!("{name}"));
        assert!(associated("check"));
        assert!(!associated("both") && !associated("checked") && !associated("beside"));
        let knows_context = |name: &str| source.knows_context(&format_ident!("{name}"));
        assert!(knows_context("with_context") && !knows_context("with_another") && !knows_context("checked"));
        let namesake = |name: &str| source.namesake(&format_ident!("{name}"));
        assert_eq!(namesake("beside").as_deref(), Some("mod beside"));
        assert_eq!(namesake("checked"), None);
    }
}
