//! The structure of the sources: imports point one way, links in the documentation lead somewhere,
//! and the words of the glossary are used.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    process::Command,
};

use syn::visit::{self, Visit};

/// The layers of `src/`, top down. A module imports from its own layer's folder and from those below.
const LAYERS: [&str; 15] = [
    "main",
    "cli",
    "demo",
    "server",
    "http",
    "signin",
    "settings",
    "oidc",
    "relay",
    "token",
    "store",
    "session",
    "telemetry",
    "api",
    "util",
];

/// Words that are not used for what the glossary has a term for, and what to write instead.
const WORDS: [(&str, &str); 22] = [
    (r"forge", "issue; only somebody else's counterfeit is forged"),
    (r"forges", "issues"),
    (r"teller", "encoder"),
    (r"patience", "timeout"),
    (r"outlet", "direct writer"),
    (r"put into force", "apply"),
    (r"gone on with", "continue"),
    (r"whoever brings", "the caller that brings"),
    (r"sign of life", "heartbeat"),
    (r"time-out", "timeout"),
    (r"time-outs", "timeouts"),
    (r"at the most", "at most"),
    (r"letter by letter", "exactly"),
    (r"is away", "is unavailable"),
    (r"in force", "active"),
    (r"goes on", "continues"),
    (r"go on", "continue"),
    (r"told", "sent, reported or notified"),
    (r"looked again", "read again"),
    (r"life of", "lifetime of"),
    (r"notes that", "records that"),
    (r"what came of", "the result of"),
];

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn files(folder: &Path, extension: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            if !path.ends_with("node_modules") {
                found.extend(files(&path, extension));
            }
        } else if path.extension().is_some_and(|found| found == extension) {
            found.push(path);
        }
    }
    found.sort();
    found
}

/// The module path of a file below `src/`: `src/http/dialog/mod.rs` is `["http", "dialog"]`.
fn module(path: &Path) -> Vec<String> {
    let relative = path.strip_prefix(root().join("src")).unwrap().with_extension("");
    let mut names: Vec<String> =
        relative.iter().map(|name| name.to_str().unwrap().to_owned()).collect();
    if names.last().is_some_and(|last| last == "mod" || last == "lib") {
        names.pop();
    }
    names
}

/// Collects the paths within the crate that a file names, without those of its tests.
struct Imports {
    module: Vec<String>,
    found: BTreeSet<Vec<String>>,
}

impl Imports {
    fn absolute(&self, segments: &[String]) -> Option<Vec<String>> {
        match segments.first()?.as_str() {
            "crate" => Some(segments[1..].to_vec()),
            "self" => Some([&self.module[..], &segments[1..]].concat()),
            "super" => {
                let ups = segments.iter().take_while(|each| *each == "super").count();
                let base = &self.module[..self.module.len().checked_sub(ups)?];
                Some([base, &segments[ups..]].concat())
            }
            _ => None,
        }
    }

    fn tree(&mut self, prefix: &[String], tree: &syn::UseTree) {
        let with = |name: &syn::Ident| [prefix, &[name.to_string()][..]].concat();
        match tree {
            syn::UseTree::Path(path) => self.tree(&with(&path.ident), &path.tree),
            syn::UseTree::Name(name) => self.found.extend(self.absolute(&with(&name.ident))),
            syn::UseTree::Rename(name) => self.found.extend(self.absolute(&with(&name.ident))),
            syn::UseTree::Glob(_) => self.found.extend(self.absolute(prefix)),
            syn::UseTree::Group(group) => {
                group.items.iter().for_each(|item| self.tree(prefix, item))
            }
        }
    }
}

fn is_test_only(attributes: &[syn::Attribute]) -> bool {
    attributes.iter().any(|attribute| {
        attribute.path().is_ident("cfg")
            && matches!(&attribute.meta, syn::Meta::List(list) if list.tokens.to_string() == "test")
    })
}

impl<'ast> Visit<'ast> for Imports {
    fn visit_item_mod(&mut self, item: &'ast syn::ItemMod) {
        if !is_test_only(&item.attrs) {
            visit::visit_item_mod(self, item);
        }
    }

    fn visit_item_use(&mut self, item: &'ast syn::ItemUse) {
        if !is_test_only(&item.attrs) {
            self.tree(&[], &item.tree);
        }
    }

    fn visit_path(&mut self, path: &'ast syn::Path) {
        let segments: Vec<String> =
            path.segments.iter().map(|segment| segment.ident.to_string()).collect();
        self.found.extend(self.absolute(&segments));
        visit::visit_path(self, path);
    }
}

