import assert from 'node:assert/strict';
import { test } from 'node:test';
import { eventStreamParser } from '../token-relay.js';

function parse(chunks) {
  const events = [];
  const retries = [];
  const feed = eventStreamParser((event) => events.push(event), (ms) => retries.push(ms));
  for (const chunk of chunks) feed(typeof chunk === 'string' ? new TextEncoder().encode(chunk) : chunk);
  return { events, retries };
}

const STREAM = '\uFEFFretry: 250\n: beat\nevent: a\nid: 7\ndata: one\ndata:two \u20ac\ndata\n\ndata: next\n\n';
const EXPECTED = {
  events: [{ type: 'a', data: 'one\ntwo \u20ac\n', id: '7' }, { type: 'message', data: 'next', id: '7' }],
  retries: [250],
};

for (const [name, end] of [['LF', '\n'], ['CR', '\r'], ['CRLF', '\r\n']]) {
  const bytes = new TextEncoder().encode(STREAM.replaceAll('\n', end));
  test(`${name}: cut at every byte`, () => {
    for (let cut = 0; cut <= bytes.length; cut += 1) {
      assert.deepEqual(parse([bytes.subarray(0, cut), bytes.subarray(cut)]), EXPECTED, `cut at ${cut}`);
    }
  });
  test(`${name}: byte by byte`, () => {
    assert.deepEqual(parse([...bytes].map((byte) => Uint8Array.of(byte))), EXPECTED);
  });
}

test('an event is dispatched by a lone CR, without waiting for what follows', () => {
  assert.deepEqual(parse(['data: x\r\r']).events, [{ type: 'message', data: 'x', id: '' }]);
});

test('what the standard ignores', () => {
  const { events, retries } = parse(['retry: 1s\nretry:\nid: a\0b\nunknown: 1\n data: no\nevent: empty\n\ndata: unfinished']);
  assert.deepEqual({ events, retries }, { events: [], retries: [] });
});

test('one space after the colon is dropped, and no more', () => {
  assert.equal(parse(['data:  two\n\n']).events[0].data, ' two');
});
