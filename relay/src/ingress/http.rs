//! Requests, one after the other, from a client to the app and back.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use http_body::Body;
use hyper::body::Incoming;
use hyper::header::{self, HeaderName, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::upgrade::OnUpgrade;
use hyper::{HeaderMap, Method, Request, Response, StatusCode, Uri, Version};
use hyper_util::rt::TokioIo;
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::headers::{remove_hop_by_hop, wants_trailers, wants_upgrade};
use crate::http::body::{Answer, Note, Permit, Upload};
use crate::http::exchange::{Exchange, Leaving};
use crate::http::gate::{self, Gate};
use crate::http::head::Bounds;
use crate::http::pool::{Sender, buffer_size};
use crate::ingress::doors::Tls;
use crate::ingress::upgrade::{self, Upgrade};
use crate::ingress::{Call, Calls, Shared};
use crate::log::{Event, RequestRecord};
use crate::pump::Passed;
use crate::tls::Client;

/// The only protocol that a connection may change to (RFC 6455 §4.1).
const WEBSOCKET: &str = "websocket";

/// What nginx logs where the client left before the answer.
const CLIENT_LEFT: u16 = 499;

/// A client's connection, as its requests see it.
struct Visit {
    shared: Arc<Shared>,
    peer: SocketAddr,
    user: String,
    /// The headers that the app may trust.
    own: Vec<(HeaderName, HeaderValue)>,
    exchange: Arc<Exchange>,
    cleanse: Arc<dyn Fn(&mut HeaderMap) + Send + Sync>,
    /// What comes after HTTP.
    upgrade: Mutex<Option<Upgrade>>,
    /// What was offered with the last request that had an `Upgrade`. Even where
    /// nothing comes of it hyper hands the connection over when it is done,
    /// instead of closing it.
    offered: Mutex<Option<OnUpgrade>>,
}

type Reply = Response<Answer<Box<Progress>>>;

/// Serves a connection to its end.
pub(super) async fn serve(
    shared: &Arc<Shared>,
    stream: Tls,
    peer: SocketAddr,
    client: &Client,
    mut calls: Calls,
) {
    let options = &shared.options;
    let timeouts = options.timeouts;
    let exchange = Arc::new(Exchange::new());
    let own_shared = Arc::clone(shared);
    let visit = Arc::new(Visit {
        shared: Arc::clone(shared),
        peer,
        user: client.leaf.subject().to_owned(),
        own: options.headers.for_client(&client.leaf),
        exchange: Arc::clone(&exchange),
        cleanse: Arc::new(move |trailers: &mut HeaderMap| {
            own_shared.options.headers.cleanse_trailers(trailers);
        }),
        upgrade: Mutex::default(),
        offered: Mutex::default(),
    });
    let _abandoned = Abandoned(Arc::clone(&exchange));
    let gate = Gate::new(stream, Arc::clone(&exchange), rules(shared));
    let service = service_fn(|request| {
        let visit = Arc::clone(&visit);
        async move { Ok::<_, Infallible>(answer(&visit, request).await) }
    });
    let mut builder = http1::Builder::new();
    builder
        .preserve_header_case(true)
        .title_case_headers(true)
        // The gate knows when a head is late, and when a connection is idle.
        .header_read_timeout(None)
        .max_buf_size(buffer_size(options.limits.head_bytes));
    if options.limits.headers != 100 {
        builder.max_headers(options.limits.headers);
    }
    let connection = builder.serve_connection(TokioIo::new(gate), service);
    let mut connection = pin!(connection.with_upgrades());
    let mut silence = pin!(exchange.silence(timeouts.idle, timeouts.keep_alive));
    let ended_well = loop {
        tokio::select! {
            // Calls first: who is no longer trusted gets no request through.
            biased;
            call = calls.next() => match call {
                Call::Drain => connection.as_mut().graceful_shutdown(),
                Call::Cut(_) => return,
            },
            // What fails here has been told to whoever asked, or they are gone.
            ended = &mut connection => break ended.is_ok(),
            () = &mut silence => return,
        }
    };
    if let Some(refused) = exchange.refused() {
        let user = Some(&*visit.user);
        shared.journal.refuse(peer, user, "bad-request", refused);
    }
    let upgrade = locked(&visit.upgrade).take();
    let offered = locked(&visit.offered).take();
    match (upgrade, offered) {
        (Some(upgrade), _) => upgrade.carry(timeouts.idle, &mut calls).await,
        (None, Some(offered)) if ended_well => upgrade::close(offered).await,
        (None, _) => {}
    }
}

/// Ends the exchange of a connection that ends, however it does: an answer that
/// waits in it holds it.
struct Abandoned(Arc<Exchange>);

impl Drop for Abandoned {
    fn drop(&mut self) {
        self.0.abandon();
    }
}

fn locked<T>(of: &Mutex<T>) -> MutexGuard<'_, T> {
    of.lock().unwrap_or_else(PoisonError::into_inner)
}

