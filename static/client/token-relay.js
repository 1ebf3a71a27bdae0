// token-relay client: signs a person in through a dialog window and waits for the token by push.
// No dependencies. Types and the documentation of every option are in token-relay.d.ts.

const PROTOCOL = 'token-relay.v1';
const ORDER = ['sse', 'websocket', 'long-poll'];
const PATIENCE = 5000; // ms until the first byte of a stream, then it counts as buffered by a proxy
const SILENCE = 50000; // ms without a heartbeat (one every 15 s), then the connection is dead
const WAIT = 25; // s that one long poll hangs

export class SignInError extends Error {
  constructor(code, message, status) {
    super(message || code);
    this.name = 'SignInError';
    this.code = code;
    if (status) this.status = status;
  }
}

// A transport stopped without an answer: try again, or, when `broken`, try another one.
class Interrupted extends Error {
  constructor(message, { broken = false, after, busy = false } = {}) {
    super(message);
    Object.assign(this, { broken, after, busy });
  }
}

// Parses an event stream (WHATWG HTML, 9.2.6) from byte chunks cut anywhere.
export function eventStreamParser(onEvent, onRetry = () => {}) {
  const decoder = new TextDecoder(); // drops a leading byte order mark
  let rest = '';
  let afterReturn = false;
  let data = [];
  let type = '';
  let id = '';
  const line = (text) => {
    if (!text) {
      if (data.length) onEvent({ type: type || 'message', data: data.join('\n'), id });
      data = [];
      type = '';
      return;
    }
    const colon = text.indexOf(':');
    const name = colon < 0 ? text : text.slice(0, colon);
    const value = colon < 0 ? '' : text.slice(colon + (text[colon + 1] === ' ' ? 2 : 1));
    if (name === 'data') data.push(value);
    else if (name === 'event') type = value;
    else if (name === 'id' && !value.includes('\0')) id = value;
    else if (name === 'retry' && /^\d+$/.test(value)) onRetry(Number(value));
  };
  return (bytes) => {
    let text = decoder.decode(bytes, { stream: true });
    if (!text) return;
    // The line feed of a CRLF that was cut in two.
    if (afterReturn && text[0] === '\n') text = text.slice(1);
    afterReturn = text ? text.endsWith('\r') : false;
    const lines = (rest + text).split(/\r\n|\r|\n/);
    rest = lines.pop();
    lines.forEach(line);
  };
}

const aborted = () => new SignInError('aborted', 'The sign-in was cancelled.');

// A controller that follows `parent`; call `unlink` when done with it.
function follow(parent) {
  const controller = new AbortController();
  const forward = () => controller.abort(parent.reason);
  if (parent?.aborted) forward();
  else parent?.addEventListener('abort', forward, { once: true });
  controller.unlink = () => parent?.removeEventListener('abort', forward);
  return controller;
}

function pause(milliseconds, signal) {
  return new Promise((resolve) => {
    if (signal.aborted) return resolve();
    const done = () => {
      clearTimeout(timer);
      signal.removeEventListener('abort', done);
      resolve();
    };
    const timer = setTimeout(done, milliseconds);
    signal.addEventListener('abort', done);
  });
}

// The error behind an answer that is neither a token nor "still waiting".
async function refusal(response) {
  const { status } = response;
  const body = (await response.json().catch(() => null)) || {};
  const known = { 204: 'gone', 400: 'invalid_request', 401: 'unauthorized', 404: 'not_found', 410: 'expired' }[status];
  const text = body.error_description || body.detail || body.title || `The relay answered ${status}.`;
  if (known) return new SignInError(body.error || known, text, status);
  const busy = status === 429 || status >= 500;
  const after = Number(response.headers.get('Retry-After')) * 1000 || undefined;
  return new Interrupted(text, { broken: !busy, after, busy });
}

// What a message of the relay means: a token, an error, or nothing yet.
function outcome(kind, body) {
  if (kind === 'authenticated') return body;
  if (kind === 'failed') throw new SignInError(body.error || 'server_error', body.error_description);
  if (kind === 'expired') throw new SignInError('expired', 'The time to sign in is over.');
}

