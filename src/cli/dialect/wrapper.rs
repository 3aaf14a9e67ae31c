//! Commands that are Node programs only to start another one: package managers, watchers, loaders. The wrapper would be
//! the worker, and the server behind it none. What to write instead is found where it is plain. Pure: the scripts of
//! `package.json` are an argument.

use std::collections::BTreeMap;
use std::path::Path;

use super::env::{Executed, executed_by_env};
use super::node_program::is_named_node;

/// What `package.json` says of scripts: their names and lines.
pub(super) type Scripts = BTreeMap<String, String>;

/// How one wrapper may stand for another one.
const WRAPPERS_MAX: usize = 8;
/// What only a shell can make sense of.
const OF_SHELLS: &str = "&|;<>()$`*?[]{}~#!\n";
/// Words of package managers after which the name of a script stands, and after which a command does.
const RUN: [&str; 2] = ["run", "run-script"];
const EXECUTE: [&str; 4] = ["exec", "x", "dlx", "node"];

/// What a wrapper does with the words behind it.
#[derive(Debug, Clone, Copy)]
enum Wrapper {
    /// Runs a script of `package.json`.
    Scripts,
    /// Executes them.
    Executes,
    /// Gives them to these instead.
    Instead(&'static [&'static str]),
    /// Takes the first for a program of Node's, the others for itself.
    Keeps,
}

/// What to write instead of these words; if that cannot be told, nothing.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Instead(pub(super) Option<Vec<String>>);

/// `None`: this is no wrapper that is known.
pub(super) fn instead_of(words: &[String], scripts: &Scripts) -> Option<Instead> {
    let words = without_env(words);
    if let Some(words) = without_watching(&words) {
        return Some(Instead(Some(words)));
    }
    let mut words = without_node(&words);
    wrapper_of(words.first()?)?;
    for _ in 0..WRAPPERS_MAX {
        match unwrapped(&words, scripts) {
            Some(inner) => words = inner,
            None => return Some(Instead(None)),
        }
        if is_node_with_a_script(&words) {
            return Some(Instead(without_watching(&words).or(Some(words))));
        }
    }
    Some(Instead(None))
}

fn wrapper_of(program: &str) -> Option<Wrapper> {
    let name = Path::new(program).file_stem()?.to_str()?;
    Some(match name.strip_suffix("-cli").unwrap_or(name) {
        "npm" | "yarn" | "yarnpkg" | "pnpm" => Wrapper::Scripts,
        "npx" | "pnpx" | "corepack" => Wrapper::Executes,
        "nodemon" | "node-dev" => Wrapper::Instead(&["node"]),
        "tsx" => Wrapper::Instead(&["node", "--import", "tsx"]),
        "ts-node" | "ts-node-dev" => Wrapper::Instead(&["node", "--require", "ts-node/register"]),
        "cross-env" => Wrapper::Instead(&["env"]),
        "pm2" | "pm2-runtime" | "forever" => Wrapper::Keeps,
        _ => return None,
    })
}

/// What is executed in the end, if these are words of `env`.
fn without_env(words: &[String]) -> Vec<String> {
    let is_env = words.first().is_some_and(|program| Path::new(program).ends_with("env"));
    let executed = executed_by_env(words.iter().skip(1).map(Into::into)).filter(|_| is_env);
    let words_of = |executed: Executed| executed.words.iter().map(|it| it.to_string_lossy().into_owned()).collect();
    executed.map_or_else(|| words.to_vec(), words_of)
}

/// `node node_modules/.bin/nodemon app.js` is `nodemon app.js`, and `node --run start` is `npm run start`. Whatever is
/// called so elsewhere is a program of the user's own.
fn without_node(words: &[String]) -> Vec<String> {
    let is_wrapper = |script: &str| script.contains("node_modules/") && wrapper_of(script).is_some();
    match words {
        [node, run, rest @ ..] if is_named_node(node.as_ref()) && run == "--run" => {
            ["npm", "run"].map(str::to_owned).into_iter().chain(rest.iter().cloned()).collect()
        }
        [node, rest @ ..] if is_named_node(node.as_ref()) && rest.first().is_some_and(|it| is_wrapper(it)) => {
            rest.to_vec()
        }
        _ => words.to_vec(),
    }
}

/// Node that only watches the files of a Node that it starts, without that. `None`: it does not.
fn without_watching(words: &[String]) -> Option<Vec<String>> {
    let (node, rest) = words.split_first().filter(|(node, _)| is_named_node(node.as_ref()))?;
    let (options, script) = rest.split_at(rest.len() - behind_options(rest).len());
    let others = options.iter().filter(|option| !option.starts_with("--watch"));
    let words: Vec<String> = std::iter::once(node).chain(others).chain(script).cloned().collect();
    (words.len() <= rest.len()).then_some(words)
}

