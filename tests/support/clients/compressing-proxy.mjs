// A proxy that compresses what it passes on, as many Node.js servers do: express with `compression`
// before `http-proxy`. Prints its address.
import compression from 'compression';
import express from 'express';
import httpProxy from 'http-proxy';

const proxy = httpProxy.createProxyServer({ target: process.argv[2] });
const app = express();
app.use(compression({ threshold: 0 }));
app.use((request, response) => proxy.web(request, response, {}, () => response.destroy()));
const server = app.listen(0, '127.0.0.1', () => {
  process.stdout.write(`http://127.0.0.1:${server.address().port}\n`);
});
