//! Rules about the source itself: which module may use which, what pure modules keep away from, how long files are, and
//! that what is written down elsewhere (the test binary, the list of metrics) is complete.

mod structure;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

/// Modules that decide and do nothing else.
const PURE: [&str; 8] = ["registry", "secret", "pace", "auth", "balance", "forwarding", "pin", "routing"];

/// What a module may use besides itself. `PURE` stands for every pure module, `*` for everything but `main`.
const MAY_USE: [(&str, &[&str]); 30] = [
    ("registry", &[]),
    ("secret", &[]),
    ("pace", &[]),
    ("auth", &["registry"]),
    ("balance", &["registry"]),
    ("forwarding", &["registry"]),
    ("pin", &["registry"]),
    ("routing", &["registry"]),
    // Of the modules that do things only their settings; see `the_configuration_knows_only_settings`.
    ("config", &["PURE", "admin", "identity", "server", "telemetry", "token_service", "upstream"]),
    ("random", &["PURE"]),
    ("telemetry", &["registry"]),
    ("identity", &["PURE", "telemetry", "random"]),
    ("files", &[]),
    ("key_store", &["PURE", "files"]),
    ("upstream", &["PURE", "telemetry", "random"]),
    ("harbor", &["PURE", "upstream", "identity", "telemetry", "random"]),
    ("snapshot", &["PURE", "identity", "key_store"]),
    ("token_service", &["PURE", "upstream", "harbor", "identity", "telemetry", "random", "snapshot"]),
    ("attempt", &["PURE", "upstream"]),
    ("content", &["PURE", "attempt", "upstream", "telemetry", "random"]),
    (
        "proxy",
        &[
            "PURE",
            "handover",
            "attempt",
            "content",
            "upstream",
            "harbor",
            "identity",
            "telemetry",
            "random",
            "snapshot",
        ],
    ),
    ("server", &["pace", "telemetry"]),
    ("handover", &[]),
    ("admin", &["upstream", "telemetry", "handover"]),
    ("doctor", &["PURE", "upstream", "random"]),
    ("reload", &["upstream", "telemetry", "config", "server", "proxy", "token_service", "harbor"]),
    ("app", &["*"]),
    ("cli", &["*"]),
    ("lib", &[]),
    ("main", &["cli"]),
];

/// Uses beyond the table, each with its reason. One that is not needed any more is a failure too.
const EXCEPTIONS: [(&str, &str, &str); 9] = [
    ("pin", "auth", "a pin names a subject and is sealed under a key ring"),
    ("routing", "auth", "routes and policy rules have one kind of repository pattern"),
    ("proxy", "token_service", "the request path hands token requests over"),
    ("reload", "admin", "reloads are asked for at the control socket, which tells what was refused"),
    ("reload", "auth", "a reload builds client tokens and the ring of member keys"),
    ("reload", "identity", "a reload reads the providers again"),
    ("reload", "key_store", "a reload reads the key files again"),
    ("reload", "snapshot", "a reload is a new snapshot"),
    ("reload", "random", "the time until which removed members are remembered"),
];

/// Most lines of a file, without its unit tests.
const LINES_MAX: usize = 500;
/// Files that are longer, how long they may be, and why.
const LONG_FILES: [(&str, usize, &str); 0] = [];

/// A source file.
struct Source {
    /// Relative to the repository.
    path: String,
    text: String,
}

impl Source {
    /// The module of the crate's root that it belongs to.
    fn module(&self) -> &str {
        let inside = self.path.strip_prefix("src/").unwrap_or(&self.path);
        let end = inside.find(['/', '.']).unwrap_or(inside.len());
        &inside[..end]
    }

    fn is_tests(&self) -> bool {
        self.path.ends_with("/tests.rs")
    }

