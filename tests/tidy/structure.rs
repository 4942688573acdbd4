//! The structure inside the modules: which file imports which, how many parameters functions have, and the names of types.

use std::collections::{BTreeMap, BTreeSet};

use syn::visit::{self, Visit};
use syn::{Attribute, FnArg, Item, Pat, Signature, Type, UseTree, Visibility};

use crate::{Source, report, sources};

/// Most parameters of a function, each element of a tuple counted.
const PARAMETERS_MAX: usize = 6;
/// The floors of the request path, in which every type has a name of its own.
const FLOORS: [&str; 4] = ["proxy", "content", "attempt", "upstream"];

type ModulePath = Vec<String>;

/// What one file of the crate says.
struct File {
    path: String,
    module: ModulePath,
    /// The names that it exports from elsewhere, each with where it comes from.
    exports: Vec<ModulePath>,
    /// What it imports for itself, and what it names by a path.
    imports: Vec<ModulePath>,
    /// The types that it declares.
    types: Vec<String>,
    functions: Vec<Function>,
}

struct Function {
    name: String,
    lines: usize,
    parameters: usize,
    /// Parameters that take a tuple apart.
    tuples: usize,
}

/// Reads a file, its unit tests left out.
fn parse(source: &Source) -> File {
    let syntax = syn::parse_file(source.without_tests()).unwrap_or_else(|error| {
        panic!("{}: {error}", source.path);
    });
    let inside = source.path.trim_start_matches("src/").trim_end_matches(".rs");
    let mut module: ModulePath = inside.split('/').map(str::to_owned).collect();
    if module.last().is_some_and(|last| last == "mod" || last == "lib") {
        module.pop();
    }
    let mut file = File {
        path: source.path.clone(),
        module,
        exports: Vec::new(),
        imports: Vec::new(),
        types: Vec::new(),
        functions: Vec::new(),
    };
    file.visit_file(&syntax);
    file
}

fn is_test(attributes: &[Attribute]) -> bool {
    attributes.iter().any(|attribute| {
        let list = attribute.meta.require_list();
        attribute.path().is_ident("cfg") && list.is_ok_and(|list| list.tokens.to_string() == "test")
    })
}

fn leaves(tree: &UseTree, before: &[String], all: &mut Vec<ModulePath>) {
    let with = |name: &syn::Ident| [before, &[name.to_string()]].concat();
    match tree {
        UseTree::Path(path) => leaves(&path.tree, &with(&path.ident), all),
        UseTree::Name(name) if name.ident == "self" => all.push(before.to_vec()),
        UseTree::Name(name) => all.push(with(&name.ident)),
        UseTree::Rename(rename) => all.push(with(&rename.ident)),
        UseTree::Glob(_) => all.push([before, &["*".to_owned()]].concat()),
        UseTree::Group(group) => group.items.iter().for_each(|tree| leaves(tree, before, all)),
    }
}

impl Visit<'_> for File {
    fn visit_item(&mut self, item: &Item) {
        match item {
            Item::Use(item) if !is_test(&item.attrs) => {
                let list = match item.vis {
                    Visibility::Inherited => &mut self.imports,
                    Visibility::Public(_) | Visibility::Restricted(_) => &mut self.exports,
                };
                leaves(&item.tree, &[], list);
                return;
            }
            Item::Mod(item) if is_test(&item.attrs) => return,
            Item::Struct(item) => self.types.push(item.ident.to_string()),
            Item::Enum(item) => self.types.push(item.ident.to_string()),
            Item::Trait(item) => self.types.push(item.ident.to_string()),
            Item::Type(item) => self.types.push(item.ident.to_string()),
            _ => {}
        }
        visit::visit_item(self, item);
    }

    // `pub(in crate::module)` is no use of the module.
    fn visit_visibility(&mut self, _: &Visibility) {}

    fn visit_path(&mut self, path: &syn::Path) {
        let names: Vec<_> = path.segments.iter().map(|segment| segment.ident.to_string()).collect();
        if names.len() > 1 && ["crate", "super", "self"].contains(&names[0].as_str()) {
            self.imports.push(names);
        }
        visit::visit_path(self, path);
    }

    fn visit_item_fn(&mut self, function: &syn::ItemFn) {
        self.functions.push(Function::of(&function.sig, &function.block));
        visit::visit_item_fn(self, function);
    }

    fn visit_impl_item_fn(&mut self, function: &syn::ImplItemFn) {
        self.functions.push(Function::of(&function.sig, &function.block));
        visit::visit_impl_item_fn(self, function);
    }
}

