//! A desktop in a job, seen through noVNC.

use std::path::Path;

use ood_ca_tests::job::Job;
use ood_ca_tests::require_tool;

use crate::portal::Portal;
use crate::webdriver::Browser;

const NOVNC: &str = "/usr/share/novnc";

/// A key, as WebDriver §17.4.2 has it.
const ENTER: char = '\u{e007}';

/// An X server without a socket that others could find, a terminal that takes
/// the colour of each word it is given, and what makes WebSockets of VNC.
const DESKTOP: &str = r#"
Xvnc -displayfd 1 -listen tcp -nolisten unix -geometry 800x600 -depth 24 \
    -rfbport 5900 -SecurityTypes None |
{
    read -r display
    DISPLAY=127.0.0.1:$display xterm -geometry 200x100+0+0 -bg navy -fg white -e sh -c '
        while read -r colour; do printf "\033]11;%s\007" "$colour"; done' &
    exec websockify --web="$0" "$OOD_JOB_APP_PORT" 127.0.0.1:5900
}"#;

/// Whether more than half of the screen has this colour, as `r,g,b`.
const IS_MOSTLY: &str = "
    const screen = document.querySelector('#noVNC_container canvas');
    const { width, height } = screen;
    const { data } = screen.getContext('2d').getImageData(0, 0, width, height);
    let same = 0;
    for (let at = 0; at < data.length; at += 4) {
      same += data.slice(at, at + 3).join() === colour;
    }
    return same > width * height / 2;";

#[test]
fn a_desktop_shows_in_novnc_and_takes_what_is_typed() {
    for tool in ["Xvnc", "xterm", "websockify"] {
        require_tool(tool);
    }
    assert!(
        Path::new(NOVNC).join("vnc.html").exists(),
        "this test needs noVNC in {NOVNC}; install it with: apt-get install novnc"
    );
    let portal = Portal::start();
    let job = Job::start(
        &portal.world,
        &portal.alice,
        "",
        &[],
        &["--to", "127.0.0.1:6080"],
        &["sh", "-c", DESKTOP, NOVNC],
    );
    let browser = Browser::start();
    let path = job.path("rproxy");
    let websocket = format!("{}websockify", path.trim_start_matches('/'));
    let page = format!(
        "{}{path}vnc.html?path={websocket}&autoconnect=true",
        portal.origin
    );
    browser.open(&page);
    browser.wait_until("document.documentElement.classList.contains('noVNC_connected')");
    let shows = |colour: &str| {
        browser.wait_until(&format!(
            "(function (colour) {{ {IS_MOSTLY} }}('{colour}'))"
        ));
    };
    shows("0,0,128");
    browser.screenshot("desktop-before");
    browser.click("#noVNC_container canvas");
    browser.type_keys(&format!("lime{ENTER}"));
    shows("0,255,0");
    browser.screenshot("desktop-after");
}
