//! The page at `GET /`, in a real browser.
#![cfg(feature = "cli")]

mod support;

use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use croupier::worker::ListenOptions;
use nix::sys::signal::Signal;
use serde_json::json;

use support::browser::{Browser, Page};
use support::forwarder::Forwarder;
use support::http::{self, Client};
use support::load::Load;
use support::script::{self, Scripted};
use support::{Croupier, Directory, processes, roles};

/// The variable that asks for the picture in the README, and names the file. `scripts/screenshot` sets it.
const PICTURE: &str = "CROUPIER_TEST_PICTURE";

/// The rows of a table, as texts.
const ROWS: &str = "[...document.querySelectorAll('#workers tr')].map((row) => row.innerText)";

fn at_monitor(croupier: &Croupier) -> Page {
    Browser::start().open(&format!("http://{}/", croupier.monitor()))
}

/// Waits until the table has these workers, all of them ready.
#[track_caller]
fn wait_for_workers(page: &mut Page, ids: &[u32]) {
    let rows = "[...document.querySelectorAll('#workers tr')]";
    let ready = format!("{rows}.map((row) => row.children[0].innerText + row.children[1].innerText).join()");
    let wanted: Vec<String> = ids.iter().map(|id| format!("{id}ready")).collect();
    page.wait_for(&format!("{ready} === '{}'", wanted.join(",")));
}

#[test]
fn it_shows_what_runs_and_within_moments_what_does_not_any_more() {
    let croupier = Croupier::demo(&["--workers", "3", "--monitor", "127.0.0.1:0"]);
    let address = croupier.wait_ready(3);
    let mut page = at_monitor(&croupier);
    wait_for_workers(&mut page, &[1, 2, 3]);
    let status = croupier.status();
    for (id, row) in (1..).zip(page.value(ROWS).as_array().unwrap()) {
        let pid = croupier.wait_started(id).pid.to_string();
        assert!(row.as_str().unwrap().split_whitespace().any(|cell| cell == pid), "no {pid} in {row}");
    }
    assert_eq!(page.value("document.title"), status["name"]);
    page.wait_for("document.getElementById('listeners').innerText.includes('round-robin')");
    assert!(page.value("document.getElementById('listeners').innerText").as_str().unwrap().contains(&address));
    for (part, text) in [("state", "running"), ("connection", "live"), ("ready", "3 of 3"), ("no-output", "--stdout")] {
        page.wait_for(&format!("document.getElementById('{part}').innerText.includes('{text}')"));
    }
    let versions = page.value("document.getElementById('versions').innerText").to_string();
    for field in ["version", "kernel", "command"] {
        assert!(versions.contains(status[field].as_str().unwrap()), "no {field} in {versions}");
    }
    let row = "[...document.querySelectorAll('#workers tr')].map((row) => row.innerText.split('\\t'))";
    page.wait_for(&format!("{row}.every((cells) => / [KM]iB$/.test(cells[10]) && /%$/.test(cells[11]))"));

    processes::send(croupier.wait_started(2).pid, Signal::SIGKILL);
    let killed = Instant::now();
    page.wait_for("/exit worker 2.*SIGKILL/.test(document.getElementById('events').innerText)");
    let told = killed.elapsed();
    wait_for_workers(&mut page, &[1, 4, 3]);
    println!("a kill was told after {told:?}, and the new worker was in the table after {:?}", killed.elapsed());
    page.assert_clean();
}

#[test]
fn it_shows_rates_and_even_shares_under_load() {
    let croupier = Croupier::demo(&["--workers", "4", "--monitor", "127.0.0.1:0"]);
    let address = croupier.wait_ready(4);
    let mut page = at_monitor(&croupier);
    let load = Load::start(&address, 4, 4);
    page.wait_for("document.querySelectorAll('#chart .area').length === 4");
    let legend = "[...document.querySelectorAll('#legend b')].map((share) => Math.round(parseFloat(share.innerText)))";
    page.wait_for(&format!("{legend}.length === 4 && {legend}.every((share) => share >= 20 && share <= 30)"));
    page.wait_for("parseFloat(document.getElementById('accepts').innerText.replace(',', '')) > 0");
    load.end();
    page.assert_clean();
}