/// The words that the outermost wrapper starts. `None`: that depends on what is not known here.
fn unwrapped(words: &[String], scripts: &Scripts) -> Option<Vec<String>> {
    let (program, rest) = words.split_first()?;
    match wrapper_of(program)? {
        Wrapper::Scripts => script(rest, scripts),
        Wrapper::Executes => Some(behind_options(rest).to_vec()),
        Wrapper::Instead(first) => {
            let rest = rest.strip_prefix(&["watch".to_owned()]).unwrap_or(rest);
            let is_plain = rest.first().is_some_and(|word| !word.starts_with('-'));
            is_plain.then(|| first.iter().map(ToString::to_string).chain(rest.iter().cloned()).collect())
        }
        Wrapper::Keeps => {
            let script = rest.iter().find(|word| *word != "start")?;
            is_script(script).then(|| vec!["node".into(), script.clone()])
        }
    }
}

/// What `npm` and its like run.
fn script(rest: &[String], scripts: &Scripts) -> Option<Vec<String>> {
    let (first, rest) = behind_options(rest).split_first()?;
    if EXECUTE.contains(&first.as_str()) {
        let node = (first == "node").then(|| first.clone());
        return Some(node.into_iter().chain(behind_options(rest).iter().cloned()).collect());
    }
    let (name, rest) = match RUN.contains(&first.as_str()) {
        true => behind_options(rest).split_first()?,
        false => (first, rest),
    };
    let line = scripts.get(name)?;
    let words = shlex::split(line).filter(|_| !line.contains(|it| OF_SHELLS.contains(it)))?;
    let env = words.first()?.contains('=').then(|| "env".to_owned());
    let rest = rest.strip_prefix(&["--".to_owned()]).unwrap_or(rest);
    Some(env.into_iter().chain(words).chain(rest.iter().cloned()).collect())
}

fn behind_options(words: &[String]) -> &[String] {
    let at = words.iter().position(|word| !word.starts_with('-')).unwrap_or(words.len());
    &words[at..]
}

fn is_node_with_a_script(words: &[String]) -> bool {
    matches!(&without_env(words)[..], [program, _, ..] if is_named_node(program.as_ref()))
}

fn is_script(word: &str) -> bool {
    let is_source = [".js", ".mjs", ".cjs"].iter().any(|end| word.ends_with(end));
    is_source && !word.contains(".config.")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn instead(command: &str) -> Option<Option<String>> {
        let scripts = [
            ("start", "node server.js"),
            ("prod", "NODE_ENV=production node --enable-source-maps dist/main.js"),
            ("cross", "cross-env PORT=1 node server.js"),
            ("again", "npm run prod"),
            ("endless", "npm run endless"),
            ("dev", "node --watch server.js"),
            ("typed", "tsx watch src/main.ts"),
            ("built", "npm run build && node server.js"),
            ("framework", "next start"),
        ];
        let scripts = scripts.into_iter().map(|(name, line)| (name.into(), line.into())).collect();
        let found = instead_of(&shlex::split(command).unwrap(), &scripts)?;
        Some(found.0.map(|words| words.join(" ")))
    }

    #[test]
    fn what_a_wrapper_starts_is_found_where_it_is_plain() {
        let cases = [
            ("npm start", "node server.js"),
            ("/usr/bin/npm --silent run start -- --port 1", "node server.js --port 1"),
            ("node /usr/lib/node_modules/npm/bin/npm-cli.js start", "node server.js"),
            ("env A=1 node node_modules/.bin/nodemon app.js", "node app.js"),
            ("env -u A yarn start", "node server.js"),
            ("pnpm run prod", "env NODE_ENV=production node --enable-source-maps dist/main.js"),
            ("npm run cross", "env PORT=1 node server.js"),
            ("npm run dev", "node server.js"),
            ("npm run again", "env NODE_ENV=production node --enable-source-maps dist/main.js"),
            ("npm run typed", "node --import tsx src/main.ts"),
            ("npx tsx app.ts", "node --import tsx app.ts"),
            ("npm exec -- nodemon app.js 1", "node app.js 1"),
            ("yarn node app.js", "node app.js"),
            ("node --run prod", "env NODE_ENV=production node --enable-source-maps dist/main.js"),
            ("node --no-warnings --watch --watch-preserve-output app.js --watch", "node --no-warnings app.js --watch"),
            ("ts-node app.ts", "node --require ts-node/register app.ts"),
            ("pm2 start app.js -i max", "node app.js"),
            ("pm2-runtime app.js", "node app.js"),
        ];
        for (command, better) in cases {
            assert_eq!(instead(command), Some(Some(better.to_owned())), "{command}");
        }
    }

    #[test]
    fn what_is_not_plain_is_not_guessed() {
        let unknown = [
            "npm run built",
            "npm run framework",
            "npm run endless",
            "npm run nothing",
            "npm",
            "npx next start",
            "pm2 start ecosystem.config.js",
            "nodemon --exec x",
            "tsx",
            "corepack enable",
            "npx node",
        ];
        for command in unknown {
            assert_eq!(instead(command), Some(None), "{command}");
        }
    }

    #[test]
    fn programs_that_are_no_wrappers_are_left_alone() {
        for command in [
            "node app.js",
            "node --import tsx app.ts",
            "./npm.d/app",
            "env node app.js",
            "app.js npm start",
            "node forever.js",
        ] {
            assert_eq!(instead(command), None, "{command}");
        }
    }
}
