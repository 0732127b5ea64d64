//! What an app leaves in the browser, and what it does not get from there.

use serde_json::json;

use crate::app::{App, Seen};
use crate::portal::{FOREIGN, Portal, start_foreign_sites};
use crate::webdriver::Browser;

#[test]
fn cookies_of_an_app_stay_below_its_path() {
    let portal = Portal::start();
    let app = App::start(&portal);
    let browser = Browser::start();
    let foreign = start_foreign_sites();
    for form in ["proxy", "rproxy"] {
        let session = portal.session(form, app.port);
        browser.open(&format!("{session}cookies"));
        let all = browser.devtools("Network.getAllCookies", &json!({}));
        let all = all["cookies"].as_array().unwrap();
        let names: Vec<_> = all.iter().filter_map(|c| c["name"].as_str()).collect();
        assert!(
            names.contains(&"plain") && names.contains(&"root"),
            "{names:?}"
        );
        let path = Portal::path(form, app.port);
        for cookie in all {
            // Without a dot in front: of this host alone.
            assert_eq!(cookie["domain"], "portal.localhost", "{cookie}");
            let below = cookie["path"].as_str().unwrap();
            assert!(format!("{below}/").starts_with(&path), "{cookie}");
        }
        assert!(browser.text("document.cookie").contains("root=1"));
        // The app gets back what it set, what scripts may not read included.
        let before = app.seen().len();
        browser.open(&session);
        let sent = app.wait_for(before, Seen::is_page).header("Cookie");
        assert!(
            sent.contains("root=1") && sent.contains("hidden=1"),
            "{sent}"
        );

        for elsewhere in [
            portal.dashboard(),
            portal.session(form, app.port + 1),
            format!("http://{}:{foreign}/", FOREIGN[1].0),
        ] {
            browser.open(&elsewhere);
            assert_eq!(browser.text("document.cookie"), "", "{elsewhere}");
        }
        browser.devtools("Network.clearBrowserCookies", &json!({}));
    }
}

#[test]
fn an_app_does_not_get_the_cookies_of_the_portal() {
    let portal = Portal::start();
    let app = App::start(&portal);
    let browser = Browser::start();
    browser.open(&portal.dashboard());
    browser.run(
        "document.cookie = '_dashboard_session=secret; path=/pun';
         document.cookie = 'mod_auth_openidc_session=secret; path=/';
         document.cookie = 'mod_auth_openidc_session_0=secret; path=/';
         document.cookie = 'theme=dark; path=/';",
    );
    browser.open(&portal.session("proxy", app.port));
    browser.wait_until("document.documentElement.dataset.complete");
    app.wait_for(0, |seen| seen.target.ends_with("/echo"));
    let seen = app.seen();
    // The page, its assets and its WebSocket.
    assert!(seen.len() > 5, "{seen:?}");
    for request in seen {
        assert_eq!(request.header("Cookie"), "theme=dark", "{request:?}");
    }
}

#[test]
fn a_service_worker_cannot_reach_beyond_its_session() {
    const REGISTER: &str = "
        const options = arguments[0] ? { scope: arguments[0] } : {};
        return navigator.serviceWorker.register('worker.js', options)
          .then((done) => done.scope, (error) => error.name);";
    let portal = Portal::start();
    let app = App::start(&portal);
    let browser = Browser::start();
    for form in ["proxy", "rproxy"] {
        let session = portal.session(form, app.port);
        browser.open(&session);
        let register = |scope: &str| browser.run_with(REGISTER, &[scope]);
        for scope in ["/", "/pun/", "/pun/sys/dashboard", "../"] {
            assert_eq!(register(scope), json!("SecurityError"), "{form} {scope}");
        }
        assert_eq!(register(""), json!(session));
    }
}