const READERS = {
  async sse(channel, run) {
    const attempt = follow(run.signal);
    let timer;
    const expect = (ms, broken) => {
      clearTimeout(timer);
      timer = setTimeout(() => attempt.abort(new Interrupted('The event stream is silent.', { broken })), ms);
    };
    expect(run.patience, true);
    try {
      const headers = { ...channel.headers, Accept: 'text/event-stream' };
      if (run.lastEventId) headers['Last-Event-ID'] = run.lastEventId;
      const response = await fetch(channel.eventsUrl, {
        headers, credentials: channel.credentials, cache: 'no-store', signal: attempt.signal,
      });
      if (response.status !== 200) throw await refusal(response);
      if (!response.body || !/^text\/event-stream/i.test(response.headers.get('Content-Type'))) {
        throw new Interrupted('Not an event stream.', { broken: true });
      }
      const events = [];
      const feed = eventStreamParser((event) => events.push(event), (ms) => { run.retry = ms; });
      const reader = response.body.getReader();
      for (;;) {
        const { done, value } = await reader.read();
        if (done) throw new Interrupted('The event stream ended.');
        run.opened();
        expect(SILENCE, false);
        feed(value);
        for (const { type, data, id } of events.splice(0)) {
          const token = outcome(type, JSON.parse(data || '{}'));
          if (id) run.lastEventId = id;
          if (token) return token;
        }
      }
    } catch (error) {
      throw attempt.signal.aborted ? attempt.signal.reason : error;
    } finally {
      clearTimeout(timer);
      attempt.unlink();
      attempt.abort();
    }
  },

  websocket(channel, run) {
    let socket;
    let timer;
    let abort;
    return new Promise((resolve, reject) => {
      abort = () => reject(run.signal.reason);
      run.signal.addEventListener('abort', abort);
      const broken = (message) => reject(new Interrupted(message, { broken: true }));
      timer = setTimeout(broken, run.patience, 'The WebSocket does not open.');
      try {
        socket = new WebSocket(channel.websocketUrl, [PROTOCOL, ...channel.protocols]);
      } catch (error) {
        return broken(error.message); // there is no WebSocket here, or policy forbids it
      }
      socket.onopen = () => {
        clearTimeout(timer);
        run.opened();
      };
      socket.onmessage = ({ data }) => {
        try {
          const { type, ...body } = JSON.parse(data);
          const token = outcome(type, body);
          if (!token) return;
          socket.send('{"type":"ack"}');
          run.acknowledged = true;
          resolve(token);
        } catch (error) {
          reject(error);
        }
      };
      socket.onclose = ({ code, reason }) => {
        const final = { 4401: 'unauthorized', 4404: 'not_found', 4408: 'expired', 4410: 'gone' }[code];
        reject(final ? new SignInError(final, reason) : new Interrupted(`The WebSocket closed (${code}).`));
      };
    }).finally(() => {
      clearTimeout(timer);
      run.signal.removeEventListener('abort', abort);
      try { socket?.close(1000); } catch { /* it never opened */ }
    });
  },

  async 'long-poll'(channel, run) {
    run.waiting();
    for (;;) {
      const attempt = follow(run.signal);
      const timer = setTimeout(() => attempt.abort(new Interrupted('The poll hangs.')), (WAIT + 10) * 1000);
      const begun = Date.now();
      try {
        const response = await fetch(channel.pollUrl, {
          method: channel.pollMethod, headers: channel.headers, credentials: channel.credentials,
          cache: 'no-store', signal: attempt.signal,
        });
        if (response.status !== 200 && response.status !== 202) throw await refusal(response);
        const body = await response.json();
        run.opened();
        const token = outcome(body.state, body);
        if (token) return token;
      } catch (error) {
        throw attempt.signal.aborted ? attempt.signal.reason : error;
      } finally {
        clearTimeout(timer);
        attempt.unlink();
      }
      // A server or proxy that answers at once must not be asked in a tight loop.
      if (Date.now() - begun < 1000) await pause(1000, run.signal);
      if (run.signal.aborted) throw run.signal.reason;
    }
  },
};

const base = (baseUrl) => String(baseUrl ?? globalThis.location?.origin ?? '').replace(/\/+$/, '');

