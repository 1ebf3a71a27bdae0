// token-relay client: signs a person in through a dialog window and waits for the token by push.
// No dependencies. Types and the documentation of every option are in token-relay.d.ts.

const PROTOCOL = 'token-relay.v1';
const ORDER = ['sse', 'websocket', 'long-poll'];
const FIRST_BYTE_TIMEOUT = 5000; // ms until the first byte of a stream, then it counts as buffered by a proxy
const HEARTBEAT_TIMEOUT = 50000; // ms without a heartbeat (one every 15 s), then the connection is dead
const LONG_POLL = 25; // s that one long poll hangs
const EARLIER_RELAY = 3; // creations until one is not answered by an earlier relay, which a deploy has not replaced yet
const CODE_DELAY = 2000; // ms after which the dialog may ask for the code instead of a proof by message

// Every `code` of a SignInError; a later relay's others become `server_error`.
const CODES = new Set([
  'aborted', 'dialog_failed', 'expired', 'gone', 'network', 'not_found', 'origin_not_allowed', 'popup_blocked', 'unauthorized',
  'cancelled', 'superseded', 'transit_token_replayed', // ends of a session
  'not_bound', 'not_encrypted',
  'access_denied', 'invalid_request', 'invalid_scope', 'server_error', 'temporarily_unavailable', 'unauthorized_client',
  'unsupported_response_type', // RFC 6749 §4.1.2.1
  'invalid_client', 'invalid_grant', 'unsupported_grant_type', // RFC 6749 §5.2
  'account_selection_required', 'consent_required', 'interaction_required', 'login_required', // OpenID Connect Core §3.1.2.6
]);

export class SignInError extends Error {
  constructor(code, message, status) {
    super(message || code);
    this.name = 'SignInError';
    this.code = code;
    if (status) this.status = status;
  }
}

// An error that the relay named.
function named(code, message, status) {
  if (CODES.has(code)) return new SignInError(code, message, status);
  return new SignInError('server_error', message ? `${code}: ${message}` : code, status);
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

// Browsers from before 2022 have no `signal.reason`.
const reasons = new WeakMap();
const reasonOf = (signal) => reasons.get(signal) ?? signal.reason ?? aborted();

// A controller that follows `parent`; call `unlink` when done with it.
function follow(parent) {
  const controller = new AbortController();
  const { signal } = controller;
  const abort = controller.abort.bind(controller);
  controller.abort = (reason) => {
    if (reason && !signal.aborted) reasons.set(signal, reason);
    abort(reason);
  };
  const forward = () => controller.abort(reasonOf(parent));
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
  const text = body.error_description || body.detail || body.title || `The relay answered ${status}.`;
  const known = { 204: 'gone', 400: 'invalid_request', 401: 'unauthorized', 404: 'not_found', 410: 'expired' }[status];
  if (body.type === 'urn:token-relay:problem:origin-refused') return originNotAllowed(text, status);
  if (known) return named(body.error || known, text, status);
  const busy = status === 429 || status >= 500;
  const after = Number(response.headers.get('Retry-After')) * 1000 || undefined;
  return new Interrupted(text, { broken: !busy, after, busy });
}

// `null` in a sandboxed frame, whatever its address says.
const originOfPage = () => globalThis.origin ?? globalThis.location?.origin;

function originNotAllowed(text, status) {
  const origin = originOfPage();
  const advice = origin === 'null'
    ? 'This page has no origin of its own (null). The relay\'s operator allows such pages by TOKEN_RELAY_OPAQUE_ORIGINS, or by opaque_origins of the client.'
    : `The origin of this page is ${origin}. The relay's operator allows it by TOKEN_RELAY_ALLOWED_ORIGINS, or by origins of the client.`;
  return new SignInError('origin_not_allowed', `${text} ${advice}`, status);
}

// Why nothing came back of a call to the relay at `root`. Browsers hide the reason from a page, but
// every page may read the relay's own files.
async function unreachable(root, error) {
  const url = new URL(`${root}/addons/static/token-relay.js`, globalThis.location?.href);
  if (globalThis.location && url.origin !== originOfPage()) {
    const { ok } = await fetch(url, { method: 'HEAD', credentials: 'omit', cache: 'no-store' }).catch(() => ({}));
    if (ok) return originNotAllowed(`The relay at ${url.origin} answers, but not to this page.`);
  }
  return new SignInError('network', error.message);
}

// What a message of the relay means: a token, an error, or nothing yet.
function outcome(kind, body) {
  if (kind === 'authenticated') return body;
  if (kind === 'failed') throw named(body.error || 'server_error', body.error_description);
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
    expect(run.firstByteTimeout, true);
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
        expect(HEARTBEAT_TIMEOUT, false);
        feed(value);
        for (const { type, data, id } of events.splice(0)) {
          const token = outcome(type, JSON.parse(data || '{}'));
          if (id) run.lastEventId = id;
          if (token) return token;
        }
      }
    } catch (error) {
      throw attempt.signal.aborted ? reasonOf(attempt.signal) : error;
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
      abort = () => reject(reasonOf(run.signal));
      run.signal.addEventListener('abort', abort);
      const broken = (message) => reject(new Interrupted(message, { broken: true }));
      timer = setTimeout(broken, run.firstByteTimeout, 'The WebSocket does not open.');
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
        const final = { 4401: 'unauthorized', 4403: 'origin_not_allowed', 4404: 'not_found', 4408: 'expired', 4410: 'gone' }[code];
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
      const timer = setTimeout(() => attempt.abort(new Interrupted('The poll hangs.')), (LONG_POLL + 10) * 1000);
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
        throw attempt.signal.aborted ? reasonOf(attempt.signal) : error;
      } finally {
        clearTimeout(timer);
        attempt.unlink();
      }
      // A server or proxy that answers at once must not be asked in a tight loop.
      if (Date.now() - begun < 1000) await pause(1000, run.signal);
      if (run.signal.aborted) throw reasonOf(run.signal);
    }
  },
};

