// A small internet of names below `.localhost`, over TLS, on one port: relays behind a proxy that sets
// X-Forwarded-For, sites with pages of the tests, a provider that remembers logins, link scanners and
// servers on addresses of their own. `corp.localhost` is one site; any other name is another.
import assert from 'node:assert/strict';
import { execFileSync, spawn } from 'node:child_process';
import { createHash, X509Certificate } from 'node:crypto';
import { existsSync, mkdtempSync, readFileSync, rmSync } from 'node:fs';
import http from 'node:http';
import https from 'node:https';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { CLIENT, startProvider } from '../support/provider/in_process.mjs';
import { BINARY, launch, STATIC } from './support.mjs';

export const html = (body, head = '') => `<!doctype html><html lang="en"><head><meta charset="utf-8"><title>Page</title><link rel="icon" href="data:,">${head}</head><body>${body}</body></html>`;

/** A request from the server or program at `from`, an address of this host; certificates are not checked. */
export function send(url, { method = 'GET', headers = {}, body, from = '127.0.0.1', onData } = {}) {
  const target = new URL(url);
  return new Promise((resolve, reject) => {
    const request = (target.protocol === 'https:' ? https : http).request({
      host: '127.0.0.1', port: target.port, path: target.pathname + target.search, method, localAddress: from,
      servername: target.hostname, rejectUnauthorized: false, agent: false, headers: { host: target.host, ...headers },
    }, (response) => {
      let text = '';
      response.on('data', (bytes) => {
        text += bytes;
        onData?.(text);
      });
      const answer = () => resolve({ status: response.statusCode, headers: response.headers, text });
      response.on('end', answer).on('error', answer);
    });
    request.on('error', reject);
    request.end(body);
  });
}

/** A session's creation by a server, with any headers that it likes. */
export async function createSession(relay, body, { headers = {}, from } = {}) {
  const answer = await send(`${relay}/addons/sessions`, {
    method: 'POST', from, headers: { ...(body && { 'content-type': 'application/json' }), ...headers }, body: body && JSON.stringify(body),
  });
  return { status: answer.status, cookies: answer.headers['set-cookie'] ?? [], ...(answer.status === 201 && JSON.parse(answer.text)), answer };
}

export class Network {
  #folder = mkdtempSync(join(tmpdir(), 'token-relay-network-'));
  #pages = new Map();
  #relays = new Map();
  #processes = [];
  #sockets = new Set();
  #front;
  #number = 0;
  browser;
  provider;
  /** What came to the relays: host, method, path, and headers. */
  requests = [];

  /** `relays` are the names of those that the provider knows. */
  static async start(...relays) {
    const network = new Network();
    await network.#listen();
    const redirectUris = relays.flatMap((name) => ['/callback', '/api/v1.0/callback/'].map((path) => network.origin(name) + path));
    network.provider = await startProvider(redirectUris);
    return network;
  }