// How a session is read: by its token, or by cookie and CSRF token on the meet-compatible surface.
function describe({ baseUrl, csrfToken, sessionToken, eventsUrl, websocketUrl, pollUrl }) {
  const root = base(baseUrl);
  const meet = csrfToken !== undefined;
  const at = (url, name) => new URL(url ?? `${root}/api/v1.0/addons/sessions/${name}/`, root || undefined);
  const poll = at(pollUrl, 'poll');
  const socket = at(websocketUrl, 'ws');
  socket.protocol = socket.protocol.replace('http', 'ws');
  const ended = { method: 'DELETE', keepalive: true };
  const headers = meet ? { 'X-CSRFToken': csrfToken } : sessionToken ? { Authorization: `Bearer ${sessionToken}` } : {};
  const credentials = meet ? 'include' : 'omit';
  const bare = poll.href;
  if (!meet) poll.searchParams.set('wait', WAIT);
  return {
    headers,
    credentials,
    eventsUrl: at(eventsUrl, 'events').href,
    websocketUrl: socket.href,
    protocols: meet ? [`csrf.${csrfToken}`] : sessionToken ? [`bearer.${sessionToken}`] : [],
    pollUrl: poll.href,
    pollMethod: meet ? 'POST' : 'GET',
    // Acknowledges or cancels. The meet-compatible surface has no such call.
    end: () => meet || fetch(bare, { ...ended, headers, credentials }).catch(() => {}),
  };
}

export async function waitForToken(options) {
  const { transport = 'auto', expiresIn, onProgress = () => {}, signal, firstByteTimeout = PATIENCE } = options;
  if (transport !== 'auto' && !READERS[transport]) throw new TypeError(`unknown transport ${transport}`);
  const channel = describe(options);
  const order = transport === 'auto' ? ORDER : [transport];
  const stop = follow(signal);
  const expiry = expiresIn && setTimeout(() => stop.abort(new SignInError('expired', 'The time to sign in is over.')), expiresIn * 1000 + 2000);
  const run = { signal: stop.signal, patience: firstByteTimeout, retry: 1000 };
  let index = 0;
  let cuts = 0; // connections in a row that the network or a proxy cut short
  let attempts = 0; // since the last connection that lasted, for the backoff
  let everOpened = false;
  try {
    for (;;) {
      const name = order[index];
      let openedAt = 0;
      let told = false;
      run.waiting = () => {
        if (!told) onProgress({ step: 'waiting', transport: name });
        told = true;
      };
      run.opened = () => {
        openedAt ||= Date.now();
        everOpened = true;
        run.waiting();
      };
      onProgress({ step: 'connecting', transport: name });
      try {
        if (stop.signal.aborted) throw stop.signal.reason;
        const token = await READERS[name](channel, run);
        if (!run.acknowledged) channel.end();
        return { ...token, transport: name };
      } catch (error) {
        if (stop.signal.aborted || error instanceof SignInError) throw error;
        const busy = error.busy;
        if (openedAt && Date.now() - openedAt >= firstByteTimeout) cuts = attempts = 0;
        else if (!busy && (openedAt || !everOpened)) cuts += 1;
        const last = index === order.length - 1;
        if (!last && (error.broken || cuts >= 3)) {
          index += 1;
          cuts = attempts = 0;
          everOpened = false;
          onProgress({ step: 'fallback', transport: order[index], reason: error.message });
          continue;
        }
        if (last && error.broken && (name === 'long-poll' || cuts >= 3)) throw new SignInError('network', error.message);
        onProgress({ step: 'reconnecting', transport: name, reason: error.message });
        const backoff = Math.min(run.retry * 2 ** attempts, 30000) * (0.5 + Math.random() / 2);
        attempts += 1;
        await pause(Math.max(backoff, error.after || 0), stop.signal);
      }
    }
  } catch (error) {
    if (!stop.signal.aborted) throw error;
    channel.end();
    throw stop.signal.reason instanceof SignInError ? stop.signal.reason : aborted();
  } finally {
    clearTimeout(expiry);
    stop.unlink();
  }
}

// Opens an empty window within the click, because browsers block one that is opened later.
function popup() {
  const left = Math.max(0, screenX + (outerWidth - 520) / 2);
  const top = Math.max(0, screenY + (outerHeight - 680) / 2);
  const opened = window.open('about:blank', '_blank', `popup,width=520,height=680,left=${left},top=${top}`);
  if (!opened) throw new SignInError('popup_blocked', 'The browser blocked the sign-in window.');
  opened.opener = null; // the pages in the dialog cannot navigate the add-in
  return opened;
}

async function post(url, { headers, body, ...init }) {
  let response;
  const json = body && !(body instanceof URLSearchParams);
  try {
    response = await fetch(url, {
      method: 'POST', cache: 'no-store', body: json ? JSON.stringify(body) : body,
      headers: { ...(json && { 'Content-Type': 'application/json' }), ...headers }, ...init,
    });
  } catch (error) {
    throw init.signal?.aborted ? aborted() : new SignInError('network', error.message);
  }
  if (response.ok) return response.json();
  const error = await refusal(response);
  throw error instanceof SignInError
    ? error
    : new SignInError(error.busy ? 'temporarily_unavailable' : 'invalid_request', error.message, response.status);
}