fn rules(shared: &Shared) -> gate::Rules {
    let limits = shared.options.limits;
    gate::Rules {
        bounds: Bounds {
            bytes: limits.head_bytes,
            lines: limits.headers,
        },
        head_time: shared.options.timeouts.head,
    }
}

/// Answers a request: with what the app says, or with why it says nothing.
async fn answer(visit: &Arc<Visit>, request: Request<Incoming>) -> Reply {
    let mut progress = Box::new(Progress::of(visit, &request));
    match forward(visit, request, &mut progress).await {
        Ok(Forwarded::Answer(response, sender)) => {
            progress.status = response.status().as_u16();
            progress.sender = Some(sender);
            response.map(|body| Answer::of_app(body, progress))
        }
        Ok(Forwarded::Upgrade(mut response)) => {
            progress.status = response.status().as_u16();
            progress.upgraded = true;
            let app = hyper::upgrade::on(&mut response);
            let client = locked(&visit.offered).take();
            *locked(&visit.upgrade) = client.map(|client| Upgrade::new(client, app, progress));
            response.map(|_| Answer::silent())
        }
        Err(failure) => {
            progress.status = failure.status.as_u16();
            progress.error = Some(failure.why.clone());
            failure.reply(progress)
        }
    }
}

enum Forwarded {
    Answer(Response<Incoming>, Sender),
    Upgrade(Response<Incoming>),
}

/// What is said in the app's place.
struct Failure {
    status: StatusCode,
    /// For the client.
    text: &'static str,
    /// For the log.
    why: String,
}

impl Failure {
    fn new(status: StatusCode, text: &'static str) -> Self {
        Failure {
            status,
            text,
            why: text.to_owned(),
        }
    }

    fn because(status: StatusCode, text: &'static str, why: impl ToString) -> Self {
        Failure {
            status,
            text,
            why: why.to_string(),
        }
    }

    fn reply(self, progress: Box<Progress>) -> Reply {
        let mut reply = Response::new(Answer::own(format!("{}\n", self.text), progress));
        *reply.status_mut() = self.status;
        let headers = reply.headers_mut();
        for (name, value) in [
            (header::CONTENT_TYPE, "text/plain; charset=utf-8"),
            (header::CACHE_CONTROL, "no-store"),
        ] {
            headers.insert(name, HeaderValue::from_static(value));
        }
        if self.status == StatusCode::METHOD_NOT_ALLOWED {
            let most = "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS";
            headers.insert(header::ALLOW, HeaderValue::from_static(most));
        }
        reply
    }
}

