//! The page that is shown until an app answers.

use ood_ca_tests::tls::free_port;

use crate::app::{App, Seen};
use crate::portal::Portal;
use crate::webdriver::Browser;

/// Opens an address before its app is there, starts the app and waits for it.
#[track_caller]
fn comes_up(form: &str, rest: &str) {
    let portal = Portal::start();
    let browser = Browser::start();
    let port = free_port();
    let url = portal.session(form, port) + rest;
    browser.open(&url);
    assert_eq!(
        browser.text("document.title"),
        "The app is not answering yet"
    );
    assert_eq!(
        browser.text("document.getElementById('status').textContent"),
        "This page tries again by itself every few seconds."
    );
    browser.screenshot(&format!("starting-{form}"));
    let app = App::start_at(&portal, port);
    browser.wait_until("document.title === 'The sample app'");
    assert_eq!(browser.text("location.href"), url);
    // The page took its own place: "back" does not lead to it.
    assert_eq!(browser.text("history.length"), "2");
    let query = rest.split('#').next().unwrap();
    let page = app.wait_for(0, Seen::is_page);
    assert!(page.target.ends_with(&format!("/{query}")), "{page:?}");
}

#[test]
fn an_app_that_comes_up_replaces_the_page_and_keeps_the_query() {
    comes_up("proxy", "?token=a%20b&next=/x");
}

#[test]
fn an_app_that_comes_up_replaces_the_page_and_keeps_the_fragment() {
    comes_up("rproxy", "?token=a%20b#part/2");
}
