// Shows the states that /operator/events sends. Everything is set as text, never as markup.

const element = (id) => document.getElementById(id);
// Without a password that the page's own address may hold.
const address = (name) => new URL(name, location.origin + location.pathname).href;
const NAMESPACE = 'http://www.w3.org/2000/svg';

function age(seconds) {
  if (seconds == null) return '';
  if (seconds < 0) return 'just now';
  if (seconds < 120) return `${seconds} s`;
  if (seconds < 7200) return `${Math.floor(seconds / 60)} min`;
  if (seconds < 172800) return `${Math.floor(seconds / 3600)} h`;
  return `${Math.floor(seconds / 86400)} d`;
}

/** A time of today without the date. */
function time(seconds) {
  const at = new Date(seconds * 1000);
  return at.toDateString() === new Date().toDateString() ? at.toLocaleTimeString() : at.toLocaleString();
}

/** The value of a label in words: `ProviderFailed` as "Provider failed". */
const words = (name) => ({ Sse: 'SSE', WebSocket: 'WebSocket' })[name] ?? name.replace(/(?<=[a-z])[A-Z]/g, (letter) => ` ${letter.toLowerCase()}`);

/** Fills a table; a cell is a text, `{text, className}` or an element; the first of a row is its head. */
function fill(id, rows, nothing) {
  const columns = element(id).tHead.rows[0].cells.length;
  const lines = (rows.length > 0 ? rows : [[nothing]]).map((row) => {
    const line = document.createElement('tr');
    row.forEach((cell, index) => {
      const { text = '', className = '' } = typeof cell === 'object' ? cell : { text: cell };
      const shown = document.createElement(index === 0 && rows.length > 0 ? 'th' : 'td');
      if (shown.tagName === 'TH') shown.scope = 'row';
      if (rows.length === 0) shown.colSpan = columns;
      if (cell instanceof Element) {
        shown.append(cell);
      } else {
        shown.className = className;
        shown.textContent = text;
      }
      line.append(shown);
    });
    return line;
  });
  element(id).tBodies[0].replaceChildren(...lines);
}

const number = (value) => ({ text: String(value), className: 'number' });
const whole = (text) => ({ text, className: 'whole' });

/** A bar of that share of its cell; the number beside it says the same. */
function bar(share) {
  const made = document.createElementNS(NAMESPACE, 'svg');
  const rectangle = document.createElementNS(NAMESPACE, 'rect');
  for (const [key, value] of Object.entries({ viewBox: '0 0 100 10', preserveAspectRatio: 'none', 'aria-hidden': 'true' })) made.setAttribute(key, value);
  for (const [key, value] of Object.entries({ width: share * 100, height: 10 })) rectangle.setAttribute(key, value);
  made.append(rectangle);
  return made;
}

/** Cumulative counts by upper bound, of all clients together. */
function buckets(samples) {
  const sums = new Map();
  for (const { name, labels, value } of samples) {
    if (name === 'token_relay_delivery_seconds_bucket') sums.set(labels.le, (sums.get(labels.le) ?? 0) + value);
  }
  const bound = (text) => (text === '+Inf' ? Infinity : Number(text));
  return [...sums].sort(([left], [right]) => bound(left) - bound(right));
}

function bound(le) {
  if (le === '+Inf') return 'more';
  return Number(le) < 1 ? `${Number(le) * 1000} ms` : `${Number(le)} s`;
}

function chart(samples) {
  const cumulative = buckets(samples);
  const bars = cumulative.map(([le, count], index) => ({ le, count: count - (cumulative[index - 1]?.[1] ?? 0) }));
  const total = cumulative.at(-1)?.[1] ?? 0;
  const within = (share) => bound(cumulative.find(([, count]) => count >= total * share)?.[0] ?? '+Inf');
  element('delivery-summary').textContent = total === 0
    ? 'No token has been delivered yet.'
    : `${total} delivered: half within ${within(0.5)}, 99 % within ${within(0.99)}.`;
  const highest = Math.max(1, ...bars.map(({ count }) => count));
  fill('chart', bars.map(({ le, count }) => [bound(le), number(count), bar(count / highest)]), '');
}