async fn forward(
    visit: &Arc<Visit>,
    mut request: Request<Incoming>,
    progress: &mut Progress,
) -> Result<Forwarded, Failure> {
    if [Method::TRACE, Method::CONNECT].contains(request.method()) {
        // An app that echoes what it was sent would show the headers that it trusts.
        let text = "This method does not pass.";
        return Err(Failure::new(StatusCode::METHOD_NOT_ALLOWED, text));
    }
    let upgrades = wants_upgrade(request.headers(), WEBSOCKET)
        && request.method() == Method::GET
        && request.version() == Version::HTTP_11
        && request.body().is_end_stream();
    if request.headers().contains_key(header::UPGRADE) {
        *locked(&visit.offered) = Some(hyper::upgrade::on(&mut request));
    }
    let permit = asks_permission(&request)?;
    prepare(visit, &mut request, upgrades);
    let mut request = request.map(|body| {
        let passed = Arc::clone(&progress.passed_in);
        Upload::new(body, passed, Arc::clone(&visit.cleanse))
    });
    if let Some(permit) = &permit {
        request = request.map(|body| body.hold_until(permit.clone()));
    }
    let (interim, too_many) = Interim::new(permit);
    hyper::ext::on_informational(&mut request, move |answer| interim.take(answer.status()));
    let (mut response, sender) = tokio::select! {
        biased;
        () = too_many.notified() => {
            let text = "The app's answer does not come to its point.";
            return Err(Failure::new(StatusCode::BAD_GATEWAY, text));
        }
        sent = send(visit, request) => sent?,
    };
    if response.status() == StatusCode::SWITCHING_PROTOCOLS {
        if !upgrades || !wants_upgrade(response.headers(), WEBSOCKET) {
            let text = "The app changed to a protocol that it was not asked for.";
            return Err(Failure::new(StatusCode::BAD_GATEWAY, text));
        }
        remove_hop_by_hop(response.headers_mut());
        set_upgrade(response.headers_mut());
        return Ok(Forwarded::Upgrade(response));
    }
    frame(response.headers_mut())?;
    remove_hop_by_hop(response.headers_mut());
    // The version is that of who speaks (RFC 9112 §2.3): an app's HTTP/1.0 would have the
    // client take this connection for used up, and its end for the answer's.
    *response.version_mut() = Version::HTTP_11;
    Ok(Forwarded::Answer(response, sender))
}

/// Leaves an answer with one way to tell where it ends.
fn frame(headers: &mut HeaderMap) -> Result<(), Failure> {
    let bad = |text| Err(Failure::new(StatusCode::BAD_GATEWAY, text));
    let mut codings = headers.get_all(header::TRANSFER_ENCODING).iter();
    if let Some(coding) = codings.next() {
        // Other codings would be lost with the header, and the coded bytes pass for
        // plain ones.
        if codings.next().is_some() || !coding.as_bytes().eq_ignore_ascii_case(b"chunked") {
            return bad("The app's answer has a transfer coding other than chunked.");
        }
        // It came beside it and does not count (RFC 9112 §6.3).
        headers.remove(header::CONTENT_LENGTH);
        return Ok(());
    }
    // The same length several times is one (RFC 9112 §6.3).
    let lengths = headers.get_all(header::CONTENT_LENGTH).iter();
    let mut lengths = lengths.flat_map(|v| v.as_bytes().split(|b| *b == b','));
    let Some(first) = lengths.next().map(<[u8]>::trim_ascii) else {
        return Ok(());
    };
    if lengths.any(|other| other.trim_ascii() != first) {
        return bad("The app's answer has several lengths.");
    }
    match HeaderValue::from_bytes(first) {
        Ok(length) => {
            headers.insert(header::CONTENT_LENGTH, length);
            Ok(())
        }
        Err(_) => bad("The length of the app's answer is malformed."),
    }
}

/// Answers that come before the answer (RFC 9110 §15.2): one of them may let the
/// body pass, and who sends them without end must not keep a thread busy.
struct Interim {
    permit: Option<Permit>,
    count: AtomicU32,
    too_many: Arc<Notify>,
}

impl Interim {
    /// More than any app has use for.
    const MOST: u32 = 100;