const base = (baseUrl) => String(baseUrl ?? globalThis.location?.origin ?? '').replace(/\/+$/, '');

// How a session is read: by its token, or by cookie and CSRF token on the meet-compatible surface.
function describe({ baseUrl, csrfToken, sessionToken, eventsUrl, websocketUrl, pollUrl, credentials = 'omit' }) {
  const root = base(baseUrl);
  const meet = csrfToken !== undefined;
  const at = (url, name) => new URL(url ?? `${root}/api/v1.0/addons/sessions/${name}/`, root || undefined);
  const poll = at(pollUrl, 'poll');
  const socket = at(websocketUrl, 'ws');
  socket.protocol = socket.protocol.replace('http', 'ws');
  const headers = meet ? { 'X-CSRFToken': csrfToken } : sessionToken ? { Authorization: `Bearer ${sessionToken}` } : {};
  const bare = poll.href;
  if (!meet) poll.searchParams.set('wait', LONG_POLL);
  return {
    meet,
    headers,
    credentials: meet ? 'include' : 'omit',
    eventsUrl: at(eventsUrl, 'events').href,
    websocketUrl: socket.href,
    protocols: meet ? [`csrf.${csrfToken}`] : sessionToken ? [`bearer.${sessionToken}`] : [],
    pollUrl: poll.href,
    pollMethod: meet ? 'POST' : 'GET',
    // Acknowledges or cancels, and takes back the cookie of the creation. The meet-compatible surface
    // has no such call.
    end: () => meet || fetch(bare, { method: 'DELETE', keepalive: true, headers, credentials }).catch(() => {}),
  };
}