const KEYS = { SIGNING_KEY: 'Signing keys', SEALING_KEYS: 'Sealing keys', COOKIE_KEYS: 'Cookie keys' };

function condition({ problem, milliseconds, last_error: error }, now) {
  const answer = problem ?? `answers in ${milliseconds < 0.1 ? 'less than 0.1' : milliseconds.toFixed(1)} ms`;
  return `${answer}; ${error ? `last error ${age(now - error.at)} ago (${error.operation})` : 'no error since the start'}`;
}

function show(state) {
  const { samples, provider, store, keys, signing_key_ids: ids, now } = state;
  const of = (name) => samples.filter((sample) => sample.name === name);
  const ok = (text, good) => ({ text, className: good ? 'good' : 'bad' });
  fill('state', [
    ['Instance', `version ${state.version}`, number(age(now - state.started_at))],
    [`Provider ${provider.issuer}`, ok(provider.problem ?? provider.state, provider.state === 'discovered'), number(age(provider.age))],
    [`Store (${store.kind})`, ok(condition(store, now), store.is_up), number(age(store.since && now - store.since))],
    ...keys.map(({ setting, origin, since }) => [
      KEYS[setting] ?? setting,
      setting === 'SIGNING_KEY' && ids.length > 0 ? `${origin}; key IDs ${ids.map((id) => `${id.slice(0, 12)}…`).join(', ')}` : origin,
      number(age(now - since)),
    ]),
  ]);
  const open = of('token_relay_streams_open').filter(({ value }) => value > 0);
  const by = ({ labels: { client, transport } }) => `${client} ${transport}`;
  open.sort((left, right) => by(left).localeCompare(by(right)));
  element('streams-summary').textContent = `${open.reduce((sum, { value }) => sum + value, 0)} on this instance.`;
  fill('streams', open.map(({ labels, value }) => [labels.client, words(labels.transport), number(value)]), 'Nobody waits.');
  const logins = new Map();
  for (const { labels, value } of of('token_relay_logins_total')) logins.set(labels.outcome, (logins.get(labels.outcome) ?? 0) + value);
  const hour = Object.values(state.logins_last_hour).reduce((sum, count) => sum + count, 0);
  element('logins-summary').textContent = `${hour} ended in the last hour.`;
  fill('logins', [...logins].sort().map(([outcome, count]) => [words(outcome), number(state.logins_last_hour[outcome] ?? 0), number(count)]), 'None yet.');
  chart(samples);
  fill('failures', state.failures.map(({ at, reference, page, cause }) => [whole(time(at)), whole(reference), page.replaceAll('_', ' '), cause]), 'None since the start.');
  fill('ended', state.ended.map(({ at, subject, by }) => [whole(time(at)), subject, by]), 'Nobody since the start.');
  element('operator-only').hidden = !state.may_revoke;
}

function connect() {
  const events = new EventSource(address('events'));
  events.addEventListener('state', ({ data }) => {
    const state = JSON.parse(data);
    show(state);
    element('connection').textContent = 'Live.';
    element('updated').textContent = `Updated at ${new Date(state.now * 1000).toLocaleTimeString()}.`;
    element('updated').dataset.seconds = state.now;
  });
  events.addEventListener('error', () => {
    element('connection').textContent = 'Not connected; trying again.';
    // An answer that is no stream ends the attempts of the browser.
    if (events.readyState === EventSource.CLOSED) setTimeout(connect, 3000);
  });
}
connect();

element('end').addEventListener('submit', async (submitted) => {
  submitted.preventDefault();
  const sub = element('sub').value.trim();
  // Of a pasted name, without what changes the direction of the question's own words.
  const name = sub.replace(/[\p{Cc}\p{Cf}]/gu, '').slice(0, 100);
  if (!window.confirm(`Revoke all access tokens, refresh tokens and browser logins of “${name}”?`)) return;
  try {
    const answer = await fetch(address('revoke'), { method: 'POST', body: new URLSearchParams({ sub }) });
    element('result').textContent = answer.ok ? `Revoked: everything of “${name}”.` : `Not revoked: ${await answer.text()}`;
    if (answer.ok) element('end').reset();
  } catch {
    element('result').textContent = 'Not revoked: the relay does not answer.';
  }
});
