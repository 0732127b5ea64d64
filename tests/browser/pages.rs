//! What a page of an app needs to work.

use std::fs;
use std::time::Duration;

use ood_ca_tests::eventually;
use serde_json::json;

use crate::app::App;
use crate::portal::Portal;
use crate::webdriver::Browser;

const FORMS: [&str; 2] = ["proxy", "rproxy"];

/// The page itself, its script's request and its WebSocket are done.
const COMPLETE: &str = "document.documentElement.dataset.complete";

/// Bytes that repeat nowhere near.
fn noise(seed: u32) -> Vec<u8> {
    const SIZE: usize = 4 * 1024 * 1024 + 321;
    let mut state = seed;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        state.to_be_bytes()[0]
    };
    (0..SIZE).map(|_| next()).collect()
}

#[test]
fn a_page_loads_with_all_its_assets_and_no_error() {
    let portal = Portal::start();
    let app = App::start(&portal);
    let browser = Browser::start();
    for form in FORMS {
        let session = portal.session(form, app.port);
        browser.open(&format!("{session}?a=%20b&c"));
        browser.wait_until(COMPLETE);
        let loaded = browser.run(
            "const loaded = performance.getEntriesByType('resource')
               .map((entry) => entry.responseStatus + ' ' + entry.name);
             return [...new Set(loaded)].sort();",
        );
        let wanted = [
            "data.json", "static/dots.svg", "static/logo.svg", "static/page.js", "static/style.css",
        ];
        assert_eq!(
            loaded,
            json!(wanted.map(|name| format!("200 {session}{name}")))
        );
        assert_eq!(browser.text("document.title"), "The sample app");
        assert_eq!(browser.text("logo.naturalWidth"), "48");
        assert_eq!(
            browser.text("getComputedStyle(document.body).backgroundColor"),
            "rgb(238, 246, 255)"
        );
        assert_eq!(browser.text("data.textContent"), "42");
        assert_eq!(browser.text("location.search"), "?a=%20b&c");
        let console = browser.console();
        assert!(console.is_empty(), "{console:?}");
        browser.screenshot(&format!("sample-{form}"));
    }
}

#[test]
fn a_websocket_of_a_pages_own_script_echoes() {
    let portal = Portal::start();
    let app = App::start(&portal);
    let browser = Browser::start();
    for form in FORMS {
        browser.open(&portal.session(form, app.port));
        browser.wait_until(COMPLETE);
        assert_eq!(
            browser.text("document.getElementById('echo').textContent"),
            "hello"
        );
        let back = browser.run(
            "const sent = crypto.getRandomValues(new Uint8Array(60000));
             const socket = await connect();
             const back = new Uint8Array(await ask(socket, sent));
             return [await ask(socket, 'žluťoučký kůň 🐎'), sent.length === back.length
                     && sent.every((byte, at) => byte === back[at])];",
        );
        assert_eq!(back, json!(["žluťoučký kůň 🐎", true]));
        // Several at once, as many as a browser has connections for requests.
        let answers = browser.run(
            "const sockets = [];
             for (let n = 0; n < 6; n += 1) sockets.push(await connect());
             const answers = sockets.map((socket, n) => ask(socket, 'message ' + n));
             const page = await fetch(location.href);
             return [page.status, ...await Promise.all(answers)];",
        );
        let wanted = (0..6).map(|n| json!(format!("message {n}")));
        let wanted: Vec<_> = [json!(200)].into_iter().chain(wanted).collect();
        assert_eq!(answers, json!(wanted));
        let console = browser.console();
        assert!(console.is_empty(), "{console:?}");
    }
}

#[test]
fn an_upload_and_a_download_arrive_whole() {
    let portal = Portal::start();
    let app = App::start(&portal);
    let browser = Browser::start();
    let downloads = browser.save_downloads();
    for (form, seed) in FORMS.into_iter().zip(1..) {
        let (up, down) = (noise(seed), noise(seed + 100));
        fs::write(app.files.join("offered"), &down).unwrap();
        browser.open(&portal.session(form, app.port));
        browser.wait_until(COMPLETE);

        browser.choose_file("#file", &browser.file("chosen", &up));
        browser.click("#upload");
        browser.wait_until("uploaded.textContent");
        assert_eq!(
            browser.text("uploaded.textContent"),
            format!("{} bytes", up.len())
        );
        assert!(fs::read(app.files.join("uploaded")).unwrap() == up);

        browser.click("#download");
        // The name is taken, by an empty file, before the download is complete.
        let saved = downloads.join("saved");
        eventually("the download is whole", Duration::from_secs(60), || {
            (fs::read(&saved).ok()? == down).then_some(())
        });
        fs::remove_file(saved).unwrap();
    }
}

#[test]
fn redirects_and_an_address_without_its_slash_lead_into_the_session() {
    let portal = Portal::start();
    let app = App::start(&portal);
    let browser = Browser::start();
    for form in FORMS {
        let session = portal.session(form, app.port);
        let short = session.trim_end_matches('/');
        for (from, to) in [
            (
                format!("{session}redirect"),
                format!("{session}?redirected"),
            ),
            (format!("{short}?x=y#part"), format!("{session}?x=y#part")),
        ] {
            browser.open(&from);
            browser.wait_until(COMPLETE);
            assert_eq!(browser.text("location.href"), to);
        }
    }
}

#[test]
fn the_page_of_the_demo_works_in_a_browser() {
    let portal = Portal::start();
    let app = App::of_demo(&portal);
    let browser = Browser::start();
    for form in FORMS {
        browser.open(&portal.session(form, app.port));
        browser.wait_until("answers.textContent.endsWith('hello')");
        let content = noise(7);
        browser.choose_file("#file", &browser.file("chosen", &content));
        browser.click("#upload");
        let size = content.len();
        browser.wait_until(&format!("uploaded.textContent.includes(' {size} bytes, ')"));
        let console = browser.console();
        assert!(console.is_empty(), "{console:?}");
        browser.screenshot(&format!("demo-{form}"));
    }
}