    /// And what tells of too many.
    fn new(permit: Option<Permit>) -> (Self, Arc<Notify>) {
        let too_many = Arc::new(Notify::new());
        let told = Arc::clone(&too_many);
        let count = AtomicU32::new(0);
        (
            Interim {
                permit,
                count,
                too_many,
            },
            told,
        )
    }

    fn take(&self, status: StatusCode) {
        if status == StatusCode::CONTINUE
            && let Some(permit) = &self.permit
        {
            permit.give();
        }
        if self.count.fetch_add(1, Ordering::Relaxed) >= Self::MOST {
            self.too_many.notify_one();
        }
    }
}

/// Whether the client waits for permission to send its body
/// (RFC 9110 §10.1.1).
fn asks_permission(request: &Request<Incoming>) -> Result<Option<Permit>, Failure> {
    let mut expectations = request.headers().get_all(header::EXPECT).iter().peekable();
    if expectations.peek().is_none() {
        return Ok(None);
    }
    if !expectations.all(|e| e.as_bytes().eq_ignore_ascii_case(b"100-continue")) {
        let text = "Only the expectation 100-continue is known.";
        return Err(Failure::new(StatusCode::EXPECTATION_FAILED, text));
    }
    let waits = request.version() == Version::HTTP_11 && !request.body().is_end_stream();
    Ok(waits.then(Permit::default))
}

/// Makes a request what the app shall see.
fn prepare(visit: &Visit, request: &mut Request<Incoming>, upgrades: bool) {
    let has_body = !request.body().is_end_stream();
    *request.version_mut() = Version::HTTP_11;
    let headers = request.headers_mut();
    let chunked = headers.contains_key(header::TRANSFER_ENCODING);
    let trailers = wants_trailers(headers);
    let options = &visit.shared.options;
    options.headers.cleanse_request(headers, &visit.own);
    if upgrades {
        set_upgrade(headers);
    } else if trailers {
        headers.insert(header::TE, HeaderValue::from_static("trailers"));
        headers.insert(header::CONNECTION, HeaderValue::from_static("TE"));
    }
    if chunked {
        // Said outright, for with some methods hyper would drop the body.
        headers.insert(
            header::TRANSFER_ENCODING,
            HeaderValue::from_static("chunked"),
        );
    }
    if !has_body {
        headers.remove(header::EXPECT);
    }
    // HTTP/1.0 has it where HTTP/1.1 must (RFC 9112 §3.2).
    headers
        .entry(header::HOST)
        .or_insert(HeaderValue::from_static("localhost"));
}

fn set_upgrade(headers: &mut HeaderMap) {
    headers.insert(header::UPGRADE, HeaderValue::from_static(WEBSOCKET));
    headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
}

/// Sends a request on a connection that was used before or a fresh one, and
/// once more where nothing of it can have been acted on.
async fn send(
    visit: &Visit,
    mut request: Request<Upload>,
) -> Result<(Response<Incoming>, Sender), Failure> {
    let pool = &visit.shared.pool;
    let bodiless = request.body().is_end_stream();
    let repeatable = bodiless && request.method().is_idempotent();
    if let Some(mut sender) = pool.reuse(repeatable) {
        let again = repeatable.then(|| head_of(&request));
        match sender.try_send_request(request).await {
            Ok(response) => return Ok((response, sender)),
            Err(mut error) => {
                // The app closed it meanwhile. Either the request was not sent
                // at all, or it does no harm to send it twice
                // (RFC 9110 §9.2.2).
                request = match (error.take_message(), again) {
                    (Some(request), _) => request,
                    (None, Some(head)) if visit.exchange.refused().is_none() => {
                        let body = Upload::empty(Arc::clone(&visit.cleanse));
                        Request::from_parts(head, body)
                    }
                    _ => return Err(broken(visit, &error.into_error())),
                };
            }
        }
    }
    let mut sender = pool.fresh().await.map_err(|error| unreachable(&error))?;
    match sender.send_request(request).await {
        Ok(response) => Ok((response, sender)),
        Err(error) => Err(broken(visit, &error)),
    }
}

