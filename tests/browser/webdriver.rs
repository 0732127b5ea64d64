//! A browser driven by WebDriver (W3C), which is JSON over HTTP: one function a
//! command that the tests need. In this process and not in a script, so that a
//! test can start an app, or count what reached it, between two steps.

use std::fs;
use std::io::Write;
use std::net::TcpStream;
use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ood_ca_tests::nginx::read_response;
use ood_ca_tests::tls::Server;
use ood_ca_tests::{Home, eventually, ood_ca, require_tool};
use serde_json::{Value, json};

/// For one command, the start of Chromium on a busy machine included.
const PATIENCE: Duration = Duration::from_secs(180);

/// Chromium's own limits for a page and for a script, in milliseconds.
const PAGE_LIMIT: u32 = 120_000;

/// Nothing but what a test asks for: no first steps, no updates, no proxy. It
/// has no privileges to give up, and a container has no namespaces for its
/// sandbox. The pipe makes it end with its driver, as that does with the test.
const ARGUMENTS: &[&str] = &[
    "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--disable-breakpad", "--disable-dev-shm-usage", "--no-proxy-server", "--hide-scrollbars",
    "--window-size=1280,800", "--remote-debugging-pipe",
];

/// What an element is called in answers (WebDriver §12).
const ELEMENT: &str = "element-6066-11e4-a52e-4f735466cecf";

/// A Chromium of its own, as a user who exists nowhere else.
pub(crate) struct Browser {
    driver: Option<Server>,
    port: u16,
    session: String,
    dir: tempfile::TempDir,
    uid: u32,
}

impl Browser {
    pub(crate) fn start() -> Self {
        let chromium = require_tool("chromium");
        let chromedriver = require_tool("chromedriver");
        let uid = Home::spare_uid();
        let dir = tempfile::Builder::new()
            .prefix("ood-ca-browser-")
            .tempdir()
            .unwrap();
        chown(dir.path(), Some(uid), Some(uid)).unwrap();
        let home = dir.path().display();
        let ids = [format!("--reuid={uid}"), format!("--regid={uid}")];
        let environment = [format!("HOME={home}"), format!("TMPDIR={home}")];
        let arguments = ids
            .into_iter()
            .chain(["--clear-groups", "--pdeathsig=TERM", "--", "env"].map(str::to_owned))
            .chain(environment)
            .chain([chromedriver.display().to_string(), "--port=0".into()]);
        let mut driver = Server::start(require_tool("setpriv"), arguments);
        let port = driver.expect("chromedriver listens", |said| {
            let (_, port) = said.split_once("started successfully on port ")?;
            port.split('.').next()?.parse().ok()
        });
        let mut browser = Browser {
            driver: Some(driver),
            port,
            session: String::new(),
            dir,
            uid,
        };
        browser.session = browser.new_session(&chromium);
        browser
    }

    fn new_session(&self, chromium: &Path) -> String {
        let profile = format!("--user-data-dir={}", self.path("profile").display());
        let arguments: Vec<&str> = ARGUMENTS.iter().copied().chain([&*profile]).collect();
        let wanted = json!({
            "browserName": "chrome",
            "timeouts": { "pageLoad": PAGE_LIMIT, "script": PAGE_LIMIT },
            "goog:loggingPrefs": { "browser": "ALL" },
            "goog:chromeOptions": { "binary": chromium, "args": arguments },
        });
        let answer = self
            .request(
                "POST",
                "/session",
                &json!({ "capabilities": { "alwaysMatch": wanted } }),
            )
            .unwrap_or_else(|error| panic!("no session: {error}"));
        answer["sessionId"].as_str().unwrap().to_owned()
    }

    /// A path that the browser may read and write.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// A file for the browser to upload.
    pub(crate) fn file(&self, name: &str, content: &[u8]) -> PathBuf {
        let path = self.path(name);
        fs::write(&path, content).unwrap();
        chown(&path, Some(self.uid), Some(self.uid)).unwrap();
        path
    }