    /// The text before its unit tests.
    fn without_tests(&self) -> &str {
        if self.is_tests() {
            return "";
        }
        let tests = self.text.find("#[cfg(test)]\nmod tests {");
        &self.text[..tests.unwrap_or(self.text.len())]
    }
}

/// The tree that is looked at: this one, or `TIDEGATE_TIDY_ROOT`.
fn root() -> &'static Path {
    static ROOT: LazyLock<PathBuf> = LazyLock::new(|| {
        let other = std::env::var_os("TIDEGATE_TIDY_ROOT").map(PathBuf::from);
        other.unwrap_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).to_owned())
    });
    &ROOT
}

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// Every Rust file below a directory of the repository.
fn sources(directory: &str) -> Vec<Source> {
    let mut files = Vec::new();
    let mut directories = vec![root().join(directory)];
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(&directory).expect("a directory") {
            let path: PathBuf = entry.expect("an entry").path();
            if path.is_dir() {
                directories.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let name = path.strip_prefix(root()).expect("below the root").display().to_string();
                files.push(Source { text: read(&name), path: name });
            }
        }
    }
    files.sort_by(|a, b| a.path.cmp(&b.path));
    assert!(!files.is_empty(), "no Rust file below {directory}");
    files
}

fn report(what: &str, problems: &[String]) {
    assert!(problems.is_empty(), "{what}:\n  {}", problems.join("\n  "));
}

/// The code without comments and without what stands in literals.
fn code_of(text: &str) -> String {
    let mut code = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let skipped = literal_or_comment(rest, &code);
        if skipped > 0 {
            // A line break is kept where one was, so that nothing grows together.
            code.push_str(if rest[..skipped].contains('\n') { "\n" } else { " " });
            rest = &rest[skipped..];
        } else {
            code.push(first);
            rest = &rest[first.len_utf8()..];
        }
    }
    code
}

/// The length of the comment or literal at the start of `rest`; 0 where there is none. `before` is the code up to here.
fn literal_or_comment(rest: &str, before: &str) -> usize {
    if rest.starts_with("//") {
        return rest.find('\n').unwrap_or(rest.len());
    }
    if let Some(after) = rest.strip_prefix("/*") {
        return after.find("*/").map_or(rest.len(), |end| end + 4);
    }
    let in_word = before.ends_with(|c: char| c.is_alphanumeric() || c == '_');
    if rest.starts_with('r') && !in_word {
        let hashes = rest[1..].bytes().take_while(|byte| *byte == b'#').count();
        if rest[1 + hashes..].starts_with('"') {
            let (open, close) = (hashes + 2, format!("\"{}", "#".repeat(hashes)));
            return rest[open..].find(&close).map_or(rest.len(), |end| open + end + close.len());
        }
    }
    if rest.starts_with('"') {
        return quoted(rest, b'"');
    }
    // `'a'` and `'\n'` are characters, `'a` is a lifetime.
    let mut letters = rest.chars();
    match (letters.next(), letters.next(), letters.next()) {
        (Some('\''), Some('\\'), Some(_)) => quoted(rest, b'\''),
        (Some('\''), Some(letter), Some('\'')) => 2 + letter.len_utf8(),
        _ => 0,
    }
}

/// The length of a literal that begins and ends with `quote`.
fn quoted(rest: &str, quote: u8) -> usize {
    let bytes = rest.as_bytes();
    let mut at = 1;
    while at < bytes.len() && bytes[at] != quote {
        at += if bytes[at] == b'\\' { 2 } else { 1 };
    }
    (at + 1).min(rest.len())
}

fn word(text: &str) -> &str {
    let end = text.find(|c: char| !c.is_alphanumeric() && c != '_');
    &text[..end.unwrap_or(text.len())]
}