/// A copy of a request without its body.
fn head_of(request: &Request<Upload>) -> hyper::http::request::Parts {
    let mut copy = Request::new(());
    *copy.method_mut() = request.method().clone();
    *copy.uri_mut() = request.uri().clone();
    *copy.version_mut() = request.version();
    *copy.headers_mut() = request.headers().clone();
    *copy.extensions_mut() = request.extensions().clone();
    copy.into_parts().0
}

fn unreachable(error: &io::Error) -> Failure {
    match error.kind() {
        io::ErrorKind::TimedOut => Failure::because(
            StatusCode::GATEWAY_TIMEOUT,
            "The app does not take connections.",
            error,
        ),
        _ => Failure::because(
            StatusCode::BAD_GATEWAY,
            "The app does not answer. It may not have started yet, or have ended.",
            error,
        ),
    }
}

fn broken(visit: &Visit, error: &hyper::Error) -> Failure {
    // hyper's own words stop short of the cause.
    let cause = std::error::Error::source(error).map_or(String::new(), |c| format!(": {c}"));
    let why = format!("{error}{cause}");
    match visit.exchange.refused() {
        Some(refused) => Failure::because(StatusCode::BAD_REQUEST, refused.why, why),
        // Of the request's body, which nobody sends any more.
        None if error.is_user() => {
            let left = StatusCode::from_u16(CLIENT_LEFT).unwrap_or(StatusCode::BAD_REQUEST);
            let text = "The request's body did not come to its end.";
            Failure::because(left, text, why)
        }
        None => Failure::because(
            StatusCode::BAD_GATEWAY,
            "The app broke off, or its answer is not HTTP.",
            why,
        ),
    }
}

/// What is known of a request so far; told when it is over.
pub(super) struct Progress {
    visit: Arc<Visit>,
    method: Method,
    uri: Uri,
    began: Instant,
    status: u16,
    passed_in: Arc<AtomicU64>,
    passed_out: u64,
    upgraded: bool,
    complete: bool,
    error: Option<String>,
    /// To be used again if the answer comes to its end.
    sender: Option<Sender>,
}

impl Progress {
    fn of(visit: &Arc<Visit>, request: &Request<Incoming>) -> Self {
        visit.shared.requests.fetch_add(1, Ordering::Relaxed);
        Progress {
            visit: Arc::clone(visit),
            method: request.method().clone(),
            uri: request.uri().clone(),
            began: Instant::now(),
            status: CLIENT_LEFT,
            passed_in: Arc::default(),
            passed_out: 0,
            upgraded: false,
            complete: false,
            error: None,
            sender: None,
        }
    }
}

impl Progress {
    /// What passed after an upgrade, and whether it came to its end.
    pub(super) fn carried(&mut self, passed: Passed, complete: bool) {
        self.passed_in.fetch_add(passed.inward, Ordering::Relaxed);
        self.passed_out = passed.outward;
        self.complete = complete;
    }
}

impl Note for Box<Progress> {
    fn answered(mut self, bytes: u64, complete: bool) {
        self.passed_out = bytes;
        let sender = self.sender.take();
        if !complete {
            return;
        }
        if let Some(sender) = sender {
            self.visit.shared.pool.keep(sender);
        }
        let exchange = Arc::clone(&self.visit.exchange);
        exchange.answered(self);
    }
}

impl Leaving for Progress {
    fn has_left(mut self: Box<Self>) {
        self.complete = true;
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        let visit = &self.visit;
        visit.shared.journal.tell(&Event::Request(RequestRecord {
            peer: visit.peer,
            user: visit.user.clone(),
            method: self.method.to_string(),
            path: self.uri.path().to_owned(),
            status: self.status,
            bytes_in: self.passed_in.load(Ordering::Relaxed),
            bytes_out: self.passed_out,
            duration: self.began.elapsed(),
            upgraded: self.upgraded,
            complete: self.complete,
            error: self.error.take(),
        }));
        visit.exchange.finish();
    }
}