#[test]
fn its_picture_can_be_taken() {
    let directory = Directory::new();
    let wanted = std::env::var_os(PICTURE);
    let (croupier, mut page) = served_by_my_worker(&directory);
    if wanted.is_some() {
        give_it_something_to_show(&croupier);
    }
    let path = wanted.map_or_else(|| directory.path().join("page.png"), PathBuf::from);
    page.photograph(&path);
    let png = std::fs::read(&path).unwrap();
    assert!(png.starts_with(b"\x89PNG\r\n\x1a\n"));
    let [width, height] = [16, 20].map(|at| u32::from_be_bytes(png[at..at + 4].try_into().unwrap()));
    assert!(width == 1280 && height > 1000, "{width} x {height}: not the whole page");
}

/// With names that mean something to a reader, and none of where this runs.
fn served_by_my_worker(directory: &Directory) -> (Croupier, Page) {
    let worker = format!("#!/bin/sh\nexec {}\n", roles::command("serve_and_tell").join(" "));
    std::fs::write(directory.file("my-worker"), worker).unwrap();
    std::fs::set_permissions(directory.file("my-worker"), PermissionsExt::from_mode(0o755)).unwrap();
    let role = format!("--env={}=serve_and_tell", roles::ROLE);
    let mut run = support::run(&["--name", "shop", "--control", &directory.file("shop.sock"), "--workers", "4"]);
    run.args(["--monitor", "127.0.0.1:0", "--stdout", "prefix", &role, "--", "./my-worker"]);
    run.current_dir(directory.path());
    let croupier = Croupier::spawn(run);
    croupier.wait_ready(4);
    let mut page = at_monitor(&croupier);
    wait_for_workers(&mut page, &[1, 2, 3, 4]);
    (croupier, page)
}

/// Two minutes with ups and downs, a reload and a death.
fn give_it_something_to_show(croupier: &Croupier) {
    let (address, begun) = (croupier.address(), Instant::now());
    let wait_until = |seconds| {
        std::thread::sleep(Duration::from_secs(seconds).saturating_sub(begun.elapsed()));
    };
    let mut loads = Vec::new();
    for (second, clients) in [(0, 3), (14, 2), (22, 3), (35, 4), (41, 2)] {
        wait_until(second);
        loads.push(Load::start(&address, clients, 2));
    }
    for second in [66, 74] {
        wait_until(second);
        loads.pop();
    }
    wait_until(85);
    croupier.client(&["reload"]).assert_ok();
    wait_until(105);
    processes::send(croupier.wait_started(7).pid, Signal::SIGKILL);
    loads.push(Load::start(&address, 3, 2)); // One of the others may have lost its connection, and ends.
    wait_until(123);
}

#[test]
fn serve_and_tell() {
    if roles::plays("serve_and_tell") {
        let worker = roles::join();
        let listener = worker.listen_on_first(&ListenOptions::new()).unwrap();
        say_on_stdout("");
        for (count, connection) in (1..).zip(listener.incoming()) {
            // A client that goes away is its own affair.
            let _ = http::answer(&connection.unwrap(), &worker.id().to_string());
            if count % 1000 == 0 {
                say_on_stdout(&format!("{count} requests answered"));
            }
        }
    }
}

/// UDP may have the address of a TCP listener, and two UDP sockets the same one.
#[test]
fn listeners_with_one_address_have_a_row_and_a_rate_each() {
    let address = format!("127.0.0.1:{}", script::free_port());
    let sockets: String = ["b", "c"].map(|name| format!("\nudp {name} {address} reuse_address")).concat();
    let scripted =
        Scripted::start(&["--workers", "1", "--monitor", "127.0.0.1:0"], &format!("hold a {address}{sockets}"));
    scripted.address("c", 1);
    let mut page = at_monitor(&scripted.croupier);
    let rows = "[...document.querySelectorAll('#listeners tr')].map((row) => row.innerText)";
    page.wait_for(&format!("{rows}.length === 3"));
    let load = Load::start(&address, 2, 0);
    page.wait_for(&format!("{rows}.some((row) => /dealing\\s+[1-9]/.test(row))"));
    assert_eq!(page.value(&format!("{rows}.length")), 3, "after more than one look");
    assert_eq!(page.value(&format!("{rows}.filter((row) => row.includes('workers accept')).length")), 2);
    load.end();
    page.assert_clean();
    scripted.end();
}

#[test]
fn worker_with_script() {
    script::play();
}

