//! What pages of other sites can do to an app.

use serde_json::json;

use crate::app::{App, Seen};
use crate::portal::{FOREIGN, Portal, start_foreign_sites};
use crate::webdriver::Browser;

/// Ways to make a browser ask for `url`, each with what the page learns when
/// it is refused.
const TRIES: &[(&str, &str, &str)] = &[
    (
        "a request without CORS",
        "return (await fetch(url, { mode: 'no-cors', credentials: 'include' })).type;",
        "opaque",
    ),
    (
        "a request with CORS",
        "return fetch(url, { credentials: 'include' }).then(() => 'passed', () => 'failed');",
        "failed",
    ),
    (
        "a POST without CORS",
        "return (await fetch(url, { method: 'POST', mode: 'no-cors', credentials: 'include', body: 'x' })).type;",
        "opaque",
    ),
    (
        "a preflight",
        "return fetch(url, { method: 'DELETE' }).then(() => 'passed', () => 'failed');",
        "failed",
    ),
    (
        "an image",
        "return loads('img', { src: url + 'static/logo.svg' });",
        "failed",
    ),
    (
        "a script",
        "return loads('script', { src: url + 'static/page.js' });",
        "failed",
    ),
    (
        "a style sheet",
        "return loads('link', { rel: 'stylesheet', href: url + 'static/style.css' });",
        "failed",
    ),
    (
        "an embedded object",
        "return loads('object', { data: url, type: 'text/html' });",
        "failed",
    ),
    (
        "a WebSocket",
        "return new Promise((resolve) => {
           const socket = new WebSocket(url.replace('http', 'ws') + 'echo');
           socket.onopen = () => resolve('passed');
           socket.onerror = () => resolve('failed');
         });",
        "failed",
    ),
];

/// Adds an element and says whether what it refers to has loaded.
const LOADS: &str = "
    const url = arguments[0];
    const loads = (name, attributes) => new Promise((resolve) => {
      const element = Object.assign(document.createElement(name), attributes);
      element.onload = () => resolve('passed');
      element.onerror = () => resolve('failed');
      document.body.append(element);
    });";

/// A form that posts, and a link.
const FORM: &str = "
    const form = document.createElement('form');
    Object.assign(form, { action: arguments[0], method: 'POST' });
    const link = document.createElement('a');
    Object.assign(link, { href: arguments[0], textContent: 'open', id: 'link' });
    form.append(Object.assign(document.createElement('button'), { textContent: 'post', id: 'post' }));
    document.body.append(form, link);";

#[test]
fn nothing_that_another_site_embeds_fetches_or_posts_reaches_an_app() {
    let portal = Portal::start();
    let app = App::start(&portal);
    let browser = Browser::start();
    let foreign = start_foreign_sites();
    let session = portal.session("rproxy", app.port);
    for (site, _) in FOREIGN {
        browser.open(&format!("http://{site}:{foreign}/"));
        for (what, body, learned) in TRIES {
            let before = portal.pun.log().len();
            let value = browser.run_with(&format!("{LOADS}{body}"), &[&session]);
            assert_eq!(value, json!(learned), "{what} from {site}");
            let refusals = portal.pun.refusals_since(before);
            assert_eq!(refusals.len(), 1, "{what} from {site}: {refusals:?}");
            assert!(
                refusals[0].contains("reason=cross-site-request")
                    || refusals[0].contains("reason=foreign-origin"),
                "{what} from {site}: {refusals:?}"
            );
        }
        browser.run_with(FORM, &[&session]);
        browser.click("#post");
        browser.wait_until("document.title === 'Another site asked for this'");
        assert_eq!(app.seen().len(), 0, "from {site}: {:?}", app.seen());
    }
    browser.screenshot("cross-site-post");
}

#[test]
fn the_same_requests_from_a_page_of_the_portal_reach_the_app() {
    let portal = Portal::start();
    let app = App::start(&portal);
    let browser = Browser::start();
    let session = portal.session("rproxy", app.port);
    browser.open(&portal.dashboard());
    for (what, body, _) in TRIES {
        let before = app.seen().len();
        eprintln!("{what}");
        browser.run_with(&format!("{LOADS}{body}"), &[&session]);
        app.wait_for(before, |_| true);
    }
    browser.run_with(FORM, &[&session]);
    browser.click("#post");
    app.wait_for(0, |seen| seen.method == "POST" && seen.is_page());
}

#[test]
fn a_link_of_another_site_opens_the_app() {
    let portal = Portal::start();
    let app = App::start(&portal);
    let browser = Browser::start();
    let foreign = start_foreign_sites();
    for (site, way) in FOREIGN {
        browser.open(&format!("http://{site}:{foreign}/"));
        let before = app.seen().len();
        browser.run_with(FORM, &[&portal.session("proxy", app.port)]);
        browser.click("#link");
        browser.wait_until("document.documentElement.dataset.complete");
        assert_eq!(browser.text("document.title"), "The sample app");
        let page = app.wait_for(before, Seen::is_page);
        assert_eq!(page.header("Sec-Fetch-Site"), *way);
    }
}

#[test]
fn a_frame_of_another_site_stays_empty_and_does_not_reach_the_app() {
    const FRAME: &str = "
        const frame = document.createElement('iframe');
        await new Promise((resolve) => {
          Object.assign(frame, { src: arguments[0], onload: resolve });
          document.body.append(frame);
        });";
    let portal = Portal::start();
    let app = App::start(&portal);
    let browser = Browser::start();
    let foreign = start_foreign_sites();
    let session = portal.session("rproxy", app.port);
    for (site, shows) in [
        (portal.dashboard(), true),
        (format!("http://{}:{foreign}/", FOREIGN[0].0), false),
        (format!("http://{}:{foreign}/", FOREIGN[1].0), false),
    ] {
        browser.open(&site);
        let before = app.seen().len();
        browser.run_with(FRAME, &[&session]);
        browser.enter_frame();
        // What the page before asked for last may be told of only now.
        let is_frame = |seen: &Seen| seen.header("Sec-Fetch-Dest") == "iframe";
        if shows {
            app.wait_for(before, is_frame);
        } else {
            let reached = app.seen().into_iter().skip(before).find(is_frame);
            assert!(reached.is_none(), "{site}: {reached:?}");
        }
        assert_eq!(
            browser.text("document.title") == "The sample app",
            shows,
            "{site}: {}",
            browser.text("location.href")
        );
    }
}
