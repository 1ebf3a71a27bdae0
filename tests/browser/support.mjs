// What the browser tests share: the demo as a process, Debian's Chromium, the login form, axe-core.
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { existsSync, mkdirSync, readFileSync } from 'node:fs';
import http from 'node:http';
import { createRequire } from 'node:module';
import { extname, join } from 'node:path';
import { chromium } from 'playwright-core';

const BROWSER = '/usr/bin/chromium';
const AXE = readFileSync(createRequire(import.meta.url).resolve('axe-core/axe.min.js'), 'utf8');
const ARGUMENTS = ['--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run', '--disable-background-networking', '--disable-component-update', '--disable-sync'];

export const BINARY = process.env.RELAY_BINARY ?? new URL('../../target/release/token-relay', import.meta.url).pathname;
export const STATIC = new URL('../../static/', import.meta.url).pathname;
export const SCREENSHOTS = new URL('./screenshots/', import.meta.url).pathname;

export function launch({ args = [], ...options } = {}) {
  assert.ok(existsSync(BROWSER), 'Chromium is missing: apt-get install chromium');
  mkdirSync(SCREENSHOTS, { recursive: true });
  return chromium.launch({ executablePath: BROWSER, args: [...ARGUMENTS, ...args], ...options });
}

export async function freePort() {
  const server = http.createServer();
  await new Promise((listening) => { server.listen(0, '127.0.0.1', listening); });
  const { port } = server.address();
  await new Promise((closed) => { server.close(closed); });
  return port;
}

/** Starts `token-relay demo` on free ports, with further `options`; gives its address and how to end it. */
export async function startDemo(environment = {}, listen = '127.0.0.1:0', options = []) {
  assert.ok(existsSync(BINARY), `${BINARY} is missing: cargo build`);
  const relay = spawn(BINARY, ['demo', '--no-open', '--listen', listen, '--provider-listen', '127.0.0.1:0', ...options], {
    stdio: ['ignore', 'pipe', 'inherit'], env: { ...process.env, ...environment },
  });
  const address = await new Promise((resolve, reject) => {
    relay.stdout.on('data', (bytes) => resolve(String(bytes).match(/http:\/\/[^\s/]+/)[0]));
    relay.on('exit', () => reject(new Error('the demo ended')));
  });
  return { address, stop: () => relay.kill() };
}

const TYPES = { '.html': 'text/html; charset=utf-8', '.js': 'text/javascript; charset=utf-8', '.css': 'text/css; charset=utf-8' };

/** Serves a folder on a free port, each file with `headers`: a site of its own, as the host of an add-in is. */
export async function serveFolder(folder, headers = {}) {
  const server = http.createServer((request, response) => {
    const name = new URL(request.url, 'http://site').pathname.replace(/\/$/, '/index.html');
    const file = join(folder, name);
    if (!existsSync(file)) {
      response.writeHead(404).end();
      return;
    }
    response.writeHead(200, { 'content-type': TYPES[extname(file)] ?? 'application/octet-stream', ...headers }).end(readFileSync(file));
  });
  await new Promise((listening) => { server.listen(0, '127.0.0.1', listening); });
  return {
    address: `http://127.0.0.1:${server.address().port}`,
    stop() {
      server.closeAllConnections();
      server.close();
    },
  };
}

/** A page in a browser context of its own, with what it asked for and what went wrong in it. */
export async function openPage(browser, address, { prepare, ...options } = {}) {
  const context = await browser.newContext({ viewport: { width: 420, height: 900 }, ...options });
  const page = await context.newPage();
  const requests = [];
  const troubles = [];
  page.on('request', (request) => requests.push(`${request.method()} ${new URL(request.url()).pathname}`));
  page.on('websocket', (socket) => requests.push(`WS ${new URL(socket.url()).pathname}`));
  page.on('pageerror', (error) => troubles.push(String(error)));
  page.on('console', (message) => message.type() === 'error' && troubles.push(message.text()));
  await prepare?.(context, page);
  await page.goto(address);
  return { context, page, requests, troubles };
}

export async function logIn(dialog, user, password = user) {
  await dialog.waitForSelector('input[name=username]');
  await dialog.fill('input[name=username]', user);
  await dialog.fill('input[name=password]', password);
  await dialog.press('input[name=password]', 'Enter');
}

/** Resolves when the condition holds, which is looked at again and again; fails after `patience`. */
export async function until(what, condition, patience = 15_000) {
  const end = Date.now() + patience;
  while (!(await condition())) {
    if (Date.now() > end) assert.fail(`not in ${patience} ms: ${what}`);
    await new Promise((again) => { setTimeout(again, 25); });
  }
}

/** What axe-core finds in a page, when its style sheets and scripts are there, and what is hidden and yet shown. */
export async function violations(page) {
  await page.waitForLoadState('load');
  const shown = await page.evaluate(() => [...document.querySelectorAll('[hidden]')].filter((element) => getComputedStyle(element).display !== 'none').map((element) => element.outerHTML));
  await page.evaluate(AXE);
  const result = await page.evaluate(() => globalThis.axe.run(document, { runOnly: ['wcag2a', 'wcag2aa', 'wcag21a', 'wcag21aa', 'wcag22aa'] }));
  return [...result.violations.map((violation) => `${violation.id}: ${violation.nodes.map((node) => node.html).join(' ')}`), ...shown.map((element) => `hidden: ${element}`)];
}

/** By how many pixels a page is wider than its window, when its style sheets are there. */
export async function overflow(page) {
  await page.waitForLoadState('load');
  return page.evaluate(() => document.documentElement.scrollWidth - document.documentElement.clientWidth);
}
