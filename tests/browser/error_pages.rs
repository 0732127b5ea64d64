//! Our error pages as the browser shows them, under the policy that nginx sends
//! with them.

use std::fs;
use std::path::Path;

use serde_json::json;

use crate::portal::Portal;
use crate::webdriver::Browser;

/// Each page by its name. What makes nginx choose one is tested elsewhere.
const BY_NAME: &str = r#"
location ~ ^/pun/pages/(?<page>[a-z0-9-]+)$ {
    recursive_error_pages on;
    error_page 502 "/.ood-ca-error/$page.html";
    return 502;
}
"#;

/// The lowest contrast of text to the page (WCAG 2.2, 1.4.3).
const CONTRAST: &str = "
    const linear = (c) => (c /= 255) <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4;
    const light = (colour) => {
      const [r, g, b] = colour.match(/[0-9.]+/g).map(Number).map(linear);
      return 0.2126 * r + 0.7152 * g + 0.0722 * b;
    };
    const paper = light(getComputedStyle(document.body).backgroundColor);
    const ratios = [...document.querySelectorAll('h1, h2, p, li, a, code')].map((element) => {
      const ink = light(getComputedStyle(element).color);
      return (Math.max(ink, paper) + 0.05) / (Math.min(ink, paper) + 0.05);
    });
    return Math.min(...ratios);";

fn names() -> Vec<String> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../nginx/errors");
    let files = fs::read_dir(dir).unwrap().map(|file| file.unwrap().path());
    let pages = files.filter(|path| path.extension().is_some_and(|e| e == "html"));
    let mut names: Vec<_> = pages
        .map(|path| path.file_stem().unwrap().to_str().unwrap().to_owned())
        .collect();
    names.sort();
    names
}

/// The console, but for the page's own status.
fn complaints(browser: &Browser) -> Vec<String> {
    let mut console = browser.console();
    console.retain(|line| !line.starts_with("network: "));
    console
}

fn show(browser: &Browser, scheme: &str, width: u32) {
    browser.devtools(
        "Emulation.setEmulatedMedia",
        &json!({ "features": [{ "name": "prefers-color-scheme", "value": scheme }] }),
    );
    browser.devtools(
        "Emulation.setDeviceMetricsOverride",
        &json!({ "width": width, "height": 640, "deviceScaleFactor": 1, "mobile": false }),
    );
}

#[test]
fn every_error_page_can_be_read_in_both_colour_schemes_and_at_320_pixels() {
    let portal = Portal::start_with(BY_NAME);
    let browser = Browser::start();
    let names = names();
    assert!(names.len() > 10, "{names:?}");
    for (scheme, width, paper) in [
        ("light", 320, "rgb(255, 255, 255)"),
        ("dark", 320, "rgb(13, 17, 23)"),
        ("light", 1280, "rgb(255, 255, 255)"),
    ] {
        show(&browser, scheme, width);
        for name in &names {
            let here = format!("{name}, {scheme}, {width} px");
            browser.open(&format!("{}/pun/pages/{name}", portal.origin));
            assert!(
                browser
                    .text("document.body.innerText")
                    .contains(&format!("page {name}.")),
                "{here}"
            );
            let wide = browser.run("return document.documentElement.scrollWidth;");
            assert!(wide.as_u64().unwrap() <= width.into(), "{here}: {wide}");
            assert_eq!(
                browser.text("getComputedStyle(document.body).backgroundColor"),
                paper,
                "{here}"
            );
            let contrast = browser.run(CONTRAST);
            assert!(contrast.as_f64().unwrap() >= 4.5, "{here}: {contrast}");
            let complaints = complaints(&browser);
            assert!(complaints.is_empty(), "{here}: {complaints:?}");
            browser.screenshot(&format!("error-{name}-{scheme}-{width}"));
        }
    }
    // The policy counts, and breaking it would have been noticed.
    browser.run(
        "const script = document.createElement('script');
         document.body.append(Object.assign(script, { textContent: 'document.title = 1' }));",
    );
    let complaints = complaints(&browser);
    assert!(
        complaints.len() == 1 && complaints[0].contains("Content Security Policy"),
        "{complaints:?}"
    );
}