#[test]
fn nothing_that_workers_choose_becomes_markup() {
    let directory = Directory::new();
    let listener = format!("unix:{}", directory.file("<i>listener"));
    let options = ["--workers", "2", "--monitor", "127.0.0.1:0", "--stdout", "prefix", "--listen", &listener];
    let croupier = Croupier::of_role(&options, "say_markup");
    let mut page = at_monitor(&croupier);
    for (part, text) in [("output", MARKUP), ("events", MARKUP), ("listeners", "<i>listener")] {
        page.wait_for(&format!("document.getElementById('{part}').textContent.includes({})", json!(text)));
    }
    let made = "document.querySelectorAll('main img, main i, body script').length + document.images.length";
    assert_eq!(page.value(made), 1, "the icon in the head");
    assert_eq!(page.value("window.broken ?? 'whole'"), "whole");
    page.assert_clean();
}

const MARKUP: &str = "</li><script>broken = 1</script><img src=x onerror=\"broken = 2\">&lt;";

/// A line in one piece. Before the first one comes an empty one: the harness of the tests has begun a line.
fn say_on_stdout(line: &str) {
    io::stdout().write_all(format!("{line}\n").as_bytes()).unwrap();
}

#[test]
fn say_markup() {
    if roles::plays("say_markup") {
        let worker = roles::join();
        worker.send(&MARKUP, None).unwrap();
        say_on_stdout("");
        say_on_stdout(MARKUP);
        drop(worker);
        roles::wait_for_the_end();
    }
}

#[test]
fn it_is_readable_in_light_and_dark_on_a_phone_and_without_eyes_or_mouse() {
    let options = ["--workers", "2", "--monitor", "127.0.0.1:0", "--listen", "127.0.0.1:0"];
    let croupier = Croupier::demo(&options);
    croupier.wait_ready(2);
    let forwarder = Forwarder::start(&croupier.control());
    let mut page = Browser::start().open(&forwarder.url());
    wait_for_workers(&mut page, &[1, 2]);
    page.wait_for("document.getElementById('events').children.length > 0");
    let mut grounds = Vec::new();
    for scheme in ["light", "dark"] {
        page.scheme(scheme);
        page.wait_for(&format!("matchMedia('(prefers-color-scheme: {scheme})').matches"));
        let faint = page.value(FAINT_TEXTS);
        assert_eq!(faint, json!([]), "too little contrast, {scheme}");
        grounds.push(page.value("getComputedStyle(document.body).backgroundColor"));
    }
    assert_ne!(grounds[0], grounds[1]);

    for width in [1280, 390, 320] {
        page.size(width, 800);
        page.wait_for(&format!("innerWidth === {width}"));
        assert_eq!(page.value("document.documentElement.scrollWidth"), width, "nothing sticks out");
    }
    let nameless = "[...document.querySelectorAll('main button')].filter((it) => !it.innerText).length";
    assert_eq!(page.value(nameless), 0);
    // Into a question and out of it again with the keyboard alone.
    page.value("document.querySelector('#controls button').focus()");
    page.press("Enter");
    page.wait_for("document.getElementById('confirm').open && document.activeElement.id === 'no'");
    page.press("Escape");
    page.wait_for("!document.getElementById('confirm').open && document.activeElement.innerText === 'Reload'");
    page.assert_clean();
}

/// Every text that is seen with less contrast to its ground than WCAG 2 asks for (AA): 4.5 to 1, or 3 to 1 if large.
const FAINT_TEXTS: &str = "{
    const channels = (colour) => colour.match(/[\\d.]+/g).map(Number);
    const light = (colour) => channels(colour).slice(0, 3).map((it) => it / 255)
        .map((it) => (it <= 0.04045 ? it / 12.92 : ((it + 0.055) / 1.055) ** 2.4))
        .reduce((sum, it, index) => sum + it * [0.2126, 0.7152, 0.0722][index], 0);
    const groundOf = (it) => {
        const ground = getComputedStyle(it).backgroundColor;
        return channels(ground)[3] === 0 ? groundOf(it.parentElement) : ground;
    };
    const ratio = (a, b) => (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
    const faint = [];
    let seen = 0;
    while (texts.nextNode()) {
        const [text, it] = [texts.currentNode.data.trim(), texts.currentNode.parentElement];
        if (text === '' || !it.checkVisibility()) continue;
        seen += 1;
        const style = getComputedStyle(it);
        const ink = it instanceof SVGElement ? style.fill : style.color;
        const found = ratio(light(ink), light(groundOf(it)));
        if (found < (parseFloat(style.fontSize) >= 24 ? 3 : 4.5)) faint.push([text, found]);
    }
    if (seen < 50) faint.push(['texts', seen]);
    faint
}";

