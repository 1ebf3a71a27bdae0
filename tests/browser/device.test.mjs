// The page on which a person types the code of a device, in Chromium: without a script, on a phone, in
// every language, and the whole way from there.
import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import { launch, logIn, openPage, overflow, startDemo, violations } from './support.mjs';

let browser;
let demo;

before(async () => {
  browser = await launch();
  demo = await startDemo();
});

after(async () => {
  await browser?.close();
  demo?.stop();
});

const form = (fields) => ({ method: 'POST', body: new URLSearchParams(fields) });

async function authorize() {
  return (await fetch(`${demo.address}/addons/device_authorization`, form({ client_id: 'addons', client_name: 'Map tools' }))).json();
}

async function redeem({ device_code }) {
  const grant = 'urn:ietf:params:oauth:grant-type:device_code';
  return (await fetch(`${demo.address}/addons/token`, form({ grant_type: grant, client_id: 'addons', device_code }))).json();
}

for (const script of [true, false]) {
  test(`a code that is pasted in lower case signs in ${script ? 'with' : 'without'} JavaScript`, async () => {
    const device = await authorize();
    const { context, page, troubles } = await openPage(browser, device.verification_uri, { javaScriptEnabled: script });
    if (script) assert.equal(await page.evaluate(() => document.activeElement.id), 'user-code');
    await page.fill('#user-code', ` ${device.user_code.toLowerCase().replace('-', '')} `);
    await page.click('main form button');
    if (!script) await page.click('#onward', { timeout: 1000 }).catch(() => {}); // it also leads there by itself
    await logIn(page, 'alice');
    await page.waitForSelector('#question');
    assert.match(await page.textContent('#question'), /Map tools/);
    // The button is inert for a second where there is a script.
    await page.click('button[value=continue]:not([disabled])');
    await page.waitForURL(/addons\/success/);
    const { access_token } = await redeem(device);
    const me = await fetch(`${demo.address}/addons/me`, { headers: { authorization: `Bearer ${access_token}` } });
    assert.equal((await me.json()).sub, 'alice');
    assert.deepEqual(troubles, []);
    await context.close();
  });
}

for (const locale of ['en', 'fr', 'de', 'nl']) {
  test(`the page in ${locale} is accessible and fits small windows`, async () => {
    const { context, page } = await openPage(browser, `${demo.address}/addons/device`, { locale, bypassCSP: true });
    assert.equal(await page.getAttribute('html', 'lang'), locale);
    assert.deepEqual(await violations(page), []);
    for (const viewport of [{ width: 320, height: 560 }, { width: 478, height: 460 }]) {
      await page.setViewportSize(viewport);
      assert.equal(await overflow(page), 0, JSON.stringify(viewport));
      const button = await page.locator('main form button').boundingBox();
      assert.ok(button.y + button.height <= viewport.height, `${locale}: the button is out of sight at ${JSON.stringify(viewport)}`);
    }
    await page.fill('#user-code', 'BCDF-GHJK');
    await page.click('main form button');
    await page.waitForSelector('#wrong');
    assert.equal(await page.getAttribute('#user-code', 'aria-invalid'), 'true');
    assert.deepEqual(await violations(page), []);
    await context.close();
  });
}
