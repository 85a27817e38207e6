//! Downloads that break off, lie, stall, or have to come from somewhere else.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::Duration;

use evenkeel::error::Failure;
use evenkeel::fetch::{Asset, FetchError, FetchOptions, Fetcher, Progress, Stage};
use sha2::{Digest as _, Sha256};

use crate::server::{Answer, Server, start};

fn bytes() -> Vec<u8> {
    (0..100_000_u32).flat_map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes()).collect()
}

fn hash(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

fn options() -> FetchOptions {
    FetchOptions { stall: Duration::from_millis(400), tries: 2, direct: true, ..FetchOptions::default() }
}

struct Client {
    temp: tempfile::TempDir,
    fetcher: Fetcher,
    seen: Mutex<Vec<(Stage, u64, Option<u64>)>>,
}

impl Client {
    fn new(options: FetchOptions) -> Self {
        let temp = tempfile::tempdir().expect("a folder");
        let fetcher = Fetcher::new(temp.path().join("缓存 cache"), options).expect("a client");
        Self { temp, fetcher, seen: Mutex::default() }
    }

    fn get(&self, sources: &[String], sha256: Option<&str>) -> Result<PathBuf, FetchError> {
        let sources: Vec<&str> = sources.iter().map(String::as_str).collect();
        let asset = Asset { file: "w.pt", sources: &sources, sha256, bytes: None };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let told = |p: Progress<'_>| self.seen.lock().expect("no panic").push((p.stage, p.done, p.total));
        runtime.block_on(self.fetcher.file(&asset, &told))
    }

    fn left_over(&self) -> Vec<String> {
        let dir = self.fetcher.place("w.pt");
        let names = fs::read_dir(dir.parent().expect("below")).expect("a folder");
        let mut names: Vec<_> =
            names.map(|entry| entry.expect("an entry").file_name().into_string().expect("UTF-8")).collect();
        names.sort();
        names
    }
}

fn reasons(error: FetchError) -> Vec<String> {
    match error {
        FetchError::Unavailable { attempts, .. } => attempts.into_iter().map(|(_, reason)| reason).collect(),
        other => panic!("{other}"),
    }
}

#[test]
fn a_file_arrives_once_and_is_then_in_the_cache() {
    let file = bytes();
    let served = file.clone();
    let server = Server::start(move |_, request| Answer::file(&served, request));
    let client = Client::new(options());
    let url = [format!("{}/w.pt", server.url)];
    let path = client.get(&url, Some(&hash(&file))).expect("fetched");
    assert_eq!(fs::read(&path).expect("there"), file);
    assert_eq!(path, client.fetcher.place("w.pt"));
    let seen = client.seen.lock().expect("no panic").clone();
    let length = Some(file.len() as u64);
    assert_eq!(seen.first(), Some(&(Stage::Downloading, 0, length)));
    assert!(seen.contains(&(Stage::Downloading, file.len() as u64, length)));
    assert!(seen.windows(2).all(|pair| pair[0].1 <= pair[1].1), "progress goes forward: {seen:?}");
    client.get(&url, Some(&hash(&file))).expect("there");
    assert_eq!(server.requests().len(), 1);
    assert_eq!(client.left_over(), [".w.pt.json", ".w.pt.lock", "w.pt"]);
}

#[test]
fn a_cut_download_goes_on_where_it_was() {
    let file = bytes();
    let served = file.clone();
    // Cut four times, which is more than `tries`: each try gains enough.
    let server = Server::start(move |number, request| {
        let answer = Answer::file(&served, request);
        if number < 4 { answer.cut(70_000) } else { answer }
    });
    let client = Client::new(options());
    let path = client.get(&[format!("{}/w.pt", server.url)], Some(&hash(&file))).expect("fetched");
    assert_eq!(fs::read(path).expect("there"), file);
    let requests = server.requests();
    assert_eq!(requests.len(), 5);
    assert_eq!(requests[0].range, None);
    let starts: Vec<usize> =
        requests[1..].iter().map(|request| start(request.range.as_deref().expect("a range"))).collect();
    assert!(starts.windows(2).all(|pair| pair[0] < pair[1]) && starts[0] > 0, "{starts:?}");
    assert!(requests[1..].iter().all(|request| request.if_range.as_deref() == Some("\"1\"")));
}

#[test]
fn another_process_goes_on_with_what_is_there() {
    let file = bytes();
    let served = file.clone();
    let server = Server::start(move |number, request| match number {
        0..3 => Answer::file(&served, request).cut(if number == 0 { 70_000 } else { 0 }),
        _ => Answer::file(&served, request),
    });
    let client = Client::new(options());
    let url = [format!("{}/w.pt", server.url)];
    client.get(&url, None).expect_err("cut, and cut again twice without a gain");
    assert!(client.left_over().contains(&".w.pt.part".to_owned()));
    let path = client.get(&url, None).expect("fetched");
    assert_eq!(fs::read(path).expect("there"), file);
    assert_eq!(server.requests().last().and_then(|r| r.range.clone()).as_deref().map(start), Some(70_000));
}

#[test]
fn a_file_that_changed_meanwhile_is_fetched_anew() {
    let (old, new) = (bytes(), bytes().iter().rev().copied().collect::<Vec<u8>>());
    let (first, second) = (old.clone(), new.clone());
    let server = Server::start(move |number, request| match number {
        0 => Answer::file(&first, request).cut(60_000),
        // If-Range does not match: the whole new file.
        _ => Answer::new("200 OK", &format!("ETag: \"2\"\r\nContent-Length: {}\r\n", second.len()), &second),
    });
    let client = Client::new(options());
    let path = client.get(&[format!("{}/w.pt", server.url)], None).expect("fetched");
    assert_eq!(hash(&fs::read(path).expect("there")), hash(&new));
}

#[test]
fn a_server_without_ranges_starts_over() {
    let file = bytes();
    let served = file.clone();
    let server = Server::start(move |number, _| {
        let answer = Answer::new("200 OK", &format!("Content-Length: {}\r\n", served.len()), &served);
        if number == 0 { answer.cut(60_000) } else { answer }
    });
    let client = Client::new(options());
    let path = client.get(&[format!("{}/w.pt", server.url)], Some(&hash(&file))).expect("fetched");
    assert_eq!(fs::read(path).expect("there"), file);
}

#[test]
fn a_server_that_sends_another_part_is_not_believed() {
    let file = bytes();
    let served = file.clone();
    let server = Server::start(move |number, request| match number {
        0 => Answer::file(&served, request).cut(70_000),
        1 => Answer::new("206 Partial Content", "Content-Range: bytes 5-9/400000\r\nContent-Length: 5\r\n", b"wrong"),
        _ => Answer::file(&served, request),
    });
    let client = Client::new(options());
    let path = client.get(&[format!("{}/w.pt", server.url)], Some(&hash(&file))).expect("fetched");
    assert_eq!(fs::read(path).expect("there"), file);
    assert_eq!(server.requests()[2].range, None);
}

#[test]
fn a_wrong_hash_is_refused_and_the_next_mirror_asked() {
    let file = bytes();
    let (bad, good) = (b"something else".to_vec(), file.clone());
    let bad = Server::start(move |_, request| Answer::file(&bad, request));
    let good = Server::start(move |_, request| Answer::file(&good, request));
    let client = Client::new(options());
    let sha256 = hash(&file);
    let one = [format!("{}/w.pt", bad.url)];
    let error = client.get(&one, Some(&sha256)).expect_err("another file");
    assert!(reasons(error)[0].contains(&sha256));
    assert_eq!(client.left_over(), [".w.pt.lock", ".w.pt.part.json"], "nothing that could be taken for the file");
    let both = [one[0].clone(), format!("{}/w.pt", good.url)];
    assert_eq!(fs::read(client.get(&both, Some(&sha256)).expect("fetched")).expect("there"), file);
    assert_eq!((bad.requests().len(), good.requests().len()), (2, 1));
}

#[test]
fn mirrors_come_first_and_every_failure_is_told() {
    let missing = Server::start(|_, _| Answer::new("404 Not Found", "Content-Length: 0\r\n", b""));
    let busy = Server::start(|_, _| Answer::new("503 Service Unavailable", "Content-Length: 0\r\n", b""));
    let closed = std::net::TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("an address");
    let mirrors = vec![
        format!("{}/mirror/", missing.url),
        format!("{}/proxy/{{url}}", missing.url),
        "/nonexistent/folder".to_owned(),
    ];
    let client = Client::new(FetchOptions { mirrors, ..options() });
    let secret = busy.url.replace("http://", "http://me:secret@");
    let sources = [format!("{secret}/a"), format!("http://{closed}/b")];
    let error = client.get(&sources, Some("00ff")).expect_err("nobody has it");
    let told = Failure::from(error).render();
    for part in
        ["404 Not Found", "503 Service", "/nonexistent/folder/w.pt", "onnection refused", "sha256 00ff", "place it at"]
    {
        assert!(told.contains(part), "`{part}` is not in: {told}");
    }
    assert!(!told.contains("secret"), "{told}");
    assert!(told.contains(client.fetcher.place("w.pt").to_str().expect("UTF-8")));
    let paths: Vec<String> = missing.requests().into_iter().map(|request| request.path).collect();
    assert_eq!(paths[0], "/mirror/w.pt");
    assert!(paths[1].starts_with("/proxy/http://"), "{paths:?}");
    assert_eq!(paths.len(), 3, "who says 404 is not asked again");
    assert_eq!(busy.requests().len(), 2, "who is busy is asked again");
}

#[test]
fn a_server_that_falls_silent_is_left() {
    let file = bytes();
    let served = file.clone();
    let silent =
        Server::start(move |_, request| Answer { then_silent: true, ..Answer::file(&served, request).cut(1000) });
    let deaf = Server::start(|_, _| Answer { head: String::new(), body: Vec::new(), then_silent: true });
    let served = file.clone();
    let good = Server::start(move |_, request| Answer::file(&served, request));
    let client = Client::new(options());
    let sources = [deaf.url.clone(), silent.url.clone(), good.url.clone()];
    let began = std::time::Instant::now();
    let path = client.get(&sources, Some(&hash(&file))).expect("fetched");
    assert_eq!(fs::read(path).expect("there"), file);
    assert!(began.elapsed() < Duration::from_secs(20), "a few bytes now and then are no reason to stay");
    assert!(good.requests()[0].range.is_some(), "with a hash, what one source gave is continued at the next");
}

#[test]
fn a_web_page_is_no_file() {
    let page = Server::start(|_, _| Answer::new("200 OK", "Content-Type: text/html\r\nContent-Length: 4\r\n", b"<a/>"));
    let client = Client::new(options());
    let error = client.get(std::slice::from_ref(&page.url), None).expect_err("a page");
    assert!(reasons(error)[0].contains("web page"));
}

#[test]
fn local_files_serve_as_sources_and_by_hand() {
    let client = Client::new(options());
    let source = client.temp.path().join("mine 我.bin");
    fs::write(&source, b"weights").expect("written");
    let url = format!("file://{}", source.display()).replace(' ', "%20");
    let path = client.get(&[url], Some(&hash(b"weights"))).expect("copied");
    fs::remove_file(&path).expect("removed");
    assert_eq!(client.get(&[source.to_str().expect("UTF-8").to_owned()], None).expect("copied"), path);

    let by_hand = Client::new(options());
    let place = by_hand.fetcher.place("w.pt");
    fs::create_dir_all(place.parent().expect("below")).expect("created");
    fs::write(&place, b"weights").expect("written");
    assert_eq!(by_hand.get(&[], Some(&hash(b"weights"))).expect("there"), place);
}

#[test]
fn what_was_trusted_once_must_stay_the_same() {
    let client = Client::new(options());
    let source = client.temp.path().join("mine.bin");
    fs::write(&source, b"weights").expect("written");
    let sources = [source.to_str().expect("UTF-8").to_owned()];
    let path = client.get(&sources, None).expect("copied");
    tamper(&path);
    let error = client.get(&sources, None).expect_err("changed");
    assert!(matches!(&error, FetchError::Changed { expected, .. } if *expected == hash(b"weights")), "{error}");
    assert!(matches!(client.get(&sources, Some(&hash(b"weights"))), Err(FetchError::Changed { .. })));
    assert_eq!(fs::read(&path).expect("there"), b"WEIGHTS", "what is there is left for the person to look at");
}

fn tamper(path: &Path) {
    fs::write(path, b"WEIGHTS").expect("written");
    // Coarse clocks: the file must look changed.
    let later = std::time::SystemTime::now() + Duration::from_secs(5);
    fs::File::options().write(true).open(path).and_then(|file| file.set_modified(later)).expect("set");
}

#[test]
fn two_at_once_fetch_once() {
    let file = bytes();
    let served = file.clone();
    let server = Server::start(move |_, request| Answer::file(&served, request));
    let client = Client::new(options());
    let url = [format!("{}/w.pt", server.url)];
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..4).map(|_| scope.spawn(|| client.get(&url, None).expect("fetched"))).collect();
        for thread in threads {
            assert_eq!(fs::read(thread.join().expect("no panic")).expect("there"), file);
        }
    });
    assert_eq!(server.requests().len(), 1);
}