    /// The value of an answer, or the error.
    fn request(&self, method: &str, path: &str, body: &Value) -> Result<Value, String> {
        let body = match method {
            "POST" => body.to_string(),
            _ => String::new(),
        };
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).map_err(|e| e.to_string())?;
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let request = format!(
            "{method} {path} HTTP/1.1\r\nHost: 127.0.0.1:{}\r\nConnection: close\r\n\
             Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
            self.port,
            body.len()
        );
        stream
            .write_all(request.as_bytes())
            .map_err(|e| e.to_string())?;
        let answer = read_response(&mut stream);
        let mut all: Value = serde_json::from_slice(&answer.body).map_err(|e| e.to_string())?;
        match answer.status {
            200 => Ok(all["value"].take()),
            _ => Err(format!(
                "{} {}: {}",
                answer.status, all["value"]["error"], all["value"]["message"]
            )),
        }
    }

    #[track_caller]
    fn command(&self, path: &str, body: &Value) -> Value {
        self.request("POST", &format!("/session/{}{path}", self.session), body)
            .unwrap_or_else(|error| panic!("{path} {body}: {error}"))
    }

    /// A command of the Chrome DevTools protocol.
    #[track_caller]
    pub(crate) fn devtools(&self, command: &str, parameters: &Value) -> Value {
        self.command(
            "/goog/cdp/execute",
            &json!({ "cmd": command, "params": parameters }),
        )
    }

    /// Goes to an address and waits until the page has loaded.
    #[track_caller]
    pub(crate) fn open(&self, url: &str) {
        self.command("/url", &json!({ "url": url }));
    }

    /// Runs the body of an asynchronous function and gives what it returns.
    #[track_caller]
    pub(crate) fn run(&self, body: &str) -> Value {
        self.run_with(body, &[])
    }

    /// The same with `arguments`.
    #[track_caller]
    pub(crate) fn run_with(&self, body: &str, arguments: &[&str]) -> Value {
        let script = format!("return (async function () {{ {body} }}).apply(null, arguments);");
        self.command(
            "/execute/sync",
            &json!({ "script": script, "args": arguments }),
        )
    }

    /// The value of an expression, as text.
    #[track_caller]
    pub(crate) fn text(&self, expression: &str) -> String {
        let value = self.run(&format!("return String({expression});"));
        value.as_str().unwrap().to_owned()
    }

    /// Waits until an expression is true, whatever page is there meanwhile.
    #[track_caller]
    pub(crate) fn wait_until(&self, expression: &str) {
        let path = format!("/session/{}/execute/sync", self.session);
        let body = json!({ "script": format!("return !!({expression});"), "args": [] });
        let limit = Duration::from_millis(PAGE_LIMIT.into());
        eventually(expression, limit, || {
            // A script fails while one page gives way to another.
            let value = self.request("POST", &path, &body);
            (value.ok()? == true).then_some(())
        });
    }

    #[track_caller]
    fn element(&self, css: &str) -> String {
        let found = self.command(
            "/element",
            &json!({ "using": "css selector", "value": css }),
        );
        found[ELEMENT].as_str().unwrap().to_owned()
    }

    /// Clicks as a user does; if that leads to another page, waits for it.
    #[track_caller]
    pub(crate) fn click(&self, css: &str) {
        let element = self.element(css);
        self.command(&format!("/element/{element}/click"), &json!({}));
    }

    /// Clicks as soon as a user could: what is there may be hidden, covered or
    /// replaced while a page draws itself.
    #[track_caller]
    pub(crate) fn click_when_possible(&self, css: &str) {
        let session = format!("/session/{}", self.session);
        let wanted = json!({ "using": "css selector", "value": css });
        let limit = Duration::from_millis(PAGE_LIMIT.into());
        eventually(&format!("{css} can be clicked"), limit, || {
            let found = self.request("POST", &format!("{session}/element"), &wanted);
            let found = found.ok()?;
            let click = format!("{session}/element/{}/click", found[ELEMENT].as_str()?);
            self.request("POST", &click, &json!({})).ok()
        });
    }

    /// Presses one key after the other, for whatever has the focus: characters,
    /// and keys without one as WebDriver §17.4.2 encodes them.
    #[track_caller]
    pub(crate) fn type_keys(&self, keys: &str) {
        let press = |key: char| {
            ["keyDown", "keyUp"].map(|kind| json!({ "type": kind, "value": key.to_string() }))
        };
        let all: Vec<Value> = keys.chars().flat_map(press).collect();
        self.act(&json!({ "type": "key", "id": "keyboard", "actions": all }));
    }

    /// Presses a key while another is held.
    #[track_caller]
    pub(crate) fn chord(&self, held: char, key: char) {
        let step = |kind, key: char| json!({ "type": kind, "value": key.to_string() });
        let all = [
            step("keyDown", held),
            step("keyDown", key),
            step("keyUp", key),
            step("keyUp", held),
        ];
        self.act(&json!({ "type": "key", "id": "keyboard", "actions": all }));
    }

    #[track_caller]
    fn act(&self, source: &Value) {
        self.command("/actions", &json!({ "actions": [source] }));
    }

    /// Chooses a file in an `<input type="file">`.
    #[track_caller]
    pub(crate) fn choose_file(&self, css: &str, path: &Path) {
        let element = self.element(css);
        self.command(
            &format!("/element/{element}/value"),
            &json!({ "text": path }),
        );
    }

    /// Goes into the first frame of the page, for what follows.
    #[track_caller]
    pub(crate) fn enter_frame(&self) {
        self.command("/frame", &json!({ "id": 0 }));
    }

    /// Saves downloads in a directory of the browser's.
    pub(crate) fn save_downloads(&self) -> PathBuf {
        let dir = self.path("downloads");
        let parameters = json!({ "behavior": "allow", "downloadPath": dir });
        self.devtools("Browser.setDownloadBehavior", &parameters);
        dir
    }

    /// The console since the last look: errors, warnings and what scripts say,
    /// each after its source (`network`, `security`, `javascript`, …).
    #[track_caller]
    pub(crate) fn console(&self) -> Vec<String> {
        let entries = self.command("/se/log", &json!({ "type": "browser" }));
        let text = |entry: &Value| {
            let [source, message] = ["source", "message"].map(|name| entry[name].as_str());
            format!(
                "{}: {}",
                source.unwrap_or_default(),
                message.unwrap_or_default()
            )
        };
        entries.as_array().unwrap().iter().map(text).collect()
    }

    /// Keeps a picture of the whole page as `target/artifacts/browser/NAME.png`.
    #[track_caller]
    pub(crate) fn screenshot(&self, name: &str) {
        let size = self.run(
            "const all = document.documentElement;
             return { x: 0, y: 0, scale: 1, width: innerWidth,
                      height: Math.max(all.scrollHeight, innerHeight) };",
        );
        let parameters = json!({ "format": "png", "captureBeyondViewport": true, "clip": size });
        let picture = self.devtools("Page.captureScreenshot", &parameters);
        // <target>/<profile>/ood-ca
        let target = ood_ca().ancestors().nth(2).unwrap();
        let dir = target.join("artifacts/browser");
        fs::create_dir_all(&dir).unwrap();
        let path = dir.join(format!("{name}.png"));
        fs::write(&path, from_base64(picture["data"].as_str().unwrap())).unwrap();
        eprintln!("screenshot: {}", path.display());
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // Waits for Chromium's end, so that nothing writes into the directory
        // that goes next. A browser that has crashed is gone just as well.
        let session = format!("/session/{}", self.session);
        drop(self.request("DELETE", &session, &Value::Null));
        if let Some(driver) = self.driver.take() {
            driver.stop();
        }
    }
}

/// RFC 4648 §4.
fn from_base64(text: &str) -> Vec<u8> {
    let six_bits = |c: u8| match c {
        b'A'..=b'Z' => Some(c - b'A'),
        b'a'..=b'z' => Some(c - b'a' + 26),
        b'0'..=b'9' => Some(c - b'0' + 52),
        b'+' => Some(62),
        b'/' => Some(63),
        _ => None,
    };
    let digits: Vec<u8> = text.bytes().filter_map(six_bits).collect();
    let group = |four: &[u8]| {
        let bits = (0..4).fold(0_u32, |bits, at| {
            bits << 6 | u32::from(four.get(at).copied().unwrap_or(0))
        });
        let bytes = bits.to_be_bytes();
        bytes[1..four.len()].to_vec()
    };
    digits.chunks(4).flat_map(group).collect()
}

#[test]
fn base64_is_decoded() {
    for (text, bytes) in [
        ("", ""),
        ("Zg==", "f"),
        ("Zm8=", "fo"),
        ("Zm9v", "foo"),
        ("Zm9vYg==", "foob"),
    ] {
        assert_eq!(from_base64(text), bytes.as_bytes());
    }
    assert_eq!(from_base64("+/+/"), [0xfb, 0xff, 0xbf]);
}