export async function waitForToken(options) {
  const { transport = 'auto', expiresIn, onProgress = () => {}, signal, firstByteTimeout = FIRST_BYTE_TIMEOUT } = options;
  if (transport !== 'auto' && !READERS[transport]) throw new TypeError(`unknown transport ${transport}`);
  const channel = describe(options);
  const order = transport === 'auto' ? ORDER : [transport];
  const stop = follow(signal);
  const expiry = expiresIn && setTimeout(() => stop.abort(new SignInError('expired', 'The time to sign in is over.')), expiresIn * 1000 + 2000);
  const run = { signal: stop.signal, firstByteTimeout, retry: 1000 };
  let index = 0;
  let cuts = 0; // connections in a row that the network or a proxy cut short
  let attempts = 0; // since the last connection that lasted, for the backoff
  let everOpened = false;
  try {
    for (;;) {
      const name = order[index];
      let openedAt = 0;
      let reported = false;
      run.waiting = () => {
        if (!reported) onProgress({ step: 'waiting', transport: name });
        reported = true;
      };
      run.opened = () => {
        openedAt = openedAt || Date.now();
        everOpened = true;
        run.waiting();
      };
      onProgress({ step: 'connecting', transport: name });
      try {
        if (stop.signal.aborted) throw reasonOf(stop.signal);
        const answer = await READERS[name](channel, run);
        if (!run.acknowledged) channel.end();
        return { ...bound(await opened(answer, options), options), transport: name };
      } catch (error) {
        // A service without streams, such as Django's, has no such path: `poll/` knows the session.
        const absent = channel.meet && transport === 'auto' && name !== 'long-poll' && error.code === 'not_found';
        if (absent) {
          index = order.length - 1;
          onProgress({ step: 'fallback', transport: order[index], reason: error.message });
          continue;
        }
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
    const reason = reasonOf(stop.signal);
    throw reason instanceof SignInError ? reason : aborted();
  } finally {
    clearTimeout(expiry);
    stop.unlink();
  }
}

// Opens an empty window within the click, because browsers block one that is opened later. It keeps its
// `opener`: the relay's first page asks the pane for a proof by it, and later pages disown it.
function popup() {
  const left = Math.max(0, screenX + (outerWidth - 520) / 2);
  const top = Math.max(0, screenY + (outerHeight - 680) / 2);
  const opened = window.open('about:blank', '_blank', `popup,width=520,height=680,left=${left},top=${top}`);
  if (!opened) throw new SignInError('popup_blocked', 'The browser blocked the sign-in window.');
  return opened;
}

// Whether cookies of the relay at `root` are same-site here. Too generous for suffixes such as `co.uk`,
// where the browser withholds the cookie by itself.
function isSameSite(root) {
  const here = globalThis.location;
  if (!here) return false;
  const there = new URL(root, here.href);
  const site = ({ hostname }) => (/^[\d.]+$|:/.test(hostname) ? hostname : hostname.split('.').slice(-2).join('.'));
  return there.protocol === here.protocol && site(there) === site(here);
}

async function post(root, path, { headers, body, send = fetch, ...init }) {
  let response;
  const json = body && !(body instanceof URLSearchParams);
  try {
    response = await send(`${root}${path}`, {
      method: 'POST', cache: 'no-store', body: json ? JSON.stringify(body) : body,
      headers: { ...(json && { 'Content-Type': 'application/json' }), ...headers }, ...init,
    });
  } catch (error) {
    throw init.signal?.aborted ? aborted() : await unreachable(root, error);
  }
  if (response.ok) return response.json();
  const error = await refusal(response);
  throw error instanceof SignInError
    ? error
    : new SignInError(error.busy ? 'temporarily_unavailable' : 'invalid_request', error.message, response.status);
}

const ascii = (text) => new TextEncoder().encode(text);
const utf8 = (bytes) => new TextDecoder().decode(bytes);
const decoded = (text) => Uint8Array.from(atob(text.replace(/-/g, '+').replace(/_/g, '/')), (character) => character.charCodeAt(0));
const base64url = (bytes) => btoa(String.fromCharCode(...new Uint8Array(bytes))).replace(/\+/g, '-').replace(/\//g, '_').replace(/=/g, '');
const sha256 = (bytes) => crypto.subtle.digest('SHA-256', bytes);
const joined = async (...parts) => new Blob(await Promise.all(parts)).arrayBuffer();

// Shows the relay's dialog at `challenge` that its window belongs to the reader of this session:
// base64url(HMAC-SHA256(K, label ‖ session key ‖ challenge)).
async function prove({ sessionId, sessionToken }, challenge) {
  const secret = await sha256(await joined(ascii('token-relay proof key v1'), ascii(sessionToken)));
  const key = await crypto.subtle.importKey('raw', secret, { name: 'HMAC', hash: 'SHA-256' }, false, ['sign']);
  const mac = await crypto.subtle.sign('HMAC', key, await joined(ascii('token-relay proof v1'), sha256(ascii(sessionId)), decoded(challenge)));
  return base64url(mac);
}

// A key pair of one sign-in. No script can read the private key, only use it.
async function encryptionKey() {
  if (!globalThis.crypto?.subtle) throw new SignInError('invalid_request', 'Encryption needs a secure context (https).');
  const { privateKey, publicKey } = await crypto.subtle.generateKey({ name: 'ECDH', namedCurve: 'P-256' }, false, ['deriveBits']);
  const { kty, crv, x, y } = await crypto.subtle.exportKey('jwk', publicKey);
  return { privateKey, jwk: { kty, crv, x, y } };
}

// A key pair that proves who uses a token (DPoP, RFC 9449).
async function proofKey() {
  if (!globalThis.crypto?.subtle) throw new SignInError('invalid_request', 'DPoP needs a secure context (https).');
  const { privateKey, publicKey } = await crypto.subtle.generateKey({ name: 'ECDSA', namedCurve: 'P-256' }, false, ['sign']);
  const { x, y } = await crypto.subtle.exportKey('jwk', publicKey);
  return { privateKey, jwk: { crv: 'P-256', kty: 'EC', x, y } }; // in the order of RFC 7638
}

const nonces = new Map(); // the newest of each origin

async function proof({ privateKey, jwk }, { method, url }, nonce, token) {
  const { origin, pathname } = new URL(url);
  const claims = {
    jti: base64url(crypto.getRandomValues(new Uint8Array(16))), htm: method, htu: origin + pathname, iat: Math.floor(Date.now() / 1000),
    nonce, ath: token && base64url(await sha256(ascii(token))),
  };
  const message = [{ typ: 'dpop+jwt', alg: 'ES256', jwk }, claims].map((part) => base64url(ascii(JSON.stringify(part)))).join('.');
  return `${message}.${base64url(await crypto.subtle.sign({ name: 'ECDSA', hash: 'SHA-256' }, privateKey, ascii(message)))}`;
}

// Sends a request with a proof, and once more where the answer names the nonce that it must have.
async function proven(key, url, init, token) {
  const request = new Request(typeof url === 'string' ? new URL(url, globalThis.location?.href) : url, init);
  const { origin } = new URL(request.url);
  for (let last = false; ; last = true) {
    const attempt = last ? request : request.clone();
    const used = nonces.get(origin); // another request may learn the next one meanwhile
    attempt.headers.set('DPoP', await proof(key, request, used, token));
    if (token) attempt.headers.set('Authorization', `DPoP ${token}`);
    const response = await fetch(attempt);
    const nonce = response.headers.get('DPoP-Nonce');
    if (nonce) nonces.set(origin, nonce);
    if (last || !nonce || nonce === used || ![400, 401].includes(response.status)) return response;
  }
}

// Where the token must be bound to a key, no other is one.
function bound(token, { dpopKey }) {
  if (!dpopKey || !token.access_token || /^dpop$/i.test(token.token_type)) return token;
  throw new SignInError('not_bound', 'The token is not bound to the key of this page: something between it and the relay may have changed the sign-in.');
}

// Opens a token answer that the relay encrypted for `decryptionKey` (RFC 7516; RFC 7518 §4.6, `ECDH-ES`
// with `A256GCM`). Where there is such a key, nothing else is a token.
async function opened(answer, { decryptionKey, sessionId }) {
  if (!decryptionKey) return answer;
  try {
    const [head, wrapped, iv, text, tag] = answer.encrypted.split('.');
    const { alg, enc, apv, epk: { kty, crv, x, y }, zip, crit } = JSON.parse(utf8(decoded(head)));
    const session = await sha256(ascii(sessionId));
    if (alg !== 'ECDH-ES' || enc !== 'A256GCM' || apv !== base64url(session) || wrapped || zip || crit) throw new Error(alg);
    const theirs = await crypto.subtle.importKey('jwk', { kty, crv, x, y }, { name: 'ECDH', namedCurve: 'P-256' }, false, []);
    const agreed = await crypto.subtle.deriveBits({ name: 'ECDH', public: theirs }, decryptionKey, 256);
    // Concat KDF: round 1, the secret, the lengths with the algorithm, `apu` and `apv`, the bits of the key.
    const number = (value) => new Uint8Array([0, 0, value >> 8, value]);
    const secret = await sha256(await joined(number(1), agreed, number(7), ascii(enc), number(0), number(32), session, number(256)));
    const key = await crypto.subtle.importKey('raw', secret, 'AES-GCM', false, ['decrypt']);
    const content = await joined(decoded(text), decoded(tag));
    return JSON.parse(utf8(await crypto.subtle.decrypt({ name: 'AES-GCM', iv: decoded(iv), additionalData: ascii(head) }, key, content)));
  } catch {
    throw new SignInError('not_encrypted', 'The token is not encrypted for this page: something between it and the relay may have changed the sign-in.');
  }
}

const isWindow = (handle) => typeof handle?.postMessage === 'function';

// Answers the dialog of `session`. `answer` takes a message and the origin it came from, and gives the
// reply that may go back to that origin, if any. Windows are listened to until `stop` is called.
function proofs(session, onProof) {
  const origin = new URL(session.dialogUrl, globalThis.location?.href).origin;
  let own; // the dialog's window, where it is known
  const answer = async (message, from) => {
    const { type, challenge } = Object(message);
    // Without a secure context there is no WebCrypto, and the dialog asks for the code.
    const wanted = type === 'token-relay:ready' && from === origin && /^[\w-]{43}$/.test(challenge) && session.sessionToken;
    if (!wanted || !globalThis.crypto?.subtle) return undefined;
    const proof = await prove(session, challenge);
    onProof();
    return { type: 'token-relay:proof', proof };
  };
  const listen = async ({ source, origin: from, data }) => {
    // Office and a reloaded pane have no handle; the window names its opener itself.
    if (!source || (own ? source !== own : source.opener !== globalThis.window)) return;
    const reply = await answer(data, from);
    if (reply) source.postMessage(reply, origin);
  };
  globalThis.window?.addEventListener?.('message', listen);
  return {
    answer,
    of(handle) { own = isWindow(handle) ? handle : undefined; },
    stop: () => globalThis.window?.removeEventListener?.('message', listen),
  };
}

// Sign-ins that a page of this origin began and that have not ended, by relay and client, so that they
// can be resumed. What cannot be stored, as in a private window, cannot be resumed.
async function stored(act) {
  try {
    const database = await new Promise((resolve, reject) => {
      const opening = indexedDB.open('token-relay', 1);
      opening.onupgradeneeded = () => opening.result.createObjectStore('sessions');
      opening.onsuccess = () => resolve(opening.result);
      opening.onerror = opening.onblocked = () => reject(opening.error);
    });
    try {
      return await new Promise((resolve, reject) => {
        const transaction = database.transaction('sessions', 'readwrite');
        const result = act(transaction.objectStore('sessions'));
        transaction.oncomplete = () => resolve(result?.result);
        transaction.onerror = transaction.onabort = () => reject(transaction.error);
      });
    } finally {
      database.close();
    }
  } catch {
    return undefined;
  }
}

const nameOf = (root, clientId) => [root, clientId ?? ''];

const remember = (name, session) => stored((sessions) => {
  sessions.openCursor().onsuccess = ({ target: { result: cursor } }) => {
    if (!cursor) return;
    if (cursor.value.expiresAt < Date.now()) cursor.delete();
    cursor.continue();
  };
  sessions.put(session, name);
});

// Deletes what is stored, unless a later sign-in has taken its place.
const forget = (name, { sessionId }) => stored((sessions) => {
  const asked = sessions.get(name);
  asked.onsuccess = () => { if (asked.result?.sessionId === sessionId) sessions.delete(name); };
});

// Creates a session, opens the dialog, waits, closes the dialog: the same for both surfaces.
async function withDialog(options, create) {
  const { signal, onProgress = () => {} } = options;
  const stop = follow(signal);
  let dialog;
  let proof;
  let watch;
  let codeTimer;
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
    const { userCode } = session;
    onProgress({ step: 'created', userCode, expiresIn: session.expiresIn });
    const token = waitForToken({ ...options, ...session, signal: stop.signal });
    proof = proofs(session, () => {
      clearTimeout(codeTimer);
      // Pages after a proof are cut off from this one, which looks as if the window were closed.
      if (isWindow(dialog)) clearInterval(watch);
      onProgress({ step: 'proved' });
    });
    proof.of(own);
    const opening = Promise.resolve()
      .then(() => openDialog(session.dialogUrl, { userCode, transitToken: session.transitToken, signal: stop.signal, answer: proof.answer }))
      .then((handle) => {
        dialog = handle;
        proof.of(handle);
        onProgress({ step: 'dialog', userCode });
        if (userCode) codeTimer = setTimeout(() => onProgress({ step: 'code', userCode }), CODE_DELAY);
        watch = setInterval(() => {
          if (!dialog?.closed) return;
          clearInterval(watch);
          onProgress({ step: 'dialog-closed' }); // only a hint: the login may be over, or its pages cut off
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
    clearTimeout(codeTimer);
    proof?.stop();
    stop.unlink();
    if (dialog?.close && delay >= 0) setTimeout(() => dialog.close(), delay);
  }
}

// A token that comes with a refresh token can be exchanged for the next one. The relay takes a second
// use for a theft, so there is one exchange, however often it is asked for.
function refreshable(token, root, session) {
  const { dpopKey } = session;
  if (dpopKey) token = { ...token, fetch: (url, init) => proven(dpopKey, url, init, token.access_token) };
  if (!token.refresh_token) return token;
  let next;
  return {
    ...token,
    refresh() {
      const body = new URLSearchParams({
        grant_type: 'refresh_token', refresh_token: token.refresh_token, client_id: session.sessionId, client_secret: session.sessionToken,
      });
      const send = dpopKey && ((url, init) => proven(dpopKey, url, init));
      next = next || post(root, '/addons/token', { body, credentials: 'omit', send })
        .then(async (answer) => bound(await opened(answer, session), session))
        .then((answer) => refreshable({ ...token, ...answer }, root, session));
      return next;
    },
  };
}

// Runs `wait` for a session that is kept by `name` until it has ended.
async function remembered(name, session, wait) {
  try {
    return await wait();
  } catch (error) {
    // Another page of this origin reads the session now, and will forget it.
    if (error.code === 'superseded') name = undefined;
    throw error;
  } finally {
    if (name) forget(name, session);
  }
}

export function signIn(options = {}) {
  const { baseUrl, bind = true, confirm, clientName, clientId, scope, loginHint, prompt, resumable = true, encrypt, dpop } = options;
  const root = base(baseUrl);
  const name = nameOf(root, clientId);
  let session = {};
  if (!bind && (encrypt || dpop)) return Promise.reject(new TypeError('encrypt and dpop need a bound session'));
  return remembered(bind && resumable && name, session, async () => {
    const token = await withDialog(options, async (signal) => {
      // WebCrypto is there in secure contexts alone.
      const encrypted = bind && encrypt !== false && (encrypt || globalThis.crypto?.subtle);
      const key = encrypted ? await encryptionKey() : {};
      const dpopKey = bind && dpop ? await proofKey() : undefined;
      const thumbprint = dpopKey && base64url(await sha256(ascii(JSON.stringify(dpopKey.jwk))));
      const body = bind ? {
        bind, confirm, client_name: clientName, client_id: clientId, scope, login_hint: loginHint, prompt,
        dpop_jkt: thumbprint, encryption_key: key.jwk,
      } : undefined;
      const create = async (credentials, rest = EARLIER_RELAY - 1) => {
        try {
          return await post(root, '/addons/sessions', { body, credentials, signal });
        } catch (error) {
          if (error.status !== 400 || !(encrypted || dpop) || !rest) throw error;
          await pause(1000, signal);
          return create(credentials, rest - 1);
        }
      };
      // The relay's cookie shows that the dialog opens in this browser, where the pane is on its site.
      let credentials = isSameSite(root) ? 'include' : 'omit';
      const created = await create(credentials).catch((error) => {
        // A relay that does not allow credentials to this origin.
        if (credentials === 'omit' || error.code !== 'origin_not_allowed' || error.status) throw error;
        credentials = 'omit';
        return create(credentials);
      });
      Object.assign(session, {
        dialogUrl: new URL(created.transit_url, root).href,
        sessionId: created.session_id,
        sessionToken: created.session_token,
        eventsUrl: created.events_url,
        websocketUrl: created.websocket_url,
        pollUrl: created.poll_url,
        expiresIn: created.expires_in,
        expiresAt: Date.now() + created.expires_in * 1000,
        userCode: created.user_code,
        credentials,
        decryptionKey: key.privateKey,
        dpopKey,
      });
      if (bind && resumable) remember(name, session);
      return session;
    });
    return refreshable(token, root, session);
  });
}

export async function resumeSignIn(options = {}) {
  const { baseUrl, clientId, onProgress = () => {} } = options;
  const root = base(baseUrl);
  const name = nameOf(root, clientId);
  const session = await stored((sessions) => sessions.get(name));
  if (!session) return undefined;
  const expiresIn = (session.expiresAt - Date.now()) / 1000;
  if (expiresIn <= 0) {
    await forget(name, session);
    return undefined;
  }
  const proof = proofs(session, () => onProgress({ step: 'proved' }));
  return remembered(name, session, async () => {
    onProgress({ step: 'created', userCode: session.userCode, expiresIn });
    const token = await waitForToken({ ...options, ...session, expiresIn });
    onProgress({ step: 'delivered', transport: token.transport });
    return refreshable(token, root, session);
  }).finally(proof.stop);
}

export function meetSignIn(options) {
  const { baseUrl, dialogUrl } = options;
  return withDialog(options, async (signal) => {
    const answer = await post(base(baseUrl), '/api/v1.0/addons/sessions/init/', { credentials: 'include', signal });
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
  return post(base(baseUrl), '/api/v1.0/addons/sessions/exchange/', {
    body: { transit_token: transitToken }, headers: { 'X-CSRFToken': csrfToken }, credentials: 'include', signal,
  });
}