/// The paths that follow `prefix` in the code, up to the first word, or all words of a `{...}`.
fn heads_after(code: &str, prefix: &str) -> Vec<String> {
    let mut heads = Vec::new();
    for (at, _) in code.match_indices(prefix) {
        let fits = !code[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_' || c == ':');
        if !fits {
            continue;
        }
        let rest = &code[at + prefix.len()..];
        match rest.strip_prefix('{') {
            None => heads.push(word(rest).to_owned()),
            Some(group) => heads.extend(group_heads(group)),
        }
    }
    heads
}

/// The first word of every entry of `a, b::{c, d}, e}`.
fn group_heads(group: &str) -> Vec<String> {
    let (mut heads, mut depth, mut entry) = (Vec::new(), 0_usize, String::new());
    for letter in group.chars() {
        match letter {
            '}' if depth == 0 => break,
            ',' if depth == 0 => heads.push(std::mem::take(&mut entry)),
            '{' => depth += 1,
            '}' => depth -= 1,
            _ if depth == 0 => entry.push(letter),
            _ => {}
        }
    }
    heads.push(entry);
    heads.iter().map(|head| word(head.trim()).to_owned()).filter(|head| !head.is_empty()).collect()
}

/// Which module uses which, with a file where it does. `use crate::` and paths within code both count.
fn uses() -> BTreeMap<(String, String), String> {
    let mut uses = BTreeMap::new();
    for source in sources("src") {
        let code = code_of(source.without_tests());
        let own = ["crate::", "tidegate::"].iter().flat_map(|prefix| heads_after(&code, prefix));
        for used in own.filter(|used| used != source.module()) {
            uses.entry((source.module().to_owned(), used)).or_insert_with(|| source.path.clone());
        }
    }
    uses
}

fn may_use(user: &str, used: &str) -> bool {
    let Some((_, allowed)) = MAY_USE.iter().find(|(module, _)| *module == user) else { return false };
    allowed.iter().any(|allowed| match *allowed {
        "PURE" => PURE.contains(&used),
        "*" => used != "main",
        _ => *allowed == used,
    })
}

#[test]
fn modules_use_only_what_they_may() {
    let uses = uses();
    let is_exception =
        |user: &str, used: &str| EXCEPTIONS.iter().any(|entry| (entry.0, entry.1) == (user, used));
    let mut problems: Vec<String> = uses
        .iter()
        .filter(|((user, used), _)| !may_use(user, used) && !is_exception(user, used))
        .map(|((user, used), path)| format!("{path}: `{user}` may not use `{used}`"))
        .collect();
    for (user, used, _) in EXCEPTIONS {
        if !uses.contains_key(&(user.to_owned(), used.to_owned())) {
            problems.push(format!("the exception that lets `{user}` use `{used}` is not needed any more"));
        }
        if may_use(user, used) {
            problems.push(format!("the exception that lets `{user}` use `{used}` is in the table already"));
        }
    }
    report("dependencies", &problems);
}

#[test]
fn every_module_is_in_the_table() {
    let known: BTreeSet<&str> = MAY_USE.iter().map(|(module, _)| *module).collect();
    let sources = sources("src");
    let found: BTreeSet<&str> = sources.iter().map(Source::module).collect();
    assert_eq!(found, known, "modules of the crate and modules in the table");
}

#[test]
fn no_modules_use_each_other() {
    let uses = uses();
    let next = |module: &str| -> Vec<String> {
        uses.keys().filter(|(user, _)| user == module).map(|(_, used)| used.clone()).collect()
    };
    let mut problems = Vec::new();
    for (module, _) in MAY_USE {
        let (mut seen, mut open) = (BTreeSet::new(), next(module));
        while let Some(reached) = open.pop() {
            if seen.insert(reached.clone()) {
                open.extend(next(&reached));
            }
        }
        if seen.contains(module) {
            problems.push(format!("`{module}` uses itself by way of others"));
        }
    }
    report("circles", &problems);
}

#[test]
fn only_the_wiring_knows_the_configuration() {
    let wiring = ["app", "cli", "reload", "main"];
    let uses = uses();
    let others = uses.iter().filter(|((user, used), _)| used == "config" && !wiring.contains(&user.as_str()));
    report("users of `config`", &others.map(|(_, path)| path.clone()).collect::<Vec<_>>());
}

#[test]
fn the_configuration_knows_only_settings() {
    let mut problems = Vec::new();
    for module in ["admin", "identity", "server", "telemetry", "token_service", "upstream"] {
        let settings: String = sources("src")
            .iter()
            .filter(|source| source.module() == module)
            .filter(|source| source.path.ends_with("/settings.rs") || source.path.ends_with("/name.rs"))
            .map(|source| code_of(&source.text))
            .collect();
        for source in sources("src").iter().filter(|source| source.module() == "config") {
            let code = code_of(source.without_tests());
            for name in heads_after(&code, &format!("crate::{module}::")) {
                let is_settings = ["struct", "enum", "type", "const"]
                    .iter()
                    .any(|kind| heads_after(&settings, &format!("{kind} ")).contains(&name));
                if !is_settings && !settings.contains(&format!(" {name},")) {
                    problems.push(format!("{}: `{module}::{name}` is no setting", source.path));
                }
            }
        }
    }
    report("what `config` uses of modules that do things", &problems);
}

#[test]
fn pure_modules_stay_pure() {
    let mut problems = Vec::new();
    for source in sources("src").iter().filter(|source| PURE.contains(&source.module())) {
        let code = code_of(source.without_tests());
        for library in ["tokio", "hyper", "hyper_util", "tracing", "rand"] {
            if !heads_after(&code, &format!("{library}::")).is_empty() {
                problems.push(format!("{}: uses {library}", source.path));
            }
        }
        for clock in ["SystemTime::now", "Instant::now", "Timestamp::now", "unix_now"] {
            if code.contains(clock) {
                problems.push(format!("{}: reads the clock with {clock}", source.path));
            }
        }
    }
    report("pure modules", &problems);
}

#[test]
fn every_file_says_what_it_is_about() {
    let sources = sources("src");
    let silent = sources.iter().filter(|source| !source.text.starts_with("//!"));
    let silent: Vec<_> = silent.map(|source| source.path.clone()).collect();
    report("files that do not start with `//!`", &silent);
}

#[test]
fn files_are_short() {
    let mut problems = Vec::new();
    for source in sources("src") {
        let lines = source.without_tests().lines().count();
        let long = LONG_FILES.iter().find(|(path, _, _)| *path == source.path);
        let max = long.map_or(LINES_MAX, |(_, max, _)| *max);
        if lines > max {
            problems.push(format!("{}: {lines} lines without tests, at most {max}", source.path));
        }
        if long.is_some() && lines <= LINES_MAX {
            problems.push(format!("{}: is not long any more; take it out of the list", source.path));
        }
    }
    for (path, _, _) in LONG_FILES {
        assert!(root().join(path).is_file(), "{path} is in the list of long files and does not exist");
    }
    report("long files", &problems);
}

#[test]
fn every_integration_test_is_part_of_the_binary() {
    let main = code_of(&read("tests/it/main.rs"));
    let mut problems = Vec::new();
    for entry in fs::read_dir(root().join("tests/it")).expect("a directory") {
        let path = entry.expect("an entry").path();
        let name = path.file_stem().and_then(|name| name.to_str()).unwrap_or_default();
        let is_module = path.is_dir() || path.extension().is_some_and(|extension| extension == "rs");
        if is_module && name != "main" && !main.lines().any(|line| line.trim() == format!("mod {name};")) {
            problems.push(format!("tests/it/{name} is not a module of tests/it/main.rs"));
        }
    }
    report("tests that never run", &problems);
}

/// Every word in the text that begins like a metric's name.
fn metric_names(text: &str) -> BTreeSet<&str> {
    let starts = text.match_indices("tidegate_").filter(|(at, _)| {
        !text[..*at].ends_with(|c: char| c.is_alphanumeric() || c == '_' || c == '/' || c == '.')
    });
    starts.map(|(at, _)| word(&text[at..])).collect()
}

#[test]
fn every_metric_is_explained() {
    let sources = ["src/telemetry/metrics.rs", "src/telemetry/failover.rs"]
        .map(|path| Source { path: path.to_owned(), text: read(path) });
    let metrics: BTreeSet<&str> =
        sources.iter().flat_map(|source| metric_names(source.without_tests())).collect();
    assert!(metrics.len() > 10, "the metrics were not found: {metrics:?}");
    let document = read("docs/operations.md");
    let explained = metric_names(&document);
    let plain = |name: &str| {
        let suffix = ["_bucket", "_sum", "_count"].iter().find_map(|suffix| name.strip_suffix(suffix));
        suffix.unwrap_or(name).to_owned()
    };
    let missing = metrics.difference(&explained).map(|name| format!("{name} is not in docs/operations.md"));
    let unknown = explained
        .iter()
        .filter(|name| !metrics.contains(**name) && !metrics.contains(plain(name).as_str()))
        .map(|name| format!("docs/operations.md explains {name}, which does not exist"));
    report("metrics", &missing.chain(unknown).collect::<Vec<_>>());
}

#[test]
fn nothing_is_left_undone() {
    // In two parts, so that this file does not find itself.
    let words = [("to", "do!"), ("unimple", "mented!"), ("TO", "DO"), ("FIX", "ME"), ("#[ig", "nore")];
    let mut problems = Vec::new();
    for source in sources("src").iter().chain(&sources("tests")).chain(&sources("benches")) {
        for word in words.map(|(start, end)| format!("{start}{end}")) {
            if source.text.contains(&word) {
                problems.push(format!("{}: {word}", source.path));
            }
        }
        let code = code_of(&source.text);
        for lint in ["allow", "expect"].map(|level| format!("[{level}(")) {
            for (at, _) in code.match_indices(&lint).filter(|(at, _)| code[..*at].ends_with(['#', '!'])) {
                let attribute = code[at..].split(']').next().unwrap_or_default();
                if !attribute.contains("reason =") {
                    problems.push(format!("{}: #{attribute}] has no reason", source.path));
                }
            }
        }
    }
    report("left undone", &problems);
}

#[test]
fn comments_and_literals_are_not_code() {
    for (text, code) in [
        ("a // crate::b\nc", "a  \nc"),
        ("a /* crate::b */ c", "a   c"),
        (r#"x("crate::b \" // no", 'c')"#, "x( ,  )"),
        ("r#\"crate::b\" more\"# + r\"x\" + var", "  +   + var"),
        ("fn f<'a>(x: &'a str) { '\\'' }", "fn f<'a>(x: &'a str) {   }"),
    ] {
        assert_eq!(code_of(text), code, "{text}");
    }
    let code = "use crate::{a::{b, c}, d};\nuse crate::e::f;\ncrate::g::h();\nmycrate::no";
    assert_eq!(heads_after(code, "crate::"), ["a", "d", "e", "g"]);
}

/// A header value that cannot be read must not count as absent: `forwarding::readable` refuses or drops it at the
/// border, and gives the text of what passed.
#[test]
fn no_unreadable_header_counts_as_absent() {
    const FORBIDDEN: [&str; 4] =
        [".to_str().ok()", ".to_str().unwrap_or", ".to_str().is_ok", ".to_str().map_or"];
    let mut problems = Vec::new();
    for source in sources("src") {
        let code: String = code_of(source.without_tests()).chars().filter(|c| !c.is_whitespace()).collect();
        for pattern in FORBIDDEN {
            if code.contains(pattern) {
                problems.push(format!("{}: {pattern}", source.path));
            }
        }
    }
    report("header values that cannot be read count as absent; use forwarding::readable::text", &problems);
}