impl Function {
    fn of(signature: &Signature, block: &syn::Block) -> Self {
        let (mut parameters, mut tuples) = (0, 0);
        for input in &signature.inputs {
            let FnArg::Typed(input) = input else { continue };
            let elements = match without_reference(&input.ty) {
                Type::Tuple(tuple) => tuple.elems.len(),
                _ => 1,
            };
            parameters += elements;
            tuples += usize::from(matches!(*input.pat, Pat::Tuple(_)));
        }
        let (start, end) = (block.brace_token.span.open(), block.brace_token.span.close());
        let lines = end.end().line.saturating_sub(start.start().line) + 1;
        Self { name: signature.ident.to_string(), lines, parameters, tuples }
    }
}

fn without_reference(kind: &Type) -> &Type {
    match kind {
        Type::Reference(reference) => without_reference(&reference.elem),
        other => other,
    }
}

/// All files of the crate, and which of them imports which.
struct Structure {
    files: Vec<File>,
    by_module: BTreeMap<ModulePath, usize>,
}

impl Structure {
    fn read() -> Self {
        let sources = sources("src");
        let files: Vec<_> = sources.iter().filter(|source| !source.is_tests()).map(parse).collect();
        let by_module = files.iter().enumerate().map(|(at, file)| (file.module.clone(), at)).collect();
        Self { files, by_module }
    }

    /// Where a path in a file of `module` leads: a module, and what is named in it.
    fn absolute(&self, module: &[String], path: &[String]) -> Option<(ModulePath, Vec<String>)> {
        let (mut at, mut rest) = (module.to_vec(), path);
        match path.first()?.as_str() {
            "crate" => (at, rest) = (Vec::new(), &path[1..]),
            "self" => rest = &path[1..],
            "super" => {
                while rest.first().is_some_and(|name| name == "super") {
                    at.pop();
                    rest = &rest[1..];
                }
            }
            child => {
                let inside = [module, &[child.to_owned()]].concat();
                self.by_module.get(&inside)?;
            }
        }
        Some((at, rest.to_vec()))
    }

    /// The file in which what a path names is declared.
    fn declared_in(&self, mut at: ModulePath, mut rest: &[String], depth: usize) -> Option<usize> {
        while let Some((first, others)) = rest.split_first() {
            let inside = [&at[..], std::slice::from_ref(first)].concat();
            if !self.by_module.contains_key(&inside) {
                break;
            }
            (at, rest) = (inside, others);
        }
        let file = *self.by_module.get(&at)?;
        let Some(name) = rest.first().filter(|_| depth < 10) else { return Some(file) };
        for export in &self.files[file].exports {
            let Some((from, path)) = self.absolute(&at, export) else { continue };
            match path.last() {
                Some(last) if last == name => {
                    let path = [&path[..], &rest[1..]].concat();
                    return self.declared_in(from, &path, depth + 1);
                }
                Some(last) if last == "*" => {
                    let of = self.declared_in(from, &path[..path.len() - 1], depth + 1)?;
                    if self.files[of].types.contains(name) {
                        return Some(of);
                    }
                }
                Some(_) | None => {}
            }
        }
        Some(file)
    }

    fn imports_of(&self, at: usize) -> BTreeSet<usize> {
        let file = &self.files[at];
        let paths = file.imports.iter().filter_map(|path| self.absolute(&file.module, path));
        let declared = paths.filter_map(|(module, path)| self.declared_in(module, &path, 0));
        declared.filter(|used| *used != at).collect()
    }