  async #listen() {
    const [key, certificate] = ['key.pem', 'certificate.pem'].map((name) => join(this.#folder, name));
    execFileSync('openssl', ['req', '-x509', '-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:prime256v1', '-nodes', '-days', '2',
      '-subj', '/CN=localhost', '-addext', 'subjectAltName=DNS:*.localhost,DNS:*.corp.localhost', '-keyout', key, '-out', certificate], { stdio: 'ignore' });
    this.#front = https.createServer({ key: readFileSync(key), cert: readFileSync(certificate) }, (request, response) => this.#serve(request, response));
    this.#front.on('connection', (socket) => this.#sockets.add(socket.on('close', () => this.#sockets.delete(socket))));
    await new Promise((listening) => { this.#front.listen(0, '127.0.0.1', listening); });
    // The browser trusts this key and no other, so that nothing is lax about the rest of TLS.
    const { publicKey } = new X509Certificate(readFileSync(certificate));
    const spki = createHash('sha256').update(publicKey.export({ type: 'spki', format: 'der' })).digest('base64');
    this.browser = await launch({ args: [`--ignore-certificate-errors-spki-list=${spki}`, '--host-resolver-rules=MAP *.localhost 127.0.0.1'] });
  }

  #serve(request, response) {
    const { host } = request.headers;
    const { pathname } = new URL(request.url, 'https://site');
    const page = this.#pages.get(`${host}${pathname}`) ?? this.#pages.get(`*${pathname}`);
    if (page) {
      response.writeHead(page.status ?? 200, { 'content-type': page.type ?? 'text/html; charset=utf-8', ...page.headers });
      return response.end(page.body);
    }
    const port = this.#relays.get(host.split(':')[0]);
    if (!port) return response.writeHead(404).end();
    this.requests.push({ host, method: request.method, path: request.url, headers: request.headers });
    const headers = { ...request.headers, 'x-forwarded-for': request.socket.remoteAddress.replace('::ffff:', '') };
    const onward = http.request({ host: '127.0.0.1', port, method: request.method, path: request.url, headers }, (answer) => {
      response.writeHead(answer.statusCode, answer.headers);
      answer.pipe(response);
    });
    onward.on('error', () => response.destroy());
    response.on('close', () => onward.destroy());
    return request.pipe(onward);
  }

  origin(name) {
    return `https://${name}:${this.#front.address().port}`;
  }

  /** Serves a page at `path` of the site `name`, of every site without one; gives its address. */
  page(name, body, { path = `/page-${this.#number += 1}`, ...more } = {}) {
    const host = name === '*' ? '*' : new URL(this.origin(name)).host;
    this.#pages.set(host + path, { body, ...more });
    return name === '*' ? path : this.origin(name) + path;
  }

  /** The relay's own client files, as the add-ins of the sites bring them along. */
  clientFiles() {
    for (const file of ['client/token-relay.js', 'client/office.js', 'outlook/office-stub.js']) {
      this.page('*', readFileSync(STATIC + file), { path: `/${file.split('/')[1]}`, type: 'text/javascript', headers: { 'access-control-allow-origin': '*' } });
    }
  }

  /** Starts `token-relay serve` behind the name; `log` is what it wrote so far. */
  async relay(name, environment = {}, provider = this.provider) {
    assert.ok(existsSync(BINARY), `${BINARY} is missing: cargo build`);
    const child = spawn(BINARY, ['serve'], {
      stdio: ['ignore', 'pipe', 'pipe'],
      env: {
        PATH: process.env.PATH,
        TOKEN_RELAY_LISTEN: '127.0.0.1:0',
        TOKEN_RELAY_PUBLIC_URL: this.origin(name),
        TOKEN_RELAY_TRUSTED_PROXIES: '127.0.0.1',
        TOKEN_RELAY_SESSIONS_PER_MINUTE: '10000',
        TOKEN_RELAY_OIDC_ISSUER: provider.issuer,
        TOKEN_RELAY_OIDC_CLIENT_ID: CLIENT.id,
        TOKEN_RELAY_OIDC_CLIENT_SECRET: CLIENT.secret,
        ...environment,
      },
    });
    this.#processes.push(child);
    const relay = { origin: this.origin(name), log: '' };
    child.stderr.on('data', (bytes) => {
      relay.log += bytes;
      if (process.env.SHOW_LOG) process.stderr.write(bytes);
    });
    const port = await new Promise((resolve, reject) => {
      child.stdout.on('data', (bytes) => resolve(Number(String(bytes).match(/:(\d+)\s*$/)[1])));
      child.on('exit', () => reject(new Error(`the relay ${name} ended: ${relay.log}`)));
    });
    this.#relays.set(name, port);
    return relay;
  }

  /** A GET as a link scanner or a mail gateway makes it. */
  scan(url, method = 'GET') {
    return send(url, { method, headers: { 'user-agent': 'LinkScanner/1.0', accept: '*/*' }, from: '127.0.0.9' });
  }

  async stop() {
    await this.browser?.close();
    for (const child of this.#processes) child.kill();
    this.provider?.stop();
    for (const socket of this.#sockets) socket.destroy();
    this.#front?.close();
    rmSync(this.#folder, { recursive: true });
  }
}

/** Who has created a session on a server and waits there for somebody's token. */
export class Attacker {
  static ADDRESS = '127.0.0.2';
  sessions = [];

  async create(relay, body, headers) {
    const session = await createSession(relay, body, { headers, from: Attacker.ADDRESS });
    if (session.status === 201) this.#listen(session);
    return session;
  }

  #listen(session) {
    const credentials = session.session_token ? { authorization: `Bearer ${session.session_token}` } : {};
    const { origin } = new URL(session.transit_url);
    const kept = { events: '', poll: () => send(session.poll_url, { headers: credentials, from: Attacker.ADDRESS }), origin };
    this.sessions.push(kept);
    send(session.events_url, { headers: credentials, from: Attacker.ADDRESS, onData: (text) => { kept.events = text; } }).catch(() => {});
  }

  /** A session of the Meet-compatible surface, begun and read by the attacker's server. */
  async initMeet(relay, from = Attacker.ADDRESS) {
    const root = `${relay}/api/v1.0/addons/sessions`;
    const answer = await send(`${root}/init/`, { method: 'POST', from });
    assert.equal(answer.status, 201, answer.text);
    const { transit_token: transitToken, csrf_token: csrfToken } = JSON.parse(answer.text);
    const headers = { cookie: answer.headers['set-cookie'][0].split(';')[0], 'x-csrftoken': csrfToken };
    this.sessions.push({ events: '', poll: () => send(`${root}/poll/`, { method: 'POST', headers, from }) });
    return transitToken;
  }

  /** Every token that has reached the attacker, by stream or by poll. */
  async tokens() {
    const found = [];
    for (const { events, poll } of this.sessions) {
      const { text } = await poll();
      for (const part of [events, text]) if (/access_token/.test(part)) found.push(part);
    }
    return found;
  }
}
