// Makes both builds from src/token-relay.js: `node build.mjs` writes them, `--check` compares.
// No bundler: the module has no imports, so stripping comments and wrapping it is enough.
import { readFile, writeFile } from 'node:fs/promises';

const here = (name) => new URL(name, import.meta.url);
const source = await readFile(here('src/token-relay.js'), 'utf8');
const names = [...source.matchAll(/^export (?:async )?(?:function|class|const) (\w+)/gm)].map(([, name]) => name);
// A comment has its own line, or follows code and white space. No string of the module holds " // ".
const code = source.replace(/^\s*\/\/.*\n/gm, '').replace(/\s+\/\/ .*$/gm, '').replace(/^\s+/gm, '');
const banner = '/* token-relay client. Generated from src/token-relay.js by build.mjs. */\n';
const builds = {
  'token-relay.js': banner + code,
  'token-relay.global.js': `${banner}(function (root) {
'use strict';
${code.replace(/^export /gm, '')}root.tokenRelay = Object.freeze({ ${names.join(', ')} });
})(globalThis);
`,
};
for (const [name, build] of Object.entries(builds)) {
  if (!process.argv.includes('--check')) await writeFile(here(name), build);
  else if ((await readFile(here(name), 'utf8').catch(() => '')) !== build) {
    console.error(`${name} is out of date: run "npm run build" in static/client`);
    process.exitCode = 1;
  }
}
