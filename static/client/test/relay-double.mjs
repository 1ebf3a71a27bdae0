// A relay reduced to its wire format, with the faults that proxies and restarts cause.
import { createHash } from 'node:crypto';
import { createServer } from 'node:http';

export const TOKEN = { state: 'authenticated', access_token: 'a.b.c', token_type: 'Bearer', expires_in: 60, scope: 'addons' };
export const EVENT = `event: authenticated\nid: 1\ndata: ${JSON.stringify(TOKEN)}\n\n`;

const frame = (opcode, payload) => {
  const body = Buffer.from(payload);
  const head = body.length < 126 ? [0x80 | opcode, body.length] : [0x80 | opcode, 126, body.length >> 8, body.length & 255];
  return Buffer.concat([Buffer.from(head), body]);
};

export const closeFrame = (code) => frame(8, [code >> 8, code & 255]);
export const textFrame = (value) => frame(1, JSON.stringify(value));

// Unmasks the short frames that a client sends.
function* clientFrames(bytes) {
  for (let at = 0; at + 6 <= bytes.length;) {
    const length = bytes[at + 1] & 127;
    const mask = bytes.subarray(at + 2, at + 6);
    const payload = bytes.subarray(at + 6, at + 6 + length).map((byte, index) => byte ^ mask[index % 4]);
    yield { opcode: bytes[at] & 15, payload };
    at += 6 + length;
  }
}

// Starts a relay on a free port. `on` maps `create`, `events`, `poll`, `end`, `init`, `exchange` to
// `(request, response, count)` and `ws` to `(socket, request, count)`; what it lacks answers 501.
export async function relay(test, on) {
  const calls = [];
  const counts = {};
  const name = ({ method, url }) => {
    if (method === 'DELETE') return 'end';
    if (method === 'POST' && url === '/addons/sessions') return 'create';
    const last = url.split('?')[0].replace(/\/$/, '').split('/').pop();
    return ['events', 'ws', 'init', 'exchange'].includes(last) ? last : 'poll';
  };
  const record = (request) => {
    const call = name(request);
    calls.push({ call, method: request.method, url: request.url, headers: request.headers });
    counts[call] = (counts[call] ?? 0) + 1;
    return call;
  };
  const server = createServer(async (request, response) => {
    const call = record(request);
    const chunks = [];
    for await (const chunk of request) chunks.push(chunk);
    calls.at(-1).body = Buffer.concat(chunks).toString();
    const answer = on[call] ?? { create, end: (_, response) => response.writeHead(204).end() }[call];
    if (answer) answer(request, response, counts[call]);
    else response.writeHead(501).end();
  });
  const create = (_request, response) => json(response, 201, session(server));
  const open = new Set();
  server.on('connection', (socket) => open.add(socket));
  server.on('upgrade', (request, socket) => {
    const call = record(request);
    socket.on('error', () => {});
    if (!on.ws) return socket.end('HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n');
    const key = createHash('sha1').update(`${request.headers['sec-websocket-key']}258EAFA5-E914-47DA-95CA-C5AB0DC85B11`).digest('base64');
    socket.write(`HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: ${key}\r\nSec-WebSocket-Protocol: token-relay.v1\r\n\r\n`);
    socket.received = [];
    socket.on('data', (bytes) => {
      for (const { opcode, payload } of clientFrames(bytes)) {
        if (opcode === 1) socket.received.push(payload.toString());
        if (opcode === 8) socket.end(frame(8, payload));
      }
    });
    on.ws(socket, request, counts[call]);
  });
  await new Promise((resolve) => server.listen(0, '127.0.0.1', resolve));
  test.after(() => {
    for (const socket of open) socket.destroy();
    server.close();
  });
  return {
    baseUrl: `http://127.0.0.1:${server.address().port}`,
    calls,
    called: (call) => calls.filter((entry) => entry.call === call),
    // Resolves when `call` has been received: the client acknowledges without waiting for it.
    async until(call) {
      while (!calls.some((entry) => entry.call === call)) await new Promise((resolve) => setTimeout(resolve, 5));
      return this.called(call);
    },
  };
}

function session(server) {
  const root = `127.0.0.1:${server.address().port}/addons/sessions/s1`;
  return {
    session_id: 's1', expires_in: 60, session_token: 'secret', user_code: 'BCDF-GHJK',
    transit_url: `http://${root.split('/')[0]}/addons/transit/?transit_token=t`,
    events_url: `http://${root}/events`, websocket_url: `ws://${root}/ws`, poll_url: `http://${root}`,
  };
}

export function json(response, status, body, headers = {}) {
  response.writeHead(status, { 'Content-Type': 'application/json', ...headers }).end(JSON.stringify(body));
}

export function stream(response, ...parts) {
  response.writeHead(200, { 'Content-Type': 'text/event-stream' });
  for (const part of parts) response.write(part);
  return response;
}
