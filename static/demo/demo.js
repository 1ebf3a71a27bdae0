// The demo task pane. Everything about signing in is in the client module; this is its face.
import { signIn, SignInError } from '/addons/static/token-relay.js';
import { compare } from '/compare.js';

const element = (id) => document.getElementById(id);
const status = element('status');
const names = { sse: 'server-sent events', websocket: 'WebSocket', 'long-poll': 'long poll' };
const times = new Set(['iat', 'exp', 'nbf', 'auth_time']);
let running; // the AbortController of the sign-in under way

// A tick of `kind` in the row of `way`, and the number of its requests.
function tick(way, kind, requests) {
  const rows = document.querySelector(`#compare [data-way="${way}"]`);
  rows.querySelector('.requests').textContent = requests;
  const mark = document.createElement('span');
  mark.className = kind;
  const ticks = rows.querySelector('.ticks');
  ticks.append(mark);
  if (ticks.children.length > 30) ticks.firstChild.remove();
}

function late(way, text) {
  document.querySelector(`#compare [data-way="${way}"] .late`).textContent = text;
}

function clearComparison() {
  for (const way of ['push', 'poll']) late(way, '–');
  for (const cell of document.querySelectorAll('#compare .requests')) cell.textContent = '0';
  for (const cell of document.querySelectorAll('#compare .ticks')) cell.replaceChildren();
}

function show(state, text) {
  status.dataset.state = state;
  status.textContent = text;
}

// Marks the steps before `name` as done and it as the current one; without a name all are done.
function stepTo(name) {
  let state = 'done';
  for (const item of element('steps').children) {
    if (item.dataset.step === name) state = 'current';
    item.className = state;
    if (state === 'current') {
      item.setAttribute('aria-current', 'step');
      state = '';
    } else item.removeAttribute('aria-current');
  }
}

function note(text) {
  const item = document.createElement('li');
  item.textContent = text;
  element('notes').append(item);
  element('notes').hidden = false;
}

function reset(busy) {
  element('options').disabled = busy;
  element('sign-in').disabled = busy;
  const leaving = document.activeElement === element('cancel');
  element('cancel').hidden = !busy;
  if (leaving && !busy) element('sign-in').focus();
  element('code-box').hidden = true;
}

function showCode(userCode) {
  if (!userCode) return;
  element('user-code').textContent = userCode;
  element('code-box').hidden = false;
}

function progressed({ step, transport, userCode, reason }) {
  if (step === 'created') {
    stepTo('stream');
    if (element('confirm').checked) showCode(userCode);
  } else if (step === 'waiting') {
    stepTo('dialog');
    show('waiting', `Waiting by ${names[transport]}. Please log in in the dialog.`);
  } else if (step === 'fallback') {
    note(`${reason} Trying ${names[transport]}.`);
  } else if (step === 'reconnecting') {
    note(`${reason} Connecting again.`);
  } else if (step === 'code') {
    showCode(userCode);
  } else if (step === 'proved') {
    element('code-box').hidden = !element('confirm').checked;
  } else if (step === 'dialog-closed' && running) {
    note('The dialog was closed. If you had not finished, press Cancel and sign in again.');
  } else if (step === 'delivered') {
    stepTo('resource');
  }
}

// The claims of a JWT (RFC 7519), for display only: checking it is up to the resource server.
function claimsOf(token) {
  const part = token.split('.')[1].replace(/-/g, '+').replace(/_/g, '/');
  const bytes = Uint8Array.from(atob(part), (character) => character.charCodeAt(0));
  return JSON.parse(new TextDecoder().decode(bytes));
}

function cell(kind, text) {
  const made = document.createElement(kind);
  made.textContent = text;
  return made;
}

function showClaims(claims) {
  const rows = Object.entries(claims).map(([name, value]) => {
    const row = document.createElement('tr');
    const head = cell('th', name);
    head.scope = 'row';
    const data = cell('td', typeof value === 'string' ? value : JSON.stringify(value));
    if (times.has(name)) data.append(' ', cell('small', new Date(value * 1000).toLocaleString()));
    row.append(head, data);
    return row;
  });
  element('claims').tBodies[0].replaceChildren(...rows);
}

async function callResource(token) {
  const response = await fetch('/addons/me', {
    headers: { Authorization: `${token.token_type} ${token.access_token}` },
  });
  const text = await response.text();
  let shown = text;
  try {
    shown = JSON.stringify(JSON.parse(text), null, 2);
  } catch { /* shown as it came */ }
  element('me').textContent = `HTTP ${response.status}\n${shown}`;
  if (!response.ok) throw new SignInError('resource', `/addons/me answered ${response.status}.`);
}

function showOutcome(there) {
  for (const id of ['no-account', 'no-outcome']) element(id).hidden = there;
  for (const id of ['with-account', 'outcome']) element(id).hidden = !there;
}

async function run() {
  running = new AbortController();
  const { signal } = running;
  showOutcome(false);
  element('notes').replaceChildren();
  element('notes').hidden = true;
  reset(true);
  clearComparison();
  const comparison = compare(signal, tick, late);
  stepTo('session');
  show('waiting', 'Creating a session.');
  try {
    const token = await signIn({
      baseUrl: location.origin,
      transport: document.querySelector('input[name="transport"]:checked').value,
      confirm: element('confirm').checked,
      clientName: 'Demo add-in',
      onProgress: progressed,
      signal,
    });
    const arrived = Date.now();
    comparison.pushed(arrived, token.authenticated_at);
    running = undefined;
    const claims = claimsOf(token.access_token);
    element('account').textContent = claims.name || claims.email || claims.sub || 'unknown';
    element('transport-used').textContent = names[token.transport];
    element('latency-box').hidden = token.authenticated_at === undefined;
    element('latency').textContent = Math.max(0, arrived - token.authenticated_at);
    showClaims(claims);
    element('me').textContent = 'Asking.';
    showOutcome(true);
    await callResource(token);
    stepTo();
    show('signed-in', `Signed in as ${element('account').textContent}.`);
    element('result-title').focus({ preventScroll: true });
  } catch (error) {
    const item = element('steps').querySelector('.current');
    comparison.pushed();
    if (item) item.className = 'failed';
    item?.removeAttribute('aria-current');
    explain(error);
  } finally {
    running = undefined;
    reset(false);
  }
}

function explain(error) {
  const { code, message } = error;
  if (code === 'aborted') show('cancelled', 'Cancelled. Nothing was signed in.');
  else if (code === 'expired') show('expired', 'The time to sign in is over. Please sign in again.');
  else if (code === 'popup_blocked') show('failed', 'The browser blocked the dialog. Allow pop-ups for this page and sign in again.');
  else if (code === 'access_denied') show('failed', `The login was refused or cancelled in the dialog. ${message}`);
  else show('failed', `The sign-in failed (${code ?? error.name}). ${message}`);
}

element('form').addEventListener('submit', (event) => {
  event.preventDefault();
  run(); // within the click: the client opens the dialog window at once
});
element('cancel').addEventListener('click', () => running?.abort());
reset(false); // the button was disabled until a click on it is heard
