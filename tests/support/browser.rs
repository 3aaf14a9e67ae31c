//! A headless Chromium, told what to do over a pipe.
//!
//! It speaks the DevTools protocol: JSON, one command or message after the other with a NUL in between, read from its
//! descriptor 3 and written to its descriptor 4. Source: `--remote-debugging-pipe`,
//! <https://chromedevtools.github.io/devtools-protocol/>.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::Instant;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde_json::{Value, json};

use super::log::Log;
use super::{DEADLINE, Directory, until};

/// A browser without a window. Dropping it ends it, and nothing is left of it.
pub struct Browser {
    child: Child,
    commands: ChildStdin,
    messages: Receiver<Value>,
    log: Log,
    last_id: u64,
    /// Messages that are no answers, as they came.
    happened: Vec<Value>,
    _profile: Directory,
}

/// The page in its only tab, seen through the browser.
pub struct Page {
    browser: Browser,
    session: String,
    /// Where it has been.
    urls: Vec<String>,
}

impl Browser {
    pub fn start() -> Self {
        let profile = Directory::new();
        let mut command = Command::new("sh");
        command.args(["-c", "exec chromium \"$@\" 3<&0 4>&1 </dev/null >/dev/null", "sh"]);
        command.args(["--headless", "--remote-debugging-pipe", "--disable-gpu", "--disable-dev-shm-usage"]);
        command.args(["--no-first-run", "--disable-component-update", "--disable-sync", "--hide-scrollbars"]);
        command.arg(format!("--user-data-dir={}", profile.path().display()));
        if nix::unistd::geteuid().is_root() {
            command.arg("--no-sandbox"); // It refuses to run as root with one.
        }
        command.env("HOME", profile.path()).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("sh is there");
        let commands = child.stdin.take().expect("it is piped");
        let messages = read_messages(child.stdout.take().expect("it is piped"));
        let log = Log::collect(child.stderr.take().expect("it is piped"));
        Self { child, commands, messages, log, last_id: 0, happened: Vec::new(), _profile: profile }
    }

    /// Shows the page at `url` in a tab, as large as a small screen.
    pub fn open(mut self, url: &str) -> Page {
        let tab = self.call(None, "Target.createTarget", json!({ "url": "about:blank" }));
        let attach = json!({ "targetId": tab["targetId"], "flatten": true });
        let session = self.call(None, "Target.attachToTarget", attach)["sessionId"].as_str().unwrap().to_owned();
        let mut page = Page { browser: self, session, urls: Vec::new() };
        for domain in ["Page", "Runtime", "Log", "Network"] {
            page.call(&format!("{domain}.enable"), json!({}));
        }
        page.size(1280, 800);
        page.go(url);
        page
    }

