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

const time = (seconds) => new Date(seconds * 1000).toLocaleString();

/** Fills a table; a cell is a text or `{text, className}`; the first of a row is its head. */
function fill(id, rows, nothing) {
  const columns = element(id).tHead.rows[0].cells.length;
  const lines = (rows.length > 0 ? rows : [[nothing]]).map((row) => {
    const line = document.createElement('tr');
    row.forEach((cell, index) => {
      const { text, className = '' } = typeof cell === 'object' ? cell : { text: cell };
      const shown = document.createElement(index === 0 && rows.length > 0 ? 'th' : 'td');
      if (shown.tagName === 'TH') shown.scope = 'row';
      if (rows.length === 0) shown.colSpan = columns;
      shown.className = className;
      shown.textContent = text;
      line.append(shown);
    });
    return line;
  });
  element(id).tBodies[0].replaceChildren(...lines);
}

const number = (value) => ({ text: String(value), className: 'number' });

function shape(name, attributes, text = '') {
  const made = document.createElementNS(NAMESPACE, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.textContent = text;
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
    : `${total} tokens delivered: half within ${within(0.5)}, 99 % within ${within(0.99)}.`;
  const highest = Math.max(1, ...bars.map(({ count }) => count));
  const width = 640 / Math.max(1, bars.length);
  element('chart').replaceChildren(...bars.flatMap(({ le, count }, index) => {
    const height = (count / highest) * 120;
    const middle = (index + 0.5) * width;
    return [
      shape('rect', { x: index * width + 4, y: 150 - height, width: width - 8, height, 'data-count': count }),
      ...(count > 0 ? [shape('text', { x: middle, y: 145 - height }, String(count))] : []),
      shape('text', { x: middle, y: 168, class: 'axis' }, bound(le)),
    ];
  }));
}

const KEYS = { SIGNING_KEY: 'Signing keys', SEALING_KEYS: 'Sealing keys', COOKIE_KEYS: 'Cookie keys' };

function condition({ problem, milliseconds, last_error: error }, now) {
  const answer = problem ?? `answers in ${milliseconds.toFixed(1)} ms`;
  return `${answer}; ${error ? `last error ${age(now - error.at)} ago (${error.operation})` : 'no error since the start'}`;
}

function show(state) {
  const { samples, provider, store, keys, signing_key_ids: ids, now } = state;
  const of = (name) => samples.filter((sample) => sample.name === name);
  const ok = (text, good) => ({ text, className: good ? 'good' : 'bad' });
  fill('state', [
    ['Instance', `version ${state.version}`, age(now - state.started_at)],
    [`Provider ${provider.issuer}`, ok(provider.problem ?? provider.state, provider.state === 'discovered'), age(provider.age)],
    [`Store (${store.kind})`, ok(condition(store, now), store.is_up), age(store.since && now - store.since)],
    ...keys.map(({ setting, origin, since }) => [
      KEYS[setting] ?? setting,
      setting === 'SIGNING_KEY' && ids.length > 0 ? `${ids.join(', ')}; ${origin}` : origin,
      age(now - since),
    ]),
  ]);
  const open = of('token_relay_streams_open');
  fill('streams', open.filter(({ value }) => value > 0)
    .map(({ labels, value }) => [labels.client ?? '', labels.transport, number(value)]), 'Nobody waits.');
  const logins = new Map();
  for (const { labels, value } of of('token_relay_logins_total')) logins.set(labels.outcome, (logins.get(labels.outcome) ?? 0) + value);
  fill('logins', [...logins].sort().map(([outcome, count]) => [outcome, number(state.logins_last_hour[outcome] ?? 0), number(count)]), 'None yet.');
  chart(samples);
  fill('failures', state.failures.map(({ at, reference, page, cause }) => [time(at), reference, page, cause]), 'None since the start.');
  fill('ended', state.ended.map(({ at, subject, by }) => [time(at), subject, by]), 'Nobody since the start.');
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