// Creates a session, opens the dialog, waits, closes the dialog: the same for both surfaces.
async function withDialog(options, create) {
  const { signal, onProgress = () => {} } = options;
  const stop = follow(signal);
  let dialog;
  let watch;
  let delay = 0;
  try {
    if (stop.signal.aborted) throw aborted();
    const own = options.openDialog ? undefined : (dialog = popup()); // before anything asynchronous
    const openDialog = options.openDialog ?? ((url) => {
      own.location.replace(url);
      return own;
    });
    onProgress({ step: 'creating' });
    const session = await create(stop.signal);
    onProgress({ step: 'created', userCode: session.userCode, expiresIn: session.expiresIn });
    const token = waitForToken({ ...options, ...session, signal: stop.signal });
    const opening = Promise.resolve()
      .then(() => openDialog(session.dialogUrl, { userCode: session.userCode, transitToken: session.transitToken, signal: stop.signal }))
      .then((handle) => {
        dialog = handle;
        onProgress({ step: 'dialog', userCode: session.userCode });
        watch = setInterval(() => {
          if (!dialog?.closed) return;
          clearInterval(watch);
          onProgress({ step: 'dialog-closed' }); // only a hint: the login may be over already
        }, 500);
        return token;
      });
    opening.catch(() => {});
    token.catch(() => {});
    const result = await Promise.race([token, opening]);
    onProgress({ step: 'delivered', transport: result.transport });
    delay = 2500; // the success page closes its window by itself where it may
    return result;
  } catch (error) {
    const failure = error instanceof SignInError ? error : new SignInError(stop.signal.aborted ? 'aborted' : 'dialog_failed', error?.message);
    stop.abort(failure);
    // An error of the login is explained in the dialog: the person closes that.
    if (watch && failure.code !== 'aborted') delay = -1;
    throw failure;
  } finally {
    clearInterval(watch);
    stop.unlink();
    if (dialog?.close && delay >= 0) setTimeout(() => dialog.close(), delay);
  }
}

// A token that comes with a refresh token can be exchanged for the next one. The relay takes a second
// use for a theft, so there is one exchange, however often it is asked for.
function refreshable(token, url, client) {
  if (!token.refresh_token) return token;
  let next;
  return {
    ...token,
    refresh() {
      const body = new URLSearchParams({ grant_type: 'refresh_token', refresh_token: token.refresh_token, ...client });
      next ||= post(url, { body, credentials: 'omit' }).then((answer) => refreshable({ ...token, ...answer }, url, client));
      return next;
    },
  };
}

export function signIn(options = {}) {
  const { baseUrl, bind = true, confirm = false, clientName } = options;
  const root = base(baseUrl);
  let client;
  return withDialog(options, async (signal) => {
    const body = bind ? { bind, confirm, client_name: clientName } : undefined;
    const session = await post(`${root}/addons/sessions`, { body, credentials: 'omit', signal });
    client = { client_id: session.session_id, client_secret: session.session_token };
    return {
      dialogUrl: new URL(session.transit_url, root).href,
      sessionToken: session.session_token,
      eventsUrl: session.events_url,
      websocketUrl: session.websocket_url,
      pollUrl: session.poll_url,
      expiresIn: session.expires_in,
      userCode: session.user_code,
    };
  }).then((token) => refreshable(token, `${root}/addons/token`, client));
}

export function meetSignIn(options) {
  const { baseUrl, dialogUrl } = options;
  return withDialog(options, async (signal) => {
    const answer = await post(`${base(baseUrl)}/api/v1.0/addons/sessions/init/`, { credentials: 'include', signal });
    const transitToken = answer.transit_token;
    return {
      // In the fragment, which no server sees.
      dialogUrl: typeof dialogUrl === 'function' ? dialogUrl(transitToken) : `${dialogUrl}#transit_token=${encodeURIComponent(transitToken)}`,
      transitToken,
      csrfToken: answer.csrf_token,
      expiresIn: 3600,
    };
  });
}

export function meetExchange({ baseUrl, transitToken, csrfToken, signal }) {
  return post(`${base(baseUrl)}/api/v1.0/addons/sessions/exchange/`, {
    body: { transit_token: transitToken }, headers: { 'X-CSRFToken': csrfToken }, credentials: 'include', signal,
  });
}