    /// One command and its answer.
    fn call(&mut self, session: Option<&str>, method: &str, params: Value) -> Value {
        self.last_id += 1;
        let mut command = json!({ "id": self.last_id, "method": method, "params": params });
        if let Some(session) = session {
            command["sessionId"] = session.into();
        }
        let bytes = [command.to_string().as_bytes(), b"\0"].concat();
        if let Err(error) = self.commands.write_all(&bytes) {
            panic!("chromium does not hear: {error}; scripts/need chromium installs it; it says:\n{}", self.log);
        }
        // What it was asked to wait for may take a whole deadline itself.
        let deadline = Instant::now() + 2 * DEADLINE;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let mut message = match self.messages.recv_timeout(left) {
                Ok(message) => message,
                Err(RecvTimeoutError::Timeout) => panic!("chromium does not answer {command}"),
                Err(RecvTimeoutError::Disconnected) => panic!("chromium has ended; it says:\n{}", self.log),
            };
            if message["id"] != self.last_id {
                self.happened.push(message);
                continue;
            }
            assert!(message["error"].is_null(), "{command}: {message}");
            return message["result"].take();
        }
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // It ends its children and itself. If not, or if it has ended already, the rest sees to it.
        let _ = self.commands.write_all(b"{\"id\":0,\"method\":\"Browser.close\"}\0");
        if until(|| self.child.try_wait().ok().flatten()).is_none() {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

fn read_messages(source: ChildStdout) -> Receiver<Value> {
    let (sender, messages) = channel();
    std::thread::spawn(move || {
        let mut source = BufReader::new(source);
        let mut bytes = Vec::new();
        while source.read_until(b'\0', &mut bytes).is_ok_and(|len| len > 0) {
            let message = serde_json::from_slice(bytes.strip_suffix(b"\0").unwrap_or(&bytes));
            if sender.send(message.expect("chromium writes JSON")).is_err() {
                return;
            }
            bytes.clear();
        }
    });
    messages
}

impl Page {
    fn call(&mut self, method: &str, params: Value) -> Value {
        self.browser.call(Some(&self.session), method, params)
    }

    /// Goes elsewhere, and waits until everything has come that is named there.
    pub fn go(&mut self, url: &str) {
        self.urls.push(url.to_owned());
        self.call("Page.navigate", json!({ "url": url }));
        self.value(
            "new Promise((done) => document.readyState === 'complete' ? done() : addEventListener('load', done))",
        );
    }

    /// The value of an expression there, or of the promise that it makes.
    #[track_caller]
    pub fn value(&mut self, expression: &str) -> Value {
        let params = json!({ "expression": expression, "awaitPromise": true, "returnByValue": true });
        let mut answer = self.call("Runtime.evaluate", params);
        assert!(answer["exceptionDetails"].is_null(), "{expression}: {answer}");
        answer["result"]["value"].take()
    }

    /// Waits until an expression is true there; it is asked whenever the page changes. Returns its value.
    #[track_caller]
    pub fn wait_for(&mut self, expression: &str) -> Value {
        let millis = DEADLINE.as_millis();
        let found = self.value(&format!(
            "new Promise((found) => {{
                 const look = () => {{
                     const it = {expression};
                     if (it) {{ observer.disconnect(); found([it]); }}
                 }};
                 const observer = new MutationObserver(look);
                 const everything = {{ subtree: true, childList: true, characterData: true, attributes: true }};
                 observer.observe(document, everything);
                 setTimeout(() => {{ observer.disconnect(); found(null); }}, {millis});
                 look();
             }})"
        ));
        if found.is_null() {
            let text = self.value("document.body.innerText");
            panic!("waited {millis} ms in vain for {expression}; the page:\n{}", text.as_str().unwrap_or_default());
        }
        found[0].clone()
    }

    /// Clicks on the element that an expression finds, as a mouse would.
    #[track_caller]
    pub fn click(&mut self, element: &str) {
        let script = format!(
            "{{ const it = {element}; it.scrollIntoView({{ block: 'center' }}); const box = it.getBoundingClientRect();
               [box.x + box.width / 2, box.y + box.height / 2] }}"
        );
        let at = self.value(&script);
        for kind in ["mousePressed", "mouseReleased"] {
            let event = json!({ "type": kind, "x": at[0], "y": at[1], "button": "left", "clickCount": 1 });
            self.call("Input.dispatchMouseEvent", event);
        }
    }

    /// Presses and releases a key: `Enter` or `Escape`.
    pub fn press(&mut self, key: &str) {
        let (code, text) = match key {
            "Enter" => (13, "\r"),
            "Escape" => (27, ""),
            other => panic!("the code of {other} is not known here"),
        };
        for kind in ["keyDown", "keyUp"] {
            let event = json!({ "type": kind, "key": key, "code": key, "windowsVirtualKeyCode": code, "text": text });
            self.call("Input.dispatchKeyEvent", event);
        }
    }

    /// Makes the screen so many pixels wide and high.
    pub fn size(&mut self, width: u32, height: u32) {
        let metrics = json!({ "width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600 });
        self.call("Emulation.setDeviceMetricsOverride", metrics);
    }

    /// `light` or `dark`, as the reader's system is.
    pub fn scheme(&mut self, scheme: &str) {
        let features = json!({ "features": [{ "name": "prefers-color-scheme", "value": scheme }] });
        self.call("Emulation.setEmulatedMedia", features);
    }

    /// Writes a picture of the whole page, in PNG.
    pub fn photograph(&mut self, path: &Path) {
        let picture = self.call("Page.captureScreenshot", json!({ "format": "png", "captureBeyondViewport": true }));
        let picture = BASE64_STANDARD.decode(picture["data"].as_str().unwrap()).unwrap();
        std::fs::write(path, picture).unwrap();
    }

    /// What the page asked for.
    pub fn requests(&self) -> Vec<String> {
        let sent = self.happened("Network.requestWillBeSent");
        sent.map(|params| params["request"]["url"].as_str().unwrap().to_owned()).collect()
    }

    /// It has asked nobody but its own server for anything, and the browser has nothing to complain of: no failed
    /// script, no breach of the page's own policy, nothing that is not there.
    #[track_caller]
    pub fn assert_clean(&mut self) {
        self.assert_clean_but_for("nothing may be complained of");
    }

    /// The same, but complaints with this text in it are none.
    #[track_caller]
    pub fn assert_clean_but_for(&mut self, text: &str) {
        // Whatever there is to say has been said before this is answered.
        self.value("0");
        let kinds = ["Runtime.exceptionThrown", "Runtime.consoleAPICalled", "Log.entryAdded"];
        let complaints: Vec<String> = kinds.iter().flat_map(|kind| self.happened(kind)).map(Value::to_string).collect();
        let left: Vec<&String> = complaints.iter().filter(|it| !it.contains(text)).collect();
        assert!(left.is_empty(), "the browser complains: {left:#?}");
        let is_known = |request: &String| self.urls.iter().any(|url| request.starts_with(url));
        let strangers: Vec<String> = self.requests().into_iter().filter(|request| !is_known(request)).collect();
        assert!(strangers.is_empty(), "asked for: {strangers:?}");
    }

    fn happened(&self, method: &str) -> impl Iterator<Item = &Value> {
        self.browser.happened.iter().filter(move |it| it["method"] == *method).map(|it| &it["params"])
    }
}