#[test]
fn only_the_control_socket_has_buttons_and_they_do_what_they_say() {
    let croupier = Croupier::demo(&["--workers", "2", "--monitor", "127.0.0.1:0"]);
    croupier.wait_ready(2);
    let mut page = at_monitor(&croupier);
    wait_for_workers(&mut page, &[1, 2]);
    assert_eq!(page.value("document.querySelectorAll('main button').length"), 0);

    let forwarder = Forwarder::start(&croupier.control());
    page.go(&forwarder.url());
    wait_for_workers(&mut page, &[1, 2]);
    let button = |name: &str| {
        format!(
            "[...document.querySelectorAll('button')].find((it) => [it.innerText, it.ariaLabel].includes('{name}'))"
        )
    };
    page.click(&button("One more"));
    page.wait_for("document.getElementById('confirm').open");
    page.click(&button("Cancel"));
    page.wait_for("!document.getElementById('confirm').open");
    assert_eq!(croupier.status()["workers_wanted"], 2, "it was not confirmed");

    let act = |page: &mut Page, name: &str, outcome: &str| {
        page.click(&button(name));
        page.wait_for("document.getElementById('confirm').open");
        page.click("document.getElementById('yes')");
        page.wait_for(&format!("document.getElementById('outcome').innerText.startsWith('{outcome}')"));
    };
    act(&mut page, "One more", "3 workers are wanted now");
    act(&mut page, "Reload", "Every worker has been replaced");
    wait_for_workers(&mut page, &[4, 5, 6]);
    act(&mut page, "Disconnect worker 5", "Worker 5 finishes");
    wait_for_workers(&mut page, &[4, 7, 6]);
    croupier.client(&["disable"]).assert_ok();
    page.wait_for("document.getElementById('state').innerText === 'disabled'");
    act(&mut page, "One fewer", "2 workers are wanted now");
    act(&mut page, "One fewer", "1 worker is wanted now");
    act(&mut page, "One fewer", "One fewer: 0 workers are not possible");
    page.assert_clean_but_for("400 (Bad Request)");
}

#[test]
fn it_finds_back_after_an_upgrade_and_to_a_new_primary() {
    let directory = Directory::new();
    let path = directory.file("control.sock");
    let options = ["--workers", "2", "--control", &path];
    let mut croupier = Croupier::demo(&options);
    croupier.wait_ready(2);
    let forwarder = Forwarder::start(&path);
    let mut page = Browser::start().open(&forwarder.url());
    wait_for_workers(&mut page, &[1, 2]);

    croupier.signal(Signal::SIGUSR2);
    page.wait_for("document.getElementById('about').innerText.includes('upgraded once')");
    page.wait_for("document.getElementById('connection').innerText === 'live'");
    wait_for_workers(&mut page, &[1, 2]);

    assert_eq!(croupier.terminate(), Some(0));
    page.wait_for("document.getElementById('connection').innerText.startsWith('croupier does not answer')");
    let again = Croupier::demo(&["--workers", "3", "--control", &path]);
    again.wait_ready(3);
    page.wait_for("document.getElementById('connection').innerText === 'live'");
    wait_for_workers(&mut page, &[1, 2, 3]);
    assert_eq!(page.requests().iter().filter(|url| **url == forwarder.url()).count(), 1, "it is still the same page");
    page.assert_clean_but_for("net::ERR_");
}

#[test]
fn its_parts_are_only_to_be_read_and_nothing_else_may_run() {
    let croupier = Croupier::demo(&["--workers", "1", "--monitor", "127.0.0.1:0"]);
    croupier.wait_ready(1);
    let mut client = Client::connect(&croupier.monitor()).unwrap();
    for (path, kind) in [("/", "text/html"), ("/script.js", "text/javascript"), ("/style.css", "text/css")] {
        client.send(&format!("GET {path} HTTP/1.1\r\nhost: localhost\r\n\r\n")).unwrap();
        let response = client.response().unwrap();
        let says = |text: &str| assert!(response.head.contains(text), "no {text} in {}", response.head);
        assert_eq!(response.status, 200);
        says(&format!("content-type: {kind}; charset=utf-8"));
        says("content-security-policy: default-src 'none'; connect-src 'self'; ");
        says("x-content-type-options: nosniff");
        says("cache-control: no-store");
        says("referrer-policy: no-referrer");
        assert!(!response.head.contains("unsafe-inline"), "{}", response.head);
    }
    client.send("POST / HTTP/1.1\r\nhost: localhost\r\ncontent-length: 0\r\n\r\n").unwrap();
    assert!(client.response().unwrap().status >= 400);
}