    /// Files that import each other, in a circle of any length. Each circle once, as the names of its files.
    fn circles(&self) -> Vec<Vec<&str>> {
        let imports: Vec<_> = (0..self.files.len()).map(|at| self.imports_of(at)).collect();
        let reached: Vec<BTreeSet<usize>> = (0..self.files.len())
            .map(|start| {
                let (mut seen, mut open) = (BTreeSet::new(), imports[start].clone());
                while let Some(next) = open.pop_first() {
                    if seen.insert(next) {
                        open.extend(&imports[next]);
                    }
                }
                seen
            })
            .collect();
        let mut circles = BTreeSet::new();
        for at in 0..self.files.len() {
            let circle: Vec<_> =
                reached[at].iter().filter(|other| reached[**other].contains(&at)).copied().collect();
            if circle.len() > 1 {
                circles.insert(circle);
            }
        }
        let names = |circle: Vec<usize>| circle.iter().map(|at| self.files[*at].path.as_str()).collect();
        circles.into_iter().map(names).collect()
    }

    fn functions(&self) -> impl Iterator<Item = (&File, &Function)> {
        self.files.iter().flat_map(|file| file.functions.iter().map(move |function| (file, function)))
    }
}

#[test]
fn no_files_import_each_other() {
    let structure = Structure::read();
    let circles = structure.circles();
    report("circles between files", &circles.iter().map(|circle| circle.join(" <-> ")).collect::<Vec<_>>());
}

#[test]
fn parameters_are_few_and_named() {
    let structure = Structure::read();
    let mut problems = Vec::new();
    for (file, Function { name, parameters, tuples, .. }) in structure.functions() {
        if *tuples > 0 {
            problems.push(format!("{}: `{name}` takes a tuple apart; name its parameters", file.path));
        }
        if *parameters > PARAMETERS_MAX {
            problems.push(format!("{}: `{name}` has {parameters} parameters", file.path));
        }
    }
    report("parameters", &problems);
}

#[test]
fn every_type_of_the_request_path_has_a_name_of_its_own() {
    let structure = Structure::read();
    let mut declared: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for file in structure
        .files
        .iter()
        .filter(|file| file.module.first().is_some_and(|module| FLOORS.contains(&module.as_str())))
    {
        for name in &file.types {
            declared.entry(name).or_default().push(&file.path);
        }
    }
    let twice = declared.iter().filter(|(_, files)| files.len() > 1);
    let twice = twice.map(|(name, files)| format!("`{name}`: {}", files.join(", ")));
    report("types with one name", &twice.collect::<Vec<_>>());
}

/// The figures by which the structure can be compared with another revision's: `cargo test --test tidy figures --
/// --nocapture`, and `TIDEGATE_TIDY_ROOT` for the tree to look at.
#[test]
fn figures() {
    let structure = Structure::read();
    let circles = structure.circles();
    let in_circles: usize = circles.iter().map(Vec::len).sum();
    let tuples: usize = structure.functions().map(|(_, function)| function.tuples).sum();
    println!("circles between files: {} with {in_circles} files", circles.len());
    println!("parameters that take a tuple apart: {tuples}");
    for floor in FLOORS {
        let is_there = |file: &&File| file.module.first().is_some_and(|module| module == floor);
        let files = structure.files.iter().filter(is_there).count();
        let of_floor = || structure.functions().filter(|(file, _)| is_there(file));
        let largest = of_floor().max_by_key(|(_, function)| function.lines);
        let lines: usize = sources("src")
            .iter()
            .filter(|source| source.module() == floor)
            .map(|source| source.without_tests().lines().count())
            .sum();
        let (name, size) = largest.map_or(("none", 0), |(_, function)| (&*function.name, function.lines));
        println!("{floor}: {files} files, {lines} lines, largest function `{name}` with {size}");
    }
    assert!(!structure.files.is_empty());
}