/// Every file's module, and the modules of other files that it imports from.
fn imports() -> BTreeMap<String, BTreeSet<String>> {
    let sources = files(&root().join("src"), "rs");
    let modules: BTreeSet<Vec<String>> = sources.iter().map(|path| module(path)).collect();
    let mut all = BTreeMap::new();
    for path in &sources {
        if path.file_name().is_some_and(|name| name == "tests.rs") {
            continue;
        }
        let own = module(path);
        let text = std::fs::read_to_string(path).unwrap();
        let mut imports = Imports { module: own.clone(), found: BTreeSet::new() };
        imports.visit_file(&syn::parse_file(&text).unwrap());
        let targets = imports.found.iter().filter_map(|path| {
            // The longest prefix that is a file.
            (1..=path.len())
                .rev()
                .map(|length| path[..length].to_vec())
                .find(|prefix| modules.contains(prefix))
        });
        let targets = targets.filter(|target| *target != own).map(|target| target.join("::"));
        all.insert(own.join("::"), targets.collect());
    }
    all
}

fn layer(module: &str) -> Option<usize> {
    let top = module.split("::").next().unwrap();
    LAYERS.iter().position(|layer| *layer == top)
}

#[test]
fn imports_point_down() {
    let mut wrong = Vec::new();
    for (from, targets) in imports() {
        // The crate's root names its modules.
        let Some(own) = layer(&from) else {
            assert!(from.is_empty(), "{from} has no layer: add it to LAYERS");
            continue;
        };
        for to in targets {
            if layer(&to).is_some_and(|below| below < own) {
                wrong.push(format!("{from} imports {to}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// The modules that can be reached from `start` and from which it can be reached.
fn circle(graph: &BTreeMap<String, BTreeSet<String>>, start: &str) -> BTreeSet<String> {
    let reachable = |graph: &BTreeMap<String, BTreeSet<String>>, from: &str| {
        let (mut seen, mut open) = (BTreeSet::new(), vec![from.to_owned()]);
        while let Some(next) = open.pop() {
            for to in graph.get(&next).into_iter().flatten() {
                if seen.insert(to.clone()) {
                    open.push(to.clone());
                }
            }
        }
        seen
    };
    let forward = reachable(graph, start);
    if !forward.contains(start) {
        return BTreeSet::new();
    }
    forward.into_iter().filter(|each| reachable(graph, each).contains(start)).collect()
}

#[test]
fn no_files_import_each_other_in_a_circle() {
    let mut graph = imports();
    // A folder's `mod.rs` declares what its files share, and names the files.
    let folders: BTreeSet<String> = graph
        .keys()
        .filter_map(|name| name.rsplit_once("::"))
        .map(|(up, _)| up.to_owned())
        .collect();
    for (from, targets) in &mut graph {
        targets.retain(|to| {
            let up = from.strip_prefix(to.as_str()).is_some_and(|rest| rest.starts_with("::"));
            let down = to.strip_prefix(from.as_str()).is_some_and(|rest| rest.starts_with("::"));
            let declares = (up && folders.contains(to)) || (down && folders.contains(from));
            !declares && !from.is_empty()
        });
    }
    let circles: BTreeSet<BTreeSet<String>> =
        graph.keys().map(|name| circle(&graph, name)).filter(|found| !found.is_empty()).collect();
    assert!(circles.is_empty(), "{circles:#?}");
}

#[test]
fn no_folders_import_each_other_in_a_circle() {
    for depth in 1..=3 {
        let folder = |name: &str| name.split("::").take(depth).collect::<Vec<_>>().join("::");
        let mut graph = BTreeMap::<String, BTreeSet<String>>::new();
        for (from, targets) in imports() {
            let own = folder(&from);
            let others = targets.iter().map(|to| folder(to)).filter(|to| {
                // A folder and what lies in it are one.
                *to != own
                    && !own.starts_with(&format!("{to}::"))
                    && !to.starts_with(&format!("{own}::"))
            });
            if !from.is_empty() {
                graph.entry(own.clone()).or_default().extend(others);
            }
        }
        let circles: BTreeSet<BTreeSet<String>> = graph
            .keys()
            .map(|name| circle(&graph, name))
            .filter(|found| !found.is_empty())
            .collect();
        assert!(circles.is_empty(), "{circles:#?}");
    }
}

/// Collects the types of a file that other files can name.
#[derive(Default)]
struct Types(Vec<String>);

impl Types {
    fn add(&mut self, visibility: &syn::Visibility, name: &syn::Ident) {
        if !matches!(visibility, syn::Visibility::Inherited) {
            self.0.push(name.to_string());
        }
    }
}

impl<'ast> Visit<'ast> for Types {
    fn visit_item_mod(&mut self, item: &'ast syn::ItemMod) {
        if !is_test_only(&item.attrs) {
            visit::visit_item_mod(self, item);
        }
    }

    fn visit_item_struct(&mut self, item: &'ast syn::ItemStruct) {
        self.add(&item.vis, &item.ident);
    }

    fn visit_item_enum(&mut self, item: &'ast syn::ItemEnum) {
        self.add(&item.vis, &item.ident);
    }

    fn visit_item_trait(&mut self, item: &'ast syn::ItemTrait) {
        self.add(&item.vis, &item.ident);
    }

    fn visit_item_type(&mut self, item: &'ast syn::ItemType) {
        self.add(&item.vis, &item.ident);
    }
}

#[test]
fn no_two_types_that_other_files_can_name_share_a_name() {
    let mut declared = BTreeMap::<String, Vec<String>>::new();
    for path in files(&root().join("src"), "rs") {
        // It replaces `telemetry::spans` in a build without that feature.
        if path.ends_with("telemetry/without.rs") {
            continue;
        }
        let text = std::fs::read_to_string(&path).unwrap();
        let mut types = Types::default();
        types.visit_file(&syn::parse_file(&text).unwrap());
        for name in types.0 {
            declared.entry(name).or_default().push(module(&path).join("::"));
        }
    }
    assert!(declared.len() > 100, "{}", declared.len());
    declared.retain(|_, modules| modules.len() > 1);
    assert!(declared.is_empty(), "{declared:#?}");
}

#[test]
fn words_of_the_glossary_are_used() {
    let mut found = Vec::new();
    for folder in ["src", "docs", "static", "deploy", "examples", "client"] {
        let folder = root().join(folder);
        if !folder.exists() {
            continue;
        }
        for path in ["rs", "md", "html", "js", "json", "toml", "yaml", "lua"]
            .iter()
            .flat_map(|extension| files(&folder, extension))
        {
            // It has them as the words to be replaced.
            let text = std::fs::read_to_string(&path).unwrap().to_lowercase();
            for (number, line) in text.lines().enumerate() {
                for (word, instead) in WORDS {
                    let is_whole = line.match_indices(word).any(|(at, _)| {
                        let letter = |each: Option<char>| each.is_some_and(char::is_alphabetic);
                        !letter(line[..at].chars().next_back())
                            && !letter(line[at + word.len()..].chars().next())
                    });
                    if is_whole {
                        let path = path.strip_prefix(root()).unwrap().display().to_string();
                        found.push(format!("{path}:{}: {word} → {instead}", number + 1));
                    }
                }
            }
        }
    }
    assert!(found.is_empty(), "{}", found.join("\n"));
}

#[test]
fn links_in_the_documentation_lead_somewhere() {
    let mut documents = files(&root().join("docs"), "md");
    documents.extend(
        ["README.md", "SECURITY.md", "CONTRIBUTING.md", "CHANGELOG.md"]
            .map(|name| root().join(name)),
    );
    let mut broken = Vec::new();
    for document in documents {
        let text = std::fs::read_to_string(&document).unwrap();
        let links = text.split("](").skip(1).filter_map(|rest| rest.split(')').next());
        for link in links.filter(|link| !link.starts_with("http") && !link.starts_with('#')) {
            let target = link.split('#').next().unwrap();
            if !document.parent().unwrap().join(target).exists() {
                broken.push(format!("{}: {link}", document.display()));
            }
        }
    }
    assert!(broken.is_empty(), "{}", broken.join("\n"));
}

/// An add-in in Rust pays for its client library with less than the relay itself is made of.
#[test]
fn the_client_library_brings_fewer_than_120_crates() {
    let mut tree = Command::new(env!("CARGO"));
    tree.args(["tree", "--locked", "--package", "token-relay-client"]);
    tree.args(["--edges", "normal,build", "--prefix", "none", "--no-dedupe"]);
    let output = tree.current_dir(root()).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let printed = String::from_utf8(output.stdout).unwrap();
    let crates: BTreeSet<&str> =
        printed.lines().map(|line| line.trim_end_matches(" (proc-macro)")).collect();
    println!("{} crates, with the client itself", crates.len());
    assert!(crates.len() > 10 && crates.len() <= 120, "{} crates", crates.len());
}
